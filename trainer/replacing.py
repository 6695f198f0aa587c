"""Methods of single objects replaced for a while."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def replaced(objects: Iterable[Any], method: str, by: Callable[..., Any]) -> Iterator[None]:
    """Has each of the objects call `by` for one of the methods that its class has.

    Args:
        objects: the objects, each of them once.
        method: the name of the method.
        by: takes the object, and then what the method takes.
    """
    objects = list(objects)
    for instance in objects:
        setattr(instance, method, functools.partial(by, instance))
    try:
        yield
    finally:
        for instance in objects:
            delattr(instance, method)
