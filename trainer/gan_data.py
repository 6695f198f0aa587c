"""A GAN's data: images and labels in a batch, and what is asked of them before anything changes."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import out_of_range
from trainer.feeds import Batch


def takes_labels(network: keras.Model) -> bool:
    """Returns whether a network has a second input."""
    return len(inputs_of(network)) > 1


def with_labels(network: keras.Model, x: Any, labels: Any) -> Any:
    """Returns what to call a network with: `x`, and labels where it takes some."""
    return [x, *_in_order(network, labels)] if takes_labels(network) else x


def to_generate(generator: keras.Model, n: int, labels: Any) -> Any:
    """Returns the labels as arrays, one for each input of them.

    Raises:
        ValueError: `n` is no number of rows, or labels are missing, or the generator takes none.
    """
    if not _is(n, Integral) or n < 1:
        raise ValueError(f"n is {n!r}: expected a whole number from 1 up.")
    if takes_labels(generator) and labels is None:
        raise ValueError("The generator takes labels: give generate(n, labels=...), one a row.")
    if labels is None:
        return None
    if not takes_labels(generator):
        raise ValueError("The generator takes no labels: leave them out, or give it an input more.")
    several = len(inputs_of(generator)) > 2
    arrays = [np.asarray(each) for each in (_in_order(generator, labels) if several else [labels])]
    for array in arrays:
        if len(array) != n:
            raise ValueError(f"There are {len(array)} labels for {n} images: give one for each.")
    return arrays


def images_and_labels(
    data: Batch,
    generator: keras.Model,
    discriminator: keras.Model,
    made: keras.KerasTensor,
    uses_labels: bool,
) -> tuple[tf.Tensor, Any]:
    """Returns the images of a batch as the generator makes them, and the labels.

    Args:
        data: images, (images, labels), or a dict of them by name.
        generator: the generator.
        discriminator: the discriminator.
        made: what the generator makes.
        uses_labels: whether networks or losses use labels.

    Raises:
        ValueError: the data are something else than images of the generator's shape, with labels
            just where they are used.
    """
    x, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
    images = image_part(x, discriminator)
    if weights is not None or keras.tree.is_nested(images):
        raise ValueError(
            "A GAN's data are images, or (images, labels): yield nothing else. Labels for several "
            "inputs are (images, (labels, others)); a dict has 'image' and 'label'."
        )
    if isinstance(x, dict) and labels is None and uses_labels:
        labels = _labels_by_name(x, generator)
    if labels is not None and not uses_labels:
        raise ValueError(
            "The data yield labels, but the generator and the discriminator take none: yield "
            "images alone, as by dataset.map(lambda image, label: image), or give both networks "
            "an input for labels."
        )
    _check_labels(generator, labels)
    return _like(images, made), labels


def _like(images: tf.Tensor, made: keras.KerasTensor) -> tf.Tensor:
    """Returns images as numbers of the type, and of the shape, of what the generator makes."""
    expected = tf.TensorShape(made.shape)
    if images.shape == expected[1:]:
        raise ValueError(
            f"Images come one by one, in the shape {images.shape}, but the generator makes batches "
            f"of them, {expected}: call dataset.batch(batch_size)."
        )
    if not images.shape.is_compatible_with(expected):
        raise ValueError(
            f"Images have the shape {images.shape}, but the generator makes {expected}: reshape "
            "the data, or let the generator make such images."
        )
    return tf.ensure_shape(tf.cast(images, made.dtype), expected)


def image_part(x: Any, discriminator: keras.Model) -> Any:
    """Returns the images in `x`: by name in a dict, or all that there is."""
    if isinstance(x, dict):
        names = [*(symbol.name for symbol in inputs_of(discriminator)[:1]), "image", "images"]
        x = next((x[name] for name in names if name in x), x)
    leaves = keras.tree.flatten(x)
    return leaves[0] if len(leaves) == 1 else x


def arrays(x: Any, bounds: tuple[float, float] | None) -> None:
    """Raises ValueError if `x` is an array of images that is not within `bounds`."""
    in_memory = isinstance(x, np.ndarray) and not isinstance(x, np.memmap)
    if bounds is None or not in_memory or not x.size or x.dtype.kind not in "iuf":
        return
    least, most = float(x.min()), float(x.max())
    if not _within(least, most, bounds):
        raise ValueError(out_of_range(least, most, *bounds))


def of_images(images: tf.Tensor, bounds: tuple[float, float] | None) -> list[Any]:
    """Returns what a step has to depend on, to fail before it updates anything.

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
    return (least >= low - slack) & (most <= high + slack)  # False for NaN


def inputs_of(network: keras.Model) -> list[keras.KerasTensor]:
    """Returns the inputs of a network, empty where they are not known."""
    try:
        return list(network.inputs or [])
    except (AttributeError, ValueError):  # a class of its own, or a Sequential not built yet
        return []


def _check_labels(generator: keras.Model, labels: Any) -> None:
    if not takes_labels(generator):
        return
    if labels is None:
        raise ValueError(
            "The generator and the discriminator take labels, but the data yield none: yield "
            "(images, labels)."
        )
    expected, count = len(inputs_of(generator)) - 1, len(keras.tree.flatten(labels))
    if count != expected:
        raise ValueError(
            f"The generator has {expected} inputs for labels, but the data yield {count}: yield "
            "(images, labels), the labels a tuple with one for each input."
        )
    for label, symbol in zip(_in_order(generator, labels), inputs_of(generator)[1:], strict=True):
        if tf.as_dtype(label.dtype) == tf.string and symbol.dtype != "string":
            raise ValueError(
                f"The labels are strings, but the generator takes {symbol.dtype}: number them, as "
                "by keras.layers.StringLookup."
            )


def _in_order(network: keras.Model, labels: Any) -> list[Any]:
    """Returns labels in the order of a network's inputs, by name where they are a dict."""
    names = [symbol.name for symbol in inputs_of(network)[1:]]
    if isinstance(labels, dict) and all(name in labels for name in names):
        return [labels[name] for name in names]
    if isinstance(labels, (list, tuple, dict)):
        return list(labels.values() if isinstance(labels, dict) else labels)
    return [labels]


def _labels_by_name(x: dict[str, Any], generator: keras.Model) -> Any:
    names = [symbol.name for symbol in inputs_of(generator)[1:]]
    if names and all(name in x for name in names):
        return [x[name] for name in names]
    return next((x[name] for name in ("label", "labels") if name in x), None)
