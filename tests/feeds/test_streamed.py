"""Arrays on disk or too large: the same batches as from memory, some of them read at a time."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import processes
from tests.helpers.comparisons import assert_same, assert_same_training
from tests.helpers.data import labels, memmap_of, numbers
from tests.helpers.feeds import (
    eventually,
    one_pass,
    rest_of,
    take,
    threads_since,
)
from tests.helpers.models import compiled, mlp, seeded
from tests.helpers.tables import each
from trainer import CustomTrainer
from trainer.feeds import Feed, streamed
from trainer.feeds.arrays import ArrayFeed
from trainer.feeds.rows import row_order
from trainer.feeds.streamed import StreamedFeed, is_on_disk


@contextlib.contextmanager
def chunks_of(steps: int | None = None, n_bytes: int | None = None):
    """Makes chunks of so many steps, or of so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        if steps is not None:
            patch.setattr(streamed, "_CHUNK_STEPS", steps)
        if n_bytes is not None:
            patch.setattr(streamed, "_CHUNK_BYTES", n_bytes)
        yield


@contextlib.contextmanager
def streaming(data: Any, batch_size: int, shuffle: Any = False, seed: int = 0):
    with contextlib.closing(StreamedFeed(data, batch_size, shuffle, seed)) as feed:
        yield feed


def in_windows(feed: Feed, k: int, full: bool = False) -> list:
    """Returns the batches that are left, as a program reads them, up to `k` from a window."""
    batches = []
    while not feed.ended:
        window = feed.full_window(k) if full else None
        assert (window is not None) == (full and feed.position < feed.full_steps)
        window = window or feed.window(k)
        assert 1 <= window.steps <= k
        for step in range(window.first, window.first + window.steps):
            seen = window.source.look(tf.constant(step, tf.int64), tf.constant(True))
            assert bool(window.source.has_batch(seen))
            batches.append(window.source.batch(seen))
        feed.position += window.steps
    return batches


PASSES = {
    "rows": st.integers(1, 40),
    "batch_size": st.integers(1, 15),
    "shuffle": st.sampled_from([False, True, "batch"]),
    "seed": st.integers(0, 99),
    "epoch": st.integers(0, 99),
}
CHUNKS = {
    "steps": st.none() | st.integers(1, 5),
    "n_bytes": st.none() | st.sampled_from([0, 1, 100, 1000]),
}
SOME = hypothesis.settings(max_examples=30)


@SOME
@hypothesis.given(**PASSES, **CHUNKS, on_disk=st.booleans())
def test_streamed_batches_are_those_from_memory(
    tmp_path_factory, rows, batch_size, shuffle, seed, epoch, steps, n_bytes, on_disk
):
    x = numbers(rows, 3).astype("float64")
    if on_disk:
        x = memmap_of(x, tmp_path_factory.getbasetemp())
    data = ({"x": x, "none": None}, [np.arange(rows)], numbers(rows))
    in_memory = ArrayFeed(data, batch_size, shuffle, seed)
    expected = one_pass(in_memory, epoch)
    with chunks_of(steps, n_bytes), streaming(data, batch_size, shuffle, seed) as feed:
        assert_same(one_pass(feed, epoch), expected)
        feed.rewind(epoch)
        assert feed.batch_spec() == in_memory.batch_spec()
        assert feed.window(1).source.spec() == in_memory.window(1).source.spec()
    assert feed.steps == in_memory.steps == len(expected) == math.ceil(rows / batch_size)
    assert feed.full_steps == in_memory.full_steps == rows // batch_size


@SOME
@hypothesis.given(**PASSES, **CHUNKS, k=st.integers(1, 9), full=st.booleans())
def test_windows_that_a_graph_reads_have_the_same_batches(
    rows, batch_size, shuffle, seed, epoch, steps, n_bytes, k, full
):
    data = (numbers(rows, 3), np.arange(rows))
    expected = one_pass(ArrayFeed(data, batch_size, shuffle, seed), epoch)
    with chunks_of(steps, n_bytes), streaming(data, batch_size, shuffle, seed) as feed:
        feed.rewind(epoch)
        assert_same(in_windows(feed, k, full), expected)


@pytest.mark.parametrize("rows", [12, 14, 13])
def test_full_windows_have_one_shape_so_that_xla_compiles_once(rows):
    """Five full batches in chunks of three, and an odd one: the last chunk is filled up."""
    data = (numbers(rows, 3), np.arange(rows))
    with chunks_of(steps=4), streaming(data, 2, True) as feed:
        feed.rewind(0)
        shapes = []
        while (window := feed.full_window(100)) is not None:
            shapes.append([array.shape.as_list() for array in window.source.arrays])
            feed.position += window.steps
        assert feed.position == rows // 2
    assert shapes == [[[8, 3], [8]]] * 2


