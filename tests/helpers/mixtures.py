"""Trainings drawn at random from models, data and callbacks, broken off at random and resumed.

python -m tests.helpers.mixtures --count 200 --seed 0
"""

from __future__ import annotations

import argparse
import collections
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import Batches, ReorderedBatches, labels, numbers
from tests.helpers.models import mlp, seeded
from trainer import CustomTrainer
from trainer.callbacks import Snapshots
from trainer.snapshots import writer
from trainer.snapshots.variables import training_variables, values

ROWS, BATCH, EPOCHS = 50, 8, 3
STEPS = 7
X, Y = numbers(ROWS, 4), labels(ROWS)
layers = keras.layers
Callback = keras.callbacks.Callback


# Models


class Noise(layers.Layer):
    """Adds noise of a generator of TensorFlow's, and counts in a variable of its own."""

    def __init__(self):
        super().__init__()
        self.draws = tf.random.Generator.from_seed(3)
        self.count = tf.Variable(0.0, trainable=False)

    def call(self, x, training=None):
        if not training:
            return x
        self.count.assign_add(1.0)
        return x + 0.1 * self.draws.normal(tf.shape(x)) + 1e-3 * self.count


LAYERS: list[Callable[[], keras.Layer]] = [
    lambda: layers.Dropout(0.3),
    layers.BatchNormalization,
    lambda: layers.GaussianNoise(0.1),
    lambda: layers.SpectralNormalization(layers.Dense(4)),
    lambda: layers.ActivityRegularization(0.01),
    Noise,
]
OPTIMIZERS: list[Callable[[], keras.Optimizer]] = [
    lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    lambda: keras.optimizers.Adam(0.01, use_ema=True),
    lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
    lambda: keras.optimizers.Nadam(0.01),
    lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.02, 10)),
    lambda: keras.optimizers.Lion(0.001, clipnorm=0.5),
]


class Own(CustomTrainer):
    """Keeps variables, an optimizer and a generator of its own, and uses them in its step."""

    def __init__(self, model, **how):
        super().__init__(model, **how)
        self.average = [tf.Variable(tf.zeros_like(w)) for w in model.trainable_variables]
        self.parts = {"optimizer": keras.optimizers.SGD(0.01, momentum=0.5)}
        self.scale = keras.Variable(np.float32(1.0))
        self.draws = keras.random.SeedGenerator(4)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            noise = keras.random.normal(tf.shape(x), seed=self.draws)
            y_pred = self.call_model(x + 0.1 * noise, training=True)
            loss = self.scale * tf.reduce_mean(self.model.compute_loss(x, y, y_pred))
        self.track_loss(loss, x)
        watched = [*self.model.trainable_variables, self.scale]
        *gradients, of_scale = tape.gradient(loss, [getattr(v, "value", v) for v in watched])
        self.optimizer.apply(gradients, self.model.trainable_variables)
        self.parts["optimizer"].apply([of_scale], [self.scale])
        for average, weight in zip(self.average, self.model.trainable_variables, strict=True):
            average.assign(0.9 * average + 0.1 * weight)
        return self.compute_metrics(x, y, y_pred)


# Data


class Augments(ReorderedBatches):
    """Draws from a generator of its own, and from NumPy's and Python's."""

    def __init__(self):
        super().__init__((X, Y), BATCH)
        self.draws = np.random.default_rng(4)

    def __getitem__(self, number):
        x, y = super().__getitem__(number)
        noise = self.draws.normal(size=x.shape) + np.random.normal() + random.random()
        return x + np.float32(0.1 * noise), y


def batches():
    for epoch in range(EPOCHS):
        for start in range(0, ROWS, BATCH):
            rows = slice(start, start + BATCH)
            yield X[rows] + np.float32(epoch), Y[rows]


def pipeline() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(20, seed=3)


DATA: list[Callable[[], dict[str, Any]]] = [
    lambda: {"x": X, "y": Y, "batch_size": BATCH},
    lambda: {"x": X, "y": Y, "batch_size": BATCH, "shuffle": "batch"},
    lambda: {"x": X, "y": Y, "batch_size": BATCH, "steps_per_epoch": 5},
    lambda: {"x": Batches((X, Y), BATCH)},
    lambda: {"x": Augments()},
    lambda: {"x": pipeline().batch(BATCH)},
    lambda: {"x": pipeline().repeat().batch(BATCH), "steps_per_epoch": 6},
    lambda: {"x": pipeline().batch(BATCH).filter(lambda x, y: True)},
    lambda: {"x": batches(), "steps_per_epoch": STEPS},
]
VALIDATION: list[Callable[[], dict[str, Any]]] = [
    dict,
    lambda: {"validation_data": (X[:20], Y[:20])},
    lambda: {"validation_data": pipeline().batch(BATCH)},
    lambda: {"validation_data": (X[:20], Y[:20]), "validation_freq": 2},
]


# Callbacks


Seen = collections.namedtuple("Seen", "batch loss")


