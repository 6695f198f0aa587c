"""What is made once for the tests of one group, and let go of after them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_caches: list[Any] = []


def shared(make: Callable) -> Callable:
    """Keeps what `make` returns until `let_go`; traced functions take many megabytes."""
    cached = functools.cache(make)
    _caches.append(cached)
    return cached


def let_go() -> bool:
    """Forgets what was kept; returns whether that was anything."""
    kept = [cached for cached in _caches if cached.cache_info().currsize]
    for cached in kept:
        cached.cache_clear()
    return bool(kept)
