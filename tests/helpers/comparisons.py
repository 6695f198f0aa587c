"""Comparisons bit by bit of what two trainings ended with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.models import weights_of


def assert_same(ours: Any, theirs: Any, at: str = "result") -> None:
    """Asserts that two values agree in types, order of keys and every bit."""
    assert type(ours) is type(theirs), f"{at}: {type(ours)} where Keras has {type(theirs)}"
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), at
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{at}[{key!r}]")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), f"{at}: {ours} where Keras has {theirs}"
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(our, their, f"{at}[{number}]")
    elif isinstance(theirs, tf.RaggedTensor):
        assert_same(ours.flat_values, theirs.flat_values, f"{at}.flat_values")
        assert_same(ours.nested_row_splits, theirs.nested_row_splits, f"{at}.row_splits")
    elif isinstance(theirs, tf.SparseTensor):
        for part in ("indices", "values", "dense_shape"):
            assert_same(getattr(ours, part), getattr(theirs, part), f"{at}.{part}")
    elif isinstance(theirs, (float, np.ndarray, np.generic, tf.Tensor)):
        _assert_same_array(np.asarray(ours), np.asarray(theirs), at)
    else:
        assert ours == theirs, at


def _assert_same_array(ours: np.ndarray, theirs: np.ndarray, at: str) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), at
    if ours.tobytes() != theirs.tobytes():
        pytest.fail(f"{at}: ours is\n{ours}\nwhere Keras has\n{theirs}")


def assert_same_training(ours: keras.Model, theirs: keras.Model, at: str = "") -> None:
    """Asserts that two models have the same history and weights."""
    for part in ("history", "epoch", "params"):
        assert_same(getattr(ours.history, part), getattr(theirs.history, part), f"{at}{part}")
    assert_same(weights_of(ours), weights_of(theirs), f"{at}weights")


def arrays_in(h5: Path | io.BytesIO) -> dict[str, np.ndarray]:
    """Returns the arrays of an HDF5 file by name."""
    found = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = np.asarray(item)

    with h5py.File(h5) as file:
        file.visititems(note)
    return found
