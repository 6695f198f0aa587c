"""Methods of single objects replaced for a while."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def replaced(objects: Iterable[Any], method: str, by: Callable[..., Any]) -> Iterator[None]:
    """Has each of the objects call `by` for one of its methods.

    A method may be replaced several times at once: by one inside another, or by replicas, which are
    threads that take turns and end in any order.

    Args:
        objects: the objects, each of them once.
        method: the name of the method.
        by: takes the object, and then what the method takes.
    """
    replacements = [_Replacement(instance, method, by) for instance in objects]
    try:
        yield
    finally:
        for replacement in replacements:
            replacement.end()


class _Replacement(functools.partial):
    """Calls `by` for a method of one object, until it is ended."""

    def __new__(cls, instance: Any, method: str, by: Callable[..., Any]) -> _Replacement:
        return super().__new__(cls, by, instance)

    def __init__(self, instance: Any, method: str, by: Callable[..., Any]):
        self.instance, self.method = instance, method
        self.before, self.has_ended = vars(instance).get(method), False
        setattr(instance, method, self)

    def end(self) -> None:
        """Lets the object have what it had before, unless that has ended, too."""
        self.has_ended = True
        found = vars(self.instance).get(self.method)
        while isinstance(found, _Replacement) and found.has_ended:
            found = found.before
        if found is not None:
            setattr(self.instance, self.method, found)
        elif self.method in vars(self.instance):
            delattr(self.instance, self.method)
