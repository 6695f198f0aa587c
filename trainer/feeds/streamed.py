"""Arrays as a feed that holds a chunk of them at a time: those on disk, or too large."""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.feeds.ahead import fetched
from trainer.feeds.arrays import (
    ArraySource,
    PartSource,
    SparseRows,
    have_one_shape,
    on_device,
)
from trainer.feeds.feed import Feed, Window
from trainer.feeds.rows import WHOLE, Part, row_count, row_order
from trainer.feeds.sharing import NUMBERS, Pool, tensor_of_rows
from trainer.feeds.tensors import as_array, byte_size

tree = keras.tree

_CHUNK_BYTES = 2**24
_CHUNK_STEPS = 512
_POOL = Pool()  # of all feeds: a new one for each call would fill new memory


class StreamedFeed(Feed):
    """Batches of arrays of which a thread brings chunks of some batches to the device.

    A chunk is read like arrays that are there as a whole, and in the same order.

    Args:
        data: arrays in the structure of a batch, as `trainer.feeds.tensors.as_array` takes them.
        batch_size: rows a batch.
        shuffle: as `trainer.feeds.rows.row_order` takes it.
        seed: seed of the order of the rows.
        part: what this process reads of each batch.
    """

    is_in_graph = True

    def __init__(
        self, data: Any, batch_size: int, shuffle: bool | str, seed: int, part: Part = WHOLE
    ):
        data = tree.map_structure(as_array, data)
        self.rows = row_count(keras.utils.unpack_x_y_sample_weight(data))
        self._data = tree.lists_to_tuples(tree.map_structure(_gatherable, data))
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.steps = math.ceil(self.rows / batch_size)
        first_row = self._read(range(1))
        self._spec = ArraySource(first_row, None, batch_size, even=False, full=False).spec()
        self._part = part
        self._alike = self.rows // batch_size if have_one_shape(first_row) else 0
        self.full_steps = self._alike if part == WHOLE else 0
        steps = _CHUNK_BYTES // max(1, batch_size * byte_size(first_row))
        self._chunk_steps = max(1, min(steps, _CHUNK_STEPS, self._alike))
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._chunks: Iterator[ArraySource | PartSource] = iter(())
        self._source: ArraySource | PartSource | None = None
        self._bounds = (0, 0)  # the steps that the source has

    def _start_pass(self, epoch: int) -> None:
        self._start_chunks(epoch, first=0)

    def _skip(self, batches: int) -> None:
        full = self.rows // self.batch_size
        into = batches % self._chunk_steps if batches < full else 0
        self._start_chunks(self.pass_of, first=batches - into)
        self.position = batches

    def _start_chunks(self, epoch: int, first: int) -> None:
        """Brings chunks from the one on that begins with batch `first`."""
        self._order = row_order(self.rows, self.batch_size, self.shuffle, self.seed, epoch)
        self._chunks = fetched(self._thread, self._calls(self._order, first), ahead=1)
        self._bounds = (first, first)

    def window(self, k: int) -> Window:  # noqa: D102
        first, stop = self._bounds
        if self.position >= stop:
            self._source = next(self._chunks)
            first, stop = self._bounds = stop, self._end_of_chunk(stop)
        return Window(self._source, self.position - first, min(k, stop - self.position))

    def full_window(self, k: int) -> Window | None:  # noqa: D102
        if self.position >= self.full_steps:
            return None
        window = self.window(k)
        return window._replace(source=window.source._replace(full=True))

    def batch_spec(self) -> Any:  # noqa: D102
        return self._spec

    def close(self) -> None:  # noqa: D102
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _end_of_chunk(self, first: int) -> int:
        # An odd last batch is a chunk of its own: all others can have one shape.
        full = self.rows // self.batch_size
        return min(first + self._chunk_steps, full) if first < full else self.steps

    def _whole_window(self) -> Window:
        window = self.window(1)  # goes on to the next chunk, too
        if self._part == WHOLE:
            return window
        start, stop = (step * self.batch_size for step in (self.position, self.position + 1))
        rows = range(start, min(stop, self.rows))
        arrays = self._read(rows if self._order is None else self._order[start:stop])
        return Window(ArraySource(arrays, None, self.batch_size, even=False, full=False), 0, 1)

    def _calls(
        self, order: np.ndarray | None, first: int
    ) -> Iterator[Callable[[], ArraySource | PartSource]]:
        while first < self.steps:
            stop = self._end_of_chunk(first)
            start_row, stop_row = (step * self.batch_size for step in (first, stop))
            # XLA compiles for a shape: the last full batches get the shape of the others.
            size = self._chunk_steps * self.batch_size if stop <= self._alike else None
            if order is None:
                rows = range(start_row, start_row + size if size else min(stop_row, self.rows))
            else:
                rows = order[start_row:stop_row]
                rows = np.pad(rows, (0, size - len(rows))) if size else rows
            yield partial(self._chunk, rows)
            first = stop

    def _chunk(self, rows: np.ndarray | range) -> ArraySource | PartSource:
        even = self.rows % self.batch_size == 0
        if self._part == WHOLE:
            return ArraySource(self._read(rows), None, self.batch_size, even, full=even)
        own = self._part.of_order(np.asarray(rows), self.batch_size)
        arrays = self._read(np.minimum(own, self.rows - 1))
        source = ArraySource(arrays, None, self._part.size(self.batch_size), even, full=even)
        return PartSource(source, self._part, self.batch_size, len(rows))

    def _read(self, rows: np.ndarray | range) -> Any:
        """Returns `rows` as tensors, as `on_device` returns them; behind the last row, anything."""
        return tree.map_structure(
            lambda array: None if array is None else _gather(array, rows, self.rows), self._data
        )


def is_on_disk(value: Any) -> bool:
    """Returns whether `value` is a `numpy.memmap`, or a view of one."""
    while isinstance(value, np.ndarray):
        if isinstance(value, np.memmap):
            return True
        value = value.base
    return False


def _gatherable(array: Any) -> Any:
    return array if isinstance(array, np.ndarray) else on_device(array)


def _gather(array: Any, rows: np.ndarray | range, count: int) -> Any:
    if isinstance(array, np.ndarray) and array.dtype.kind in NUMBERS:
        return tensor_of_rows(array, rows, _POOL)
    rows = np.minimum(rows, count - 1)
    if isinstance(array, SparseRows):
        return SparseRows.of(array.gather(tf.constant(rows)))
    return on_device(array[rows]) if isinstance(array, np.ndarray) else tf.gather(array, rows)
