"""Callbacks that stop a run or break it off."""

from __future__ import annotations

from typing import Any

import keras


class InterruptionError(Exception):
    """What nothing in Keras or the trainer raises."""


class Stopper(keras.callbacks.Callback):
    """Sets a flag of the model when `hook` comes for the `call`-th time."""

    def __init__(self, flag: str, hook: str, call: int):
        super().__init__()
        self._flag, self._calls_to_go = flag, call
        setattr(self, hook, self._stop)

    def _stop(self, *args: Any, **kwargs: Any) -> None:
        self._calls_to_go -= 1
        if self._calls_to_go == 0:
            setattr(self.model, self._flag, True)
