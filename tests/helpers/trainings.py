"""Trainings that the snapshots' tests break off and go on with, and callbacks that help."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import labels, numbers
from tests.helpers.models import mlp, seeded
from trainer import CustomTrainer
from trainer.callbacks import Snapshots
from trainer.snapshots import files
from trainer.snapshots.variables import training_variables, values

ROWS, BATCH, STEPS, EPOCHS = 50, 8, 7, 3  # six full batches an epoch, and two rows
TOTAL = STEPS * EPOCHS
X, Y = numbers(ROWS, 4), labels(ROWS)
ARRAYS = {"x": X, "y": Y, "batch_size": BATCH}
Callback = keras.callbacks.Callback


def network() -> keras.Model:
    return mlp(keras.layers.Dropout(0.3), outputs=3)


def wide_network() -> keras.Model:
    return mlp(keras.layers.Dense(2000), outputs=3)


def trainer(
    build: Callable[[], keras.Model] = network,
    optimizer: Callable[[], keras.Optimizer] = lambda: keras.optimizers.Adam(0.01),
) -> CustomTrainer:
    return CustomTrainer(
        seeded(build),
        optimizer=optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        seed=5,
    )


def fit(made: CustomTrainer, *callbacks: Callback, **how: Any) -> dict[str, Any]:
    """Trains on the arrays, if on nothing else; returns what `outcome` does."""
    data = {} if "x" in how else ARRAYS
    made.fit(**{**data, "epochs": EPOCHS, "verbose": 0, **how}, callbacks=list(callbacks))
    return outcome(made)


def outcome(made: CustomTrainer) -> dict[str, Any]:
    """Returns all that a training ends with."""
    history = made.model.history
    return {
        "history": {key: list(logged) for key, logged in history.history.items()},
        "epochs": list(history.epoch),
        "place": [made.step, made.epoch],
        "variables": {
            name: np.asarray(value) for name, value in values(training_variables(made)).items()
        },
    }


@functools.cache
def undisturbed(epochs: int = EPOCHS) -> dict[str, Any]:
    """Returns the outcome of a training that nothing was asked of."""
    return fit(trainer(), epochs=epochs)


def names_in(directory: Path) -> list[str]:
    """Returns the names in a folder, but for the lock that a training holds."""
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def latest_in(directory: Path) -> Path:
    return files.found_in(directory)[0]


def wait_until(holds: Callable[[], Any]) -> None:
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.001)


class Watches(Callback):
    """A callback that snapshots keep nothing of."""

    def set_trainer(self, made: CustomTrainer) -> None:
        self.trainer = made

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


class Counts(Watches):
    """Knows what step an epoch began with, also one that goes on."""

    def on_epoch_begin(self, epoch, logs=None):
        self.before = self.trainer.step // STEPS * STEPS


class Waits(Counts):
    """Lets each snapshot be written before the next one is due: none is taken meanwhile."""

    def __init__(self, saving: Snapshots):
        super().__init__()
        self.saving = saving

    def wants_batch(self, step):
        return not step or not (self.before + step) % self.saving.every_steps

    def on_train_batch_end(self, batch, logs=None):
        wait_until(lambda: self.saving._session.is_ready)


class Interrupts(Counts):
    """Is Ctrl-C, once so many steps are done, before anything can be saved of them."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def wants_batch(self, step):
        return self.before + step + 1 == self.step

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step == self.step:
            raise KeyboardInterrupt


class Terminates(Interrupts):
    """Is SIGTERM, once so many steps are done."""

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step == self.step:
            signal.raise_signal(signal.SIGTERM)


class Slow(Watches):
    """Lets each step, and each step of a validation, take its time."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.seconds)

    def on_test_batch_end(self, batch, logs=None):
        time.sleep(self.seconds)


class Begins(Watches):
    """Keeps the hooks that begin something, in their order."""

    def __init__(self):
        super().__init__()
        self.begun: list[Any] = []

    def on_train_begin(self, logs=None):
        self.begun.append("training")

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(f"epoch {epoch}")

    def on_train_batch_begin(self, batch, logs=None):
        self.begun.append(f"step {batch}")


def break_off(
    made: CustomTrainer, directory: Path, at: int, *callbacks: Callback, **how: Any
) -> None:
    """Trains with snapshots every five steps until Ctrl-C comes at the end of step `at`."""
    saving = Snapshots(directory, every_steps=5)
    with pytest.raises(KeyboardInterrupt):
        fit(made, *callbacks, saving, Waits(saving), Interrupts(at), **how)


def fit_on(directory: Path, **how: Any) -> dict[str, Any]:
    """Returns what a new trainer ends with that has the snapshots in `directory`."""
    return fit(trainer(), Snapshots(directory), **how)


class Enough(Exception):  # noqa: N818
    """Ends a training that has told enough."""


class Looks(Watches):
    """Keeps what a step begins with, of all steps or of the first one, which then is enough."""

    def __init__(self, ends: bool = False):
        super().__init__()
        self.ends = ends
        self.seen: dict[int, Any] = {}

    def on_train_batch_begin(self, batch, logs=None):
        self.seen[self.trainer.step] = (batch, outcome(self.trainer))
        if self.ends:
            raise Enough


class BrokenOff(NamedTuple):
    """A training that was broken off.

    Attributes:
        directory: has its log file, and the folder of its snapshots, two of them.
        seen: what each of its steps began with.
        older: the step of the older snapshot, taken between two epochs.
        newer: that of the newer one, taken in the midst of an epoch.
    """

    directory: Path
    seen: dict[int, Any]
    older: int = 14
    newer: int = 15


HELD_OUT = {"validation_data": (X, Y), "validation_batch_size": 2}


def other_network() -> keras.Model:
    return mlp(keras.layers.Dropout(0.3), outputs=4)


OF_WIDTH = (
    r"model/sequential/dense/kernel \(2\) is float32 of shape \(5, 4\), "
    r"and was float32 of shape \(5, 3\)"
)


def rows() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y))


class SavesByHand(Watches):
    def __init__(self, path: Path, after: int):
        super().__init__()
        self.path, self.after = path, after

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step == self.after:
            self.trainer.save_snapshot(self.path)
