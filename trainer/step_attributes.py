"""What a step reads of the object that it is a method of, and whether that has changed since.

A traced step keeps the numbers that Python attributes had while it was traced. An attribute that
the step itself sets, such as a count of its traces, is left out.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import tensorflow as tf

_OFTEN = 5  # changes; each costs a trace
_KINDS = (list, tuple, set, frozenset, dict)  # containers that are looked into
_read: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("read", default=None)


def in_step() -> bool:
    """Returns whether a step is being traced, or runs eagerly."""
    return _read.get() is not None


class RecordsReads:
    """Counts changes of its attributes, and records those that a step reads."""

    _changes = 0

    if not TYPE_CHECKING:  # which finds misspelt names by itself

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            super().__setattr__("_changes", self._changes + 1)


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
    read = _read.get()
    if read is not None:
        read.add(name)
    return object.__getattribute__(owner, name)


_recording = _Recording()


class StepAttributes:
    """The attributes that steps of an object read, as they were then.

    Args:
        owner: the object.
    """

    def __init__(self, owner: RecordsReads):
        self._owner = vars(owner)
        self._values: dict[str, Any] = {}
        self._containers: list[str] = []  # which may change inside
        self._own: set[str] = set()  # which steps set
        self._looked_at = 0
        self._traces = 0

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Records what a step reads meanwhile, if it is traced."""
        is_traced = tf.inside_function()
        before = {name: _frozen(v) for name, v in self._owner.items()} if is_traced else {}
        read: set[str] = set()
        token = _read.set(read)
        try:
            with _recording if is_traced else contextlib.nullcontext():
                yield
        finally:
            _read.reset(token)
        if is_traced:
            after = {name: self._now(name) for name in read - {"_changes"}}
            self._own |= {name for name in after if after[name] != before.get(name, _NONE)}
            self._values |= {name: after[name] for name in after if name not in self._own}
            self._containers = [n for n in self._values if isinstance(self._owner.get(n), _KINDS)]

    def changed(self) -> bool:
        """Returns whether one of them has another value by now; forgets them all if so."""
        changes = self._owner.get("_changes", 0)
        candidates = self._containers if changes == self._looked_at else self._values
        self._looked_at = changes
        names = [name for name in candidates if self._now(name) != self._values[name]]
        if not names:
            return False
        self._values.clear()
        self._containers = []
        self._traces += 1
        if self._traces == _OFTEN:
            warnings.warn(
                f"{', '.join(names)} of the trainer changed {_OFTEN} times, and each time the step "
                "is traced again: make it a tf.Variable, and assign to it.",
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


def _frozen(value: Any) -> Any:
    """Returns what equals another one of the same numbers, texts and objects."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return type(value), value
    if type(value) in _KINDS[:-1]:
        return type(value), [_frozen(part) for part in value]
    if type(value) is dict:
        return dict, [(key, _frozen(part)) for key, part in value.items()]
    return _Same(value)


_NONE = _frozen(None)
