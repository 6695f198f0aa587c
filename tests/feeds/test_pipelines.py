"""What `tf.data` pipelines draw and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.tables import each
from trainer.feeds.pipelines import check_draws, check_shuffles, reads_files

NUMBERS = tf.data.Dataset.range(10)


@pytest.fixture(autouse=True)
def without_a_seed_for_all():
    """Undoes what a test before may have set, by which every shuffle has a seed."""
    tf.random.set_seed(None)


def files(folder: Path) -> list[str]:
    for name in "ab":
        (folder / name).write_text("1\n2\n")
    return [str(folder / name) for name in "ab"]


def interleaved(folder: Path) -> tf.data.Dataset:
    names = tf.data.Dataset.list_files(files(folder), shuffle=False)
    return names.interleave(tf.data.TFRecordDataset, num_parallel_calls=2)


READ_FILES = {
    "lines": lambda folder: tf.data.TextLineDataset(files(folder)),
    "records": lambda folder: tf.data.TFRecordDataset(files(folder)),
    "records of known length": lambda folder: tf.data.FixedLengthRecordDataset(files(folder), 2),
    "interleaved": interleaved,
    "mapped, shuffled, repeated": lambda folder: (
        interleaved(folder).map(tf.strings.length).shuffle(9).repeat()
    ),
    "beside numbers": lambda folder: tf.data.Dataset.zip(interleaved(folder), NUMBERS),
}
READ_NONE = {
    "numbers": lambda folder: NUMBERS,
    "slices": lambda folder: tf.data.Dataset.from_tensor_slices(np.arange(9)).map(tf.square),
    "names of files": lambda folder: tf.data.Dataset.list_files(files(folder)).map(tf.io.read_file),
    "a generator": lambda folder: tf.data.Dataset.from_generator(
        lambda: iter([1]), output_signature=tf.TensorSpec([], tf.int32)
    ),
}


@pytest.mark.parametrize("make", **each(READ_FILES))
def test_files_that_can_be_split(make, tmp_path):
    assert reads_files(make(tmp_path).batch(2).prefetch(1))


@pytest.mark.parametrize("make", **each(READ_NONE))
def test_no_files_that_can_be_split(make, tmp_path):
    assert not reads_files(make(tmp_path).batch(2).prefetch(1))


def inside(seed: int | None) -> tf.data.Dataset:
    return NUMBERS.flat_map(lambda number: tf.data.Dataset.range(number).shuffle(3, seed=seed))


SHUFFLES = {
    "at the end": lambda seed: NUMBERS.shuffle(3, seed=seed),
    "before others": lambda seed: NUMBERS.shuffle(3, seed=seed).repeat(2).batch(2).map(tf.square),
    "once for all passes": lambda seed: NUMBERS.shuffle(3, seed, reshuffle_each_iteration=False),
    "in a function": inside,
}


@pytest.mark.parametrize("make", **each(SHUFFLES))
def test_a_shuffle_without_a_seed_is_refused(make):
    check_shuffles(make(7))
    check_shuffles(make(0))  # which TensorFlow takes for one
    with pytest.raises(ValueError, match="shuffles without a seed.* give shuffle and list_files"):
        check_shuffles(make(None))


def test_names_of_files_are_shuffled_with_a_seed(tmp_path):
    names = files(tmp_path)
    check_shuffles(tf.data.Dataset.list_files(names, shuffle=False))
    check_shuffles(tf.data.Dataset.list_files(names, seed=1))
    with pytest.raises(ValueError, match="list_files a seed"):
        check_shuffles(tf.data.Dataset.list_files(names))


def test_a_draw_without_a_seed_is_refused():
    check_draws(NUMBERS.map(lambda number: tf.random.uniform([], seed=1)))
    with pytest.raises(ValueError, match="has no seed"):
        check_draws(NUMBERS.map(lambda number: tf.random.uniform([])))
