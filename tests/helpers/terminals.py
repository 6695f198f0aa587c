"""Terminals: what is written to one, and what it shows."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import Callable
from typing import Any

from tests.helpers.processes import LIMIT, Process

ROWS = 40


class Terminal(io.StringIO):
    """A terminal within this process, as Python sees it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def rows(self) -> list[str]:
        """What was drawn, row after row."""
        return re.split(r"[\r\n]+", self.getvalue())

    @property
    def screen(self) -> list[str]:
        """The rows that it shows in the end."""
        return rows_of_screen(self.getvalue().replace("\n", "\r\n"))


def written_to_terminal(function: Callable, *arguments: Any, columns: int = 100) -> str:
    """Calls `function` in a process on a pseudo-terminal; returns what it writes there.

    Raises:
        AssertionError: if the process does not exit with 0.
    """
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    process = Process(_call_on_terminal, os.ttyname(end), function, *arguments)
    process.wait_for("opened")  # a terminal that no process has open is gone
    os.close(end)
    written = b""
    with open(terminal, "rb", buffering=0) as reader:
        try:
            while piece := reader.read(65536):
                written += piece
        except OSError:  # how Linux says that the other end is closed
            pass
    ended = process.wait()
    assert ended.code == 0, ended.printed
    return written.decode()


def rows_of_screen(written: str) -> list[str]:
    """Returns the rows that a terminal shows."""
    rows = []
    for line in written.rstrip().split("\r\n"):
        row: list[str] = []
        for overwriting in line.split("\r"):
            row[: len(overwriting)] = overwriting
        rows.append("".join(row).rstrip())
    return rows


def _call_on_terminal(path: str, function: Callable, *arguments: Any) -> None:
    signal.alarm(LIMIT)
    terminal = os.open(path, os.O_WRONLY | os.O_NOCTTY)
    print("opened", flush=True)
    os.dup2(terminal, 1)
    os.close(terminal)
    function(*arguments)
