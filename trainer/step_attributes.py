"""What a step reads of the object that it is a method of, and whether that has changed since.

A traced step keeps the numbers that Python attributes had while it was traced. An attribute that
the step itself sets, such as a count of its traces, is left out.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

_OFTEN = 5  # changes of one; each costs a trace
_MOST = 100  # parts of a container that is looked into
_COUNTS = {"_changes", "_changed_at"}
_CONTAINERS = (list, tuple, set, frozenset, dict, np.ndarray)  # which may change inside


class _Read(NamedTuple):
    """What a step has read: attributes of an object, and what each was then."""

    owner: dict[str, Any]
    values: dict[str, Any]


_read: contextvars.ContextVar[_Read | None] = contextvars.ContextVar("read", default=None)


def in_step() -> bool:
    """Returns whether a step is being traced, or runs eagerly."""
    return _read.get() is not None


class RecordsReads:
    """Counts changes of its attributes, and records those that a step reads."""

    _changes = 0
    _changed_at: dict[str, int] = {}  # by name, how many changes there were by its last

    if not TYPE_CHECKING:  # which finds misspelt names by itself

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            super().__setattr__("_changes", self._changes + 1)
            # Another dict each time: copies of the object share its attributes.
            super().__setattr__("_changed_at", {**self._changed_at, name: self._changes})


class _Recording:
    """Makes `RecordsReads` record while steps are traced; at other times it would cost too much."""

    def __init__(self):
        self._lock = threading.Lock()
        self._count = 0

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            RecordsReads.__getattribute__ = _recorded

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count -= 1
            if not self._count:
                del RecordsReads.__getattribute__


def _recorded(owner: RecordsReads, name: str) -> Any:
    read, attributes = _read.get(), object.__getattribute__(owner, "__dict__")
    if read is not None and read.owner is attributes and name not in read.values:
        read.values[name] = _frozen(attributes.get(name))
    return object.__getattribute__(owner, name)


_recording = _Recording()


class StepAttributes:
    """The attributes that steps of an object read, as they were then.

    Containers are compared by their parts, if these are 100 at most, else by identity.

    Args:
        owner: the object.
    """

    def __init__(self, owner: RecordsReads):
        self._owner = vars(owner)
        self._values: dict[str, Any] = {}
        self._containers: list[str] = []
        self._own: set[str] = set()  # which steps set
        self._looked_at = 0
        self._changes: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Records what a step reads meanwhile, if it is traced."""
        is_traced = tf.inside_function()
        read = _Read(self._owner, {})
        token = _read.set(read)
        try:
            with _recording if is_traced else contextlib.nullcontext():
                yield
        finally:
            _read.reset(token)
        if is_traced:
            before = {name: read.values[name] for name in read.values.keys() - _COUNTS}
            after = {name: self._now(name) for name in before}
            self._own |= {name for name in before if before[name] != after[name]}
            self._values |= {name: after[name] for name in after if name not in self._own}
            containers = (n for n in self._values if isinstance(self._owner.get(n), _CONTAINERS))
            self._containers = list(containers)

    def changed(self) -> bool:
        """Returns whether one of them has another value by now; forgets them all if so."""
        changes = self._owner.get("_changes", 0)
        candidates = self._containers
        if changes != self._looked_at:
            changed_at = self._owner.get("_changed_at", {})
            others = (name for name in self._values if name not in candidates)
            since = (name for name in others if changed_at.get(name, 0) > self._looked_at)
            candidates = [*candidates, *since]
        self._looked_at = changes
        names = [name for name in candidates if self._now(name) != self._values[name]]
        if not names:
            return False
        self._values.clear()
        self._containers = []
        self._changes.update(names)
        for name in names:
            if self._changes[name] == _OFTEN:
                warnings.warn(
                    f"{name} of the trainer changed {_OFTEN} times, and each time the step is "
                    "traced again: make it a tf.Variable, and assign to it.",
                    stacklevel=2,
                )
        return True

    def _now(self, name: str) -> Any:
        return _frozen(self._owner.get(name))


class _Same:
    """Equal to another one of the same object alone."""

    def __init__(self, value: Any):
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    __hash__ = None


def _frozen(value: Any) -> list[Any]:
    """Returns what equals another one of the same numbers, texts and objects."""
    found, waiting = [], [value]
    while waiting:
        part = waiting.pop()
        if len(found) + _size(part) > _MOST:
            return [_Same(value)]
        found.append(_part_frozen(part))
        if type(part) in (list, tuple):
            waiting += part
        elif type(part) is dict:
            waiting += part.values()
    return found


def _size(part: Any) -> int:
    if isinstance(part, np.ndarray):
        return part.size
    return len(part) if isinstance(part, _CONTAINERS) else 1


def _part_frozen(part: Any) -> Any:
    """Returns the same of a part, for a container without what it has, unless that is hashable."""
    if isinstance(part, (float, complex)):
        return type(part), repr(part)  # by which NaN is equal to NaN
    if part is None or isinstance(part, (bool, int, str, bytes)):
        return type(part), part
    if type(part) in (list, tuple):
        return type(part), len(part)
    if type(part) in (set, frozenset, dict):
        return type(part), list(part) if type(part) is dict else frozenset(part)
    if type(part) is np.ndarray and not part.dtype.hasobject:
        return part.dtype, part.shape, part.tobytes()
    return _Same(part)
