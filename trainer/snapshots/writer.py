"""Snapshots written in a thread, beside the training."""

from __future__ import annotations

import concurrent.futures
import shutil
import threading
import time
import warnings
from pathlib import Path

from trainer.snapshots import files
from trainer.snapshots.files import Contents
from trainer.snapshots.paths import AnyPath, shown

_SHARE = 200  # times as long as a snapshot took goes by until the next one is written
_LONGEST_PAUSE = 5.0  # seconds; large snapshots take the disk's time more than the processor's


class Writer:
    """Writes snapshots one after the other; of those that wait meanwhile only the latest.

    It pauses after each, to take but a small share of the time however many there are. One that
    cannot be written is told of by a warning, and those that are there stay.

    Args:
        directory: the folder of the snapshots.
        keep: how many of them to keep.
    """

    def __init__(self, directory: AnyPath, keep: int):
        self._directory = directory
        self._keep = keep
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._lock = threading.Lock()
        self._waiting: tuple[str, Contents] | None = None
        self._ready_at = 0.0
        self._hurries = threading.Event()
        self._failure: Exception | None = None
        self._fails = False
        self._last: concurrent.futures.Future | None = None

    @property
    def is_ready(self) -> bool:
        """Whether what is put now would be written at once."""
        is_idle = self._last is None or self._last.done()
        return is_idle and time.monotonic() >= self._ready_at

    def put(self, name: str, contents: Contents) -> None:
        """Lets the thread write a snapshot called `name`."""
        with self._lock:
            self._waiting = name, contents
        self._last = self._thread.submit(self._write_waiting)
        self._tell()

    def flush(self) -> None:
        """Returns once all is written."""
        if self._last is not None:
            self._hurries.set()
            self._last.result()
            self._hurries.clear()
        self._tell()

    def close(self) -> None:
        """Ends the thread, once all is written."""
        self._hurries.set()
        self._thread.shutdown()
        self._tell()

    def _write_waiting(self) -> None:
        if self._waiting is None:
            return  # a later one was written in its place
        self._hurries.wait(max(0.0, self._ready_at - time.monotonic()))
        with self._lock:
            (name, contents), self._waiting = self._waiting, None
        path = self._directory / name
        started = time.monotonic()
        try:
            files.write(path, contents)
            files.prune(self._directory, path, self._keep)
            self._fails = False
        except OSError as error:
            if not self._fails:  # once, not for each snapshot of a disk that stays full
                self._failure = Warning(_told(error, path, contents))
            self._fails = True
        except Exception as error:
            self._failure = error
        now = time.monotonic()
        self._ready_at = now + min(_SHARE * (now - started), _LONGEST_PAUSE)

    def _tell(self) -> None:
        failure, self._failure = self._failure, None
        if isinstance(failure, Warning):
            warnings.warn(str(failure), stacklevel=2)
        elif failure is not None:
            raise failure


def _told(error: OSError, path: AnyPath, contents: Contents) -> str:
    needed = sum(array.nbytes for array in contents.arrays.values())
    latest = next(iter(files.found_in(path.parent)), None)
    return (
        f"The snapshot {shown(path)} could not be written: {error.strerror}. It needs "
        f"{_size(needed)}{_told_of_space(path)}. Training goes on; the latest snapshot is "
        f"{latest.name if latest else 'none at all'}."
    )


def _told_of_space(path: AnyPath) -> str:
    if not isinstance(path, Path):
        return ""
    there = next(folder for folder in path.parents if folder.exists())
    return f", and {_size(shutil.disk_usage(there).free)} are free"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
