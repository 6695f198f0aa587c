"""Callbacks where several processes train together: who writes, and who takes part."""

from __future__ import annotations

import copy
from typing import Any

import keras

from trainer.callbacks.for_network import unwrapped
from trainer.callbacks.progress_bar import shows_progress

# What these do is for others to see, or on a disk that all may share. What they save is alike in
# all processes, so the chief can read it alone.
_FOR_THE_CHIEF = tuple(
    getattr(keras.callbacks, name)
    for name in ("ModelCheckpoint", "OrbaxCheckpoint", "CSVLogger", "TensorBoard", "RemoteMonitor")
    if hasattr(keras.callbacks, name)
)


class Restores(keras.callbacks.Callback):
    """What a `BackupAndRestore` does on a process that is not the chief: it restores.

    Args:
        callback: the callback.
    """

    def __init__(self, callback: keras.callbacks.BackupAndRestore):
        super().__init__()
        self._callback = callback

    def set_model(self, model: keras.Model) -> None:  # noqa: D102
        super().set_model(model)
        self._callback.set_model(model)

    def on_train_begin(self, logs: dict | None = None) -> None:  # noqa: D102
        self._callback.on_train_begin(logs)


def for_worker(callbacks: Any) -> Any:
    """Returns what of `callbacks` acts on a process that is not the chief.

    Args:
        callbacks: a callback, a list of them, `None`, or a `CallbackList`.
    """
    if isinstance(callbacks, keras.callbacks.CallbackList):
        remaining = copy.copy(callbacks)
        remaining.callbacks = for_worker(callbacks.callbacks)
        return remaining
    return [
        Restores(callback) if _is(callback, keras.callbacks.BackupAndRestore) else callback
        for callback in keras.tree.flatten(callbacks)
        if callback is not None
        and not _is(callback, *_FOR_THE_CHIEF)
        and not shows_progress(callback)
    ]


def _is(callback: keras.callbacks.Callback, *kinds: type[keras.callbacks.Callback]) -> bool:
    return isinstance(unwrapped(callback), kinds)
