"""Trainings with snapshots that end in a process forked from the server.

`python -m tests.helpers.snapshot_processes DIRECTORY` trains in a new interpreter, while the disk
that `DIRECTORY/snapshots` is on becomes full.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.data import labels, numbers
from tests.helpers.trainings import (
    STEPS,
    Callback,
    Watches,
    fit,
    names_in,
    outcome,
    trainer,
    wait_until,
    wide_network,
)
from trainer.callbacks import Snapshots
from trainer.snapshots import files, writer

FIRST = files.name_of(STEPS, epoch=1)


class Fills(Watches):
    """Makes the directory one that cannot be written to once there is a snapshot."""

    def __init__(self, directory: Path, fill: Callable[[Path], None]):
        super().__init__()
        self.directory, self.fill = directory, fill

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            wait_until(lambda: [path.name for path in files.found_in(self.directory)] == [FIRST])
            self.fill(self.directory)


def fill_disk(directory: Path) -> None:
    with (directory / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))


def limit_files(directory: Path, size: int | None = 10_000) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))


def train_while_disk_fills(directory: Path, fill: Callable[[Path], None]) -> None:
    writer._SHARE = 0
    saved = directory / "snapshots"
    made = trainer(wide_network)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(made, Fills(saved, fill), Snapshots(saved, every_steps=2, keep=1))
    limit_files(directory, None)
    whole = [path.name for path in files.found_in(saved) if files.read(path)]
    messages = [str(one.message) for one in caught if "could not be written" in str(one.message)]
    write_outcome(directory, outcome(made), messages=messages, whole=whole, there=names_in(saved))


def write_outcome(directory: Path, ended: dict[str, Any], **facts: Any) -> None:
    np.savez(directory / "variables.npz", **ended.pop("variables"))
    (directory / "facts.json").write_text(json.dumps([ended, facts]))


def read_outcome(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    ended, facts = json.loads((directory / "facts.json").read_text())
    with np.load(directory / "variables.npz") as variables:
        return {**ended, "variables": dict(variables)}, facts


LONG = {"x": numbers(16_000, 4), "y": labels(16_000), "batch_size": 2, "epochs": 2}


CODE = 7


class ReportsTraining(Watches):
    """Prints "ready" in an epoch of long groups."""

    batch_hooks = "show"

    def __init__(self):
        super().__init__()
        self.is_ready = False

    def on_train_batch_end(self, batch, logs=None):
        if batch > 500 and not self.is_ready:
            self.is_ready = True
            print("ready", flush=True)


class ReportsValidation(Watches):
    """Prints "ready" in the second validation, and waits there for a signal."""

    def __init__(self):
        super().__init__()
        self.validations = 0
        self.signals, writer = os.pipe2(os.O_NONBLOCK)
        os.set_blocking(self.signals, True)
        signal.set_wakeup_fd(writer)

    def on_test_begin(self, logs=None):
        self.validations += 1

    def on_test_batch_end(self, batch, logs=None):
        if (self.validations, batch) == (2, 3):
            print("ready", flush=True)
            os.read(self.signals, 1)


def train_until_ended(
    directory: Path, reports: Callable[[], Callback], exit_code: int | None, how: dict[str, Any]
) -> None:
    writer._SHARE = 0
    saving = Snapshots(directory / "snapshots", exit_code=exit_code)
    try:
        fit(trainer(), reports(), saving, **how)
    finally:
        # `fit` is left: whether by its return or by the end of the process.
        print(json.dumps({"at": time.time(), "preempted": saving.preempted}), flush=True)


if __name__ == "__main__":
    from tests import conftest  # noqa: F401  # threads as under test, and so the same bits

    train_while_disk_fills(Path(sys.argv[1]), fill_disk)