@pytest.mark.parametrize("n_steps", [1, 2, 3, 100])
def test_a_window_ends_with_its_chunk(n_steps):
    with chunks_of(steps=n_steps), streaming((np.arange(20),), 2) as feed:
        feed.rewind(0)
        lengths = []
        while not feed.ended:
            lengths.append(feed.window(100).steps)
            assert feed.window(1).steps == 1
            feed.position += lengths[-1]
    assert sum(lengths) == 10
    assert max(lengths) == min(n_steps, 10)


def test_chunks_of_few_bytes_have_few_steps():
    data = (numbers(40, 2), numbers(40))  # 12 bytes a row
    for n_bytes, steps in ((0, 1), (24, 1), (2 * 24 - 1, 1), (2 * 24, 2), (5 * 24, 5), (2**20, 20)):
        with chunks_of(n_bytes=n_bytes), streaming(data, 2) as feed:
            feed.rewind(0)
            assert feed.window(100).steps == steps


BESIDE = {
    "NumPy": lambda: numbers(20),
    "tensor": lambda: tf.constant(numbers(20)),
    "ragged": lambda: tf.ragged.constant([[number] * (number % 3) for number in range(20)]),
    "sparse": lambda: tf.sparse.from_dense(np.eye(20)),
    "text": lambda: np.array([f"row {number}" for number in range(20)], object),
    "text of NumPy": lambda: np.array([f"row {number}" for number in range(20)]).astype("S"),
    "objects": lambda: np.arange(20).astype(object),
    "booleans": lambda: labels(20) == 0,
    "of the other byte order": lambda: np.arange(20).astype(">i4"),
    "every other column": lambda: numbers(20, 6)[:, ::2],
    "backwards": lambda: numbers(20, 2)[::-1],
    "by columns": lambda: np.asfortranarray(numbers(20, 3)),
    "float16": lambda: numbers(20).astype("float16"),
    "None": lambda: None,
}


def readable(batches: list) -> list:
    """Returns batches with text as Python's: arrays of it hold addresses."""
    return keras.tree.map_structure(
        lambda part: part.numpy().tolist() if getattr(part, "dtype", None) == "string" else part,
        batches,
    )


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("beside", **each(BESIDE))
def test_any_array_may_be_beside(beside, shuffle, on_disk, tmp_path):
    x = numbers(20, 2)
    data = (memmap_of(x, tmp_path) if on_disk else x, beside())
    in_memory = ArrayFeed(data, 6, shuffle, 0)
    expected = one_pass(in_memory)
    with chunks_of(steps=2), streaming(data, 6, shuffle) as feed:
        assert_same(readable(one_pass(feed)), readable(expected))
        assert feed.batch_spec() == in_memory.batch_spec()
        assert feed.full_steps == in_memory.full_steps


def most_memory() -> int:
    """Returns the most bytes of memory that this process ever had."""
    resource = pytest.importorskip("resource", reason="memory is measured on Unix only")
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


