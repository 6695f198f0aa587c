"""What training changes of callbacks, and callbacks set back to it."""

from __future__ import annotations

import collections
import contextlib
import inspect
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.callbacks.for_network import ForNetwork, unwrapped
from trainer.snapshots.plain import NotPlainError, decoded, encoded

Callback = keras.callbacks.Callback
_PLAIN_OF_CLASSES = (type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset)
_GIVEN_BY_KERAS = {"_model", "params"}
_TURNED_BY_KERAS = {"min_delta"}  # its sign, together with `monitor_op`, which is no plain value


class CallbackStates:
    """The states of callbacks, to be made before training begins.

    A callback with the methods `get_state()` and `set_state(state)` says itself what its state is:
    numbers, strings, arrays, random generators, and containers of such. Of others it is their
    attributes of these kinds. An attribute named like an argument of the constructor, and a string,
    is taken for a setting that a new process may change, unless training changed it.

    A snapshot may be from a stranger. It sets no attribute that is a string and named like an
    argument, nor one that such a string is part of, as a path in a folder; and nothing that a class
    defines, but for plain values.

    Args:
        callbacks: the callbacks, as training finds them.
    """

    def __init__(self, callbacks: Iterable[Callback]):
        self._named = dict(_named(callbacks))
        self._append: dict[Callback, bool] = {}  # what logs with a file cut back are set to
        self._begun = {name: _settings_of(one, name) for name, one in self._named.items()}

    def taken(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Returns the states as what JSON can hold, and adds their arrays to `arrays`."""
        states = {}
        for name, callback in self._named.items():
            if isinstance(callback, keras.callbacks.CSVLogger):
                states[name] = _of_log(callback)
            elif isinstance(callback, keras.callbacks.History):
                history = keras.tree.map_structure(_number, callback.history)
                state = {"epoch": callback.epoch, "history": history}
                states[name] = {key: encoded(state[key], arrays, f"{name}/{key}") for key in state}
            elif hasattr(callback, "get_state"):
                states[name] = encoded(callback.get_state(), arrays, name)
            else:
                states[name] = self._attributes(name, arrays)
        return states

    def rewind_files(self, states: dict[str, Any]) -> None:
        """Cuts the files that callbacks write on back to what they were; before training begins."""
        for callback, state in self._pairs(states):
            is_log = isinstance(callback, keras.callbacks.CSVLogger)
            if is_log and _was_cut_back(Path(callback.filename), state["bytes"]):
                self._append[callback] = callback.append
                callback.append = True  # once: it would begin the file anew

    def put_back(self, states: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Sets the callbacks to `states`, once the hooks of a training's begin were called."""
        for callback, state in self._pairs(states):
            if isinstance(callback, keras.callbacks.CSVLogger):
                callback.keys = state["keys"]
                callback.append = self._append.pop(callback, callback.append)
            elif hasattr(callback, "set_state"):
                callback.set_state(decoded(state, arrays))
            else:
                _set_attributes(callback, {k: decoded(v, arrays) for k, v in state.items()})

    def _pairs(self, states: dict[str, Any]) -> Iterator[tuple[Callback, Any]]:
        for name, callback in self._named.items():
            if name in states:
                yield callback, states[name]

    def _attributes(self, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        state = {}
        callback, begun = self._named[name], self._begun[name]
        arguments = _arguments_of(callback)
        for attribute, plain in _plain_attributes(callback, name):
            is_setting = attribute in arguments or isinstance(plain.code, str)
            if not is_setting or begun.get(attribute) != plain:
                state[attribute] = plain.code
                arrays.update(plain.arrays)
        return state


class _Plain:
    """A value as `encoded` makes it, to be compared bit by bit."""

    def __init__(self, value: Any, name: str):
        self.arrays: dict[str, np.ndarray] = {}
        self.code = encoded(value, self.arrays, name)

    def __eq__(self, other: object) -> bool:
        # As text: what is not a number is equal to itself, and 1 is neither 1.0 nor True.
        return (
            isinstance(other, _Plain)
            and repr(self.code) == repr(other.code)
            and all(_alike(array, other.arrays[name]) for name, array in self.arrays.items())
        )


def _number(value: Any) -> Any:
    """Returns the value of what was logged: a variable as what it is now."""
    return value.numpy() if isinstance(value, (keras.Variable, tf.Variable)) else value


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return (one.dtype, one.shape) == (other.dtype, other.shape) and one.tobytes() == other.tobytes()


def _named(callbacks: Iterable[Callback]) -> Iterator[tuple[str, Callback]]:
    """Yields the callbacks, those bound to a network seen through, each with a name of its own."""
    counts: collections.Counter[str] = collections.Counter()
    for callback in callbacks:
        name = type(unwrapped(callback)).__name__
        if isinstance(callback, ForNetwork):
            name = f"{name} of {callback.network}"
        counts[name] += 1
        yield f"{name} {counts[name]}", unwrapped(callback)


def _settings_of(callback: Callback, name: str) -> dict[str, _Plain]:
    """Returns the attributes that are named like an argument, or strings."""
    arguments = _arguments_of(callback)
    found = dict(_plain_attributes(callback, name))
    return {k: v for k, v in found.items() if k in arguments or isinstance(v.code, str)}


def _arguments_of(callback: Callback) -> set[str]:
    return set(inspect.signature(type(callback).__init__).parameters)


def _set_attributes(callback: Callback, values: dict[str, Any]) -> None:
    kept = []
    for attribute, value in values.items():
        here = vars(callback).get(attribute)
        if not _may_be_set(callback, attribute):
            kept += [attribute] if isinstance(here, str) and here != value else []
        elif isinstance(value, np.random.Generator) and isinstance(here, np.random.Generator):
            here.bit_generator.state = value.bit_generator.state  # others may have it, too
        else:
            setattr(callback, attribute, value)
    if kept:
        warnings.warn(
            f"{type(callback).__name__} keeps {', '.join(kept)}, though the snapshot has other "
            "values: strings that are arguments of a callback, and what is made of them, are what "
            "this process says. A callback with get_state and set_state restores them itself.",
            stacklevel=2,
        )


def _may_be_set(callback: Callback, attribute: str) -> bool:
    """Returns whether an attribute may be what a snapshot says."""
    if not attribute.isidentifier() or attribute.startswith("__"):
        return False
    defined = inspect.getattr_static(type(callback), attribute, None)
    here = vars(callback).get(attribute)
    if type(defined) not in _PLAIN_OF_CLASSES or not isinstance(here, str | None):
        return type(defined) in _PLAIN_OF_CLASSES and not isinstance(here, os.PathLike)
    if here is None:
        return True
    settings = [vars(callback).get(name) for name in _arguments_of(callback)]
    texts = [text for text in settings if isinstance(text, str) and text]
    return not any(text in here for text in texts)


def _plain_attributes(callback: Callback, name: str) -> Iterator[tuple[str, _Plain]]:
    left_out = _GIVEN_BY_KERAS | (_TURNED_BY_KERAS if hasattr(callback, "monitor_op") else set())
    for attribute, value in vars(callback).items():
        if attribute not in left_out:
            with contextlib.suppress(NotPlainError, RecursionError):
                yield attribute, _Plain(value, f"{name}/{attribute}")


def _of_log(callback: keras.callbacks.CSVLogger) -> dict[str, Any]:
    """Returns how far the file was written; the rest of the state follows from that."""
    return {"bytes": os.path.getsize(callback.filename), "keys": callback.keys}


def _was_cut_back(path: Path, size: int) -> bool:
    """Cuts a log back to `size` bytes, or to the lines that it has; returns whether it has any."""
    there = path.stat().st_size if path.exists() else 0
    if there < size:
        there = path.read_bytes().rfind(b"\n") + 1 if there else 0
        outcome = "These lines stay" if there else "It is begun anew"
        warnings.warn(
            f"The log {path} had {size} bytes when the snapshot was taken, and has whole lines of "
            f"{there} bytes now. {outcome}; the lines between these and the next ones are lost.",
            stacklevel=2,
        )
    if there:
        os.truncate(path, min(there, size))
    return there > 0
