"""Plain values as JSON and arrays, and back: numbers, strings, containers, arrays, no code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

_AS_THEY_ARE = (type(None), bool, int, float, str)


class NotPlainError(TypeError):
    """A value that is more than data."""


def encoded(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    """Returns `value` as what JSON can hold.

    Args:
        value: a number, a string, bytes, an array, a tensor, ragged and sparse ones, too, or a
            list, tuple, set or dict of such.
        arrays: arrays in `value` are added to it, under names that begin with `name`.
        name: the name of `value`.

    Raises:
        NotPlainError: `value` is, or holds, anything else.
    """
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    for kind, tag in _ARRAYS.items():
        if isinstance(value, kind):
            return {tag: _kept(value, arrays, name)}
    for kind, (tag, taken_apart, _) in _COMPOSITES.items():
        if isinstance(value, kind):
            return {tag: encoded(taken_apart(value), arrays, name)}
    if type(value) is dict:
        items = enumerate(value.items())
        pairs = [[encoded(part, arrays, f"{name}/{n}") for part in pair] for n, pair in items]
        return {"dict": pairs}
    tag = _SEQUENCES.get(type(value))
    if tag is None:
        raise NotPlainError(f"{name} is of type {type(value).__name__}")
    ordered = sorted(value, key=repr) if tag == "set" else value
    return {tag: [encoded(part, arrays, f"{name}/{n}") for n, part in enumerate(ordered)]}


def decoded(code: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Returns the value that `encoded` made `code` of."""
    if not isinstance(code, dict):
        # JSON's NaN is one object, of which a set or the keys of a dict would hold a single one.
        return code + 0.0 if code != code else code
    ((tag, content),) = code.items()
    if tag == "dict":
        return {decoded(key, arrays): decoded(value, arrays) for key, value in content}
    return _MADE[tag](content, arrays)


def _kept(value: Any, arrays: dict[str, np.ndarray], name: str) -> str:
    array = np.asarray(value.numpy() if isinstance(value, tf.Tensor) else value)
    if array.flags.writeable:
        array = array.copy()
    if array.dtype.hasobject:
        raise NotPlainError(f"{name} is an array of objects")
    arrays[name] = array
    return name


def _sequence(make: type) -> Any:
    return lambda parts, arrays: make(decoded(part, arrays) for part in parts)


def _composite(make: Callable[..., Any]) -> Any:
    return lambda code, arrays: make(*decoded(code, arrays))


_ARRAYS = {np.generic: "number", np.ndarray: "array", tf.Tensor: "tensor"}
_COMPOSITES = {
    tf.RaggedTensor: (
        "ragged",
        lambda ragged: (ragged.flat_values, ragged.nested_row_splits),
        tf.RaggedTensor.from_nested_row_splits,
    ),
    tf.SparseTensor: (
        "sparse",
        lambda sparse: (sparse.indices, sparse.values, sparse.dense_shape),
        tf.SparseTensor,
    ),
}
_SEQUENCES = {list: "list", tuple: "tuple", set: "set"}
_MADE = {
    "bytes": lambda code, arrays: bytes.fromhex(code),
    "number": lambda name, arrays: arrays[name][()],
    "array": lambda name, arrays: arrays[name].copy(),
    "tensor": lambda name, arrays: tf.constant(arrays[name]),
    "list": _sequence(list),
    "tuple": _sequence(tuple),
    "set": _sequence(set),
    **{tag: _composite(make) for tag, _, make in _COMPOSITES.values()},
}
