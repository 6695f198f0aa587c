"""Rows: their order, their number, and cutting them apart."""

from __future__ import annotations

import collections
import math
import random
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

from tests.helpers.data import labels, numbers
from tests.helpers.feeds import assert_equal
from tests.helpers.tables import each
from trainer.feeds.rows import row_count, row_order, split_rows

SEEDS = st.integers(0, 2**40)
EPOCHS = st.integers(0, 1000)
SOME = hypothesis.settings(max_examples=40)


# row_order


@SOME
@hypothesis.given(st.integers(1, 60), st.integers(1, 25), SEEDS, EPOCHS)
def test_an_order_takes_each_row_once(rows, batch_size, seed, epoch):
    order = row_order(rows, batch_size, True, seed, epoch)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(rows))


@SOME
@hypothesis.given(st.integers(1, 60), st.integers(1, 25), SEEDS, EPOCHS)
def test_batch_mixes_the_rows_of_each_batch(rows, batch_size, seed, epoch):
    order = row_order(rows, batch_size, "batch", seed, epoch)
    assert order.dtype == np.int64
    assert len(order) == rows
    for start in range(0, rows, batch_size):
        batch = list(range(start, min(start + batch_size, rows)))
        assert sorted(order[start : start + batch_size]) == batch


@SOME
@hypothesis.given(st.sampled_from([True, "batch"]), SEEDS, EPOCHS)
def test_an_order_follows_from_seed_and_epoch_alone(shuffle, seed, epoch):
    first = row_order(30, 7, shuffle, seed, epoch)
    row_order(30, 7, shuffle, seed, epoch + 1)
    np.random.seed(epoch)
    random.seed(epoch)
    keras.utils.set_random_seed(epoch)
    np.testing.assert_array_equal(row_order(30, 7, shuffle, seed, epoch), first)


def test_mixing_all_rows_is_the_same_for_any_batch_size():
    orders = [row_order(30, batch_size, True, 5, 2) for batch_size in (1, 7, 30, 99)]
    for order in orders[1:]:
        np.testing.assert_array_equal(order, orders[0])


@pytest.mark.parametrize("shuffle", [True, "batch"])
def test_each_epoch_and_seed_has_an_order_of_its_own(shuffle):
    orders = {
        tuple(row_order(100, 25, shuffle, seed, epoch)) for seed in range(6) for epoch in range(6)
    }
    assert len(orders) == 36


@pytest.mark.parametrize(("shuffle", "batch_size"), [(True, 2), ("batch", 3)])
def test_all_orders_are_as_likely(shuffle, batch_size):
    seen = collections.Counter(
        tuple(row_order(3, batch_size, shuffle, 0, epoch)) for epoch in range(600)
    )
    assert len(seen) == 6
    assert all(60 < count < 140 for count in seen.values()), seen  # five deviations from 100


@pytest.mark.parametrize("shuffle", [True, "batch"])
def test_an_order_leaves_global_random_numbers_alone(shuffle):
    np.random.seed(1)
    random.seed(1)
    expected = np.random.random(), random.random()
    np.random.seed(1)
    random.seed(1)
    row_order(50, 8, shuffle, 0, 0)
    assert (np.random.random(), random.random()) == expected


@pytest.mark.parametrize("shuffle", [False, None, 0])
def test_rows_stay_as_they_are_without_shuffling(shuffle):
    assert row_order(10, 3, shuffle, 0, 0) is None


# row_count

COUNTED = {
    "x alone": (np.zeros((5, 2)),),
    "all three": (np.zeros((5, 2)), np.zeros(5), np.zeros((5, 1))),
    "nothing beside x": (np.zeros(5), None, None),
    "no x": (None, np.zeros((5, 1)), None),
    "nested": ({"a": np.zeros((5, 1)), "b": [np.zeros(5), None]}, (np.zeros(5),)),
    "tensor": (tf.zeros((5, 2)),),
    "ragged": (tf.ragged.constant([[1], [], [2, 3], [4], [5]]), np.zeros(5)),
    "sparse": (tf.sparse.from_dense(np.eye(5)), np.zeros(5)),
}


@pytest.mark.parametrize("data", **each(COUNTED))
def test_row_count(data):
    assert row_count(data) == 5


