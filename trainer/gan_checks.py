"""What is asked of a GAN's networks and of its batches, before anything changes."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import out_of_range
from trainer.feeds import Batch
from trainer.networks import Networks


def numbers(latent_dim: int, label_noise: float | Callable, discriminator_steps: int) -> None:
    """Raises ValueError unless the numbers that a GAN is given can be meant."""
    for name, value in (("latent_dim", latent_dim), ("discriminator_steps", discriminator_steps)):
        if not _is(value, Integral) or value < 1:
            raise ValueError(f"{name} is {value!r}: expected a whole number from 1 up.")
    if not callable(label_noise) and not (_is(label_noise, Real) and label_noise >= 0):
        raise ValueError(
            f"label_noise is {label_noise!r}: expected a number from 0 up, or a function of the "
            "step."
        )


def networks(
    generator: keras.Model, discriminator: keras.Model, latent_dim: int
) -> keras.KerasTensor:
    """Builds the networks if they are not yet; returns what the generator makes, as a symbol.

    Raises:
        TypeError: one is no Keras model.
        ValueError: the generator does not take the latent points, or the discriminator not what
            the generator makes.
    """
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(network, keras.Model):
            raise TypeError(f"{name} is of type {type(network).__name__}: expected a keras.Model.")
    latent = keras.KerasTensor((None, latent_dim))
    inputs = _inputs(generator)
    if inputs and len(inputs[0].shape) != 2:
        latent = inputs[0]  # points of another rank come from an override of `sample_latent`
    try:
        images = _called(generator, latent)
    except Exception as error:
        raise ValueError(
            f"latent_dim is {latent_dim}, so the generator gets latent points of shape "
            f"{latent.shape}, but it takes {_taken(generator)}: give the latent_dim that it begins "
            "with. A generator that takes labels, too, is a keras.Model([latent, labels], images)."
        ) from error
    try:
        _called(discriminator, images)
    except Exception as error:
        raise ValueError(
            f"The generator makes images of shape {images.shape}, but the discriminator takes "
            f"{_taken(discriminator)}: give both the same shape of image."
        ) from error
    if takes_labels(generator) != takes_labels(discriminator):
        with_labels, without = ("generator", "discriminator")
        if takes_labels(discriminator):
            with_labels, without = without, with_labels
        raise ValueError(
            f"The {with_labels} takes labels, but the {without} takes none: give both an input for "
            "them, or neither."
        )
    return keras.KerasTensor(images.shape, images.dtype, name="images")


def saved_model(model: Any, arguments: dict[str, Any]) -> None:
    """Raises unless `model` is a saved GAN's, with its optimizers, and `arguments` go with it."""
    if not isinstance(model, Networks) or set(model.networks) != {"generator", "discriminator"}:
        raise TypeError(
            "model is no GAN's: expected what keras.models.load_model returns for a file that "
            "gan.model.save or ModelCheckpoint wrote."
        )
    if set(model.optimizers) != set(model.networks):
        raise ValueError(
            "model comes without its optimizers: load it with compile=True, or make a new "
            "GANTrainer of model.networks['generator'] and model.networks['discriminator']."
        )
    for name in ("d_optimizer", "g_optimizer", "seed"):
        if name in arguments:
            raise TypeError(f"{name} was given, but it comes with the model: leave it out.")
    if model.settings.get("label_noise", 0) is None and "label_noise" not in arguments:
        raise ValueError(
            "label_noise was a function, which is not saved: give it to from_model again."
        )


def takes_labels(network: keras.Model) -> bool:
    """Returns whether a network has a second input."""
    return len(_inputs(network)) > 1


def to_generate(generator: keras.Model, n: int, labels: Any) -> None:
    """Raises ValueError unless `n` is a number of rows, with labels if the generator takes some."""
    if not _is(n, Integral) or n < 1:
        raise ValueError(f"n is {n!r}: expected a whole number from 1 up.")
    if takes_labels(generator) and labels is None:
        raise ValueError("The generator takes labels: give generate(n, labels=...), one a row.")
    if labels is not None and not takes_labels(generator):
        raise ValueError("The generator takes no labels: leave them out, or give it an input more.")
    if labels is not None and len(labels) != n:
        raise ValueError(f"There are {len(labels)} labels for {n} images: give one for each.")


def images_and_labels(data: Batch, generator: keras.Model, dtype: str) -> tuple[tf.Tensor, Any]:
    """Returns the images of a batch as numbers of type `dtype`, and the labels.

    Raises:
        ValueError: the data are something else than images, with labels just where the generator
            takes some.
    """
    images, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    if weights is not None or keras.tree.is_nested(images):
        raise ValueError("A GAN's data are images, or (images, labels): yield nothing else.")
    if labels is not None and not takes_labels(generator):
        raise ValueError(
            "The data yield labels, but the generator and the discriminator take none: yield "
            "images alone, as by dataset.map(lambda image, label: image), or give both networks "
            "an input for labels."
        )
    if labels is None and takes_labels(generator):
        raise ValueError(
            "The generator and the discriminator take labels, but the data yield none: yield "
            "(images, labels)."
        )
    return tf.cast(images, dtype), labels


def arrays(x: Any, bounds: tuple[float, float] | None) -> None:
    """Raises ValueError if `x` is an array of images that is not within `bounds`."""
    in_memory = isinstance(x, np.ndarray) and not isinstance(x, np.memmap)
    if bounds is None or not in_memory or not x.size or x.dtype.kind not in "iuf":
        return
    least, most = float(x.min()), float(x.max())
    if not _within(least, most, bounds):
        raise ValueError(out_of_range(least, most, *bounds))


def of_images(images: tf.Tensor, bounds: tuple[float, float] | None) -> list[Any]:
    """Returns what a step must wait for, so that images it cannot take change nothing at all.

    XLA drops the check.
    """
    if bounds is None:
        return [images]
    low, high = bounds
    least, most = tf.reduce_min(images), tf.reduce_max(images)
    told = ("images run from", least, "to", most, "where the generator makes", low, "to", high)
    check = tf.debugging.Assert(_within(least, most, bounds), told)
    return [images] if check is None else [images, check]


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _within(least: Any, most: Any, bounds: tuple[float, float]) -> Any:
    low, high = bounds
    slack = 1e-2 * (high - low)
    return (least >= low - slack) & (most <= high + slack)  # so that NaN is not


def _inputs(network: keras.Model) -> list[keras.KerasTensor]:
    """Returns the inputs of a network, empty where they are not known."""
    try:
        return list(network.inputs or [])
    except (AttributeError, ValueError):  # a class of its own, or a Sequential not built yet
        return []


def _called(network: keras.Model, x: keras.KerasTensor) -> keras.KerasTensor:
    taken, *labels = _inputs(network) or [x]
    sizes = zip(taken.shape, x.shape, strict=False)
    if not all(None in pair or len(set(pair)) == 1 for pair in sizes):
        raise ValueError("The shapes differ.")  # which a call with symbols may let pass
    return network([x, *labels] if labels else x)


def _taken(network: keras.Model) -> str:
    inputs = _inputs(network)
    return str(inputs[0].shape) if inputs else "another"
