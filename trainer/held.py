"""What objects hold: the variables and generators of their attributes, each with its path."""

from __future__ import annotations

import copy
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
_WITHOUT = (str, int, float, type(None), np.ndarray, types.FunctionType, type)
_VARIABLES = (keras.Variable, tf.Variable)
_WITH_VARIABLES = (keras.Optimizer, keras.metrics.Metric, tf.Module)
_LIBRARIES = {
    *sys.stdlib_module_names,
    *("keras", "tensorflow", "numpy", "pandas", "torch", "jax", "trainer"),
} - {"__main__"}


def held_by(owner: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yields the variables and generators that an object holds, in the order of its attributes.

    Those of objects that it holds, in containers too, are yielded with them.

    Args:
        owner: the object.
        path: the path to it.
        seen: the ids of objects that are passed over; those that were seen are added.
    """
    if isinstance(owner, (*_WITHOUT, random.SystemRandom)) or id(owner) in seen:
        return
    seen.add(id(owner))
    if isinstance(owner, (*_VARIABLES, *GENERATORS)):
        yield path, owner
    elif isinstance(owner, (keras.random.SeedGenerator, tf.random.Generator)):
        yield path, owner.state
    elif isinstance(owner, dict):
        for number, (key, part) in enumerate(list(owner.items())):
            # Another kind of key may be another one in another process.
            yield from held_by(part, f"{path}.{key if isinstance(key, str) else number}", seen)
    elif isinstance(owner, (list, tuple)):
        for number, part in enumerate(owner):
            if not isinstance(part, _WITHOUT):
                yield from held_by(part, f"{path}.{number}", seen)
    elif isinstance(owner, (*_WITH_VARIABLES, keras.Layer)):
        for variable in owner.variables:
            yield from held_by(variable, path, seen)
        if isinstance(owner, keras.Layer):
            yield from _held_by_attributes(owner, path, seen)
    elif _is_of_user(owner):
        yield from _held_by_attributes(owner, path, seen)


def _held_by_attributes(owner: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    attributes = list(vars(owner).items())
    attributes.sort(key=lambda attribute: attribute[0].startswith("_"))  # libraries' own last
    for name, value in attributes:
        yield from held_by(value, f"{path}.{name}", seen)


def _is_of_user(value: Any) -> bool:
    """Returns whether an object with attributes is of a class that no library has."""
    is_instance = hasattr(value, "__dict__") and not isinstance(value, type)
    return is_instance and type(value).__module__.partition(".")[0] not in _LIBRARIES


class Draws:
    """Random generators that may be drawn from: those of an object, and NumPy's and Python's own.

    Args:
        owner: the object.
    """

    def __init__(self, owner: Any):
        held = (pair for pair in held_by(owner, "", set()) if isinstance(pair[1], GENERATORS))
        self._held = dict(held)

    def state(self) -> dict[str, Any]:
        """Returns the states of the generators, plain values and arrays, by their paths."""
        states = {path: _state_of(generator) for path, generator in self._held.items()}
        return {**states, **{name: get() for name, (get, _) in _GLOBAL.items()}}

    def check(self, states: dict[str, Any]) -> None:
        """Raises an error of some kind where `set_state` would."""
        trials = {"numpy.random": np.random.RandomState(), "random": random.Random()}
        for path, state in states.items():
            if path in trials or path in self._held:
                _set_state(trials.get(path) or copy.deepcopy(self._held[path]), state)

    def set_state(self, states: dict[str, Any]) -> None:
        """Sets the generators to states; those that are not there are passed over."""
        for path, state in states.items():
            if path in _GLOBAL:
                _GLOBAL[path][1](state)
            elif path in self._held:
                _set_state(self._held[path], state)


def is_same(state: Any, other: Any) -> bool:
    """Returns whether two states of the same generators are equal."""
    if isinstance(state, dict):
        return all(is_same(state[key], other[key]) for key in state)
    return np.array_equal(state, other) if isinstance(state, np.ndarray) else state == other


_GLOBAL = {  # by what no attribute can be called
    "numpy.random": (lambda: np.random.get_state(legacy=False), np.random.set_state),
    "random": (random.getstate, random.setstate),
}


def _state_of(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return generator.bit_generator.state


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(checked_bits(state))
    else:
        generator.bit_generator.state = checked_bits(state)


def checked_bits(state: dict[str, Any]) -> dict[str, Any]:
    """Returns a state of a generator of NumPy's, which itself reads wherever a position points to.

    Raises:
        ValueError: a position is outside of what it points into.
    """
    inside = 0 <= state["state"].get("pos", 0) <= 624 and 0 <= state.get("buffer_pos", 0) <= 4
    if not inside:
        raise ValueError("a position is outside")
    return state
