"""The checksum by which processes know that they were given the same batches."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import numbers
from trainer.shares import checksum

SUMS = 2**40  # what is compared of them
DTYPES = ["float16", "float32", "float64", "complex64", "complex128", "int8", "int64", "uint8"]
whole = np.random.default_rng(0).integers(0, 9, (30, 700))


def arrays_of(dtype: str) -> np.ndarray:
    return whole.astype(dtype)


def sum_of(*batch) -> int:
    return int(checksum(tuple(tf.constant(array) for array in batch))) % SUMS


@pytest.mark.parametrize("dtype", [*DTYPES, "bool", "str"])
def test_it_is_another_one_for_other_rows_or_another_order(dtype):
    array = arrays_of(dtype)
    label = np.arange(len(array))
    swapped, turned = array[[1, 0, *range(2, len(array))]], array[::-1]
    changed = np.concatenate([array[:-1], array[:1]])
    sums = [sum_of(other, label) for other in (array, swapped, turned, changed, array[:-1])]
    assert len(set(sums)) == len(sums)
    assert sum_of(array.copy(), label) == sums[0]
    assert sum_of(array, label[::-1]) != sums[0]


def test_columns_in_another_order_are_other_ones():
    array = numbers(8, 5)
    assert sum_of(array[:, ::-1]) != sum_of(array)


def test_it_takes_text_sparse_and_ragged_arrays():
    ragged = tf.ragged.constant([[1.0, 2.0], [], [3.0]])
    sparse = tf.sparse.from_dense([[0.0, 1.0], [2.0, 0.0]])
    known = int(checksum({"x": ragged, "y": sparse, "z": None}))
    assert int(checksum({"x": ragged, "y": sparse * 2.0, "z": None})) != known
    assert int(checksum({"x": ragged + 1.0, "y": sparse, "z": None})) != known
