"""Small GANs and their data, and the loop of Keras's guide, written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.helpers.data import numbers
from tests.helpers.models import seeded, variables_of
from tests.helpers.shared import shared
from trainer import GANTrainer
from trainer.traced_shapes import keras_traces_batches

LATENT = 8
BATCH = 8
ROWS = 20  # two batches and an odd one
IMAGE = (8, 8, 1)
CLASSES = 3


def generator(
    activation: str | None = "tanh", latent_dim: int = LATENT, channels: int = 1
) -> keras.Model:
    """Returns a network of latent points to 8x8 images, with batch normalization."""
    return keras.Sequential(
        [
            keras.Input((latent_dim,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Reshape((4, 4, 2)),
            keras.layers.Conv2DTranspose(
                channels, 3, strides=2, padding="same", activation=activation, dtype="float32"
            ),
        ]
    )


def discriminator(dropout: float = 0.3, shape: tuple = IMAGE) -> keras.Model:
    """Returns a network of images to a logit, with batch normalization and dropout."""
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(2, 3, strides=2, activation="leaky_relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(dropout),
            keras.layers.Flatten(),
            keras.layers.Dense(1, dtype="float32"),
        ]
    )


def linear_generator() -> keras.Model:
    """Returns a network of latent points to images that is one matrix and a bias."""
    return keras.Sequential(
        [keras.Input((LATENT,)), keras.layers.Dense(64), keras.layers.Reshape(IMAGE)]
    )


def linear_discriminator(activation: str | None = None) -> keras.Model:
    """Returns a network of images to a logit that is one vector and a bias."""
    return keras.Sequential(
        [keras.Input(IMAGE), keras.layers.Flatten(), keras.layers.Dense(1, activation)]
    )


def conditional_generator() -> keras.Model:
    """Returns a network of (latent points, labels) to images."""
    latent, label = keras.Input((LATENT,)), keras.Input((), dtype="int32")
    x = keras.layers.Concatenate()([latent, keras.layers.Embedding(CLASSES, 4)(label)])
    x = keras.layers.Dense(64, activation="tanh")(x)
    return keras.Model([latent, label], keras.layers.Reshape(IMAGE)(x))


def conditional_discriminator() -> keras.Model:
    """Returns a network of (images, labels) to a logit."""
    image, label = keras.Input(IMAGE), keras.Input((), dtype="int32")
    x = keras.layers.Flatten()(image)
    x = keras.layers.Concatenate()([x, keras.layers.Embedding(CLASSES, 4)(label)])
    return keras.Model([image, label], keras.layers.Dense(1)(x))


def images(rows: int = ROWS, low: float = -1.0, high: float = 1.0, seed: int = 0) -> np.ndarray:
    """Returns the same images each time, of numbers from `low` to `high`."""
    share = np.random.default_rng(seed).random((rows, *IMAGE), dtype="float32")
    return (low + (high - low) * share).astype("float32")


def image_labels(rows: int = ROWS) -> np.ndarray:
    """Returns the same class numbers each time."""
    return np.random.default_rng(1).integers(0, CLASSES, rows).astype("int32")


def batches(*arrays: np.ndarray) -> tf.data.Dataset:
    """Returns `images()`, or `arrays`, in order, as a dataset with an odd last batch."""
    data = arrays if len(arrays) > 1 else arrays[0] if arrays else images()
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH)


def gan(kind: type[GANTrainer] = GANTrainer, **arguments: Any) -> GANTrainer:
    """Returns a GAN, without XLA; the same weights and seeds each time."""
    given = {"latent_dim": LATENT, "seed": 1, "jit_compile": False, **arguments}
    networks = given.pop("networks", networks_of_a_gan)
    return seeded(lambda: kind(*networks(), **given))


def networks_of_a_gan() -> tuple[keras.Model, keras.Model]:
    """Returns a generator and a discriminator."""
    return generator(), discriminator()


def linear_networks() -> tuple[keras.Model, keras.Model]:
    """Returns a generator and a discriminator that are linear."""
    return linear_generator(), linear_discriminator()


def conditional_networks() -> tuple[keras.Model, keras.Model]:
    """Returns a generator and a discriminator that take labels."""
    return conditional_generator(), conditional_discriminator()


def conditional_gan() -> GANTrainer:
    """Returns a GAN whose networks take labels."""
    return gan(networks=conditional_networks)


def untrained(build: Callable[[], GANTrainer] = gan) -> GANTrainer:
    """Returns what `build` makes, the same object for all tests, so that it is traced once."""
    made, values = made_and_values(build)
    made.reset_metrics()
    made.model.progress.step = made.model.progress.epoch = 0
    for variable, value in values:
        variable.assign(value)
    return made


@shared
def made_and_values(build: Callable[[], GANTrainer]) -> tuple[GANTrainer, list[tuple]]:
    made = build()
    return made, [(variable, variable.numpy()) for variable in variables_of(made.model)]


def fit(trainer: Any, data: Any = None, **arguments: Any) -> keras.callbacks.History:
    """Trains without a bar, on `batches()` if on nothing else."""
    return trainer.fit(batches() if data is None else data, **{"verbose": 0, **arguments})


def state_of(trainer: Any) -> list[np.ndarray]:
    """Returns all that training changes: weights, seeds, optimizers' variables, how far it came."""
    variables = [np.asarray(variable.numpy()) for variable in variables_of(trainer.model)]
    return [*variables, np.array([trainer.step, trainer.epoch])]


