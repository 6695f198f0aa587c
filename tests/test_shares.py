"""The rows of a batch that each device sees, and the checksum by which processes compare them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import numbers
from tests.helpers.devices import run_on_shards, strategy_for
from trainer.feeds import PartOfBatch
from trainer.shares import checksum, current_share

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


def own_rows(seen):
    return current_share().own(seen)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_each_row_is_of_one_device(rows, devices):
    x, y = numbers(rows, 2), np.arange(rows)
    ran = run_on_shards(own_rows, (tf.constant(x), tf.constant(y)), devices)
    np.testing.assert_array_equal(np.concatenate([own[0] for own in ran.outputs]), x)
    np.testing.assert_array_equal(np.concatenate([own[1] for own in ran.outputs]), y)
    assert ran.rows == [len(own[1]) for own in ran.outputs]
    assert max(ran.rows) - min(ran.rows) <= 1


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_a_device_that_no_row_is_left_for_sees_one(rows):
    ran = run_on_shards(tf.shape, tf.constant(numbers(rows, 2)), devices=4)
    assert [seen[0] for seen in ran.outputs] == [max(own, 1) for own in ran.rows]


def test_rows_that_a_process_reads_of_a_batch_are_shared_by_their_place_in_it():
    """Two devices have the rows up to 2 and from 2 on, of five; this process reads from 1 on."""
    read = PartOfBatch(tf.range(1, 5), first=1, of=5)
    ran = run_on_shards(lambda seen: seen, read)
    assert ran.outputs[1].tolist() == [2, 3, 4]
    assert ran.rows == [2, 3]


@pytest.mark.parametrize("rows", [[3, 1], [2, 0], [0, 4]])
def test_split_batches_stay_as_they_are(rows):
    values = [tf.range(rows[0]), tf.range(rows[0], sum(rows))]
    batch = strategy_for(2).experimental_distribute_values_from_function(
        lambda context: values[context.replica_id_in_sync_group]
    )
    ran = run_on_shards(lambda seen: (own_rows(seen), seen), batch, is_split=True)
    own, seen = zip(*ran.outputs, strict=True)
    assert np.concatenate(own).tolist() == list(range(sum(rows)))
    assert ran.rows == rows
    assert [len(part) for part in seen] == [max(count, 1) for count in rows]


def test_sparse_and_ragged_rows_are_shared():
    dense = np.maximum(numbers(5, 3), 0)
    ragged = tf.ragged.constant([[1], [2, 3], [], [4], [5, 6, 7]], dtype=tf.int32)

    def step(seen):
        sparse, words = map(current_share().own, seen)
        return tf.sparse.to_dense(sparse), words.to_tensor(shape=[None, 3])

    ran = run_on_shards(step, (tf.sparse.from_dense(dense), ragged))
    found = [np.concatenate(parts) for parts in zip(*ran.outputs, strict=True)]
    np.testing.assert_array_equal(found[0], dense)
    np.testing.assert_array_equal(found[1], ragged.to_tensor(shape=[None, 3]))


def test_arrays_of_other_lengths_are_refused():
    batch = tf.zeros([4, 2]), tf.zeros([3])
    with pytest.raises(ValueError, match="let each array have as many"):
        run_on_shards(own_rows, batch)
