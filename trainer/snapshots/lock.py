"""A lock on a folder: one process at a time has it, and none that has ended."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None

from trainer.snapshots.paths import AnyPath, shown

_NAME = ".lock"
_held: set[Path] = set()  # by this process


@contextlib.contextmanager
def locked(directory: AnyPath) -> Iterator[None]:
    """Holds the lock of a folder; where the file system has none, and in a store, does nothing.

    Raises:
        ValueError: another process has it.
    """
    if fcntl is None or not isinstance(directory, Path):
        yield
        return
    path, process = directory / _NAME, os.getpid()
    if path in _held:  # to open and close it would end the lock
        yield
        return
    file = _acquired(path)
    _held.add(path)
    try:
        file.truncate(0)
        file.write(str(process))
        file.flush()
        yield
    finally:
        _held.discard(path)
        with contextlib.suppress(OSError):
            if os.getpid() == process:  # and no fork of it
                path.unlink()  # before it is closed, which ends the lock
        file.close()


def _acquired(path: Path) -> IO[str]:
    """Returns the file of a lock, opened and locked."""
    while True:
        file = path.open("a+")
        try:
            # Such a lock ends with its process, and one that is forked does not have it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read()
            file.close()
            raise ValueError(
                f"Process {holder} trains with snapshots in {shown(path.parent)} already: end it "
                "first, or give each training a directory of its own."
            ) from None
        except OSError:
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # its holder has removed it meanwhile
