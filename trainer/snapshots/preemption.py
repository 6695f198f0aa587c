"""A training that is asked to end early: by SIGTERM, or when its time is over."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

SIGTERM = "SIGTERM came"  # for a reason


class PreemptedError(Exception):
    """Ends a training that was asked to end."""


class Preemption:
    """Notices that a training is asked to end.

    Args:
        max_seconds: how long the training may take, `None` for any time.

    Attributes:
        reason: what asked for the end, `None` as long as nothing did.
    """

    def __init__(self, max_seconds: float | None = None):
        self._ends = None if max_seconds is None else time.monotonic() + max_seconds
        self.reason: str | None = None

    @property
    def is_asked(self) -> bool:
        """Whether the training is to end."""
        if self.reason is None and self._ends is not None and time.monotonic() >= self._ends:
            self.reason = "its time is over"
        return self.reason is not None

    def take_over(self) -> None:
        """Is told that the training ends, which another process may have been asked for."""
        self.reason = self.reason or "another process was asked to end"

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Listens for SIGTERM, in the main thread; a handler of the user's is called afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        process = os.getpid()

        def take(number: int, frame: Any) -> None:
            if os.getpid() == process:
                self.reason = SIGTERM
            else:  # a process that was forked meanwhile, which has nothing to end early
                signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
                signal.raise_signal(signal.SIGTERM)

        before = signal.signal(signal.SIGTERM, take)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
            if self.reason == SIGTERM and callable(before):
                signal.raise_signal(signal.SIGTERM)