LARGE = {
    "all": (lambda array: array, 8_000),
    "as a plain array": (np.asarray, 8_000),
    "some columns": (lambda array: array[:, 1:], 1_500),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("shuffle", [False, True])
def test_only_the_rows_of_some_batches_are_read_from_disk(shuffle, name, tmp_path):
    """A file of up to 8 GB, hardly any of which is on the disk, never comes into memory."""
    processes.run(read_some_batches, shuffle, name, tmp_path)


def read_some_batches(shuffle: bool, name: str, directory: Path) -> None:
    view, rows = LARGE[name]
    width, batch_size = 2**18, 2
    array = np.memmap(directory / "large", "float32", "w+", shape=(rows, width))
    order = row_order(rows, batch_size, shuffle, 0, 0) if shuffle else np.arange(rows)
    for number, row in enumerate(order[:6]):
        array[row, -1] = number + 1
    before = most_memory()
    with streaming((view(array), np.arange(rows)), batch_size, shuffle) as feed:
        feed.rewind(0)
        for number, (x, y) in enumerate(take(feed, 3)):
            first = 2 * number
            assert x.shape == (batch_size, view(array).shape[1])
            np.testing.assert_array_equal(y, order[first : first + 2])
            np.testing.assert_array_equal(x[:, -1], [first + 1, first + 2])
    assert most_memory() - before < 1e9  # 32 MB a chunk


class Reads(np.ndarray):
    """An array that notes which rows are read."""

    def __array_function__(self, function, types, arguments, keywords):
        if function in (np.take, np.copyto):
            self.reads.append(len(arguments[1]))
        plain = [a.view(np.ndarray) if isinstance(a, Reads) else a for a in arguments]
        return function(*plain, **keywords)

    def __array_finalize__(self, made_of):
        self.reads = getattr(made_of, "reads", [])


@pytest.mark.parametrize("shuffle", [False, True])
def test_one_chunk_is_read_ahead_and_no_more(shuffle):
    x = np.arange(40).view(Reads)
    with chunks_of(steps=5), streaming((x,), 2, shuffle) as feed:
        feed.rewind(0)
        x.reads.clear()  # what the feed looked at to know what it has
        for position in range(feed.steps):
            feed.next()
            chunks = position // 5 + 1
            assert eventually(lambda: len(x.reads) >= min(chunks + 1, 4))  # noqa: B023
            time.sleep(0.01)
            assert x.reads == [10] * min(chunks + 1, 4)


@pytest.mark.parametrize("taken", [0, 1, 2, 10])
def test_a_closed_feed_leaves_no_thread(taken, tmp_path):
    before = set(threading.enumerate())
    with chunks_of(steps=1):
        feed = StreamedFeed((memmap_of(numbers(20), tmp_path),), 2, True, 0)
        feed.rewind(0)
        take(feed, taken)
    assert len(threads_since(before)) == min(taken, 1)
    feed.close()
    assert eventually(lambda: not threads_since(before))


@pytest.mark.parametrize("breaks", [False, True])
def test_a_fit_leaves_no_thread(breaks):
    class Breaks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("broken")

    before = set(threading.enumerate())
    trainer = budgeted(seeded(with_dropout))
    with chunks_of(steps=1), contextlib.suppress(RuntimeError):
        trainer.fit(X, Y, verbose=0, callbacks=[Breaks()] if breaks else [], validation_data=(X, Y))
    started = {thread for thread in threads_since(before) if "ThreadPool" in thread.name}
    assert eventually(lambda: not any(thread.is_alive() for thread in started))


# Passes and positions


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_pass_can_be_left_anywhere(shuffle):
    with chunks_of(steps=2), streaming((np.arange(40),), 3, shuffle, seed=5) as feed:
        first, second = one_pass(feed, 0), one_pass(feed, 1)
        for taken in (0, 1, 2, 3, 13):
            feed.rewind(0)
            take(feed, taken)
            assert feed.position == taken
            feed.rewind(1)
            assert_same(rest_of(feed), second)
            feed.rewind(0)
            take(feed, taken)
            assert_same(rest_of(feed), first[taken:])


def test_position_and_end():
    with streaming((np.arange(10),), 4) as feed:
        feed.rewind(0)
        seen = []
        for _ in range(3):
            seen.append((feed.position, feed.ended))
            feed.next()
        assert seen == [(0, False), (1, False), (2, False)]
        for _ in range(2):
            assert (feed.position, feed.ended) == (3, True)
            with pytest.raises(StopIteration):
                feed.next()
        assert (feed.steps, feed.infinite, feed.is_in_graph) == (3, False, True)


def test_arrays_of_different_lengths():
    with pytest.raises(ValueError, match="x has 5 rows, y has 4 rows"):
        StreamedFeed((np.zeros(5), np.zeros(4)), 2, False, 0)


# In a fit

X, Y = numbers(50, 4), numbers(50, 1, seed=1)  # three batches of 16 and an odd one


def with_dropout() -> keras.Model:
    return compiled(mlp(keras.layers.Dropout(0.4)), "adam")


def budgeted(model: keras.Model, budget: int | None = 0, **settings: Any) -> CustomTrainer:
    trainer = CustomTrainer(model, seed=3, **settings)
    trainer.array_budget = budget
    return trainer


def assert_same_if_streamed(build: Any, *data: Any, chunk: int = 2, **arguments: Any) -> None:
    """Fits and predicts on arrays in memory and streamed, to the same bits."""
    runs = []
    arguments = {"batch_size": 16, "epochs": 3, "verbose": 0, **arguments}
    for budget in (None, 0):
        trainer = budgeted(seeded(build), budget)
        with chunks_of(steps=chunk):
            trainer.fit(*data, **arguments)
            runs.append((trainer, trainer.predict(data[0], batch_size=16, verbose=0)))
    (memory, known), (stream, predicted) = runs
    assert_same_training(stream.model, memory.model)
    assert_same(predicted, known)
    assert (stream.step, stream.epoch) == (memory.step, memory.epoch)


@pytest.mark.parametrize(
    ("shuffle", "rows", "chunk"),
    [
        (True, 50, 2),
        pytest.param(True, 48, 2, marks=pytest.mark.exhaustive),
        pytest.param(True, 50, 512, marks=pytest.mark.exhaustive),
        (False, 48, 1),
        pytest.param(False, 50, 1, marks=pytest.mark.exhaustive),
        ("batch", 50, 2),
    ],
)
def test_a_fit_on_streamed_arrays_has_the_bits_of_one_in_memory(shuffle, rows, chunk):
    data = (X[:rows], Y[:rows])
    held_out = (X[:20], Y[:20])
    assert_same_if_streamed(
        with_dropout, *data, shuffle=shuffle, chunk=chunk, validation_data=held_out
    )


def test_an_evaluation_of_streamed_arrays_has_the_bits_of_one_in_memory():
    trainer = budgeted(seeded(with_dropout))
    results = []
    for trainer.array_budget in (None, 0):
        with chunks_of(steps=2):
            results.append(trainer.evaluate(X, Y, batch_size=16, verbose=0, return_dict=True))
    assert_same(results[1], results[0])


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"validation_split": 0.3}, marks=pytest.mark.exhaustive),
        {"sample_weight": np.abs(numbers(50))},
        {"steps_per_epoch": 2, "epochs": 4},
        {"validation_data": (X, Y), "validation_steps": 2, "validation_batch_size": 7},
        pytest.param({"batch_size": 64}, marks=pytest.mark.exhaustive),
    ],
    ids=lambda arguments: ", ".join(arguments),
)
def test_a_fit_with_other_arguments_too(arguments):
    assert_same_if_streamed(with_dropout, X, Y, **arguments)


