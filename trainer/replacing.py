"""Methods of single objects replaced for a while."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any


@contextlib.contextmanager
def replaced(objects: Iterable[Any], method: str, by: Callable[..., Any]) -> Iterator[None]:
    """Has each of the objects call `by` for one of its methods; may be nested.

    Args:
        objects: the objects, each of them once.
        method: the name of the method.
        by: takes the object, its method as it was, and then what the method takes.
    """
    replacements = [(each, vars(each).get(method), getattr(each, method)) for each in objects]
    for instance, _, inner in replacements:
        setattr(instance, method, functools.partial(by, instance, inner))
    try:
        yield
    finally:
        for instance, before, _ in replacements:
            if before is None:
                delattr(instance, method)
            else:
                setattr(instance, method, before)
