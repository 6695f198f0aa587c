"""Arrays as a feed: kept on the device, batches cut out in the graph."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer.feeds.feed import Batch, Feed
from trainer.feeds.rows import row_count, row_order
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


class ArraySource(NamedTuple):
    """Arrays, the order of their rows, and how many of them make a batch.

    Attributes:
        arrays: structure of tensors with as many rows each.
        order: int64 tensor of row numbers, or `None` for the rows as they are.
        batch_size: rows a batch; a Python number, so that the graph knows it.
        even: whether every batch is full.
    """

    arrays: Any
    order: tf.Tensor | None
    batch_size: int
    even: bool

    def take(self, step: tf.Tensor) -> Batch:
        """Returns batch `step`, an int64 scalar."""
        start = step * self.batch_size
        return tree.map_structure(
            lambda array: None if array is None else self._rows(array, start), self.arrays
        )

    def _rows(self, array: Array | SparseRows, start: tf.Tensor) -> Array:
        stop = start + self.batch_size
        if self.order is None and isinstance(array, tf.Tensor):
            return self._known(array[start:stop])
        if self.order is None:
            rows = tf.range(start, tf.minimum(stop, tf.cast(array.nrows(), tf.int64)))
        else:
            rows = self.order[start:stop]
        rows = self._known(rows)
        return array.gather(rows) if isinstance(array, SparseRows) else tf.gather(array, rows)

    def _known(self, batch: tf.Tensor) -> tf.Tensor:
        # The graph knows of a batch's shape what it would under `model.fit`: no more, no less.
        if self.even:
            batch.set_shape([self.batch_size, *batch.shape[1:]])
        return batch


class ArrayFeed(Feed):
    """Batches of arrays that fit in memory.

    Args:
        data: arrays in the structure of a batch, as `trainer.feeds.tensors.as_array` takes them.
        batch_size: rows a batch.
        shuffle: as `trainer.feeds.rows.row_order` takes it.
        seed: seed of the order of the rows.
    """

    def __init__(self, data: Any, batch_size: int, shuffle: bool | str, seed: int):
        data = tree.map_structure(lambda value: as_floatx(as_array(value)), data)
        self._rows = row_count(keras.utils.unpack_x_y_sample_weight(data))
        self._shuffle = shuffle
        self._seed = seed
        self.steps = math.ceil(self._rows / batch_size)
        arrays = tree.lists_to_tuples(tree.map_structure(on_device, data))
        self.source = ArraySource(arrays, None, batch_size, self._rows % batch_size == 0)

    def _start_pass(self, epoch: int) -> None:
        order = row_order(self._rows, self.source.batch_size, self._shuffle, self._seed, epoch)
        if order is not None:
            self.source = self.source._replace(order=tf.constant(order))

    def batch_spec(self) -> Any:  # noqa: D102
        return tree.map_structure(spec_of, self.source.take(tf.constant(0, tf.int64)))


def on_device(array: Array | None) -> Array | SparseRows | None:
    """Returns `array` as tensors whose rows can be gathered."""
    if isinstance(array, tf.SparseTensor):
        return SparseRows.of(array)
    if array is None or isinstance(array, tf.RaggedTensor):
        return array
    return tf.convert_to_tensor(array)
