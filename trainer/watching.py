"""What each callback must see of the batches, and so how long a group may be."""

from __future__ import annotations

from collections.abc import Iterable

import keras

# Each batch hook, and the older name that it calls where it is not overridden itself.
_OLDER_NAMES = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}


def watchers(
    callbacks: Iterable[keras.callbacks.Callback], hook: str
) -> list[keras.callbacks.Callback]:
    """Returns those of `callbacks` that do something in batch hook `hook`, in their order."""
    return [callback for callback in callbacks if _watches(callback, hook)]


def group_length(model: keras.Model) -> int:
    """Returns how many steps may run in one call: `steps_per_execution`, as in Keras.

    Batch hooks come once a group, so a callback sees each batch where that setting is 1.
    """
    return int(model.steps_per_execution)


def _watches(callback: keras.callbacks.Callback, hook: str) -> bool:
    older = _OLDER_NAMES.get(hook)
    return _overrides(callback, hook) or (older is not None and _overrides(callback, older))


def _overrides(callback: keras.callbacks.Callback, hook: str) -> bool:
    # Looked up on the object: `LambdaCallback` and others set hooks as attributes.
    function = getattr(getattr(callback, hook), "__func__", None)
    return function is not getattr(keras.callbacks.Callback, hook)
