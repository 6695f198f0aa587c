"""Plain values as JSON and arrays, and back: numbers, strings, containers, arrays, no code."""

from __future__ import annotations

import collections
import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.held import checked_bits
from trainer.snapshots.files import DamagedSnapshotError

_OF_CRAFTED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
_AS_THEY_ARE = (type(None), bool, int, float, str)


class NotPlainError(TypeError):
    """A value that is more than data."""


def encoded(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    """Returns `value` as what JSON can hold.

    Args:
        value: a number, a string, bytes, an array, a tensor, ragged and sparse ones, too, a random
            generator of NumPy's or Python's, or a container of Python's of such.
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
    if type(value) in _COMPOSITES:
        tag, taken_apart, _ = _COMPOSITES[type(value)]
        return {tag: encoded(taken_apart(value, name), arrays, name)}
    if _is_named_tuple(type(value)):
        return {"named tuple": encoded(_named_tuple(value, name), arrays, name)}
    if type(value) in _DICTS:
        items = enumerate(value.items())
        pairs = [[encoded(part, arrays, f"{name}/{n}") for part in pair] for n, pair in items]
        return {_DICTS[type(value)]: pairs}
    tag = _SEQUENCES.get(type(value))
    if tag is None:
        raise NotPlainError(f"{name} is of type {type(value).__name__}")
    ordered = sorted(value, key=repr) if tag in ("set", "frozenset") else value
    return {tag: [encoded(part, arrays, f"{name}/{n}") for n, part in enumerate(ordered)]}


def decoded(code: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Returns the value that `encoded` made `code` of; runs nothing, whatever that is.

    Raises:
        DamagedSnapshotError: `encoded` cannot have made it.
    """
    with refusing_crafted():
        return _decoded(code, arrays)


@contextlib.contextmanager
def refusing_crafted() -> Iterator[None]:
    """Raises a `DamagedSnapshotError` for what goes wrong with values that nobody would write."""
    try:
        yield
    except DamagedSnapshotError:
        raise
    except (*_OF_CRAFTED, tf.errors.OpError) as error:
        raise DamagedSnapshotError(f"what it holds is no state: {error}") from error


def _decoded(code: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(code, dict):
        # JSON's NaN is one object, of which a set or the keys of a dict would hold a single one.
        return code + 0.0 if code != code else code
    ((tag, content),) = code.items()
    return _MADE[tag](content, arrays)


def _kept(value: Any, arrays: dict[str, np.ndarray], name: str) -> str:
    array = np.asarray(value.numpy() if isinstance(value, tf.Tensor) else value)
    if array.flags.writeable:
        array = array.copy()
    if array.dtype.hasobject:
        raise NotPlainError(f"{name} is an array of objects")
    arrays[name] = array
    return name


def _named_tuple(value: tuple, name: str) -> tuple[str, str, tuple]:
    kind = type(value)
    if _class_of(kind.__module__, kind.__qualname__) is not kind:
        raise NotPlainError(f"{name} is of a class {kind.__qualname__} that no module has")
    return kind.__module__, kind.__qualname__, tuple(value)


def _made_named_tuple(module: str, name: str, values: tuple) -> tuple:
    kind = _class_of(module, name)
    if not _is_named_tuple(kind) or len(kind._fields) != len(values):
        raise ValueError(f"there is no class {module}.{name} of {len(values)} fields")
    return tuple.__new__(kind, values)  # which runs no code of the class


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _class_of(module: str, name: str) -> Any:
    """Returns what a module that is imported already calls so; nothing is imported."""
    found = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found


def _default_dict(value: collections.defaultdict, name: str) -> tuple[str | None, dict]:
    factory = value.default_factory
    if factory is not None and _FACTORIES.get(factory.__name__) is not factory:
        raise NotPlainError(f"{name} has a default factory that is more than data")
    return factory and factory.__name__, dict(value)


def _generator_from(state: dict[str, Any]) -> np.random.Generator:
    bits = {kind.__name__: kind for kind in _BIT_GENERATORS}[state["bit_generator"]]()
    bits.state = checked_bits(state)
    return np.random.Generator(bits)


def _random_from(state: tuple) -> random.Random:
    made = random.Random()
    made.setstate(state)
    return made


def _random_state_from(state: dict[str, Any]) -> np.random.RandomState:
    made = np.random.RandomState()
    made.set_state(checked_bits(state))
    return made


def _sequence(make: type) -> Any:
    return lambda parts, arrays: make(_decoded(part, arrays) for part in parts)


def _pairs(make: type) -> Any:
    return lambda pairs, arrays: make(
        {_decoded(key, arrays): _decoded(value, arrays) for key, value in pairs}
    )


def _composite(make: Callable[..., Any]) -> Any:
    return lambda code, arrays: make(*_decoded(code, arrays))


_ARRAYS = {np.generic: "number", np.ndarray: "array", tf.Tensor: "tensor"}
_BIT_GENERATORS = (
    *(np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937),
    *(np.random.Philox, np.random.SFC64),
)
_FACTORIES = {
    kind.__name__: kind
    for kind in (
        *(bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict),
        *(collections.Counter, collections.deque, collections.OrderedDict),
    )
}
_COMPOSITES = {
    np.random.Generator: (
        "generator",
        lambda generator, _: (generator.bit_generator.state,),
        _generator_from,
    ),
    np.random.RandomState: (
        "random state",
        lambda generator, _: (generator.get_state(legacy=False),),
        _random_state_from,
    ),
    random.Random: ("random", lambda generator, _: (generator.getstate(),), _random_from),
    collections.deque: (
        "deque",
        lambda parts, _: (list(parts), parts.maxlen),
        collections.deque,
    ),
    collections.defaultdict: (
        "defaultdict",
        _default_dict,
        lambda name, items: collections.defaultdict(name and _FACTORIES[name], items),
    ),
    tf.RaggedTensor: (
        "ragged",
        lambda ragged, _: (ragged.flat_values, ragged.nested_row_splits),
        tf.RaggedTensor.from_nested_row_splits,
    ),
    tf.SparseTensor: (
        "sparse",
        lambda sparse, _: (sparse.indices, sparse.values, sparse.dense_shape),
        tf.SparseTensor,
    ),
}
_DICTS = {dict: "dict", collections.OrderedDict: "ordered", collections.Counter: "counter"}
_SEQUENCES = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
_MADE = {
    "bytes": lambda code, arrays: bytes.fromhex(code),
    "number": lambda name, arrays: arrays[name][()],
    "array": lambda name, arrays: arrays[name].copy(),
    "tensor": lambda name, arrays: tf.constant(arrays[name]),
    **{tag: _sequence(kind) for kind, tag in _SEQUENCES.items()},
    **{tag: _pairs(kind) for kind, tag in _DICTS.items()},
    "named tuple": lambda code, arrays: _made_named_tuple(*_decoded(code, arrays)),
    **{tag: _composite(make) for tag, _, make in _COMPOSITES.values()},
}
