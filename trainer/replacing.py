"""Methods of single objects replaced for a while."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras


@contextlib.contextmanager
def replaced(objects: Iterable[Any], method: str, by: Callable[..., Any]) -> Iterator[None]:
    """Has each of the objects call `by` for one of its methods.

    May be nested, also by replicas, whose threads take turns and need not end in reverse order.

    Args:
        objects: the objects, each of them once.
        method: the name of the method.
        by: takes the object, its method as it was, and then what the method takes.
    """
    replacements = [(each, _Replacement(each, method, by)) for each in objects]
    for instance, replacement in replacements:
        setattr(instance, method, replacement)
    try:
        yield
    finally:
        for instance, replacement in replacements:
            replacement.has_ended = True
            _remove_ended(instance, method)


class _Replacement(functools.partial):
    """What is called for a method of one object."""

    def __new__(cls, instance: Any, method: str, by: Callable[..., Any]) -> _Replacement:
        self = super().__new__(cls, by, instance, getattr(instance, method))
        self.before, self.has_ended = vars(instance).get(method), False
        return self


def _remove_ended(instance: Any, method: str) -> None:
    current = vars(instance).get(method)
    if not isinstance(current, _Replacement) or not current.has_ended:
        return
    while isinstance(current, _Replacement) and current.has_ended:
        current = current.before
    if current is None:
        delattr(instance, method)
    else:
        setattr(instance, method, current)


def after_build(optimizer: keras.Optimizer, then: Callable[[], None]) -> None:
    """Calls `then` once the optimizer has made its variables for the first time."""

    def build(variables: list[keras.Variable]) -> None:
        del optimizer.build
        optimizer.build(variables)
        then()

    optimizer.build = build
