"""Tensors of arrays: their own memory, used again only when nothing reads it any more."""

from __future__ import annotations

import gc

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import numbers
from trainer.feeds.sharing import Pool, tensor_of_copy, tensor_of_rows

arrays = hnp.arrays(
    st.sampled_from(["float32", "float64", "float16", "int8", "int64", "uint8", "bool", ">f4"]),
    hnp.array_shapes(max_dims=3, max_side=6),
    elements={"allow_nan": False, "min_value": 0, "max_value": 1},
)


def expected(array: np.ndarray) -> np.ndarray:
    return array.astype("float32") if array.dtype.kind == "f" else array


@hypothesis.given(array=arrays, rows=st.lists(st.integers(0, 99), min_size=1, max_size=9))
def test_values_are_those_of_the_array(array, rows):
    rows = np.array(rows) % len(array)
    for tensor, known in (
        (tensor_of_copy(array), array),
        (tensor_of_rows(array, rows, Pool()), array[rows]),
        (tensor_of_rows(array.T, rows % len(array.T), Pool()), array.T[rows % len(array.T)]),
    ):
        assert tensor.dtype == tf.as_dtype(expected(known).dtype)
        np.testing.assert_array_equal(tensor, expected(known))


@hypothesis.given(array=arrays, start=st.integers(0, 5), count=st.integers(1, 9))
def test_a_range_may_reach_behind_the_last_row(array, start, count):
    for of in (array, array.T):
        known = expected(of[start : start + count])
        tensor = tensor_of_rows(of, range(start, start + count), Pool())
        assert (tensor.shape, tensor.dtype) == ((count, *of.shape[1:]), tf.as_dtype(known.dtype))
        np.testing.assert_array_equal(tensor[: len(known)], known)


def test_a_pool_keeps_no_more_than_it_may():
    array, most = numbers(64, 16), 20_000
    pool = Pool(most)
    held = [tensor_of_rows(array, range(64), pool) for _ in range(6)]
    assert pool.collect() == 0
    held.clear()
    gc.collect()
    assert most - array.nbytes <= pool.collect() <= most


@pytest.mark.parametrize("offset", range(0, 64, 4))
def test_the_array_may_change_afterwards(offset):
    memory = np.zeros(4 * 32 + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset  # aligned as TensorFlow likes it, or not
    array = memory[start : start + 4 * 16].view("float32")
    array[:] = 1
    tensors = [tensor_of_copy(array)]
    tensors += [tensor_of_rows(array, rows, Pool()) for rows in (np.arange(16), range(16))]
    array[:] = 2
    for tensor in tensors:
        np.testing.assert_array_equal(tensor, np.ones(16))


@pytest.mark.parametrize(
    "kept",
    [
        lambda tensor: tensor,
        lambda tensor: tensor[1:],
        tf.identity,
        lambda tensor: tf.reshape(tensor, [-1]),
        lambda tensor: tensor.numpy(),
        lambda tensor: tf.data.Dataset.from_tensors(tensor),
    ],
    ids=["itself", "a slice", "its identity", "a reshape", "its array", "a dataset"],
)
def test_memory_that_something_reads_is_not_used_again(kept):
    array, pool = numbers(400, 30), Pool()
    first = tensor_of_rows(array, np.arange(40), pool)
    known, held = first.numpy().copy(), kept(first)
    of_copy = kept(tf.constant(known))
    del first
    for start in range(40, 400, 40):
        gc.collect()
        tensor_of_rows(array, np.arange(start, start + 40), pool)
    if isinstance(held, tf.data.Dataset):
        held, of_copy = next(iter(held)), known
    np.testing.assert_array_equal(held, of_copy)


def test_memory_that_nothing_reads_is_used_again():
    array, pool = numbers(400, 30), Pool()
    places = set()
    for start in range(0, 400, 40):
        tensor = tensor_of_rows(array, np.arange(start, start + 40), pool)
        places.add(tensor.numpy().ctypes.data)
        np.testing.assert_array_equal(tensor, array[start : start + 40])
    assert len(places) <= 3
