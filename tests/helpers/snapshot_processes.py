"""Trainings in a process of their own.

`python -m tests.snapshots.processes TRAINING DIRECTORY`, with one of `TRAININGS`.
"""

from __future__ import annotations

import contextlib
import functools
import json
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
    HELD_OUT,
    STEPS,
    Callback,
    Slow,
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

PROCESS = [sys.executable, "-m", "tests.snapshots.processes"]


ROOT = Path(__file__).parents[2]


FIRST = files.name_of(STEPS, epoch=1)


class Fills(Watches):
    """Sees to it that nothing can be written once there is a snapshot."""

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


def train_while_it_fills(directory: Path, fill: Callable[[Path], None]) -> None:
    saved = directory / "snapshots"
    made = trainer(wide_network)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(made, Fills(saved, fill), Snapshots(saved, every_steps=2, keep=1))
    limit_files(directory, None)
    whole = [path.name for path in files.found_in(saved) if files.read(path)]
    told = [str(one.message) for one in caught if "could not be written" in str(one.message)]
    write_outcome(directory, outcome(made), told=told, whole=whole, there=names_in(saved))


def write_outcome(directory: Path, ended: dict[str, Any], **facts: Any) -> None:
    np.savez(directory / "variables.npz", **ended.pop("variables"))
    (directory / "facts.json").write_text(json.dumps([ended, facts]))


def read_outcome(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    ended, facts = json.loads((directory / "facts.json").read_text())
    with np.load(directory / "variables.npz") as variables:
        return {**ended, "variables": dict(variables)}, facts


LONG = {"x": numbers(16_000, 4), "y": labels(16_000), "batch_size": 2, "epochs": 2}


CODE = 7


class Says(Watches):
    """Says that training, and that the second validation, are under way; holds no group."""

    batch_hooks = "show"

    def __init__(self):
        super().__init__()
        self.validations = 0
        self.said: set[str] = set()

    def on_train_batch_end(self, batch, logs=None):
        if batch > 500:
            self.say("training")

    def on_test_begin(self, logs=None):
        self.validations += 1

    def on_test_batch_end(self, batch, logs=None):
        if self.validations == 2:
            self.say("validating")

    def say(self, what: str) -> None:
        if what not in self.said:
            self.said.add(what)
            print(what, flush=True)


def train_until_ended(directory: Path, exit_code: int | None, *slow: Callback, **how: Any) -> None:
    saving = Snapshots(directory / "snapshots", exit_code=exit_code)
    try:
        fit(trainer(), Says(), *slow, saving, **how)
    finally:
        # `fit` is left: whether by its return or by the end of the process.
        print(json.dumps({"at": time.time(), "preempted": saving.preempted}), flush=True)


TRAININGS: dict[str, Callable[[Path], None]] = {
    "on a full disk": functools.partial(train_while_it_fills, fill=fill_disk),
    "with small files": functools.partial(train_while_it_fills, fill=limit_files),
    "ended in an epoch": lambda directory: train_until_ended(directory, CODE, **LONG),
    "ended in validation": lambda directory: train_until_ended(
        directory, None, Slow(0.02), **HELD_OUT
    ),
}


if __name__ == "__main__":
    writer._SHARE = 0
    from tests import conftest  # noqa: F401  # threads as under test, and so the same bits

    TRAININGS[sys.argv[1]](Path(sys.argv[2]))
