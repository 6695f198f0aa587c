"""Arrays as a feed: kept on the device, batches cut out in the graph."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.feeds.feed import Batch, Feed, PartOfBatch, Window
from trainer.feeds.rows import WHOLE, Part, row_count, row_order
from trainer.feeds.sharing import NUMBERS, tensor_of_copy
from trainer.feeds.tensors import Array, as_array, as_floatx, spec_of

tree = keras.tree


class SparseRows(tf.experimental.ExtensionType):
    """A sparse tensor whose rows can be gathered, as those of `tf.SparseTensor` cannot."""

    columns: tf.RaggedTensor
    values: tf.RaggedTensor
    shape: tf.TensorShape

    @classmethod
    def of(cls, sparse: tf.SparseTensor) -> SparseRows:
        """Returns the rows of `sparse`."""
        sparse = tf.sparse.reorder(sparse)
        bounds = tf.searchsorted(sparse.indices[:, 0], tf.range(sparse.dense_shape[0] + 1))
        columns = tf.RaggedTensor.from_row_splits(sparse.indices[:, 1:], bounds)
        values = tf.RaggedTensor.from_row_splits(sparse.values, bounds)
        return cls(columns, values, sparse.shape)

    def nrows(self) -> tf.Tensor:
        """Returns the number of rows."""
        return self.values.nrows()

    def gather(self, rows: tf.Tensor) -> tf.SparseTensor:
        """Returns `rows` as a sparse tensor."""
        columns, values = tf.gather(self.columns, rows), tf.gather(self.values, rows)
        row_ids = tf.cast(columns.value_rowids(), tf.int64)
        indices = tf.concat([row_ids[:, None], columns.flat_values], axis=1)
        count = rows.shape[0] or tf.size(rows, out_type=tf.int64)
        return tf.SparseTensor(indices, values.flat_values, (count, *self.shape[1:]))


class Seen(NamedTuple):
    """Which batch of arrays to cut out, and whether it is wanted."""

    step: tf.Tensor
    wanted: tf.Tensor


class ArraySource(NamedTuple):
    """Arrays, the order of their rows, and how many of them make a batch.

    Attributes:
        arrays: structure of tensors with as many rows each.
        order: int64 tensor of row numbers, or `None` for the rows as they are.
        batch_size: rows a batch; a Python number, so that the graph knows it.
        even: whether every batch of the feed is full.
        full: whether only full batches are asked for.
    """

    arrays: Any
    order: tf.Tensor | None
    batch_size: int
    even: bool
    full: bool

    def look(self, step: tf.Tensor, wanted: tf.Tensor) -> Seen:
        """Returns what was asked: there is a batch wherever one is wanted."""
        return Seen(step, wanted)

    def has_batch(self, seen: Seen) -> tf.Tensor:
        """Returns whether a batch is wanted."""
        return seen.wanted

    def batch(self, seen: Seen) -> Batch:
        """Returns the batch, cut out of the arrays."""
        return self.rows(seen.step * self.batch_size, self.batch_size)

    def rows(self, start: tf.Tensor, size: Any) -> Batch:
        """Returns `size` rows from `start` on, or those that there are."""
        return tree.map_structure(
            lambda array: None if array is None else self._rows(array, start, size), self.arrays
        )

    def spec(self) -> Any:
        """Returns the `tf.TypeSpec` of a batch, its rows open unless all batches are full."""
        return tree.map_structure(self._spec, self.arrays)

    def signature(self) -> Hashable | None:
        """Returns the shapes and dtypes; `None` for ragged and sparse rows, whose shapes vary."""
        leaves = tree.flatten_with_path((self.arrays, self.order))
        if any(isinstance(leaf, (tf.RaggedTensor, SparseRows)) for _, leaf in leaves):
            return None
        shapes = (
            (path, None if leaf is None else (tuple(leaf.shape), leaf.dtype))
            for path, leaf in leaves
        )
        return self.batch_size, self.even, self.full, *shapes

    def _spec(self, array: Array | SparseRows | None) -> tf.TypeSpec | None:
        if array is None:
            return None
        rows = self.batch_size if self.even else None
        if isinstance(array, SparseRows):
            return tf.SparseTensorSpec([rows, *array.shape[1:]], array.values.dtype)
        if isinstance(array, tf.Tensor):
            return tf.TensorSpec([rows, *array.shape[1:]], array.dtype)
        return spec_of(array)

    def _rows(self, array: Array | SparseRows, start: tf.Tensor, size: Any) -> Array:
        if self.order is not None:
            rows = self._cut(self.order, start, size)
        elif isinstance(array, tf.Tensor):
            return self._cut(array, start, size)
        else:
            rows = start + tf.range(size, dtype=tf.int64)
            if not self.full:
                rows = rows[: tf.cast(array.nrows(), tf.int64) - start]
        return array.gather(rows) if isinstance(array, SparseRows) else tf.gather(array, rows)

    def _cut(self, array: tf.Tensor, start: tf.Tensor, size: Any) -> tf.Tensor:
        # The graph knows of a batch's shape what it would under `model.fit`: no more, no less.
        if not self.full:
            return array[start : start + size]
        if array.shape[0] == size:
            return array
        others = [-1 if length is None else length for length in array.shape[1:]]
        begin = tf.stack([start] + [tf.zeros_like(start)] * len(others))
        return tf.slice(array, begin, [size, *others])


class PartSource(NamedTuple):
    """What one of several processes reads of the batches of arrays.

    Attributes:
        source: has the rows that it reads, those of each batch behind the last one's.
        part: the part that it reads of a batch.
        batch_size: rows a batch.
        count: rows of all batches.
    """

    source: ArraySource
    part: Part
    batch_size: int
    count: int

    def look(self, step: tf.Tensor, wanted: tf.Tensor) -> Seen:
        """Returns what was asked: there is a batch wherever one is wanted."""
        return self.source.look(step, wanted)

    def has_batch(self, seen: Seen) -> tf.Tensor:
        """Returns whether a batch is wanted."""
        return self.source.has_batch(seen)

    def batch(self, seen: Seen) -> PartOfBatch:
        """Returns the part of the batch."""
        of = self.batch_size
        start, size = seen.step * self.part.size(of), self.part.size(of)
        if not self.source.even:
            left = self.count - seen.step * self.batch_size
            of = tf.cast(tf.minimum(left, self.batch_size), tf.int32)
            size = tf.maximum(self.part.end(of) - self.part.first(of), 1)
            size = tf.cast(size, tf.int64)
        return PartOfBatch(self.source.rows(start, size), self.part.first(of), of)

    def spec(self) -> PartOfBatch:
        """Returns the `tf.TypeSpec` of the part; its size is open unless all batches are full."""
        of = self.batch_size
        number = tf.TensorSpec([], tf.int32)
        counts = (self.part.first(of), of) if self.source.even else (number, number)
        return PartOfBatch(self.source.spec(), *counts)

    def signature(self) -> Hashable | None:
        """Returns what `ArraySource.signature` does, and the rows of all batches."""
        signature = self.source.signature()
        return signature and (self.part, self.batch_size, self.count, *signature)


class ArrayFeed(Feed):
    """Batches of arrays that the device holds as a whole.

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
        self.shuffle = shuffle
        self.seed = seed
        self.batch_size = batch_size
        self.steps = math.ceil(self.rows / batch_size)
        arrays = tree.lists_to_tuples(tree.map_structure(on_device, data))
        even = self.rows % batch_size == 0
        self._source = ArraySource(arrays, None, batch_size, even, full=even)
        self._part = part
        if part == WHOLE and have_one_shape(arrays):
            self.full_steps = self.rows // batch_size

    def _start_pass(self, epoch: int) -> None:
        order = row_order(self.rows, self.batch_size, self.shuffle, self.seed, epoch)
        if order is not None:
            self._source = self._source._replace(order=tf.constant(order))
        self._full_source = self._source._replace(full=True)
        if self._part != WHOLE:
            self._part_source = self._source_of_part(order)

    def _source_of_part(self, order: np.ndarray | None) -> PartSource:
        order = np.arange(self.rows) if order is None else order
        own = tf.constant(self._part.of_order(order, self.batch_size))
        source = self._source._replace(order=own, batch_size=self._part.size(self.batch_size))
        return PartSource(source, self._part, self.batch_size, self.rows)

    def _skip(self, batches: int) -> None:
        self.position = batches

    def window(self, k: int) -> Window:  # noqa: D102
        source = self._source if self._part == WHOLE else self._part_source
        return Window(source, self.position, min(k, self.steps - self.position))

    def _whole_window(self) -> Window:
        return Window(self._source, self.position, 1)

    def full_window(self, k: int) -> Window | None:  # noqa: D102
        left = self.full_steps - self.position
        if left < 1:
            return None
        return Window(self._full_source, self.position, min(k, left))

    def batch_spec(self) -> Any:  # noqa: D102
        return self._source._replace(even=False).spec()


def have_one_shape(arrays: Any) -> bool:
    """Returns whether full batches of `arrays`, as `on_device` returns them, have one shape."""
    return all(
        array is None or (isinstance(array, tf.Tensor) and array.dtype != tf.string)
        for array in tree.flatten(arrays)
    )


def on_device(array: Array | None) -> Array | SparseRows | None:
    """Returns `array` as tensors whose rows can be gathered, floats in `keras.config.floatx()`."""
    if isinstance(array, np.ndarray) and array.dtype.kind in NUMBERS:
        return tensor_of_copy(array)
    array = as_floatx(array)
    if isinstance(array, tf.SparseTensor):
        return SparseRows.of(array)
    if array is None or isinstance(array, tf.RaggedTensor):
        return array
    return tf.convert_to_tensor(array)