MISCOUNTED = {
    "y": ((np.zeros(4), np.zeros(3)), "^x has 4 rows, y has 3 rows: every array needs a row"),
    "weights": (
        (np.zeros(4), np.zeros(4), np.zeros(2)),
        "^x has 4 rows, y has 4 rows, sample_weight has 2 rows: every",
    ),
    "nested": (
        ({"a": np.zeros(4), "b": [np.zeros(4), np.zeros(7)]}, None),
        "^x/a has 4 rows, x/b/0 has 4 rows, x/b/1 has 7 rows: every",
    ),
    "ragged": ((tf.ragged.constant([[1], []]), np.zeros(3)), "^x has 2 rows, y has 3 rows"),
    "sparse": ((tf.sparse.from_dense(np.eye(2)), np.zeros(3)), "^x has 2 rows, y has 3 rows"),
    "empty": ((np.zeros((0, 3)), np.zeros(0)), "^x has no rows"),
    "number": ((np.zeros(4), np.float32(1)), "^y is a single number: expected an array with a row"),
    "nothing": (({"a": None}, None), "^x is missing"),
    "number in a list": ((np.zeros(4), [np.zeros(4), np.array(1)]), "^y/1 is a single number"),
}


@pytest.mark.parametrize(("data", "message"), **each(MISCOUNTED))
def test_rows_that_cannot_be_counted(data, message):
    with pytest.raises(ValueError, match=message):
        row_count(data)


# split_rows

ROWS = 11
X, Y = numbers(ROWS, 3), numbers(ROWS, 1, seed=1)
SPARSE = np.where(labels(ROWS, 3) == 0, X, 0).astype("float32")
SPARSE[4] = 0  # a row without values
LETTERS = np.array(list("abcdefghijk"))
RAGGED = [list(range(number % 4)) for number in range(ROWS)]
FRAME = pd.DataFrame(X, columns=list("abc"), index=range(100, 100 + ROWS))


def out_of_order(dense: np.ndarray) -> tf.SparseTensor:
    """Returns `dense` as a sparse tensor whose values come in no order of rows."""
    indices = np.argwhere(dense)
    indices = indices[np.random.default_rng(0).permutation(len(indices))]
    return tf.SparseTensor(indices, dense[tuple(indices.T)], dense.shape)


SPLIT = {  # data and, by a list or an array for each, the rows they have
    "NumPy": ((X, Y), (X, Y)),
    "float64": ((X.astype("float64"),), (X.astype("float64"),)),
    "strings": ((LETTERS, LETTERS.astype(object)), (LETTERS, LETTERS.astype(object))),
    "tensors": ((tf.constant(X), tf.constant(Y)), (X, Y)),
    "ragged": ((tf.ragged.constant(RAGGED), Y), (RAGGED, Y)),
    "sparse": ((tf.sparse.from_dense(SPARSE), Y), (SPARSE, Y)),
    "sparse out of order": ((out_of_order(SPARSE), Y), (SPARSE, Y)),
    "sparse cube": (
        (tf.sparse.from_dense(np.stack([SPARSE, -SPARSE], 2)),),
        (np.stack([SPARSE, -SPARSE], 2),),
    ),
    "frame and series": ((FRAME, FRAME["a"]), (X, X[:, :1])),
    "scipy csr": ((scipy.sparse.csr_matrix(SPARSE),), (SPARSE,)),
    "scipy csc": ((scipy.sparse.csc_matrix(SPARSE),), (SPARSE,)),
    "nested with None": (({"a": X, "b": [Y, None]}, None, Y), ({"a": X, "b": [Y, None]}, None, Y)),
}


def cut(data: Any, start: int, stop: int) -> Any:
    """Returns rows of a structure of arrays and, as ragged data, of lists of lists."""
    if isinstance(data, list) and isinstance(data[0], list):
        return data[start:stop]
    if isinstance(data, dict):
        return {key: cut(value, start, stop) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(cut(value, start, stop) for value in data)
    return None if data is None else data[start:stop]


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.9])
@pytest.mark.parametrize(("data", "dense"), **each(SPLIT))
def test_the_last_rows_are_split_off(data, dense, fraction):
    split_at = math.floor(ROWS * (1.0 - fraction))
    first, second = split_rows(data, fraction)
    assert_equal(in_order(first), cut(dense, 0, split_at))
    assert_equal(in_order(second), cut(dense, split_at, ROWS))


