"""Steps that are called for the variables they make: what they are to change is noted instead."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import keras

_noted: contextvars.ContextVar[list | None] = contextvars.ContextVar("noted", default=None)


@contextlib.contextmanager
def noting_changed() -> Iterator[list[tuple[keras.Optimizer, list[keras.Variable]]]]:
    """Yields a list of what optimizers are to change meanwhile, and do not."""
    noted: list[tuple[keras.Optimizer, list[keras.Variable]]] = []
    before = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(before)


def is_only_noted(optimizer: keras.Optimizer, variables: list[keras.Variable]) -> bool:
    """Returns whether an optimizer is not to change variables now; that it would is noted."""
    noted = _noted.get()
    if noted is None:
        return False
    noted.append((optimizer, variables))
    return True
