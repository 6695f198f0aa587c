"""Images: the range of their numbers, a grid of them, a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

# Layers that move numbers about and change none.
_MOVES = (
    keras.layers.Cropping2D,
    keras.layers.Flatten,
    keras.layers.Permute,
    keras.layers.Reshape,
)


def last_activation(network: keras.Model) -> Callable | None:
    """Returns the activation that makes the output of a network, `None` if unknown."""
    owner, last = network, network
    while isinstance(last, (keras.Model, *_MOVES)):
        if isinstance(last, keras.Model):
            owner, last = last, _output_layer(last)
        else:
            last = _layer_before(last, owner)
    is_of_keras = type(last).__module__.partition(".")[0] == "keras"
    return getattr(last, "activation", None) if is_of_keras else None


def value_range(network: keras.Model) -> tuple[float, float] | None:
    """Returns the least and the most that the last activation lets through, `None` if unknown."""
    activation = last_activation(network)
    if activation in (keras.activations.sigmoid, keras.activations.hard_sigmoid):
        return 0.0, 1.0
    return (-1.0, 1.0) if activation is keras.activations.tanh else None


def _output_layer(network: keras.Model) -> keras.Layer | None:
    if type(network).call.__module__.partition(".")[0] != "keras":
        return None  # it may do more than its layers
    layers = {layer.name: layer for layer in network.layers}
    names = getattr(network, "output_names", None)
    if isinstance(network, keras.Sequential) and not names:
        names = list(layers)[-1:]
    return layers.get(names[0]) if names else None


def _layer_before(layer: keras.Layer, network: keras.Model) -> keras.Layer | None:
    for other in network.layers:
        # A layer that was called elsewhere, too, cannot say what its output is.
        with contextlib.suppress(AttributeError, ValueError):
            if other.output is layer.input:
                return other
    return None


def grid(images: np.ndarray, columns: int, bounds: tuple[float, float]) -> np.ndarray:
    """Returns images side by side as one.

    Args:
        images: of shape `(n, height, width)` or `(n, height, width, channels)`, one or three
            channels.
        columns: images in a row; the last row is filled up with the least value.
        bounds: the numbers that stand for black and for white.

    Returns:
        uint8 of shape `(rows * height, columns * width, channels)`.
    """
    images = np.asarray(images, "float64")
    images = images[..., None] if images.ndim == 3 else images
    low, high = bounds
    pixels = np.clip((images - low) / (high - low), 0, 1) * 255
    rows = -(-len(pixels) // columns)
    blank = np.zeros((rows * columns - len(pixels), *pixels.shape[1:]))
    _, height, width, channels = pixels.shape
    cells = np.concatenate([pixels, blank]).reshape(rows, columns, height, width, channels)
    lines = cells.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    return np.rint(lines).astype("uint8")


def write_png(path: str | os.PathLike, pixels: np.ndarray) -> None:
    """Writes uint8 `pixels` of shape `(height, width, channels)`; makes the folder if need be."""
    os.makedirs(os.path.dirname(os.fspath(path)) or ".", exist_ok=True)
    tf.io.write_file(os.fspath(path), tf.io.encode_png(pixels))
