"""The callbacks of one `fit`, `evaluate` or `predict`, called in Keras's order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any, Literal

import keras

from trainer.callbacks.for_network import unwrapped
from trainer.watching import watchers

Mode = Literal["train", "test", "predict"]


class Hooks:
    """Calls the hooks of callbacks; batch hooks only of those that have one.

    Args:
        callbacks: callbacks that know their model and parameters.

    Attributes:
        callbacks: the single callbacks.
    """

    def __init__(self, callbacks: keras.callbacks.CallbackList):
        self._list = callbacks
        self.callbacks = callbacks.callbacks
        # A list with hooks of its own gets them called; a plain one is seen through.
        plain = type(callbacks) is keras.callbacks.CallbackList
        self._targets = self.callbacks if plain else [callbacks]
        self._watchers: dict[str, list[keras.callbacks.Callback]] = {}

    def begin(self, mode: Mode) -> None:
        """Calls `on_<mode>_begin`."""
        getattr(self._list, f"on_{mode}_begin")()
        self._look_again(mode)

    def end(self, mode: Mode, logs: dict[str, Any] | None = None) -> None:
        """Calls `on_<mode>_end`."""
        getattr(self._list, f"on_{mode}_end")(logs)

    def epoch_begin(self, epoch: int) -> None:
        """Calls `on_epoch_begin`."""
        self._list.on_epoch_begin(epoch)
        self._look_again("train")

    def epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Calls `on_epoch_end`."""
        self._list.on_epoch_end(epoch, logs)

    def batch_begin(self, mode: Mode, step: int) -> None:
        """Calls `on_<mode>_batch_begin` for the group that starts at `step`."""
        hook = f"on_{mode}_batch_begin"
        for callback in self._watchers[hook]:
            getattr(callback, hook)(step, logs={})

    def batch_end(self, mode: Mode, step: int, logs: dict[str, Any]) -> None:
        """Calls `on_<mode>_batch_end` for the group that ends at `step`.

        A callback with a method `wants_batch(step)` is left out where that returns false; values
        are brought to Python only where somebody is left to see them.
        """
        hook = f"on_{mode}_batch_end"
        seeing = [callback for callback in self._watchers[hook] if _wants(callback, step)]
        if seeing:
            logs = python_logs(logs)
            for callback in seeing:
                getattr(callback, hook)(step, logs=logs)

    def _look_again(self, mode: Mode) -> None:
        for hook in (f"on_{mode}_batch_begin", f"on_{mode}_batch_end"):
            self._watchers[hook] = watchers(self._targets, hook)


def callback_list(
    callbacks: Any,
    model: keras.Model,
    params: dict[str, Any],
    bar: keras.callbacks.Callback | None = None,
    add_history: bool = False,
) -> keras.callbacks.CallbackList:
    """Returns `callbacks` and those that are there unasked, all knowing `model` and `params`.

    Args:
        callbacks: a callback, a list of them, `None`, or a `CallbackList`, which is taken as it is
            but for what it does not know yet.
        model: what the callbacks see as `self.model`.
        params: what they see as `self.params`.
        bar: a progress bar for the end of the list.
        add_history: whether to add a `History` where there is none.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        if getattr(callbacks, "model", None) is None:
            callbacks.set_model(model)
        if not callbacks.params:
            callbacks.set_params(params)
        if add_history:
            _add_history(callbacks, model)
        return callbacks
    made = keras.callbacks.CallbackList(callbacks, add_history=add_history)
    if bar is not None:
        made.callbacks.append(bar)
    made.set_model(model)
    made.set_params(params)
    return made


def _add_history(callbacks: keras.callbacks.CallbackList, model: keras.Model) -> None:
    if not any(isinstance(c, keras.callbacks.History) for c in callbacks.callbacks):
        model.history = keras.callbacks.History()
        model.history.set_model(model)
        callbacks.callbacks.append(model.history)


def settle_modes(callbacks: list[keras.callbacks.Callback], names: Iterable[str]) -> None:
    """Tells callbacks with `mode="auto"` whether less or more of what they monitor is better.

    Keras looks that up for the compiled metrics, and refuses others at the end of the first epoch.

    Args:
        callbacks: the callbacks.
        names: log keys that are no compiled metric's.

    Raises:
        ValueError: the name does not tell.
    """
    for callback in map(unwrapped, callbacks):
        name = str(getattr(callback, "monitor", "")).removeprefix("val_")
        if name in names and getattr(callback, "mode", None) == "auto":
            if name.endswith("loss"):
                callback.mode = "min"
            elif name.endswith("accuracy"):
                callback.mode = "max"
            elif getattr(callback, "save_best_only", True):
                raise ValueError(
                    f"{type(callback).__name__} monitors {name!r}, and nothing tells whether less "
                    "or more of it is better: give mode='min' or mode='max'."
                )


def python_logs(logs: dict[str, Any] | None) -> dict[str, Any]:
    """Returns `logs` as callbacks see them: flat, sorted by key, single numbers as floats."""
    result = {}
    for key, value in sorted((logs or {}).items()):
        if isinstance(value, dict):
            result.update(python_logs(value))
            continue
        with contextlib.suppress(Exception):  # what is no number stays as far as it came
            if keras.ops.is_tensor(value):
                value = keras.ops.convert_to_numpy(value)
            value = float(value)
        result[key] = value
    return result


def _wants(callback: keras.callbacks.Callback, step: int) -> bool:
    wants_batch = getattr(callback, "wants_batch", None)
    return wants_batch is None or wants_batch(step)
