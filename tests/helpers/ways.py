"""The ways in which data can be given to `fit`, `evaluate` and `predict`."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import BATCH, Batches, batches_of

Give = Callable[[tuple], dict[str, Any]]  # makes arguments of (x,), (x, y) or (x, y, weights)


class Way(NamedTuple):
    """A way of giving data to `fit`, `evaluate` or `predict`.

    Attributes:
        give: makes what is given as `x`, `y`, ...
        needs_steps: whether steps must be told, for the data never end.
        lives_once: whether the data can be gone through only once.
        ends_unannounced: whether only asking for a batch tells that there is none. There
            `model.fit` counts a step in `optimizer.iterations` more, if a thread is quick enough.
    """

    give: Give
    needs_steps: bool = False
    lives_once: bool = False
    ends_unannounced: bool = False


def as_arrays(data: tuple) -> dict[str, Any]:
    names = ("x", "y", "sample_weight")
    return {**dict(zip(names, data, strict=False)), "batch_size": BATCH}


def as_tensors(data: tuple) -> dict[str, Any]:
    return as_arrays(keras.tree.map_structure(tf.convert_to_tensor, data))


def dataset_of(data: tuple) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(keras.tree.lists_to_tuples(data)).batch(BATCH)


def as_dataset(data: tuple) -> dict[str, Any]:
    return {"x": dataset_of(data)}


def as_dataset_of_unknown_length(data: tuple) -> dict[str, Any]:
    return {"x": dataset_of(data).filter(lambda *_: True)}


def as_infinite_dataset(data: tuple) -> dict[str, Any]:
    return {"x": dataset_of(data).repeat()}


def doubled_in_python(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Is mapped over batches, and calls Python for each."""
    doubled = tf.numpy_function(lambda rows: rows * np.float32(2), [x], tf.float32)
    return tf.ensure_shape(doubled, x.shape), y


def with_noise(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Is mapped over batches, and draws for each."""
    return x + tf.random.normal(tf.shape(x), seed=4), y


def as_generator(data: tuple) -> dict[str, Any]:
    return {"x": (batch for batch in batches_of(data))}


def as_infinite_generator(data: tuple) -> dict[str, Any]:
    return {"x": (batch for _ in itertools.count() for batch in batches_of(data))}


def as_py_dataset(data: tuple) -> dict[str, Any]:
    return {"x": Batches(data)}


def as_py_dataset_of_two_workers(data: tuple) -> dict[str, Any]:
    return {"x": Batches(data, workers=2)}


def as_torch_loader(data: tuple) -> dict[str, Any]:
    torch = pytest.importorskip("torch", reason="torch comes with the extra `conformance`")
    parts = torch.utils.data.TensorDataset(*map(torch.as_tensor, data))
    return {"x": torch.utils.data.DataLoader(parts, batch_size=BATCH)}


def as_grain_dataset(data: tuple) -> dict[str, Any]:
    grain = pytest.importorskip("grain", reason="grain comes with the extra `conformance`")
    rows = list(zip(*data, strict=True))
    return {"x": grain.MapDataset.source(rows).batch(BATCH)}


def as_grain_stream(data: tuple) -> dict[str, Any]:
    grain = pytest.importorskip("grain", reason="grain comes with the extra `conformance`")
    rows = list(zip(*data, strict=True))
    return {"x": grain.MapDataset.source(rows).to_iter_dataset().batch(BATCH)}


WAYS = {
    "arrays": Way(as_arrays),
    "tensors": Way(as_tensors),
    "tf.data": Way(as_dataset),
    "tf.data of unknown length": Way(as_dataset_of_unknown_length, ends_unannounced=True),
    "infinite tf.data": Way(as_infinite_dataset, needs_steps=True),
    "generator": Way(as_generator, lives_once=True, ends_unannounced=True),
    "infinite generator": Way(as_infinite_generator, needs_steps=True),
    "PyDataset": Way(as_py_dataset),
    "PyDataset of two workers": Way(as_py_dataset_of_two_workers),
    "torch DataLoader": Way(as_torch_loader),
    "grain MapDataset": Way(as_grain_dataset, ends_unannounced=True),
    "grain IterDataset": Way(as_grain_stream, ends_unannounced=True),
}


def as_validation(given: dict[str, Any]) -> dict[str, Any]:
    """Returns what a way gives for `fit` as validation data instead."""
    if "y" not in given:
        return {"validation_data": given["x"]}
    parts = tuple(value for key, value in given.items() if key != "batch_size")
    return {"validation_data": parts}
