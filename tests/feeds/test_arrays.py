"""Batches of arrays are what NumPy's indexing cuts out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import labels, numbers
from tests.helpers.feeds import assert_equal, in_batches, one_pass, rest_of, take
from tests.helpers.tables import each
from trainer import CustomTrainer
from trainer.feeds import Source
from trainer.feeds.arrays import ArrayFeed, SparseRows
from trainer.feeds.rows import row_order
from trainer.traced_shapes import keras_traces_batches

MOST = 40
DENSE = numbers(MOST, 3)
SPARSE = np.where(labels(MOST, 3) == 0, DENSE, 0).astype("float32")
RAGGED = [list(range(int(length))) for length in labels(MOST, classes=5)]
CUBES = [[[float(i), float(j)] for j in range(i % 3)] for i in range(MOST)]

SOME = hypothesis.settings(max_examples=25)
PASSES = {
    "rows": st.integers(1, MOST),
    "batch_size": st.integers(1, 15),
    "shuffle": st.sampled_from([False, True, "batch"]),
    "seed": st.integers(0, 99),
    "epoch": st.integers(0, 99),
}


def order_of(rows: int, batch_size: int, shuffle: Any, seed: int = 0, epoch: int = 0) -> np.ndarray:
    order = row_order(rows, batch_size, shuffle, seed, epoch)
    return np.arange(rows) if order is None else order


@SOME
@hypothesis.given(**PASSES)
def test_batches_of_nested_arrays(rows, batch_size, shuffle, seed, epoch):
    x = {"a": DENSE[:rows], "b": (np.arange(rows), None)}
    data = (x, numbers(rows, 1, 2), np.arange(rows) % 2 == 0)
    feed = ArrayFeed(data, batch_size, shuffle, seed)
    batches = one_pass(feed, epoch)
    expected = in_batches(data, batch_size, order_of(rows, batch_size, shuffle, seed, epoch))
    assert feed.steps == len(batches) == math.ceil(rows / batch_size)
    for batch, known in zip(batches, expected, strict=True):
        assert_equal(batch, known)


@SOME
@hypothesis.given(**PASSES)
def test_batches_of_sparse_and_ragged_tensors(rows, batch_size, shuffle, seed, epoch):
    sparse, ragged = tf.sparse.from_dense(SPARSE[:rows]), tf.ragged.constant(RAGGED[:rows])
    cubes = tf.ragged.constant(CUBES[:rows], "float32", inner_shape=(2,), ragged_rank=1)
    batches = one_pass(ArrayFeed((sparse, ragged, cubes), batch_size, shuffle, seed), epoch)
    order = order_of(rows, batch_size, shuffle, seed, epoch)
    for part, batch in zip(in_batches(order, batch_size), batches, strict=True):
        lists = [[lists[row] for row in part] for lists in (RAGGED, CUBES)]
        assert_equal(batch, (SPARSE[part], *lists))
        assert isinstance(batch[0], tf.SparseTensor)


KINDS = {
    "dense": (lambda: DENSE, DENSE),
    "float64": (lambda: DENSE.astype("float64"), DENSE),
    "integers": (lambda: labels(MOST, 2), labels(MOST, 2)),
    "tensor": (lambda: tf.constant(DENSE), DENSE),
    "sparse": (lambda: tf.sparse.from_dense(SPARSE), SPARSE),
    "sparse float64": (lambda: tf.sparse.from_dense(SPARSE.astype("float64")), SPARSE),
    "ragged": (lambda: tf.ragged.constant(RAGGED), RAGGED),
}


def batch_of(source: Source, step: tf.Tensor) -> Any:
    """Returns batch `step` of a source, as a graph comes by it."""
    seen = source.look(step, tf.constant(True))
    with tf.control_dependencies([tf.debugging.Assert(source.has_batch(seen), [step])]):
        return source.batch(seen)


def batches_in(window: Any) -> list:
    """Returns the batches of a window."""
    steps = range(window.first, window.first + window.steps)
    return [batch_of(window.source, tf.constant(step, tf.int64)) for step in steps]


@pytest.mark.parametrize("batch_size", [8, 11], ids=["even", "odd"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("make", "expected"), **each(KINDS))
def test_a_graph_reads_the_same_batches(make, expected, shuffle, batch_size):
    feed = ArrayFeed((make(),), batch_size, shuffle, seed=3)
    feed.rewind(2)
    read = tf.function(batch_of)
    order = order_of(MOST, batch_size, shuffle, 3, 2)
    window = feed.window(100)
    assert (window.first, window.steps) == (0, feed.steps)
    for step, part in enumerate(in_batches(order, batch_size)):
        (batch,) = read(window.source, tf.constant(step, tf.int64))
        rows = [expected[row] for row in part]
        assert_equal(batch, np.array(rows) if isinstance(expected, np.ndarray) else rows)
    assert read.experimental_get_tracing_count() == 1


def test_lists_become_tuples_as_in_keras():
    feed = ArrayFeed(([DENSE, [DENSE]], {"y": [DENSE]}), 40, False, 0)
    assert_equal(one_pass(feed), [((DENSE, (DENSE,)), {"y": (DENSE,)})])


# What the graph knows of a batch


def traced_shapes(source: Any) -> list:
    """Returns the shapes that the graph knows of the parts of a batch."""
    shapes = []

    @tf.function
    def read(source, step):
        batch = batch_of(source, step)
        shapes.extend(leaf.shape.as_list() for leaf in batch)

    read(source, tf.constant(0, tf.int64))
    return shapes


@pytest.mark.parametrize("shuffle", [False, True, "batch"])
@pytest.mark.parametrize(("rows", "batch_size"), [(12, 4), (4, 4), (10, 4), (3, 4), (5, 1)])
def test_the_batch_size_is_known_if_every_batch_is_full(rows, batch_size, shuffle):
    feed = ArrayFeed((DENSE[:rows], tf.sparse.from_dense(SPARSE[:rows])), batch_size, shuffle, 0)
    feed.rewind(0)
    known = batch_size if rows % batch_size == 0 else None
    assert traced_shapes(feed.window(1).source) == [[known, 3], [known, 3]]
    spec = feed.window(1).source.spec()
    assert [part.shape.as_list() for part in spec] == [[known, 3], [known, 3]]


def shapes_seen_in_fit(fit: str, data: tuple, batch_size: int, shuffle: bool) -> tuple:
    """Returns the shapes of a batch that the graph of a training step knows."""
    seen = []

    class Notes(keras.Model):
        def train_step(self, data):
            shapes = keras.tree.map_structure(lambda leaf: leaf.shape.as_list(), data)
            seen.append(shapes)
            return {"loss": tf.zeros(())}

    model = Notes()
    model.compile(jit_compile=False)
    run = CustomTrainer(model) if fit == "ours" else model
    run.fit(*data, batch_size, shuffle=shuffle, verbose=0)
    return seen[0]


@pytest.mark.xfail(
    keras_traces_batches(),
    reason="ragged and sparse batches: traced for open shapes",
    strict=True,
)
@pytest.mark.parametrize(("rows", "shuffle"), [(8, False), (8, True), (10, True), (3, False)])
def test_a_step_sees_the_shapes_that_it_sees_in_keras(rows, shuffle):
    sparse, ragged = tf.sparse.from_dense(SPARSE[:rows]), tf.ragged.constant(RAGGED[:rows])
    data = ({"dense": DENSE[:rows], "sparse": sparse, "ragged": ragged}, numbers(rows))
    ours, theirs = (shapes_seen_in_fit(fit, data, 4, shuffle) for fit in ("ours", "theirs"))
    assert ours == theirs


@pytest.mark.parametrize("batch_size", [8, 11], ids=["even", "odd"])
def test_the_spec_takes_every_batch_and_any_number_of_rows(batch_size):
    x = {"s": tf.sparse.from_dense(SPARSE), "r": tf.ragged.constant(RAGGED), "none": None}
    feed = ArrayFeed((x, DENSE), batch_size, True, 0)
    batches = one_pass(feed)
    assert feed.batch_spec() == (
        {
            "s": tf.SparseTensorSpec((None, 3), "float32"),
            "r": tf.RaggedTensorSpec((None, None), "int32", 1),
            "none": None,
        },
        tf.TensorSpec((None, 3), "float32"),
    )
    takes_any = tf.function(lambda batch: batch).get_concrete_function(feed.batch_spec())
    for batch in batches:
        takes_any(batch)


# Windows


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_window_goes_on_at_the_position(shuffle):
    feed = ArrayFeed((np.arange(MOST),), 11, shuffle, seed=5)
    whole = one_pass(feed, 2)
    feed.rewind(2)
    for position in range(feed.steps):
        feed.position = position
        for k in (1, 2, 100):
            window = feed.window(k)
            assert window.steps == min(k, feed.steps - position)
            assert_same(batches_in(window), whole[position : position + window.steps])
    assert feed.is_in_graph


@pytest.mark.parametrize("shuffle", [False, True, "batch"])
@pytest.mark.parametrize(("rows", "batch_size"), [(12, 4), (10, 4), (3, 4), (5, 1)])
def test_a_full_window_has_full_batches_of_a_size_that_the_graph_knows(rows, batch_size, shuffle):
    feed = ArrayFeed((DENSE[:rows], {"y": labels(rows, 2), "none": None}), batch_size, shuffle, 0)
    whole = one_pass(feed, 1)
    assert feed.full_steps == rows // batch_size
    feed.rewind(1)
    for position in range(feed.steps):
        feed.position = position
        for k in (1, 2, 100):
            window = feed.full_window(k)
            left = feed.full_steps - position
            assert (window is None) == (left < 1)
            if window is not None:
                assert window.steps == min(k, left)
                assert_same(batches_in(window), whole[position : position + window.steps])
    if feed.full_steps:
        feed.position = 0
        graph = tf.function(batch_of).get_concrete_function(
            feed.full_window(1).source, tf.TensorSpec((), tf.int64)
        )
        x, y = graph.structured_outputs
        assert x.shape.as_list() == [batch_size, 3]
        assert y["y"].shape.as_list() == [batch_size, 2]


NOT_FULL = {"sparse": KINDS["sparse"][0], "ragged": KINDS["ragged"][0], "text": lambda: TEXT}
TEXT = np.array([f"row {number}" for number in range(MOST)], object)


@pytest.mark.parametrize("make", **each(NOT_FULL))
def test_arrays_whose_batches_differ_in_shape_have_no_full_window(make):
    feed = ArrayFeed((DENSE, make()), 8, False, 0)
    feed.rewind(0)
    assert (feed.full_steps, feed.full_window(3)) == (0, None)
    assert feed.window(3).steps == 3


def test_what_is_not_wanted_is_not_there():
    source = ArrayFeed((DENSE,), 8, False, 0).window(1).source
    for wanted in (False, True):
        seen = source.look(tf.constant(0, tf.int64), tf.constant(wanted))
        assert bool(source.has_batch(seen)) is wanted


# SparseRows


@st.composite
def sparse_tensors(draw):
    """Draws a dense array and the same as a sparse tensor with its values in any order."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=3)))
    cells = list(itertools.product(*map(range, shape)))
    taken = draw(st.lists(st.sampled_from(cells), unique=True))
    dense = np.zeros(shape, "float32")
    for number, cell in enumerate(taken):
        dense[cell] = number + 1
    indices = np.array(taken, "int64").reshape(len(taken), len(shape))
    return dense, tf.SparseTensor(indices, dense[tuple(indices.T)], shape)


