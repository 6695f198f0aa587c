"""What each callback must see of the batches, and so how long a group may be.

A callback says it by an attribute `batch_hooks`. `"act"`, the default: its batch hooks are called
for each batch, before the next one starts. `"log"`: they only read, so they may come after a group,
for each batch of it in order and with its exact logs. `"show"`: they are called once a group, for
its last batch. A method `wants_batch(step)` names the batches whose end an acting callback is
about; it is asked ahead. Keras's own callbacks are known by their settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf

from trainer.callbacks.for_network import unwrapped

Mode = Literal["train", "test", "predict"]
Callback = keras.callbacks.Callback

KINDS = ("act", "log", "show")
# Each batch hook, and the older name that it calls where it is not overridden itself.
_OLDER_NAMES = {"on_train_batch_begin": "on_batch_begin", "on_train_batch_end": "on_batch_end"}
# Those that save every so many batches; the last one is not in every version of Keras.
_SAVERS = tuple(
    getattr(keras.callbacks, name)
    for name in ("ModelCheckpoint", "BackupAndRestore", "OrbaxCheckpoint")
    if hasattr(keras.callbacks, name)
)


class Watcher(NamedTuple):
    """A callback that has batch hooks in some mode.

    Attributes:
        callback: the callback.
        kind: how it takes part, one of `KINDS`.
        begins: whether it has a hook before a batch.
        ends: whether it has one after it.
    """

    callback: Callback
    kind: str
    begins: bool
    ends: bool

    @property
    def holds_groups(self) -> bool:
        """Whether it must see each batch before the next one starts."""
        return self.kind == "act" and (self.begins or not hasattr(self.callback, "wants_batch"))

    @property
    def limits_groups(self) -> bool:
        """Whether it must see certain batches before the next one starts."""
        acts = self.kind == "act" and not self.holds_groups
        return acts or _batches_until_saving(unwrapped(self.callback)) is not None

    def wants(self, step: int) -> bool:
        """Returns whether the callback is to be told of the end of `step`."""
        return self.ends and getattr(self.callback, "wants_batch", _always)(step)

    def reach(self, step: int, most: int) -> int:
        """Returns how many steps from `step` on may run, up to `most`, before it has to be told."""
        if self.holds_groups:
            return 1
        if self.kind == "act":
            steps = range(step, step + most - 1)
            return next((s - step + 1 for s in steps if self.wants(s)), most)
        return min(most, _batches_until_saving(unwrapped(self.callback)) or most)


class Watch:
    """What the callbacks of a run must see of its batches.

    Args:
        callbacks: the callbacks, in their order.
        mode: the run's.

    Attributes:
        watchers: those that have batch hooks.
        until: told the logs of a step in the graph, whether a group must end with it; or `None`.
    """

    def __init__(self, callbacks: Iterable[Callback], mode: Mode):
        made = (_watcher(callback, mode) for callback in callbacks)
        self.watchers = [watcher for watcher in made if watcher is not None]
        stops = any(_is_plain(w.callback, keras.callbacks.TerminateOnNaN) for w in self.watchers)
        self.until = _is_not_finite if stops else None

    @property
    def holder(self) -> Callback | None:
        """The first callback that holds groups at one step."""
        return next((w.callback for w in self.watchers if w.holds_groups), None)

    @property
    def limiting(self) -> list[Callback]:
        """The callbacks that end groups with certain batches, not with each."""
        return [watcher.callback for watcher in self.watchers if watcher.limits_groups]

    @property
    def reads_each(self) -> bool:
        """Whether a callback is told of each step after the group."""
        return any(watcher.kind == "log" for watcher in self.watchers)

    def reach(self, step: int, most: int) -> int:
        """Returns how many steps from `step` on may run in one call, up to `most`."""
        for watcher in self.watchers:
            most = watcher.reach(step, most)
        return most


def _watcher(callback: Callback, mode: Mode) -> Watcher | None:
    begins = _watches(callback, f"on_{mode}_batch_begin")
    ends = _watches(callback, f"on_{mode}_batch_end")
    if not begins and not ends:
        return None
    kind = _kind(callback)
    if kind == "log" and mode == "predict":
        kind = "act"  # a group's outputs are not kept apart
    return None if kind == "epoch" else Watcher(callback, kind, begins, ends)


def _kind(callback: Callback) -> str:
    """Returns what kind a callback is: one of `KINDS`, or `"epoch"` if it ignores batches."""
    inner = unwrapped(callback)
    if hasattr(inner, "batch_hooks"):
        if inner.batch_hooks not in KINDS:
            raise ValueError(
                f"{type(inner).__name__}.batch_hooks is {inner.batch_hooks!r}: expected one of "
                f"{', '.join(map(repr, KINDS))}."
            )
        return inner.batch_hooks
    if _is_plain(inner, *_SAVERS):
        if inner.save_freq == "epoch":
            return "epoch"
        return "log" if _batches_until_saving(inner) else "act"
    if _is_plain(inner, keras.callbacks.TerminateOnNaN, keras.callbacks.ProgbarLogger):
        return "show"
    if _is_plain(inner, keras.callbacks.TensorBoard) and _looks_at_epochs_only(inner):
        return "show"  # it draws the graph after a batch, once
    if type(inner).__module__ == "tqdm.keras":
        return "log"  # it counts how often it is called
    return "act"


def _is_plain(callback: Callback, *kinds: type[Callback]) -> bool:
    """Returns whether `callback` is one of `kinds`, or a subclass that treats batches alike."""
    callback = unwrapped(callback)
    for kind in kinds:
        if isinstance(callback, kind):
            own = type(callback).__mro__[: type(callback).__mro__.index(kind)]
            names = {name for cls in own for name in vars(cls)} | set(vars(callback))
            return not any(
                "batch" in name or (name.startswith("_") and not name.startswith("__"))
                for name in names
                if callable(getattr(kind, name, None))
            )
    return False


# Keras has no public names for what the next two look up. Where it has none of these any more, the
# callback counts as one that acts on each batch, which is slow and right.


def _batches_until_saving(callback: Callback) -> int | None:
    """Returns after how many batches `callback` saves next, `None` where that is not known."""
    seen = vars(callback).get("_batches_seen_since_last_saving")
    frequency = getattr(callback, "save_freq", None)
    if seen is None or not isinstance(frequency, int):
        return None
    return max(1, frequency - seen)


def _looks_at_epochs_only(board: keras.callbacks.TensorBoard) -> bool:
    traces = vars(board).get("_should_trace", True)
    return board.update_freq == "epoch" and not board.write_steps_per_second and not traces


def _is_not_finite(logs: Any) -> tf.Tensor:
    """Returns whether the loss among `logs` is no finite number."""
    loss = logs.get("loss")
    if loss is None:
        return tf.constant(False)
    return ~tf.reduce_all(tf.math.is_finite(tf.cast(loss, tf.float64)))


def _always(step: int) -> bool:
    return True


def _watches(callback: Callback, hook: str) -> bool:
    older = _OLDER_NAMES.get(hook)
    return _overrides(callback, hook) or (older is not None and _overrides(callback, older))


def _overrides(callback: Callback, hook: str) -> bool:
    # Looked up on the object: `LambdaCallback` and others set hooks as attributes.
    function = getattr(getattr(callback, hook), "__func__", None)
    return function is not getattr(Callback, hook)
