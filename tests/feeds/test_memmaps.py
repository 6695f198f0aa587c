"""Arrays on disk: the same batches as from memory, and nothing else is read."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.feeds.passes import assert_equal, eventually, one_pass, take, threads_since
from tests.models import each, numbers
from trainer.feeds.arrays import ArrayFeed
from trainer.feeds.memmaps import MemmapFeed, is_on_disk
from trainer.feeds.rows import row_order


def memmap_of(array: np.ndarray, folder: Any) -> np.memmap:
    on_disk = np.memmap(folder / f"{time.monotonic_ns()}", array.dtype, "w+", shape=array.shape)
    on_disk[:] = array
    return on_disk


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 15),
    shuffle=st.sampled_from([False, True, "batch"]),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 99),
)
def test_batches_from_disk_are_those_from_memory(
    tmp_path_factory, rows, batch_size, shuffle, seed, epoch
):
    x = memmap_of(numbers(rows, 3).astype("float64"), tmp_path_factory.getbasetemp())
    data = ({"x": x, "none": None}, [np.arange(rows)], numbers(rows))
    on_disk = MemmapFeed(data, batch_size, shuffle, seed)
    in_memory = ArrayFeed(data, batch_size, shuffle, seed)
    with contextlib.closing(on_disk):
        batches, expected = one_pass(on_disk, epoch), one_pass(in_memory, epoch)
        spec = on_disk.batch_spec() if on_disk.rewind(epoch) is None else None
    assert on_disk.steps == in_memory.steps == len(batches) == math.ceil(rows / batch_size)
    assert spec == in_memory.batch_spec()
    for batch, known in zip(batches, expected, strict=True):
        assert_equal(
            batch, keras.tree.map_structure(lambda t: t if t is None else t.numpy(), known)
        )


BESIDE = {
    "NumPy": lambda: numbers(20),
    "tensor": lambda: tf.constant(numbers(20)),
    "ragged": lambda: tf.ragged.constant([[number] * (number % 3) for number in range(20)]),
    "sparse": lambda: tf.sparse.from_dense(np.eye(20)),
}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("beside", **each(BESIDE))
def test_any_array_may_be_beside_one_on_disk(beside, shuffle, tmp_path):
    data = (memmap_of(numbers(20, 2), tmp_path), beside())
    in_memory = one_pass(ArrayFeed(data, 6, shuffle, 0))
    with contextlib.closing(MemmapFeed(data, 6, shuffle, 0)) as feed:
        for (x, y), (known_x, known_y) in zip(one_pass(feed), in_memory, strict=True):
            assert_equal(x, known_x.numpy())
            assert type(y) is type(known_y)
            dense = tf.sparse.to_dense if isinstance(y, tf.SparseTensor) else lambda part: part
            assert tf.reduce_all(dense(y) == dense(known_y))


def most_memory() -> int:
    """Returns the most bytes of memory that this process ever had."""
    resource = pytest.importorskip("resource", reason="memory is measured on Unix only")
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("shuffle", [False, True])
def test_only_the_rows_of_a_batch_are_read_from_disk(shuffle, tmp_path):
    """A file of 8 GB, hardly any of which is on the disk, never comes into memory."""
    rows, width, batch_size = 8_000, 2**18, 2
    array = np.memmap(tmp_path / "large", "float32", "w+", shape=(rows, width))
    order = row_order(rows, batch_size, shuffle, 0, 0) if shuffle else np.arange(rows)
    for number, row in enumerate(order[:6]):
        array[row, -1] = number + 1
    before = most_memory()
    with contextlib.closing(MemmapFeed((array, np.arange(rows)), batch_size, shuffle, 0)) as feed:
        feed.rewind(0)
        for number, (x, y) in enumerate(take(feed, 3)):
            first = 2 * number
            assert x.shape == (batch_size, width)
            np.testing.assert_array_equal(y, order[first : first + 2])
            np.testing.assert_array_equal(x[:, -1], [first + 1, first + 2])
    assert most_memory() - before < 1e9  # 2 MB a batch


def test_a_closed_feed_leaves_no_thread(tmp_path):
    before = set(threading.enumerate())
    feed = MemmapFeed((memmap_of(numbers(20), tmp_path),), 2, True, 0)
    feed.rewind(0)
    take(feed, 2)
    assert threads_since(before)
    feed.close()
    assert eventually(lambda: not threads_since(before))


def test_what_is_on_disk(tmp_path):
    array = memmap_of(numbers(20, 2), tmp_path)
    for view in (array, array[3:], array[:, 0], array.T, np.asarray(array), np.asarray(array)[::2]):
        assert is_on_disk(view)
    for copy in (np.array(array), numbers(3), numbers(3)[1:], tf.constant(array), None, [1]):
        assert not is_on_disk(copy)