@SOME
@hypothesis.given(st.integers(1, 300), st.floats(0.0, 1.0, exclude_min=True, exclude_max=True))
def test_any_fraction_of_any_number_of_rows(rows, fraction):
    x = np.arange(rows)
    split_at = math.floor(rows * (1.0 - fraction))
    if split_at in (0, rows):
        with pytest.raises(
            ValueError, match=f"of {rows} rows leaves one side empty: expected a share"
        ):
            split_rows((x,), fraction)
        return
    (first,), (second,) = split_rows((x,), fraction)
    np.testing.assert_array_equal(first, x[:split_at])
    np.testing.assert_array_equal(second, x[split_at:])


def rows_seen_by_keras(data: tuple, fraction: float) -> tuple[list, list]:
    """Returns the batches that `model.fit` trains on, and those that it validates on."""
    trained, validated = [], []

    class Notes(keras.Model):
        def train_step(self, data):
            trained.append(data)
            return {"loss": 0.0}

        def test_step(self, data):
            validated.append(data)
            return {"loss": 0.0}

    model = Notes()
    model.compile(run_eagerly=True)
    model.fit(*data, batch_size=99, shuffle=False, validation_split=fraction, verbose=0)
    return trained, validated


# Keras does not split a structure with None, sparse tensors out of order, or strings of NumPy.
KERAS_SPLITS = ["NumPy", "tensors", "ragged", "sparse", "frame and series", "scipy csr"]


@pytest.mark.parametrize("kind", KERAS_SPLITS)
def test_keras_splits_at_the_same_row(kind):
    data, dense = SPLIT[kind]
    (trained,), (validated,) = rows_seen_by_keras(data, 0.35)
    first, second = split_rows(data, 0.35)
    for ours, theirs in ((first, trained), (second, validated)):
        theirs = theirs if isinstance(theirs, tuple) else (theirs,)
        assert len(ours) == len(theirs) == len(dense)
        for our, their in zip(ours, theirs, strict=True):
            as_plain = [np.asarray(to_dense(array)) for array in (our, their)]
            np.testing.assert_array_equal(*as_plain)


@pytest.mark.parametrize(
    ("rows", "fraction"),
    # Among them products that floating-point numbers round to just below or above an integer.
    [(2, 0.7), (3, 0.49), (10, 0.3), (10, 0.7), (10, 0.9), (49, 1 / 3), (100, 0.9)],
)
def test_keras_counts_the_same_rows(rows, fraction):
    x = np.arange(rows)
    try:
        (trained,), (validated,) = rows_seen_by_keras((x,), fraction)
    except ValueError:
        with pytest.raises(ValueError, match="leaves one side empty"):
            split_rows((x,), fraction)
    else:
        (first,), (second,) = split_rows((x,), fraction)
        np.testing.assert_array_equal(first, np.asarray(trained))
        np.testing.assert_array_equal(second, np.asarray(validated))


@pytest.mark.parametrize("fraction", [1.0, 1.5, -0.1, 0.999])
def test_a_fraction_that_leaves_nothing(fraction):
    with pytest.raises(ValueError, match=f"validation_split={fraction} of {ROWS} rows leaves one"):
        split_rows((X, Y), fraction)


def test_splitting_reads_nothing_of_a_memmap(tmp_path):
    on_disk = np.memmap(tmp_path / "x", "float32", "w+", shape=X.shape)
    (first,), (second,) = split_rows((on_disk,), 0.5)
    assert isinstance(first, np.memmap)
    assert isinstance(second, np.memmap)
    on_disk[:] = X
    np.testing.assert_array_equal(np.concatenate([first, second]), X)


def in_order(data: Any) -> Any:
    """Returns `data` with its sparse tensors in the order of their rows."""
    return keras.tree.map_structure(
        lambda leaf: tf.sparse.reorder(leaf) if isinstance(leaf, tf.SparseTensor) else leaf, data
    )


def to_dense(array: Any) -> Any:
    if isinstance(array, tf.SparseTensor):
        return tf.sparse.to_dense(array)
    return array.to_tensor() if isinstance(array, tf.RaggedTensor) else array