@pytest.mark.parametrize("steps_per_execution", [2, 4, 5])
def test_groups_of_a_length_that_was_asked_for_go_past_the_end_of_a_chunk(steps_per_execution):
    def build() -> keras.Model:
        return compiled(mlp(), steps_per_execution=steps_per_execution)

    seen = []
    for budget in (None, 0):
        trainer, batches = budgeted(seeded(build), budget), []
        noting = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs, to=batches: to.append(batch),
            on_train_batch_end=lambda batch, logs, to=batches: to.append((batch, logs)),
        )
        with chunks_of(steps=3):
            trainer.fit(X, Y, 4, 2, callbacks=[noting], verbose=0)
        seen.append(batches)
    assert_same(seen[1], seen[0])


class ReadsText(keras.layers.Layer):
    """Gives each row of text its length, beside the numbers of the row."""

    def call(self, x):
        length = tf.cast(tf.strings.length(x["text"]), "float32")
        return tf.concat([x["numbers"], tf.reshape(length, (-1, 1))], axis=1)

    def compute_output_shape(self, shapes):
        return (None, 3)


class OfText(keras.Model):
    def __init__(self):
        super().__init__()
        self.reads, self.dense = ReadsText(), keras.layers.Dense(1)

    def call(self, x):
        return self.dense(self.reads(x))


def test_a_fit_on_streamed_text():
    text = np.array(["a" * int(length) for length in labels(50, classes=9)], object)
    x = {"numbers": numbers(50, 2), "text": text}
    assert_same_if_streamed(lambda: compiled(OfText()), x, Y)


class OfSparse(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        dense = tf.reshape(tf.sparse.to_dense(x["sparse"]), (-1, 3))
        return self.dense(dense) + x["numbers"][:, :1]


def test_a_fit_on_streamed_sparse_tensors():
    dense = np.where(labels(50, 3) == 0, numbers(50, 3), 0).astype("float32")
    x = {"numbers": numbers(50, 2), "sparse": tf.sparse.from_dense(dense)}
    assert_same_if_streamed(lambda: compiled(OfSparse()), x, Y)


class OfRagged(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        sums = tf.reduce_sum(x["ragged"], axis=1)
        return self.dense(tf.stack([sums, x["numbers"][:, 0]], axis=1))


def test_a_fit_on_streamed_ragged_tensors():
    rows = [[float(n)] * int(n) for n in labels(50, classes=4)]
    x = {"numbers": numbers(50, 2), "ragged": tf.ragged.constant(rows, "float32")}
    assert_same_if_streamed(lambda: compiled(OfRagged()), x, Y)


@pytest.mark.xdist_group("xla")
def test_a_streamed_fit_under_xla_has_the_numbers_of_one_in_memory():
    histories = []
    for budget in (None, 0):
        trainer = budgeted(seeded(lambda: compiled(mlp())), budget, jit_compile=True)
        with chunks_of(steps=2):
            histories.append(trainer.fit(X, Y, 16, 3, verbose=0).history)
    known, streamed_too = histories
    assert streamed_too == {key: pytest.approx(values, rel=1e-5) for key, values in known.items()}


# What is on disk


def test_what_is_on_disk(tmp_path):
    array = memmap_of(numbers(20, 2), tmp_path)
    for view in (array, array[3:], array[:, 0], array.T, np.asarray(array), np.asarray(array)[::2]):
        assert is_on_disk(view)
    for copy in (np.array(array), numbers(3), numbers(3)[1:], tf.constant(array), None, [1]):
        assert not is_on_disk(copy)
