"""Outputs of many batches, joined: NumPy's concatenation, and what Keras's `predict` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import labels, numbers
from tests.helpers.tables import each
from trainer import CustomTrainer
from trainer.outputs import collected, concatenated, joined

ROWS, BATCH = 10, 4  # batches of 4, 4 and 2
X = numbers(ROWS, 3)


def in_batches(array: Any) -> list[Any]:
    return [array[start : start + BATCH] for start in range(0, ROWS, BATCH)]


@hypothesis.settings(max_examples=50)
@hypothesis.given(
    rows=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    inner=hnp.array_shapes(min_dims=0, max_dims=3, max_side=3),
    dtype=st.sampled_from(["float16", "float32", "float64", "int32", "int64", "uint8", "bool"]),
    as_tensors=st.booleans(),
)
def test_arrays_of_the_same_inner_shape(rows, inner, dtype, as_tensors):
    arrays = [
        np.random.default_rng(seed).integers(0, 9, (count, *inner)).astype(dtype)
        for seed, count in enumerate(rows)
    ]
    given_arrays = [tf.constant(array) for array in arrays] if as_tensors else arrays
    assert_same(concatenated(given_arrays), np.concatenate(arrays))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_number_of_each_batch(count):
    """One batch leaves a number, as in Keras."""
    joined = concatenated([tf.constant(float(n), tf.float64) for n in range(count)])
    np.testing.assert_array_equal(joined, np.arange(float(count)) if count > 1 else 0.0)
    assert (joined.shape, joined.dtype) == ((count,) if count > 1 else (), np.float64)


def test_strings():
    words = [b"a", b"bc", b"", b"d"]
    joined = concatenated([tf.constant(words[:3]), tf.constant(words[3:])])
    assert isinstance(joined, np.ndarray)
    assert joined.tolist() == words


def test_bfloat16():
    values = tf.cast(X, tf.bfloat16)
    assert_same(concatenated(in_batches(values)), values.numpy())


STRUCTURES = {
    "list": [X, 2 * X],
    "tuple": (X, 2 * X),
    "dict": {"b": X, "a": X[:, 0]},
    "nested": {"a": [X, (X[:, :1], {"c": X[:, None]})], "b": X},
    "list of one": [X],
}


@pytest.mark.parametrize("structure", **each(STRUCTURES))
def test_structures(structure):
    parts = [
        keras.tree.map_structure(lambda array, n=n: tf.constant(in_batches(array)[n]), structure)
        for n in range(3)
    ]
    assert_same(concatenated(parts), structure)


# Batches that differ in more than rows; `None` stands for a dimension in which they do


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    st.lists(hnp.array_shapes(min_dims=3, max_dims=3, max_side=3), min_size=2, max_size=4)
)
def test_batches_of_different_inner_shapes(shapes):
    hypothesis.assume(len({shape[1:] for shape in shapes}) > 1)
    arrays = [np.random.default_rng(0).random(shape, "float32") for shape in shapes]
    joined = concatenated([tf.constant(array) for array in arrays])
    assert isinstance(joined, tf.RaggedTensor)
    assert joined.dtype == tf.float32
    assert joined.to_list() == [row.tolist() for array in arrays for row in array]


def test_inner_dimensions_that_agree_stay_even():
    joined = concatenated([tf.ones((2, 1, 3)), tf.ones((1, 2, 3))])
    assert joined.shape.as_list() == [3, None, 3]
    joined = concatenated([tf.ones((2, 3, 1)), tf.ones((1, 3, 2))])
    assert joined.shape.as_list() == [3, None, None]


def test_ragged_tensors():
    rows = [[1.0], [], [2.0, 3.0], [4.0]]
    parts = [tf.ragged.constant(rows[:3]), tf.ragged.constant(rows[3:])]
    joined = concatenated(parts)
    assert isinstance(joined, tf.RaggedTensor)
    assert joined.to_list() == rows
    assert concatenated(parts[:1]).to_list() == rows[:3]


def test_sparse_tensors():
    dense = np.where(X > 0, X, 0)
    joined = concatenated([tf.sparse.from_dense(part) for part in in_batches(dense)])
    assert isinstance(joined, tf.SparseTensor)
    assert_same(tf.sparse.to_dense(joined).numpy(), dense)
    alone = tf.sparse.from_dense(dense)
    assert_same(concatenated([alone]), alone)


# joined

JOINED = {
    "arrays": (lambda: [tf.constant(part) for part in in_batches(X)], lambda out: out.numpy()),
    "sparse": (
        lambda: [tf.sparse.from_dense(part) for part in in_batches(X)],
        lambda out: tf.sparse.to_dense(out).numpy(),
    ),
    "ragged": (
        lambda: [tf.RaggedTensor.from_tensor(part) for part in in_batches(X)],
        lambda out: out.to_tensor().numpy(),
    ),
}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("make", "dense"), **each(JOINED))
def test_joined_batches_are_tensors(make, dense, count):
    batches = make()[:count]
    (out,) = joined([{"out": [part]} for part in batches])["out"]
    assert tf.is_tensor(out)
    assert_same(dense(out), np.concatenate([dense(part) for part in batches]))


def test_joined_numbers_are_a_row_each():
    np.testing.assert_array_equal(joined([tf.constant(1.0), tf.constant(2.0)]), [1.0, 2.0])


# predict


def model_of(function: Callable, **settings: Any) -> keras.Model:
    class Applied(keras.Model):
        def call(self, x):
            return function(x)

    model = Applied()
    model.compile(jit_compile=False, **settings)
    return model


def as_wide_as_the_largest(x: tf.Tensor) -> tf.Tensor:
    width = tf.cast(tf.reduce_max(tf.abs(x)), tf.int32) + 1
    return tf.ones((tf.shape(x)[0], width, 2)) * x[:, :1, None]


OUTPUTS = {
    "rows": lambda x: x * 2,
    "column": lambda x: x[:, 0],
    "integers": lambda x: tf.cast(x * 10, tf.int32),
    "booleans": lambda x: x > 0,
    "images": lambda x: tf.tile(x[:, :, None, None], [1, 1, 2, 3]),
    "list": lambda x: [x, x[:, :1]],
    "tuple": lambda x: (x, x[:, 0]),
    "dict": lambda x: {"b": x, "a": x[:, 0]},
    "nested": lambda x: {"a": [x, (x, x)], "b": {"c": x}},
    "number": lambda x: tf.reduce_sum(x),
    "dict of a number": lambda x: {"sum": tf.reduce_sum(x), "x": x},
    "ragged": lambda x: tf.RaggedTensor.from_tensor(x, lengths=tf.cast(x[:, 0] > 0, tf.int64) + 1),
    "sparse": lambda x: tf.sparse.from_dense(tf.nn.relu(x)),
    "batches of different widths": as_wide_as_the_largest,
    "two different dimensions": lambda x: tf.ones((tf.shape(x)[0],) * 3),
    "the last dimension differs": lambda x: tf.ones((tf.shape(x)[0], 2, tf.shape(x)[0])),
}
KERAS_JOINS_GROUPS = [*OUTPUTS][: [*OUTPUTS].index("number")] + ["ragged", "sparse"]
X_OF_WIDTHS = X * np.array([1] * 4 + [2] * 4 + [4] * 2, "float32")[:, None]


def assert_same_predictions(function: Callable, rows: int) -> None:
    arguments = {"batch_size": BATCH, "verbose": 0}
    theirs = model_of(function).predict(X_OF_WIDTHS[:rows], **arguments)
    ours = CustomTrainer(model_of(function)).predict(X_OF_WIDTHS[:rows], **arguments)
    assert_same(ours, theirs)


@pytest.mark.parametrize("function", **each(OUTPUTS))
def test_predict_as_keras_does(function):
    assert_same_predictions(function, ROWS)


@pytest.mark.parametrize("name", ["rows", "number", "ragged", "sparse"])
def test_predict_one_batch_as_keras_does(name):
    assert_same_predictions(OUTPUTS[name], BATCH)


def test_predict_strings():
    model = model_of(tf.strings.as_string)
    predicted = CustomTrainer(model).predict(labels(ROWS, 2), batch_size=BATCH, verbose=0)
    assert predicted.tolist() == [[str(n).encode() for n in row] for row in labels(ROWS, 2)]


@pytest.mark.parametrize("name", KERAS_JOINS_GROUPS)
def test_predict_in_groups_as_keras_does(name):
    function, arguments = OUTPUTS[name], {"batch_size": 2, "verbose": 0}
    theirs = model_of(function, steps_per_execution=3).predict(X, **arguments)
    ours = CustomTrainer(model_of(function, steps_per_execution=3)).predict(X, **arguments)
    assert_same(ours, theirs)


@pytest.mark.parametrize("group", [2, 3])
@pytest.mark.parametrize("name", sorted(set(OUTPUTS) - set(KERAS_JOINS_GROUPS)))
def test_groups_change_no_prediction(name, group):
    """Keras cannot join all of these within a group."""
    function = OUTPUTS[name]
    one, grouped = (
        CustomTrainer(model_of(function, steps_per_execution=k)).predict(
            X_OF_WIDTHS, batch_size=BATCH, verbose=0
        )
        for k in (1, group)
    )
    assert_same(grouped, one)


# Collected as they come


def parts_of(array: np.ndarray, sizes: list[int]) -> list[dict[str, tf.Tensor]]:
    stops = np.cumsum(sizes)
    slices = [array[stop - size : stop] for size, stop in zip(sizes, stops, strict=True)]
    return [{"a": tf.constant(part), "b": [tf.constant(part[:, 0])]} for part in slices]


@hypothesis.given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6), more=st.sampled_from([None, 0, 3])
)
def test_parts_are_collected_as_if_concatenated(sizes, more):
    rows = None if more is None else sum(sizes) + more  # predict may stop before all rows
    parts = parts_of(numbers(sum(sizes) or 1, 3), sizes)
    assert_same(collected(iter(parts), rows), concatenated(parts))


@pytest.mark.parametrize("rows", [None, 2, 6, 9])
@pytest.mark.parametrize(
    "others",
    [
        [tf.ones((2, 3)), tf.ones((5, 3))],
        [tf.ones((2, 3)), tf.ones((2, 5))],
        [tf.ragged.constant([[1.0], [2.0, 3.0]]), tf.ragged.constant([[4.0]])],
        [tf.constant(1.0), tf.constant(2.0)],
    ],
    ids=["more rows than told", "other columns", "ragged", "scalars"],
)
def test_parts_that_do_not_fit_one_array_are_concatenated(others, rows):
    def as_list(outputs: Any) -> Any:
        return outputs.to_list() if isinstance(outputs, tf.RaggedTensor) else outputs.tolist()

    ours, known = collected(iter(others), rows), concatenated(others)
    assert type(ours) is type(known)
    assert as_list(ours) == as_list(known)


def test_nothing_to_collect():
    assert collected(iter([]), 3) is None
