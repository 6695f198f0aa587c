"""Fetching ahead: what is wanted next is made in threads or processes meanwhile."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def fetched(
    pool: concurrent.futures.Executor, calls: Iterable[Callable[[], Any]], ahead: int
) -> Iterator[Any]:
    """Yields what `calls` return, in their order, while `pool` makes the next `ahead` ones.

    What was not yet begun is cancelled when the iterator is dropped.
    """
    pending: collections.deque = collections.deque()
    try:
        for call in calls:
            pending.append(pool.submit(call))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for fetch in pending:
            fetch.cancel()
