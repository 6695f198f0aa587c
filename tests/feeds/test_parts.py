"""What one of several processes reads of each batch: together they read what one reads alone."""

from __future__ import annotations

import contextlib
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.feeds.test_arrays import CUBES, DENSE, MOST, RAGGED, SPARSE
from tests.feeds.test_streamed import chunks_of, in_windows
from tests.helpers.comparisons import assert_same
from tests.helpers.feeds import rest_of
from trainer.feeds import Feed, PartOfBatch
from trainer.feeds.arrays import ArrayFeed
from trainer.feeds.rows import Part, row_order
from trainer.feeds.streamed import StreamedFeed

SOME = hypothesis.settings(max_examples=30)
COUNTS = st.integers(1, 6)
BATCHES = {
    "rows": st.integers(1, MOST),
    "batch_size": st.integers(1, 15),
    "count": COUNTS,
    "shuffle": st.sampled_from([False, True, "batch"]),
    "epoch": st.integers(0, 9),
}


@SOME
@hypothesis.given(COUNTS, st.integers(0, 50))
def test_parts_follow_one_another_and_are_as_even_as_can_be(count, of):
    parts = [Part(number, count) for number in range(count)]
    assert [part.first(of) for part in parts] + [of] == [0] + [part.end(of) for part in parts]
    sizes = [part.end(of) - part.first(of) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert [part.size(of) for part in parts] == [max(1, size) for size in sizes]


@SOME
@hypothesis.given(st.integers(1, MOST), st.integers(1, 15), COUNTS)
def test_a_part_of_an_order_has_its_rows_of_each_batch(rows, batch_size, count):
    order = row_order(rows, batch_size, True, seed=3, epoch=0)
    for part in (Part(number, count) for number in range(count)):
        expected = []
        for batch in np.split(order, range(batch_size, rows, batch_size)):
            first = part.first(len(batch))
            expected.extend(batch[first : first + part.size(len(batch))])
        assert part.of_order(order, batch_size).tolist() == expected


def own_rows(part_of_batch: PartOfBatch, part: Part) -> Any:
    """Returns the rows that no other process reads, as NumPy arrays and lists."""
    rows, first, of = part_of_batch
    assert int(first) == part.first(int(of))
    own = part.end(int(of)) - part.first(int(of))
    leaves = [as_list(leaf) for leaf in keras.tree.flatten(rows)]
    assert {len(leaf) for leaf in leaves} == {max(own, 1)}
    return [leaf[:own] for leaf in leaves]


def as_list(leaf: Any) -> list:
    if isinstance(leaf, tf.RaggedTensor):
        return leaf.to_list()
    leaf = tf.sparse.to_dense(leaf) if isinstance(leaf, tf.SparseTensor) else leaf
    return leaf.numpy().tolist()


def assert_parts_are_the_whole(make: Any, count: int, epoch: int) -> None:
    """Asserts it of feeds that `make` makes for a part, read as a program does."""
    alone = make(Part())
    alone.rewind(epoch)
    whole = [list(map(as_list, keras.tree.flatten(batch))) for batch in rest_of(alone)]
    read: list[list] = [[[] for _ in batch] for batch in whole]
    for part in (Part(number, count) for number in range(count)):
        with contextlib.closing(make(part)) as feed:
            feed.rewind(epoch)
            batches = in_windows(feed, 3) if count > 1 else []
            assert feed.batch_spec() == alone.batch_spec()
            assert feed.full_window(3) is None or count == 1
        if count == 1:
            return
        assert len(batches) == len(whole)
        for leaves, batch in zip(read, batches, strict=True):
            for leaf, rows in zip(leaves, own_rows(batch, part), strict=True):
                leaf.extend(rows)
    assert read == whole


KINDS = {
    "dense": lambda rows: ({"a": DENSE[:rows]}, np.arange(rows)),
    "sparse": lambda rows: tf.sparse.from_dense(SPARSE[:rows]),
    "ragged": lambda rows: tf.ragged.constant(RAGGED[:rows]),
    "ragged twice": lambda rows: tf.ragged.constant(CUBES[:rows], ragged_rank=1, inner_shape=(2,)),
    "text": lambda rows: np.array([f"row {number}" for number in range(rows)], object),
    "backwards": lambda rows: DENSE[:rows][::-1],
}


@SOME
@hypothesis.given(kind=st.sampled_from(list(KINDS)), **BATCHES)
def test_parts_of_arrays_are_the_whole(kind, rows, batch_size, count, shuffle, epoch):
    data = KINDS[kind](rows)
    assert_parts_are_the_whole(
        lambda part: ArrayFeed((data,), batch_size, shuffle, 1, part), count, epoch
    )


@SOME
@hypothesis.given(kind=st.sampled_from(list(KINDS)), steps=st.integers(1, 5), **BATCHES)
def test_parts_of_chunks_are_the_whole(kind, rows, batch_size, count, shuffle, epoch, steps):
    data = KINDS[kind](rows)
    with chunks_of(steps):
        assert_parts_are_the_whole(
            lambda part: StreamedFeed((data,), batch_size, shuffle, 1, part), count, epoch
        )


@pytest.mark.parametrize("kind", [ArrayFeed, StreamedFeed])
@pytest.mark.parametrize("shuffle", [False, True])
def test_python_takes_whole_batches_and_the_graph_goes_on_behind_them(kind, shuffle):
    data, part = (np.arange(23),), Part(1, 2)
    with chunks_of(steps=2), contextlib.closing(kind(data, 4, shuffle, 1, part)) as feed:
        whole = rest_of(feed_of(kind, data, 4, shuffle))
        feed.seek(0, 1)
        assert_same([feed.next(), feed.next()], whole[1:3])
        window = feed.window(1)
        seen = window.source.look(tf.constant(window.first, tf.int64), tf.constant(True))
        np.testing.assert_array_equal(window.source.batch(seen).rows[0], whole[3][0][2:])
        feed.position += 1
        assert_same(rest_of(feed), whole[4:])


def feed_of(kind: type[Feed], *arguments: Any) -> Feed:
    feed = kind(*arguments, 1)
    feed.rewind(0)
    return feed


@pytest.mark.parametrize("rows", [40, 43])
def test_a_chunk_holds_the_rows_of_its_part_alone(rows):
    part = Part(1, 4)
    with (
        chunks_of(steps=2),
        contextlib.closing(StreamedFeed((np.arange(rows),), 8, False, 0, part)) as feed,
    ):
        feed.rewind(0)
        window = feed.window(9)
        assert window.steps == 2
        (held,) = window.source.source.arrays
        np.testing.assert_array_equal(held, [2, 3, 10, 11])
