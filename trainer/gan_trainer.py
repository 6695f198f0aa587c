"""`GANTrainer`: a generator and a discriminator that train against each other."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer import gan_checks, gan_data
from trainer.attached import warn_of_missing
from trainer.compiling import compile_model
from trainer.custom_trainer import CustomTrainer
from trainer.feeds import Batch
from trainer.hooks import Mode
from trainer.images import value_range
from trainer.networks import Networks
from trainer.public import public

_D_OPTIMIZER = {
    "class_name": "Adam",
    "config": {"learning_rate": 3e-4, "name": "discriminator_adam"},
}
_G_OPTIMIZER = {
    "class_name": "Adam",
    "config": {"learning_rate": 4e-4, "name": "generator_adam"},
}
_BINARY_CROSSENTROPY = {"class_name": "BinaryCrossentropy", "config": {"from_logits": True}}
# The model itself, and draws that are no part of the training.
_NOT_ATTACHED = ("model", "_compiled", "_evaluation_seeds", "_generation_seeds", "_seeds_now")
_SETTINGS = ("run_eagerly", "jit_compile", "steps_per_execution")


class GANTrainer(CustomTrainer):
    """Trains a generative adversarial network (Goodfellow et al., 2014) by `fit`.

    Each step is that of Keras's guide "Writing a training loop from scratch": the discriminator
    learns to tell fakes, labelled 1, from real images, labelled 0, both with a little noise on
    their labels; then the generator learns to have its fakes taken for real. For another GAN
    override `discriminator_loss`, `generator_loss`, `penalty`, `sample_latent` or `track_logits`.

    ```python
    gan = GANTrainer(generator, discriminator, latent_dim=128, seed=1)
    gan.fit(images, epochs=20, callbacks=[keras.callbacks.ModelCheckpoint("gan.keras")])
    pictures = gan.generate(16)
    ```

    The data are images, or (images, labels) for networks that take labels: a generator of
    (latent, labels) and a discriminator of (images, labels). Labels of several kinds are a tuple.
    A dict has the names of the networks' inputs, or `"image"` and `"label"`; others are left out.

    Models, layers, variables, seed generators and optimizers that a subclass has as attributes are
    saved with `gan.model` and restored by `from_model`:

    ```python
    class WithAverage(GANTrainer):
        def __init__(self, generator, discriminator, **arguments):
            super().__init__(generator, discriminator, **arguments)
            self.average = keras.models.clone_model(generator)
            self.average.set_weights(generator.get_weights())

        def train_step(self, data):
            logs = super().train_step(data)
            for mean, weight in zip(self.average.weights, self.generator.weights):
                mean.assign(0.999 * mean + 0.001 * weight)
            return logs
    ```

    Args:
        generator: latent points of shape `(rows, latent_dim)` to images.
        discriminator: images to one logit each, or a patch of them; high for fakes. It may have
            more outputs for losses that are overridden.
        latent_dim: numbers in a latent point, or its shape, a tuple.
        d_optimizer: the discriminator's optimizer; the guide's Adam(3e-4) by default.
        g_optimizer: the generator's optimizer; the guide's Adam(4e-4) by default.
        loss: loss of labels and logits, as `keras.losses.get` takes it; binary cross-entropy from
            logits by default.
        label_noise: how much noise, uniform from 0 to 1 times this, the discriminator's labels get;
            or a function of the step, an integer tensor, that returns it. 0 is none.
        discriminator_steps: updates of the discriminator, on the same images and new fakes, for one
            of the generator.
        seed: seed of latent points, of noise and of the order of shuffled arrays, 0 or more; by
            default it follows from the state of Python's `random`.
        run_eagerly: as in `CustomTrainer`.
        jit_compile: as in `CustomTrainer`.
        steps_per_execution: as in `CustomTrainer`.

    Attributes:
        model: both networks, called `"generator"` and `"discriminator"`, and their optimizers, as
            one `trainer.Networks`; to save, and what callbacks see.
        latent_dim: numbers in a latent point, or its shape.
        loss: the loss.
        label_noise: as given.
        discriminator_steps: as given.
        d_loss: metric, the discriminator's loss.
        g_loss: metric, the generator's loss.
        real_accuracy: metric, the share of real images that the discriminator takes for real.
        fake_accuracy: metric, the share of fakes that it takes for fakes.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: the networks do not fit each other, the latent points or the optimizers.
    """

    @gan_checks.known_arguments
    def __init__(
        self,
        generator: keras.Model,
        discriminator: keras.Model,
        latent_dim: int | tuple[int, ...],
        *,
        d_optimizer: Any = _D_OPTIMIZER,
        g_optimizer: Any = _G_OPTIMIZER,
        loss: Any = _BINARY_CROSSENTROPY,
        label_noise: float | Callable[[tf.Tensor], Any] = 0.05,
        discriminator_steps: int = 1,
        seed: int | None = None,
        run_eagerly: bool | None = None,
        jit_compile: bool | str | None = None,
        steps_per_execution: int | None = None,
    ):
        gan_checks.numbers(latent_dim, label_noise, discriminator_steps)
        shape = latent_dim if isinstance(latent_dim, (tuple, list)) else (latent_dim,)
        shape = tuple(int(size) for size in shape)
        made = gan_checks.networks(generator, discriminator, shape, self._overridden)
        loss = keras.losses.get(loss)
        if not self._overridden & {"train_step", "discriminator_loss", "generator_loss"}:
            gan_checks.warn_of_outputs(discriminator, loss)
        settings = {
            "latent_dim": shape[0] if len(shape) == 1 else list(shape),
            "loss": keras.losses.serialize(loss),
            "label_noise": None if callable(label_noise) else float(label_noise),
            "discriminator_steps": int(discriminator_steps),
        }
        networks = {"generator": generator, "discriminator": discriminator}
        with generator.distribute_strategy.scope():
            model = Networks(networks, seed=seed, settings=settings)
        super().__init__(
            model,
            optimizer={"generator": g_optimizer, "discriminator": d_optimizer},
            run_eagerly=run_eagerly,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
        )
        self.latent_dim = shape[0] if len(shape) == 1 else shape
        self._latent_shape = shape
        self.loss = loss
        self.label_noise = label_noise
        self.discriminator_steps = discriminator_steps
        self.d_loss = keras.metrics.Mean(name="d_loss")
        self.g_loss = keras.metrics.Mean(name="g_loss")
        self.real_accuracy = keras.metrics.Mean(name="real_accuracy")
        self.fake_accuracy = keras.metrics.Mean(name="fake_accuracy")
        self._made = made
        self._evaluation_seeds = keras.random.SeedGenerator(self.seed + 1)
        self._generation_seeds = keras.random.SeedGenerator(self.seed + 2)
        self._seeds_now: keras.random.SeedGenerator | None = None

    @classmethod
    def from_model(cls, model: Networks, **arguments: Any) -> GANTrainer:
        """Returns a trainer that goes on with a model saved by another one.

        ```python
        model = keras.models.load_model("gan.keras")
        gan = GANTrainer.from_model(model)
        ```

        Args:
            model: what `keras.models.load_model` returned; it has the networks, the optimizers,
                the random seeds, the steps and the epochs, and `latent_dim`, `loss`,
                `label_noise` and `discriminator_steps`.
            arguments: arguments to change, and those that are not saved: a function as
                `label_noise`, and what a subclass adds.

        Raises:
            TypeError: `model` is no GAN's, or an argument comes with the model.
            ValueError: `model` lacks its optimizers, or an argument that is not saved is missing.
        """
        gan_checks.saved_model(model, arguments)
        gan = cls(
            **model.networks,
            d_optimizer=model.optimizers["discriminator"],
            g_optimizer=model.optimizers["generator"],
            seed=model.seed,
            **{**model.settings, **arguments},
        )
        warn_of_missing(gan.model.attached_names() - model.attached_names())
        model.release()
        gan.model, gan._progress = model, model.progress
        compile_model(model, {}, {name: arguments.get(name) for name in _SETTINGS})
        return gan

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "model":
            for attribute, attached in vars(self).items():
                self._attach(attribute, attached)
        else:
            self._attach(name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._attach(name, None)

    def _attach(self, name: str, value: Any) -> None:
        if "model" in vars(self) and name not in _NOT_ATTACHED:
            self.model.attach(name, value)

    @property
    def generator(self) -> keras.Model:
        """The generator."""
        return self.model.networks["generator"]

    @property
    def discriminator(self) -> keras.Model:
        """The discriminator."""
        return self.model.networks["discriminator"]

    @property
    def g_optimizer(self) -> keras.Optimizer:
        """The generator's optimizer."""
        return self.model.optimizers["generator"]

    @property
    def d_optimizer(self) -> keras.Optimizer:
        """The discriminator's optimizer."""
        return self.model.optimizers["discriminator"]

    @property
    def takes_labels(self) -> bool:
        """Whether the networks take labels."""
        return gan_data.takes_labels(self.generator)

    @property
    def _overridden(self) -> set[str]:
        """The methods that a subclass overrides and that decide what is done with the networks."""
        names = ("train_step", "sample_latent", "discriminator_loss", "generator_loss", "penalty")
        return {name for name in names if getattr(type(self), name) != getattr(GANTrainer, name)}

    @property
    def value_range(self) -> tuple[float, float] | None:
        """The least and the most that the generator's last activation makes; `None` if unknown."""
        return value_range(self.generator)

    @property
    def seed_generator(self) -> keras.random.SeedGenerator:
        """What to draw random numbers from: `keras.random.normal(shape, seed=...)`.

        It is the model's in training; evaluating and generating draw from others, so that they
        change nothing of the training.
        """
        return self.model.seed_generator if self._seeds_now is None else self._seeds_now

    def train_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Trains the discriminator, then the generator, on one batch of images."""
        images, labels = self._images_and_labels(data)
        with tf.control_dependencies(gan_data.of_images(images, self.value_range)):
            for _ in range(self.discriminator_steps):
                d_loss = self._train_discriminator(images, labels)
            g_loss = self._train_generator(images, labels)
            self.track_loss(d_loss + g_loss, images)
            return self.metric_results()

    def test_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Evaluates both losses on one batch of images; each evaluation draws the same numbers."""
        images, labels = self._images_and_labels(data)
        wait = tf.control_dependencies(gan_data.of_images(images, self.value_range))
        with wait, self._drawing_from(self._evaluation_seeds):
            fakes = self._fakes(images, labels, training=False)
            d_loss = self._discriminator_loss(images, fakes, labels, training=False)
            g_loss = self._generator_loss(images, labels, training=False)
            self.track_loss(d_loss + g_loss, images)
            return self.metric_results()

    def discriminator_loss(self, real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
        """Returns what the discriminator minimizes, a scalar; to override.

        Args:
            real_logits: its output for real images, of shape `(rows, ...)`; a structure of them
                where it has several.
            fake_logits: its output for as many fakes.

        An override that has an argument `labels` gets those of the batch.
        """
        logits = tf.concat([fake_logits, real_logits], axis=0)
        labels = tf.concat([tf.ones_like(fake_logits), tf.zeros_like(real_logits)], axis=0)
        return self._mean_loss(self._noisy(labels), logits)

    def generator_loss(self, fake_logits: tf.Tensor) -> tf.Tensor:
        """Returns what the generator minimizes, a scalar; to override.

        Args:
            fake_logits: the discriminator's output for fakes, of shape `(rows, ...)`.

        An override that has an argument `labels` gets those of the batch.
        """
        return self._mean_loss(tf.zeros_like(fake_logits), fake_logits)

    def penalty(
        self, images: tf.Tensor, fakes: tf.Tensor, labels: Any, training: bool
    ) -> tf.Tensor | float:
        """Returns what is added to the discriminator's loss for its images' sake; to override.

        Args:
            images: the real images of a batch.
            fakes: as many fakes.
            labels: the labels of both, `None` where the data have none.
            training: whether this is a training step; to call the discriminator with.
        """
        return 0.0

    def sample_latent(self, n: int | tf.Tensor) -> tf.Tensor:
        """Returns `n` latent points, normally distributed, of the shape of latent_dim; to override.

        An override draws from `self.seed_generator`.
        """
        return keras.random.normal((n, *self._latent_shape), seed=self.seed_generator)

    def track_logits(self, real_logits: tf.Tensor, fake_logits: tf.Tensor) -> None:
        """Updates the metrics of the discriminator's output, the two accuracies; to override."""
        # Without logits the loss asks for outputs near the labels, 0 and 1.
        border = 0.0 if getattr(self.loss, "from_logits", False) else 0.5
        real, *_ = keras.tree.flatten(real_logits)
        fake, *_ = keras.tree.flatten(fake_logits)
        self.real_accuracy.update_state(real < border)
        self.fake_accuracy.update_state(fake > border)

    @public
    def generate(self, n: int, seed: int | None = None, labels: Any = None) -> np.ndarray:
        """Returns new images.

        Args:
            n: how many.
            seed: makes the same latent points each time; without it they are others each time.
            labels: what the images shall show, `n` rows, for a generator that takes labels; a tuple
                for one that has several inputs for them.

        Returns:
            Images of shape `(n, ...)`.

        Raises:
            ValueError: `n` is no number of rows; labels are missing, too many or too few, or given
                to a generator that takes none.
        """
        labels = gan_data.to_generate(self.generator, n, labels)
        seeds = self._generation_seeds if seed is None else keras.random.SeedGenerator(seed)
        with self._drawing_from(seeds):
            latent = self.sample_latent(n)
        return self.predict(
            gan_data.with_labels(self.generator, latent, labels), batch_size=64, verbose=0
        )

    def reset_metrics(self) -> None:
        """Starts all metrics afresh, and the draws of an evaluation."""
        super().reset_metrics()
        self._evaluation_seeds.state.assign([self.seed + 1, 0])

    def _check_arrays(self, x: Any, y: Any) -> None:
        if self._takes_images("train"):
            gan_data.arrays(gan_data.image_part(x, self.discriminator), self.value_range)

    def _takes_images(self, mode: Mode) -> bool:
        """Returns whether a step takes images as the generator makes them, not as it likes."""
        step = f"{mode}_step"
        return mode != "predict" and getattr(type(self), step) is getattr(GANTrainer, step)

    def _train_discriminator(self, images: tf.Tensor, labels: Any) -> tf.Tensor:
        fakes = self._fakes(images, labels, training=True)
        with tf.GradientTape() as tape:
            loss = self._discriminator_loss(images, fakes, labels, training=True)
        self.minimize(loss, tape, self.discriminator.trainable_weights, self.d_optimizer)
        return loss

    def _train_generator(self, images: tf.Tensor, labels: Any) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._generator_loss(images, labels, training=True)
        self.minimize(loss, tape, self.generator.trainable_weights, self.g_optimizer)
        return loss

    def _discriminator_loss(
        self, images: tf.Tensor, fakes: tf.Tensor, labels: Any, training: bool
    ) -> tf.Tensor:
        rows = _rows(images)
        both = tf.concat([fakes, images], axis=0)
        x = gan_data.with_labels(self.discriminator, both, _twice(labels))
        logits = self.discriminator(x, training=training)
        fake_logits = keras.tree.map_structure(lambda t: t[:rows], logits)
        real_logits = keras.tree.map_structure(lambda t: t[rows:], logits)
        loss = _with_labels(self.discriminator_loss, labels)(real_logits, fake_logits)
        loss += self.penalty(images, fakes, labels, training)
        self.d_loss.update_state(loss, sample_weight=_rows(images))
        self.track_logits(real_logits, fake_logits)
        return loss

    def _generator_loss(self, images: tf.Tensor, labels: Any, training: bool) -> tf.Tensor:
        fakes = self._fakes(images, labels, training)
        x = gan_data.with_labels(self.discriminator, fakes, labels)
        logits = self.discriminator(x, training=training)
        loss = _with_labels(self.generator_loss, labels)(logits)
        self.g_loss.update_state(loss, sample_weight=_rows(images))
        return loss

    def _fakes(self, images: tf.Tensor, labels: Any, training: bool) -> tf.Tensor:
        """Returns as many fakes as there are images."""
        latent = self.sample_latent(_rows(images))
        x = gan_data.with_labels(self.generator, latent, labels)
        return self.generator(x, training=training)

    def _images_and_labels(self, data: Batch) -> tuple[tf.Tensor, Any]:
        losses = (self.discriminator_loss, self.generator_loss)
        uses_labels = (
            self.takes_labels
            or "penalty" in self._overridden
            or any(_takes_labels(loss) for loss in losses)
        )
        networks = (self.generator, self.discriminator)
        return gan_data.images_and_labels(data, *networks, self._made, uses_labels)

    def _mean_loss(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        if isinstance(self.loss, keras.losses.Loss):
            return self.call_loss(self.loss, labels, logits)
        return tf.reduce_mean(self.loss(labels, logits))  # a function returns a loss a row

    def _noisy(self, labels: tf.Tensor) -> tf.Tensor:
        amount = self.label_noise
        if callable(amount):
            amount = tf.cast(
                amount(tf.convert_to_tensor(self.g_optimizer.iterations)), labels.dtype
            )
        elif not amount:
            return labels
        noise = keras.random.uniform(tf.shape(labels), dtype=labels.dtype, seed=self.seed_generator)
        return labels + amount * noise

    @contextlib.contextmanager
    def _drawing_from(self, seeds: keras.random.SeedGenerator) -> Iterator[None]:
        self._seeds_now = seeds
        try:
            yield
        finally:
            self._seeds_now = None


def _takes_labels(loss: Callable) -> bool:
    return "labels" in inspect.signature(loss).parameters


def _with_labels(loss: Callable, labels: Any) -> Callable:
    """Returns a loss that gets the labels where it takes them."""
    return functools.partial(loss, labels=labels) if _takes_labels(loss) else loss


def _twice(labels: Any) -> Any:
    if labels is None:
        return None
    return keras.tree.map_structure(lambda t: tf.concat([t, t], axis=0), labels)


def _rows(images: tf.Tensor) -> int | tf.Tensor:
    return images.shape[0] or tf.shape(images)[0]