class ByHand:
    """The loop of Keras's guide "Writing a training loop from scratch", on networks of its own.

    Args:
        steps: updates of the discriminator for one of the generator.
        any_rows: whether the step is traced for any number of rows, as one over a dataset is
            where Keras does not take the batch out of it first.
    """

    def __init__(self, steps: int = 1, any_rows: bool | None = None):
        self.generator, self.discriminator = seeded(networks_of_a_gan)
        self.d_optimizer = keras.optimizers.Adam(3e-4)
        self.g_optimizer = keras.optimizers.Adam(4e-4)
        self.d_optimizer.build(self.discriminator.trainable_variables)
        self.g_optimizer.build(self.generator.trainable_variables)
        self.seeds = keras.random.SeedGenerator(1)
        self.steps = steps
        if any_rows is None:  # not at the import, which is to start no device
            any_rows = not keras_traces_batches()
        signature = [tf.TensorSpec((None, *IMAGE), tf.float32), tf.TensorSpec((), tf.float32)]
        self.step = tf.function(
            self._step,
            input_signature=signature if any_rows else None,
            autograph=False,
            reduce_retracing=True,
        )

    def _step(self, reals: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        rows = tf.shape(reals)[0]
        for _ in range(self.steps):
            latent = keras.random.normal((rows, LATENT), seed=self.seeds)
            both = tf.concat([self.generator(latent, training=True), reals], axis=0)
            labels = tf.concat([tf.ones((rows, 1)), tf.zeros((rows, 1))], axis=0)
            labels += noise * keras.random.uniform((2 * rows, 1), seed=self.seeds)
            with tf.GradientTape() as tape:
                d_loss = loss(labels, self.discriminator(both, training=True))
            weights = self.discriminator.trainable_weights
            self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        latent = keras.random.normal((rows, LATENT), seed=self.seeds)
        with tf.GradientTape() as tape:
            logits = self.discriminator(self.generator(latent, training=True), training=True)
            g_loss = loss(tf.zeros((rows, 1)), logits)
        weights = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        return d_loss, g_loss

    def epoch(self, data: Any, noises: Any = (0.05,) * 9) -> dict[str, float]:
        """Trains on each batch; returns the means of the losses, each row counting once."""
        totals, count = np.zeros(2, "float32"), np.float32(0)
        for batch, noise in zip(data, noises):  # noqa: B905
            rows = np.float32(len(batch))
            losses = self.step(batch, tf.constant(noise, tf.float32))
            totals += np.array([loss.numpy() * rows for loss in losses], "float32")
            count += rows
        d_loss, g_loss = totals / count
        return {"d_loss": float(d_loss), "g_loss": float(g_loss)}

    def state(self) -> list[np.ndarray]:
        """Returns the values of weights and seeds, then of both optimizers' variables."""
        parts = (self.generator, self.discriminator, self.g_optimizer, self.d_optimizer)
        return [part_of(part) for part in parts] + [self.seeds.state.numpy()]


def part_of(part: Any) -> list[np.ndarray]:
    """Returns the values of a network's weights and seeds, or of an optimizer's variables."""
    return [variable.numpy() for variable in part.variables]


def parts_of(trainer: GANTrainer) -> list[Any]:
    """Returns what `ByHand.state` returns, of a trainer."""
    parts = (trainer.generator, trainer.discriminator, trainer.g_optimizer, trainer.d_optimizer)
    return [part_of(part) for part in parts] + [trainer.model.seed_generator.state.numpy()]


def latent_points(rows: int, seed: int = 0) -> np.ndarray:
    """Returns the same latent points each time."""
    return numbers(rows, LATENT, seed=seed)
