"""Trainings in processes that are killed at a moment, or not, and what they end with."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tests.helpers import gans
from tests.helpers.data import Batches, labels, numbers
from tests.helpers.models import seeded
from trainer import CustomTrainer, GANTrainer, program
from trainer.callbacks import ForNetwork, Snapshots
from trainer.snapshots import writer
from trainer.snapshots.variables import training_variables, values

EPOCHS = 5
ROWS, BATCH, STEPS = 403, 8, 51  # an odd last batch
X, Y = numbers(ROWS, 4), labels(ROWS)
IMAGES = np.tanh(numbers(ROWS, *gans.IMAGE))


def network() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(3),
        ]
    )


def custom_trainer(**how: Any) -> CustomTrainer:
    return CustomTrainer(
        seeded(network),
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **{"jit_compile": False, "seed": 3, **how},
    )


def gan_trainer() -> GANTrainer:
    keras.utils.set_random_seed(0)
    return GANTrainer(
        gans.generator(), gans.discriminator(), latent_dim=gans.LATENT, label_noise=0.05, seed=3
    )


def pipeline(*arrays: np.ndarray) -> dict[str, Any]:
    rows = tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0])
    rows = rows.shuffle(100, seed=5).repeat().batch(BATCH)
    return {"x": rows, "steps_per_epoch": STEPS}


class SeesEachBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


SCENARIOS: dict[str, tuple[Callable, Callable[[], dict[str, Any]], list]] = {
    "arrays": (custom_trainer, lambda: {"x": X, "y": Y, "batch_size": BATCH}, []),
    "arrays, single steps": (
        custom_trainer,
        lambda: {"x": X, "y": Y, "batch_size": BATCH},
        [SeesEachBatch],
    ),
    "arrays, XLA": (
        lambda: custom_trainer(jit_compile=True),
        lambda: {"x": X, "y": Y, "batch_size": BATCH},
        [],
    ),
    "tf.data": (custom_trainer, lambda: pipeline(X, Y), []),
    "PyDataset": (custom_trainer, lambda: {"x": Batches((X, Y), BATCH)}, []),
    "GAN, arrays": (gan_trainer, lambda: {"x": IMAGES, "batch_size": BATCH}, []),
    "GAN, tf.data, single steps": (gan_trainer, lambda: pipeline(IMAGES), [SeesEachBatch]),
    "GAN, PyDataset": (gan_trainer, lambda: {"x": Batches(IMAGES, BATCH)}, []),
}


def callbacks_for(trainer: CustomTrainer, directory: Path) -> list[keras.callbacks.Callback]:
    is_gan = isinstance(trainer, GANTrainer)
    monitor = "val_g_loss" if is_gan else "val_loss"
    plateau = keras.callbacks.ReduceLROnPlateau(monitor, patience=1, min_delta=0.05, cooldown=1)
    best = directory / "best.keras"
    return [
        keras.callbacks.EarlyStopping(
            monitor, patience=3, min_delta=0.01, restore_best_weights=not is_gan
        ),
        ForNetwork("generator", plateau) if is_gan else plateau,
        keras.callbacks.ModelCheckpoint(best, monitor, save_best_only=True, mode="min"),
        keras.callbacks.CSVLogger(directory / "log.csv"),
    ]


def train(scenario: str, directory: Path, snapshots: bool, moment: Moment | None = None) -> None:
    """Trains to the end, or until it is killed, and writes the result; for a process of its own."""
    program.STEPS_ALONE = 0  # groups from the first step on
    writer._SHARE = 0  # each snapshot is written
    make, data, more = SCENARIOS[scenario]
    directory.mkdir(exist_ok=True)
    trainer = make()
    callbacks = callbacks_for(trainer, directory) + [kind() for kind in more]
    if snapshots:
        callbacks.append(Snapshots(directory / "snapshots", every_steps=10))
    if moment is not None:
        callbacks.append(validates := Validates())
        kills = threading.Thread(target=kill, args=(trainer, directory, validates, moment))
        kills.daemon = True
        kills.start()
    held_out = IMAGES[:200] if isinstance(trainer, GANTrainer) else (X[:200], Y[:200])
    history = trainer.fit(
        **data(), epochs=EPOCHS, verbose=0, callbacks=callbacks, validation_data=held_out
    )
    if moment is not None:  # it was over before the thread saw it
        os.kill(os.getpid(), signal.SIGKILL)
    facts = {"history": history.history, "epochs": history.epoch, "step": trainer.step}
    (directory / "facts.json").write_text(json.dumps(facts))
    np.savez(directory / "variables.npz", **values(training_variables(trainer)))


class Validates(keras.callbacks.Callback):
    """Knows whether a validation is under way."""

    now = False

    def on_test_begin(self, logs=None):
        self.now = True

    def on_test_end(self, logs=None):
        self.now = False


class Moment(NamedTuple):
    """When to kill: as soon as so many steps are done and `at` goes on, and some seconds later."""

    step: float
    at: str
    seconds: float


def moments(draws: random.Random, steps: int, count: int) -> list[Moment]:
    """Returns when to kill: in the middle of a step, of a validation and of saving, in turn."""
    kinds = ["a step", "a validation", "saving"]
    drawn = [
        Moment(
            draws.uniform(0, 0.75 * steps),
            kinds[number % len(kinds)],
            draws.uniform(0, 0.005) if number >= len(kinds) else 0,
        )
        for number in range(count)
    ]
    return sorted(drawn)


def is_saving(directory: Path) -> bool:
    """Returns whether a snapshot has been begun, and has no manifest yet."""
    return any(not (path / "manifest").exists() for path in directory.glob("snapshot-*"))


def kill(trainer: CustomTrainer, directory: Path, validates: Validates, moment: Moment) -> None:
    """Kills this process at `moment`."""
    goes_on = {
        "a step": lambda: True,
        "a validation": lambda: validates.now,
        "saving": lambda: is_saving(directory / "snapshots"),
    }
    while trainer.step < moment.step or not goes_on[moment.at]():
        time.sleep(0.0005)
    time.sleep(moment.seconds)
    os.write(1, b"validating\n" if validates.now else b"")
    os.kill(os.getpid(), signal.SIGKILL)