class Collects(Callback):
    """Collects in all kinds of containers, and draws."""

    def __init__(self):
        super().__init__()
        self.recent = collections.deque(maxlen=5)
        self.by_key = collections.defaultdict(list)
        self.counts = collections.Counter()
        self.numbers = frozenset()
        self.last = None
        self.draws = np.random.default_rng(3)
        self.of_python = random.Random(3)
        self.phase = "early"

    def on_train_batch_end(self, batch, logs=None):
        self.last = Seen(batch, logs["loss"])
        self.recent.append(logs["loss"])
        self.by_key["loss"].append(float(self.draws.normal()))
        self.counts[batch] += 1
        self.numbers |= {self.of_python.randrange(100)}

    def on_epoch_end(self, epoch, logs=None):
        self.phase = "late"


class Jitters(Callback):
    """Changes the learning rate by draws of NumPy's and Python's own generators."""

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        if "learning_rate" in [variable.name for variable in optimizer.variables]:
            factor = 0.5 + random.random() + 0.1 * np.random.normal()
            optimizer.learning_rate = float(optimizer.learning_rate) * factor


CALLBACKS: list[Callable[[Path], Callback]] = [
    lambda _: keras.callbacks.EarlyStopping("loss", patience=1, min_delta=0.05),
    lambda _: keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.1),
    lambda folder: keras.callbacks.ModelCheckpoint(
        folder / "best.weights.h5", "loss", mode="min", save_best_only=True, save_weights_only=True
    ),
    lambda folder: keras.callbacks.CSVLogger(folder / "log.csv"),
    lambda _: keras.callbacks.TerminateOnNaN(),
    lambda _: Collects(),
    lambda _: Jitters(),
]


class BreaksOff(Callback):
    """Is Ctrl-C after a step."""

    def __init__(self, after: int):
        super().__init__()
        self.after = after

    def set_trainer(self, trainer: CustomTrainer) -> None:
        self.trainer = trainer

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step == self.after:
            raise KeyboardInterrupt


class Mixture:
    """A training drawn at random.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: str):
        draws = random.Random(seed)
        self._kind = draws.choice([CustomTrainer, CustomTrainer, Own])
        self._layers = draws.sample(LAYERS, draws.randrange(3))
        self._optimizer = draws.choice(OPTIMIZERS)
        self._data, self._validation = draws.choice(DATA), draws.choice(VALIDATION)
        self._callbacks = draws.sample(CALLBACKS, draws.randrange(4))
        self._every = draws.choice([1, 2, 5])
        self._at = [draws.randrange(1, EPOCHS * STEPS) for _ in range(draws.choice([1, 1, 2]))]

    def check(self, folder: Path) -> None:
        """Compares it, broken off and resumed, with the same one undisturbed."""
        for name in ("whole", "parts"):
            (folder / name).mkdir(parents=True)
        expected = self._fit(folder / "whole")
        for at in self._at:
            try:
                self._fit(folder / "parts", BreaksOff(at), self._saving(folder))
            except KeyboardInterrupt:
                continue
        found = self._fit(folder / "parts", self._saving(folder))
        assert_same(found, expected)

    def _saving(self, folder: Path) -> Snapshots:
        return Snapshots(folder / "snapshots", every_steps=self._every)

    def _fit(self, folder: Path, *more: Callback) -> dict[str, Any]:
        random.seed(1)
        np.random.seed(1)
        trainer = self._kind(
            seeded(lambda: mlp(*(make() for make in self._layers), outputs=3)),
            optimizer=self._optimizer(),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
            seed=5,
        )
        callbacks = [make(folder) for make in self._callbacks]
        data = {**self._data(), **self._validation()}
        history = trainer.fit(**data, epochs=EPOCHS, verbose=0, callbacks=[*callbacks, *more])
        return {
            "history": history.history,
            "epochs": history.epoch,
            "place": [trainer.step, trainer.epoch],
            "variables": values(training_variables(trainer)),
            "callbacks": [_told(callback) for callback in callbacks],
            "log": [path.read_text() for path in folder.glob("log.csv")],
        }


def _told(callback: Callback) -> str:
    """Returns what a callback of these tests has collected, as text."""
    if not isinstance(callback, Collects):
        return type(callback).__name__
    draws = callback.draws.normal(), callback.of_python.random()
    numbers = sorted(callback.numbers)
    collected = callback.recent, dict(callback.by_key), callback.counts, numbers
    return repr([*collected, *draws, callback.last, callback.phase])


def check_mixtures(count: int, seed: int, folder: Path) -> list[str]:
    """Returns the errors of those mixtures that end otherwise when they were broken off."""
    failed = []
    for number in range(count):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Mixture(f"{seed} {number}").check(folder / str(number))
        except Exception as error:
            failed.append(f"{seed} {number}: {type(error).__name__}: {error}"[:600])
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    writer._SHARE = 0  # each snapshot is written
    with tempfile.TemporaryDirectory() as folder:
        failed = check_mixtures(args.count, args.seed, Path(folder))
    print(f"{args.count - len(failed)} of {args.count} mixtures resume to the same bits")
    print(*failed, sep="\n")


if __name__ == "__main__":
    main()
