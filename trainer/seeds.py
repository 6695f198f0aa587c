"""Seeds for those who give none."""

from __future__ import annotations

import random


def seed_of_random_state() -> int:
    """Returns a number from 0 to 2**32 - 1 that follows from the state of Python's `random`.

    It peeks, so that whoever draws from `random` gets the numbers he would get without it.
    """
    state = random.getstate()
    seed = random.getrandbits(32)
    random.setstate(state)
    return seed
