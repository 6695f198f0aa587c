"""Seeds: those that are given, and one for those who give none."""

from __future__ import annotations

import operator
import random
from typing import SupportsIndex


def seed_of_random_state() -> int:
    """Returns a number from 0 to 2**32 - 1 that follows from the state of Python's `random`.

    It peeks, so that whoever draws from `random` gets the numbers he would get without it.
    """
    state = random.getstate()
    seed = random.getrandbits(32)
    random.setstate(state)
    return seed


def checked_seed(seed: SupportsIndex) -> int:
    """Returns `seed` as a Python number.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below 0.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed is {seed!r}: expected a whole number of 0 or more.") from None
    if number < 0:
        raise ValueError(f"seed is {number}: expected a whole number of 0 or more.")
    return number