@hypothesis.settings(max_examples=60)
@hypothesis.given(sparse_tensors(), st.data())
def test_gathering_sparse_rows(given, data):
    dense, sparse = given
    rows = data.draw(st.lists(st.integers(0, len(dense) - 1), max_size=7))  # one may come twice
    gathered = SparseRows.of(sparse).gather(tf.constant(rows, tf.int64))
    assert_equal(gathered, dense[np.array(rows, int)])


def test_sparse_rows_know_their_number():
    for rows in (1, 7):
        sparse = tf.SparseTensor(np.zeros((0, 2), "int64"), np.zeros(0), (rows, 3))
        assert int(SparseRows.of(sparse).nrows()) == rows


# Passes and positions


@pytest.mark.parametrize("shuffle", [False, True, "batch"])
def test_a_pass_of_an_epoch_is_the_same_each_time(shuffle):
    feed = ArrayFeed((DENSE, np.arange(MOST)), 11, shuffle, seed=5)
    passes = {epoch: one_pass(feed, epoch) for epoch in (0, 1, 7)}
    for epoch in (7, 0, 1, 1):
        assert_same(one_pass(feed, epoch), passes[epoch])
    orders = {tuple(np.concatenate([y for _, y in batches])) for batches in passes.values()}
    assert len(orders) == (3 if shuffle else 1)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_pass_can_be_left_anywhere(shuffle):
    feed = ArrayFeed((np.arange(MOST),), 11, shuffle, seed=5)
    first, second = one_pass(feed, 0), one_pass(feed, 1)
    feed.rewind(0)
    take(feed, 2)
    feed.rewind(1)
    take(feed, 1)
    feed.rewind(1)
    assert feed.position == 0
    assert_same(rest_of(feed), second)
    feed.rewind(0)
    take(feed, 3)
    assert_same(rest_of(feed), first[3:])


