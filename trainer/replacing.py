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


class _Replacement:
    """What is called for a method of one object."""

    def __init__(self, instance: Any, method: str, by: Callable[..., Any]):
        self.before, self.has_ended = vars(instance).get(method), False
        self._inner = getattr(instance, method)
        self._by = functools.partial(by, instance, self._inner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self._inner if self.has_ended else self._by)(*args, **kwargs)


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
