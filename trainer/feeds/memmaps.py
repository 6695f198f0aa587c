"""Arrays on disk as a feed: only the rows of a batch are read."""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.feeds.arrays import SparseRows, on_device
from trainer.feeds.feed import Batch
from trainer.feeds.iterables import IterableFeed
from trainer.feeds.rows import row_count, row_order
from trainer.feeds.tensors import as_array, as_floatx

tree = keras.tree


class MemmapFeed(IterableFeed):
    """Batches of arrays of which some are on disk.

    Args:
        data: arrays in the structure of a batch, at least one of them a `numpy.memmap`.
        batch_size: rows a batch.
        shuffle: as `trainer.feeds.rows.row_order` takes it.
        seed: seed of the order of the rows.
    """

    def __init__(self, data: Any, batch_size: int, shuffle: bool | str, seed: int):
        super().__init__(concurrent.futures.ThreadPoolExecutor(1))
        data = tree.map_structure(as_array, data)
        self._rows = row_count(keras.utils.unpack_x_y_sample_weight(data))
        self._data = tree.lists_to_tuples(tree.map_structure(_gatherable, data))
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self.steps = math.ceil(self._rows / batch_size)

    def calls(self, epoch: int) -> Iterable[Callable[[], Any]]:  # noqa: D102
        order = row_order(self._rows, self._batch_size, self._shuffle, self._seed, epoch)
        for start in range(0, self._rows, self._batch_size):
            stop = min(start + self._batch_size, self._rows)
            rows = np.arange(start, stop) if order is None else order[start:stop]
            yield partial(self._read, rows)

    def _read(self, rows: np.ndarray) -> Batch:
        return tree.map_structure(lambda array: as_floatx(_gather(array, rows)), self._data)


def is_on_disk(value: Any) -> bool:
    """Returns whether `value` is a `numpy.memmap`, or a view of one."""
    while isinstance(value, np.ndarray):
        if isinstance(value, np.memmap):
            return True
        value = value.base
    return False


def _gatherable(array: Any) -> Any:
    return array if isinstance(array, np.ndarray) else on_device(array)


def _gather(array: Any, rows: np.ndarray) -> Any:
    if array is None:
        return None
    if isinstance(array, SparseRows):
        return array.gather(tf.constant(rows))
    return np.asarray(array[rows]) if isinstance(array, np.ndarray) else tf.gather(array, rows)
