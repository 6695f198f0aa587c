"""Rows of arrays: how many there are, in which order they come, and cutting them apart."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.feeds.tensors import are_strings, as_array, as_numbers

tree = keras.tree

_OF_LISTS = (
    " A list stands for several arrays, each with all rows: for a list of rows, call numpy.stack "
    "on those of x, and of y."
)


def row_count(data: Any) -> int:
    """Returns the number of rows of `data`, a structure of arrays laid out as `(x, y, weights)`.

    Raises:
        ValueError: the arrays differ in length, have no rows, or one has no first axis.
    """
    lengths = {}
    for path, array in tree.flatten_with_path(data):
        if array is None:
            continue
        name = _name_of(path)
        if not array.shape:
            raise ValueError(
                f"{name} is a single number: expected an array with a row per sample."
                f"{_OF_LISTS if len(path) > 1 else ''}"
            )
        lengths[name] = int(array.shape[0])
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {count} rows" for name, count in lengths.items())
        raise ValueError(
            f"{told}: every array needs a row for each sample, in the same order."
            f"{_OF_LISTS if _has_an_item_per_row(data[0], lengths) else ''}"
        )
    if not lengths:
        raise ValueError("x is missing: all its parts are None.")
    count = next(iter(lengths.values()))
    if count == 0:
        raise ValueError(f"{next(iter(lengths))} has no rows: there is nothing to run on.")
    return count


def _has_an_item_per_row(x: Any, lengths: dict[str, int]) -> bool:
    return isinstance(x, (list, tuple)) and len(x) in lengths.values()


def as_arrays(data: Any) -> Any:
    """Returns `data`, laid out as `(x, y, weights)`, as arrays; objects as the numbers they are.

    Raises:
        ValueError: an array holds dates or records, or one of objects, such as a frame, something
            else than numbers or strings alone; the message names the place.
    """
    arrays = []
    for path, value in tree.flatten_with_path(data):
        array = as_array(value)
        if isinstance(array, np.ndarray):
            array = _of_numbers(array, path, getattr(value, "columns", None))
        arrays.append(array)
    return tree.pack_sequence_as(data, arrays)


def _of_numbers(array: np.ndarray, path: tuple, columns: Any) -> np.ndarray:
    """Returns `array`, objects as numbers unless all are strings; raises for dates and records."""
    if array.dtype == object:
        return array if are_strings(array) else as_numbers(array, _name_of(path), columns)
    if array.dtype.kind in "mM" or array.dtype.names:
        raise ValueError(
            f"{_name_of(path)} has the dtype {array.dtype}: expected numbers or strings; turn what "
            "the model is to see into numbers."
        )
    return array


def _name_of(path: tuple) -> str:
    return "/".join(str(part) for part in (("x", "y", "sample_weight")[path[0]], *path[1:]))


def row_order(
    rows: int, batch_size: int, shuffle: bool | str, seed: int, epoch: int
) -> np.ndarray | None:
    """Returns the order in which an epoch takes the rows; it follows from `(seed, epoch)` alone.

    Args:
        rows: how many rows there are.
        batch_size: rows a batch.
        shuffle: `True` mixes all rows, `"batch"` those of each batch, `False` none.
        seed: the seed of the order, 0 or more.
        epoch: the epoch, from 0.

    Returns:
        int64 array of `rows` row numbers, or `None` where the rows stay as they are.
    """
    if not shuffle:
        return None
    random = np.random.default_rng([seed, epoch])
    if shuffle != "batch":
        return random.permutation(rows)
    order = np.arange(rows)
    for start in range(0, rows, batch_size):
        random.shuffle(order[start : start + batch_size])
    return order


class Part(NamedTuple):
    """What one of several processes reads of each batch: rows behind one another, or at least one.

    Attributes:
        number: which of the processes it is, from 0.
        count: how many there are.
    """

    number: int = 0
    count: int = 1

    def first(self, of: Any) -> Any:
        """Returns the first row that it reads of a batch of `of` rows."""
        return of * self.number // self.count

    def end(self, of: Any) -> Any:
        """Returns the first row that the next one reads of a batch of `of` rows."""
        return of * (self.number + 1) // self.count

    def size(self, of: int) -> int:
        """Returns how many rows it reads of a batch of `of` rows."""
        return max(1, self.end(of) - self.first(of))

    def of_order(self, order: np.ndarray, batch_size: int) -> np.ndarray:
        """Returns the row numbers that it reads, of batches cut out of `order`."""
        full = len(order) // batch_size * batch_size
        batches = [order[:full].reshape(-1, batch_size), order[None, full:]]
        return np.concatenate([self._of_each(rows) for rows in batches if rows.size])

    def _of_each(self, batches: np.ndarray) -> np.ndarray:
        of = batches.shape[1]
        first = self.first(of)
        return batches[:, first : first + self.size(of)].ravel()


WHOLE = Part()


def split_rows(data: Any, fraction: float) -> tuple[Any, Any]:
    """Returns `data` without its last rows, and these: `fraction` of all, as Keras counts them.

    Args:
        data: structure of arrays, laid out as `(x, y, sample_weight)`.
        fraction: share of the rows in the second part, between 0 and 1.

    Raises:
        ValueError: `fraction` leaves one part without rows.
        TypeError: `fraction` is no number.
    """
    data = as_arrays(data)
    rows = row_count(data)
    try:
        split_at = math.floor(rows * (1.0 - fraction))
    except TypeError:
        raise TypeError(
            f"validation_split is {fraction!r}: expected a number between 0 and 1."
        ) from None
    if not 0 < split_at < rows:
        raise ValueError(
            f"validation_split={fraction} of {rows} rows leaves one side empty: expected a share "
            "between 0 and 1, such as 0.2, that leaves rows for both."
        )
    first = tree.map_structure(lambda array: _slice(array, 0, split_at), data)
    second = tree.map_structure(lambda array: _slice(array, split_at, rows), data)
    return first, second


def _slice(array: Any, start: int, stop: int) -> Any:
    if array is None:
        return None
    if isinstance(array, tf.SparseTensor):
        offset = [start] + [0] * (array.shape.rank - 1)
        return tf.sparse.slice(array, offset, [stop - start, *array.shape[1:]])
    return array[start:stop]
