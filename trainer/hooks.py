"""The callbacks of one `fit`, `evaluate` or `predict`, called in Keras's order."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from trainer.callbacks.for_network import unwrapped
from trainer.collecting import Ran
from trainer.outputs import joined
from trainer.watching import Mode, Watch, Watcher

_MONITORING = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
)


class Hooks:
    """Calls the hooks of callbacks; batch hooks only of those that have one.

    Args:
        callbacks: callbacks that know their model and parameters.

    Attributes:
        callback_list: the callbacks as one.
        callbacks: the single callbacks.
    """

    def __init__(self, callbacks: keras.callbacks.CallbackList):
        self.callback_list = callbacks
        self.callbacks = callbacks.callbacks
        # A list with hooks of its own gets them called; a plain one is seen through.
        plain = type(callbacks) is keras.callbacks.CallbackList
        self._targets = self.callbacks if plain else [callbacks]
        self._watch: dict[Mode, Watch] = {}

    def begin(self, mode: Mode) -> None:
        """Calls `on_<mode>_begin`."""
        getattr(self.callback_list, f"on_{mode}_begin")()
        self._look_again(mode)

    def end(self, mode: Mode, logs: dict[str, Any] | None = None) -> None:
        """Calls `on_<mode>_end`."""
        getattr(self.callback_list, f"on_{mode}_end")(logs)

    def epoch_begin(self, epoch: int) -> None:
        """Calls `on_epoch_begin`."""
        self.callback_list.on_epoch_begin(epoch)
        self._look_again("train")

    def epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Calls `on_epoch_end`."""
        self.callback_list.on_epoch_end(epoch, logs)

    def watch(self, mode: Mode) -> Watch:
        """Returns what the callbacks must see of the batches of the run that goes on in `mode`."""
        return self._watch[mode]

    def group_begin(self, mode: Mode, step: int) -> None:
        """Calls `on_<mode>_batch_begin` for the group that starts at `step`."""
        self._begin(mode, step, self._watch[mode].watchers)

    def group_end(self, mode: Mode, first: int, last: int, ran: Ran) -> None:
        """Calls `on_<mode>_batch_end` for the group of the steps `first` to `last`.

        Callbacks that read the logs of each step are called for each, if `ran` has these. Values
        are brought to Python only where somebody is left to see them.
        """
        watchers = self._watch[mode].watchers
        if ran.each is not None:
            readers = [watcher for watcher in watchers if watcher.kind == "log"]
            *earlier, _ = _each_python_logs(ran)
            for step, logs in enumerate(earlier, first):
                self._end(mode, step, [reader for reader in readers if reader.wants(step)], logs)
                self._begin(mode, step + 1, readers)
        seeing = [watcher for watcher in watchers if watcher.wants(last)]
        if seeing:
            logs = {"outputs": joined(ran.outputs)} if mode == "predict" else ran.outputs
            self._end(mode, last, seeing, python_logs(logs))

    def _begin(self, mode: Mode, step: int, watchers: list[Watcher]) -> None:
        for watcher in watchers:
            if watcher.begins:
                getattr(watcher.callback, f"on_{mode}_batch_begin")(step, logs={})

    def _end(self, mode: Mode, step: int, watchers: list[Watcher], logs: dict[str, Any]) -> None:
        for watcher in watchers:
            getattr(watcher.callback, f"on_{mode}_batch_end")(step, logs=logs)

    def _look_again(self, mode: Mode) -> None:
        self._watch[mode] = Watch(self._targets, mode)


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

    Raises:
        TypeError: a callback is a class.
        ValueError: a callback is something else that has no `set_model`.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        if getattr(callbacks, "model", None) is None:
            callbacks.set_model(model)
        if not callbacks.params:
            callbacks.set_params(params)
        if add_history:
            _add_history(callbacks, model)
        return callbacks
    for callback in keras.tree.flatten(callbacks) if callbacks else ():
        _check_callback(callback)
    made = keras.callbacks.CallbackList(callbacks, add_history=add_history)
    if bar is not None:
        made.callbacks.append(bar)
    made.set_model(model)
    made.set_params(params)
    return made


def _check_callback(callback: Any) -> None:
    """Raises for what Keras cannot give the model to; anything else may be a callback."""
    if not hasattr(callback, "set_model"):
        mend = "expected keras.callbacks.Callback objects, in a list"
        if inspect.isroutine(callback):
            mend = "bind it to a hook, as in keras.callbacks.LambdaCallback(on_epoch_end=function)"
        raise ValueError(f"callbacks has {callback!r}, of type {type(callback).__name__}: {mend}.")
    takes_object = inspect.isfunction(inspect.getattr_static(callback, "set_model", None))
    if isinstance(callback, type) and takes_object:
        name = callback.__name__
        raise TypeError(f"callbacks has the class {name}: give an object of it, {name}(...).")


def _add_history(callbacks: keras.callbacks.CallbackList, model: keras.Model) -> None:
    if not any(isinstance(c, keras.callbacks.History) for c in callbacks.callbacks):
        model.history = keras.callbacks.History()
        model.history.set_model(model)
        callbacks.callbacks.append(model.history)


def settle_modes(callbacks: list[keras.callbacks.Callback], names: Iterable[str]) -> None:
    """Tells callbacks with `mode="auto"` whether less or more of what they monitor is better.

    Keras's own callbacks look that up for the compiled metrics, and refuse others at the end of the
    first epoch.

    Args:
        callbacks: the callbacks.
        names: log keys that are no compiled metric's.

    Raises:
        ValueError: the name does not tell.
    """
    for callback in map(unwrapped, callbacks):
        if not isinstance(callback, _MONITORING) or callback.mode != "auto":
            continue
        name = callback.monitor.removeprefix("val_")
        if name in names:
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
    for key, value in _flat(logs or {}):
        with contextlib.suppress(Exception):  # what is no number stays as far as it came
            if keras.ops.is_tensor(value):
                value = keras.ops.convert_to_numpy(value)
            value = float(value)
        result[key] = value
    return result


def _each_python_logs(ran: Ran) -> Iterator[dict[str, Any]]:
    """Yields the logs of each step as callbacks see them."""
    columns = {key: _column(values) for key, values in _flat(ran.each)}
    for step in range(ran.steps):
        yield {key: column[step] for key, column in columns.items()}


def _flat(logs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in sorted(logs.items()):
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield key, value


def _column(values: np.ndarray) -> list:
    """Returns the values of a log key at each step, single numbers as floats."""
    with contextlib.suppress(Exception):
        return [float(value) for value in values]
    return list(values)
