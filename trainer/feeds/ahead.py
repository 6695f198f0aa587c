"""Fetching ahead: what is wanted next is made in threads or processes meanwhile."""

from __future__ import annotations

import atexit
import collections
import concurrent.futures
import contextlib
import functools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

PATIENCE = 5.0  # seconds that the end of a call, or of the process, waits for a source


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


class DaemonThreads(concurrent.futures.Executor):
    """Threads that ask a source. It may never answer, so no process waits for them for ever.

    Args:
        count: how many, at most.
    """

    def __init__(self, count: int):
        self._count = count
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._is_shut = False
        weakref.finalize(self, self._calls.put, None)

    def submit(  # noqa: D102
        self, function: Callable, /, *arguments: Any, **named: Any
    ) -> concurrent.futures.Future:
        if self._is_shut:
            raise RuntimeError("These threads have been shut down.")
        future: concurrent.futures.Future = concurrent.futures.Future()
        self._calls.put((future, functools.partial(function, *arguments, **named)))
        if len(self._threads) < self._count:
            thread = threading.Thread(target=_serve, args=(self._calls,), daemon=True)
            self._threads.append(thread)
            _calls_by_thread[thread] = self._calls
            thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: D102
        self._is_shut = True
        with contextlib.suppress(queue.Empty):
            while cancel_futures and (call := self._calls.get_nowait()):
                call[0].cancel()
        self._calls.put(None)
        if wait:
            self.have_ended(None)

    def have_ended(self, seconds: float | None) -> bool:
        """Returns whether the threads, shut down, have ended; waits so long for them, once."""
        for thread in self._threads:
            _calls_by_thread.pop(thread, None)
        return _have_ended(self._threads, seconds)


_calls_by_thread: weakref.WeakKeyDictionary[threading.Thread, queue.SimpleQueue] = (
    weakref.WeakKeyDictionary()
)


def _serve(calls: queue.SimpleQueue) -> None:
    """Makes the calls that come, until `None` comes."""
    while (call := calls.get()) is not None:
        future, function = call
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
        del call, future, function  # they would keep a batch until the next one
    calls.put(None)  # for the other threads


def _have_ended(threads: Iterable[threading.Thread], seconds: float | None) -> bool:
    until = None if seconds is None else time.monotonic() + seconds
    for thread in threads:
        thread.join(until and max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)


@atexit.register
def _wait_at_exit() -> None:
    """Waits for what is being fetched: TensorFlow may not be taken down beneath it."""
    for calls in _calls_by_thread.values():
        calls.put(None)
    _have_ended(list(_calls_by_thread), PATIENCE)
