"""Processes forked from a server that has imported TensorFlow, Keras and the package.

A new interpreter spends some seconds importing TensorFlow. The fork server does so once for each
worker of pytest and never uses TensorFlow, so a process forked from it trains its first step within
a second. It is a process like any other: it has its own TensorFlow, it can be sent signals, and it
can be killed.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LIMIT = 120  # seconds until a process is killed; none that is well needs as long
PRELOADED = [
    "tensorflow",
    "keras",
    "trainer",
    "pytest",
    "tests.helpers.threads",
    "tests.helpers.models",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        code: the exit code, negative for a signal.
        at: when, in seconds of `time.time`.
        printed: what it printed and has not been read before, errors included.
    """

    code: int
    at: float
    printed: str


class Process:
    """A process that calls a function, forked from the server.

    Args:
        function: a function of a module, or a partial of one; it is imported in the process.
        arguments: of `function`; they are pickled.
        environment: variables that the process has besides those of the tests.
    """

    def __init__(
        self, function: Callable, *arguments: Any, environment: dict[str, str] | None = None
    ):
        _ensure_server()
        reader, writer = _context.Pipe(duplex=False)
        self._process = _context.Process(
            target=_call, args=(writer, environment or {}, function, arguments)
        )
        self._process.start()
        writer.close()
        self._output = os.fdopen(os.dup(reader.fileno()), "r", errors="replace")
        reader.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, line: str) -> None:
        """Reads what the process prints until it prints `line`."""
        seen = []
        with _killed_after(LIMIT, self):
            for printed in self._output:
                seen.append(printed)
                if printed.strip() == line:
                    return
        raise AssertionError(f"The process ended without printing {line!r}:\n{''.join(seen)}")

    def read_line(self) -> str:
        """Returns the next line that the process prints; empty if it has ended."""
        with _killed_after(LIMIT, self):
            return self._output.readline()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the process, if it has not ended."""
        self._process.kill()

    def wait(self, limit: float = LIMIT) -> Ended:
        """Returns how the process ended; kills it after `limit` seconds."""
        with _killed_after(limit, self):
            printed = self._output.read()
            self._process.join()
        at = time.time()
        self._output.close()
        return Ended(self._process.exitcode, at, printed)


def run(function: Callable, *arguments: Any, environment: dict[str, str] | None = None) -> str:
    """Calls `function` in a process of its own and returns what it printed.

    Raises:
        AssertionError: if the process does not exit with 0.
    """
    ended = Process(function, *arguments, environment=environment).wait()
    assert ended.code == 0, f"exit code {ended.code}:\n{ended.printed[-5000:]}"
    return ended.printed


def stop_server() -> None:
    """Ends the server and waits for it, so that its processor time is counted with the tests'."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("forkserver" in part for part in child.cmdline()):
                child.terminate()
                child.wait()


def _ensure_server() -> None:
    """Starts the server, unless it runs; it finds the tests' modules from any folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{EXAMPLES}", prepend=os.pathsep)
        multiprocessing.forkserver.ensure_running()


def _call(
    writer: multiprocessing.connection.Connection,
    environment: dict[str, str],
    function: Callable,
    arguments: tuple,
) -> None:
    """Calls `function` with its output going to `writer`."""
    os.dup2(writer.fileno(), 1)
    os.dup2(writer.fileno(), 2)
    writer.close()
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.environ.update(environment)
    try:
        function(*arguments)
    finally:
        atexit._run_exitfuncs()  # which an interpreter of its own does, and a fork does not


@contextlib.contextmanager
def _killed_after(seconds: float, process: Process) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
