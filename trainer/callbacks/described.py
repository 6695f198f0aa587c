"""The base class of the package's callbacks."""

from __future__ import annotations

import inspect
import os
import reprlib

import keras

from trainer.snapshots.paths import shown


class DescribedCallback(keras.callbacks.Callback):
    """A callback whose `repr` is the call that makes it, arguments at their defaults left out.

    The attributes have the arguments' names.
    """

    def __repr__(self) -> str:
        told = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            value = vars(self).get(name, parameter.default)
            value = shown(value) if isinstance(value, os.PathLike) else value
            if repr(value) != repr(parameter.default):
                is_first = parameter.default is parameter.empty
                told.append(reprlib.repr(value) if is_first else f"{name}={reprlib.repr(value)}")
        return f"{type(self).__name__}({', '.join(told)})"
