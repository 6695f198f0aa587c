"""A pass that starts at any batch goes on as one that came there."""

from __future__ import annotations

import contextlib
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.feeds.test_streamed import chunks_of, in_windows
from tests.helpers.comparisons import assert_same
from tests.helpers.data import numbers
from tests.helpers.feeds import one_pass, rest_of
from tests.helpers.tables import each
from trainer.feeds import open_feed
from trainer.feeds.arrays import ArrayFeed
from trainer.feeds.streamed import StreamedFeed

SOME = settings(max_examples=30)
ARRAYS = {
    "rows": st.integers(1, 40),
    "batch_size": st.integers(1, 15),
    "shuffle": st.sampled_from([False, True, "batch"]),
    "epoch": st.integers(0, 5),
    "data": st.data(),
}


def position_in(data, rows: int, batch_size: int) -> int:
    return data.draw(st.integers(0, math.ceil(rows / batch_size)), label="position")


@SOME
@given(**ARRAYS)
def test_arrays(rows, batch_size, shuffle, epoch, data):
    position = position_in(data, rows, batch_size)
    feed = ArrayFeed((numbers(rows, 3), np.arange(rows)), batch_size, shuffle, seed=1)
    expected = one_pass(feed, epoch)[position:]
    feed.seek(epoch, position)
    assert_same(in_windows(feed, 3), expected)


@SOME
@given(**ARRAYS, steps=st.integers(1, 5), full=st.booleans())
def test_streamed_arrays(rows, batch_size, shuffle, epoch, data, steps, full):
    position = position_in(data, rows, batch_size)
    arrays = (numbers(rows, 3), np.arange(rows))
    expected = one_pass(ArrayFeed(arrays, batch_size, shuffle, seed=1), epoch)[position:]
    with (
        chunks_of(steps, None),
        contextlib.closing(StreamedFeed(arrays, batch_size, shuffle, seed=1)) as feed,
    ):
        feed.seek(epoch, position)
        assert_same(in_windows(feed, 3, full), expected)
        assert_same(one_pass(feed, epoch)[position:], expected)


class NotesFetched(keras.utils.PyDataset):
    def __init__(self, **workers):
        super().__init__(**workers)
        self.fetched = []

    def __len__(self):
        return 7

    def __getitem__(self, number):
        self.fetched.append(number)
        return np.full((2, 3), number, "float32"), np.arange(2)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("position", [0, 3, 7])
def test_a_py_dataset_fetches_no_batch_that_is_past(workers, shuffle, position):
    dataset = NotesFetched(workers=workers)
    with contextlib.closing(open_feed(dataset, shuffle=shuffle, seed=2)) as feed:
        expected = one_pass(feed, 4)[position:]
        dataset.fetched.clear()
        feed.seek(4, position)
        assert_same(rest_of(feed), expected)
        assert len(dataset.fetched) == 7 - position


def test_a_batch_that_was_looked_at_is_past():
    with contextlib.closing(open_feed(NotesFetched(), shuffle=False)) as feed:
        feed.rewind(4)
        feed.batch_spec()  # which takes a look at the first batch
        feed.seek(4, 5)
        assert [x.numpy()[0, 0] for x, _ in rest_of(feed)] == [5, 6]


def batches():
    return ((np.full((2, 3), number, "float32"),) for number in range(7))


FORWARD = {
    "a generator": batches,
    "tf.data": lambda: tf.data.Dataset.range(14).shuffle(14, seed=3).batch(2),
    "tf.data of unknown length": lambda: tf.data.Dataset.range(14).filter(lambda n: n < 9),
}


@pytest.mark.parametrize("make", **each(FORWARD))
@pytest.mark.parametrize("position", [0, 3])
def test_what_has_no_numbers_is_run_forward(make, position):
    with contextlib.closing(open_feed(make())) as feed:
        expected = one_pass(feed)[position:]
    with contextlib.closing(open_feed(make())) as feed:
        feed.seek(0, position)
        assert feed.position == position
        assert_same(rest_of(feed), expected)


@pytest.mark.parametrize(
    "make",
    [*FORWARD.values(), NotesFetched, lambda: numbers(28, 3)],
    ids=[*FORWARD, "PyDataset", "array"],
)
def test_a_batch_that_is_not_there_cannot_be_reached(make):
    with contextlib.closing(open_feed(make(), batch_size=4)) as feed, pytest.raises(StopIteration):
        feed.seek(0, 10)