def test_a_position_is_where_the_pass_goes_on():
    feed = ArrayFeed((np.arange(MOST),), 11, True, seed=5)
    whole = one_pass(feed, 3)
    for position in range(feed.steps):
        feed.rewind(3)
        feed.position = position
        assert_same(rest_of(feed), whole[position:])


def test_position_and_end():
    feed = ArrayFeed((np.arange(10),), 4, False, 0)
    feed.rewind(0)
    seen = []
    for _ in range(3):
        seen.append((feed.position, feed.ended))
        feed.next()
    assert seen == [(0, False), (1, False), (2, False)]
    for _ in range(2):
        assert (feed.position, feed.ended) == (3, True)
        with pytest.raises(StopIteration):
            feed.next()
    feed.rewind(0)
    assert (feed.position, feed.ended) == (0, False)
    assert (feed.steps, feed.infinite) == (3, False)


def test_arrays_that_change_later_leave_a_pass_alone():
    """NumPy's memory is the caller's: a batch must not change between its read and its use."""
    array = np.arange(6.0, dtype="float32")
    feed = ArrayFeed((array,), 2, False, 0)
    feed.rewind(0)
    ((batch,),) = take(feed, 1)
    array[:] = -1
    np.testing.assert_array_equal(batch, [0, 1])


def test_arrays_of_different_lengths():
    with pytest.raises(ValueError, match="x has 5 rows, y has 4 rows"):
        ArrayFeed((np.zeros(5), np.zeros(4)), 2, False, 0)
