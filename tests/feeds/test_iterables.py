"""Python sources: batches in order, fetched ahead, and errors in their place."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import processes
from tests.helpers.data import labels, numbers
from tests.helpers.feeds import (
    assert_equal,
    eventually,
    in_batches,
    one_pass,
    rest_of,
    take,
    threads_since,
)
from tests.helpers.models import compiled, mlp
from tests.helpers.tables import each
from trainer import CustomTrainer
from trainer.feeds import iterables
from trainer.feeds.iterables import (
    GeneratorFeed,
    IteratorFeed,
    PyDatasetFeed,
    class_weights,
    weigh_batch,
)
from trainer.feeds.rows import row_order

AHEAD = 2  # batches fetched ahead where the source does not say
COUNT = 7
BATCHES = [(np.full((2, 3), number), np.array([number, -number])) for number in range(COUNT)]
WORKERS = {
    "in line": {},
    "0 workers": {"workers": 0},
    "2 threads": {"workers": 2},
    "4 threads": {"workers": 4},
    "1 process": {"workers": 1, "use_multiprocessing": True},
    "2 processes": {"workers": 2, "use_multiprocessing": True},
}
THREADS = {name: how for name, how in WORKERS.items() if "process" not in name}


class Numbered(keras.utils.PyDataset):
    """The batches above; a later one may well be ready before an earlier one."""

    def __init__(self, count: int | None = COUNT, **workers: Any):
        super().__init__(**workers)
        self._count = count
        self.made = []

    def __len__(self) -> int:
        return self._count

    @property
    def num_batches(self) -> int | None:
        return self._count

    def __getitem__(self, number: int) -> tuple:
        time.sleep(0.004 * (number % 3 == 0))
        self.made.append(number)
        return np.full((2, 3), number), np.array([number, -number])


@contextlib.contextmanager
def feed_of(dataset: keras.utils.PyDataset, shuffle: bool = False, seed: int = 0, **how: Any):
    """Yields the feed of a data set, and closes it."""
    with contextlib.closing(
        PyDatasetFeed(dataset, shuffle, seed, **{"class_weight": None, **how})
    ) as feed:
        yield feed


def order_in(batches: list[tuple]) -> list[int]:
    """Returns the numbers of batches, which must be whole."""
    for x, y in batches:
        assert_equal((x, y), BATCHES[int(y[0])])
    return [int(y[0]) for _, y in batches]


# Passes


@pytest.mark.parametrize("how", **each(WORKERS))
def test_batches_come_in_order(how):
    with feed_of(Numbered(**how)) as feed:
        for epoch in (0, 1, 1):
            assert order_in(one_pass(feed, epoch)) == list(range(COUNT))
            assert (feed.position, feed.ended) == (COUNT, True)
            with pytest.raises(StopIteration):
                feed.next()


@pytest.mark.parametrize("how", **each(WORKERS))
def test_the_order_follows_from_seed_and_epoch(how):
    orders = {}
    for seed in (3, 4):
        with feed_of(Numbered(**how), shuffle=True, seed=seed) as feed:
            for epoch in (0, 1, 0):
                order = order_in(one_pass(feed, epoch))
                assert sorted(order) == list(range(COUNT))
                assert order == orders.setdefault((seed, epoch), order)
                assert order == list(row_order(COUNT, 1, True, seed, epoch))
    assert len({tuple(order) for order in orders.values()}) == 4


@pytest.mark.parametrize("how", **each(WORKERS))
def test_a_data_set_without_a_length_goes_on(how):
    with feed_of(Numbered(None, **how), shuffle=True) as feed:
        assert (feed.steps, feed.infinite) == (None, True)
        for epoch in (0, 1):
            feed.rewind(epoch)
            assert [int(y[0]) for _, y in take(feed, 12)] == list(range(12))
            assert (feed.position, feed.ended) == (12, False)


@pytest.mark.parametrize("how", **each(WORKERS))
def test_a_pass_can_be_left_anywhere(how):
    with feed_of(Numbered(**how)) as feed:
        for taken in (3, 0, 1, COUNT):
            feed.rewind(taken)
            assert order_in(take(feed, taken)) == list(range(taken))
        feed.rewind(COUNT)
        assert order_in(rest_of(feed)) == list(range(COUNT))


def test_a_data_set_that_grows():
    class Growing(Numbered):
        def on_epoch_end(self):
            self._count += 1

    with feed_of(Growing(2)) as feed:
        for epoch in range(3):
            feed.rewind(epoch)
            feed.epoch_began()
            assert feed.steps == epoch + 2
            assert order_in(rest_of(feed)) == list(range(epoch + 2))
            feed.epoch_ended()


def loader_of(batches: Any) -> IteratorFeed:
    return IteratorFeed(lambda: iter(batches))


def test_a_loader_starts_again_each_pass():
    with contextlib.closing(loader_of(BATCHES)) as feed:
        assert (feed.steps, feed.infinite) == (None, False)
        for epoch in (0, 1):
            assert order_in(one_pass(feed, epoch)) == list(range(COUNT))
            with pytest.raises(StopIteration):
                feed.next()
        feed.rewind(2)
        take(feed, 4)
        assert order_in(one_pass(feed, 2)) == list(range(COUNT))


@pytest.mark.parametrize("steps", [5, 9])
def test_a_loader_that_tells_its_length(steps):
    """The end is known beforehand, or comes when it comes if the loader told too much."""
    with contextlib.closing(IteratorFeed(lambda: iter(BATCHES[:5]), steps)) as feed:
        feed.rewind(0)
        assert order_in(take(feed, 5)) == [0, 1, 2, 3, 4]
        assert feed.ended == (steps == 5)
        with pytest.raises(StopIteration):
            feed.next()


def test_a_generator_goes_on_where_the_last_pass_stopped():
    with contextlib.closing(GeneratorFeed(iter(BATCHES), most=None)) as feed:
        feed.rewind(0)
        assert order_in(take(feed, 3)) == [0, 1, 2]
        feed.rewind(1)
        assert feed.position == 0
        assert order_in(rest_of(feed)) == [3, 4, 5, 6]
        assert one_pass(feed, 2) == []


def kinds_of_feed(batches: list) -> dict[str, Callable[[], Any]]:
    class Listed(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, number):
            return batches[number]

    return {
        "generator": lambda: GeneratorFeed(iter(batches), None),
        "loader": lambda: loader_of(batches),
        "PyDataset": lambda: PyDatasetFeed(Listed(), False, 0, None),
    }


@pytest.mark.parametrize("kind", ["generator", "loader", "PyDataset"])
def test_asking_for_the_spec_takes_no_batch(kind):
    with contextlib.closing(kinds_of_feed(BATCHES)[kind]()) as feed:
        feed.rewind(0)
        expected = (tf.TensorSpec((None, 3), "int64"), tf.TensorSpec((None,), "int64"))
        assert feed.batch_spec() == feed.batch_spec() == expected
        assert feed.position == 0
        assert order_in(take(feed, 1)) == [0]
        assert feed.batch_spec() == expected
        assert order_in(rest_of(feed)) == list(range(1, COUNT))


def test_a_batch_that_was_looked_at_belongs_to_its_pass():
    asked = Asked()
    with contextlib.closing(IteratorFeed(asked)) as feed:
        feed.rewind(0)
        feed.batch_spec()
        feed.rewind(0)  # has just begun
        assert order_in(rest_of(feed)) == list(range(COUNT))
        assert asked.made == COUNT
    with feed_of(Numbered(), shuffle=True) as feed:
        orders = [order_in(one_pass(feed, epoch)) for epoch in (0, 1)]
        for epoch in (0, 1):
            feed.rewind(epoch)
            feed.batch_spec()
        assert order_in(rest_of(feed)) == orders[1] != orders[0]


FORMS = {
    "tuple": ((np.eye(2), np.ones(2, "float32")),) * 2,
    "list": ([np.eye(2), np.ones(2)], (np.eye(2), np.ones(2))),
    "dict": ({"b": np.eye(2), "a": np.ones(2)},) * 2,
    "None": ((np.eye(2), None, np.ones(2)),) * 2,
    "nested": (({"a": np.eye(2)}, (np.ones(2), [np.zeros(2)])),) * 2,
    "float16 and booleans": ((np.eye(2, dtype="float16"), np.array([True, False])),) * 2,
    "sparse": ((tf.sparse.from_dense(np.eye(2)),), (np.eye(2),)),
    "ragged": ((tf.ragged.constant([[1], []]),), ([[1], []],)),
}


@pytest.mark.parametrize("kind", ["generator", "loader", "PyDataset"])
@pytest.mark.parametrize(("batch", "expected"), **each(FORMS))
def test_batches_become_tensors_of_their_dtypes(batch, expected, kind):
    with contextlib.closing(kinds_of_feed([batch])[kind]()) as feed:
        (result,) = one_pass(feed)
    assert_equal(result, expected)


def test_strings_of_batches_become_tensors():
    with contextlib.closing(loader_of([np.array(["a", "b"], object)])) as feed:
        (result,) = one_pass(feed)
    assert result.dtype == tf.string
    assert result.numpy().tolist() == [b"a", b"b"]


def test_an_array_of_a_py_dataset_is_x():
    with contextlib.closing(kinds_of_feed([np.eye(2)])["PyDataset"]()) as feed:
        assert_equal(one_pass(feed), [(np.eye(2),)])


# Fetching ahead


class Asked:
    """A generator function; counts what it was asked for."""

    def __init__(self, count: int = COUNT):
        self.made = 0
        self._count = count

    def __call__(self) -> Iterator[tuple]:
        for number in range(self._count):
            self.made += 1
            yield BATCHES[number % COUNT]


def settles_at(count: Callable[[], int], expected: int) -> bool:
    """Returns whether `count()` comes to be `expected` and stays so."""
    if not eventually(lambda: count() >= expected):
        return False
    time.sleep(0.03)
    return count() == expected


@pytest.mark.parametrize("kind", ["generator", "loader"])
def test_two_batches_are_fetched_ahead_and_no_more(kind):
    asked = Asked()
    feed = GeneratorFeed(asked(), None) if kind == "generator" else IteratorFeed(asked)
    with contextlib.closing(feed):
        feed.rewind(0)
        time.sleep(0.02)
        assert asked.made == 0  # nobody has asked yet
        for taken in (1, 2, 3):
            feed.next()
            assert settles_at(lambda: asked.made, taken + AHEAD)


AHEADS = {
    "in line": ({}, AHEAD),
    "1 worker": ({"workers": 1, "max_queue_size": 5}, AHEAD),
    "2 threads": ({"workers": 2, "max_queue_size": 3}, 3),
    "2 threads and a long queue": ({"workers": 2}, 10),
}


@pytest.mark.parametrize(("how", "ahead"), **each(AHEADS))
def test_a_py_dataset_says_how_many_batches_are_fetched_ahead(how, ahead):
    dataset = Numbered(None, **how)
    with feed_of(dataset) as feed:
        feed.rewind(0)
        for taken in (1, 2):
            feed.next()
            assert settles_at(lambda: len(dataset.made), taken + ahead)


def test_threads_work_at_the_same_time():
    together = threading.Barrier(4, timeout=60)

    class Meeting(Numbered):
        def __getitem__(self, number):
            together.wait()  # breaks unless four threads are here at once
            return BATCHES[number]

    with feed_of(Meeting(4, workers=4)) as feed:
        assert order_in(one_pass(feed)) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", [{}, {"workers": 0}, {"workers": 1}], ids=str)
def test_one_worker_makes_one_batch_after_the_other(how):
    alone = threading.Lock()

    class Private(Numbered):
        def __getitem__(self, number):
            assert alone.acquire(blocking=False)
            time.sleep(0.002)
            alone.release()
            return BATCHES[number]

    with feed_of(Private(**how)) as feed:
        assert order_in(one_pass(feed)) == list(range(COUNT))


def test_processes_are_other_processes():
    class Whose(Numbered):
        def __getitem__(self, number):
            return (np.array([os.getpid()]),)

    with feed_of(Whose(workers=2, use_multiprocessing=True)) as feed:
        workers = {int(x[0]) for (x,) in one_pass(feed)}
    assert os.getpid() not in workers
    assert 1 <= len(workers) <= 2


@pytest.mark.parametrize("most", [1, 3, 5])
def test_a_generator_is_asked_for_no_more_than_will_be_taken(most):
    asked = Asked()
    generator = asked()
    with contextlib.closing(GeneratorFeed(generator, most)) as feed:
        assert order_in(one_pass(feed)) == list(range(most))
        assert asked.made == most
    assert int(next(generator)[1][0]) == most


def regression() -> keras.Model:
    return compiled(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]), metrics=None)


CALLS = {
    "fit": (lambda trainer, g: trainer.fit(g, steps_per_epoch=2, epochs=3, verbose=0), 6),
    "fit, later epochs": (
        lambda trainer, g: trainer.fit(g, steps_per_epoch=2, epochs=5, initial_epoch=3, verbose=0),
        4,
    ),
    "evaluate": (lambda trainer, g: trainer.evaluate(g, steps=2, verbose=0), 2),
    "predict": (lambda trainer, g: trainer.predict(g, steps=2, verbose=0), 2),
    "validation": (
        lambda trainer, g: trainer.fit(
            np.ones((2, 3)),
            np.ones(2),
            epochs=3,
            verbose=0,
            validation_data=g,
            validation_steps=2,
        ),
        6,
    ),
    "validation every other epoch": (
        lambda trainer, g: trainer.fit(
            np.ones((2, 3)),
            np.ones(2),
            epochs=5,
            verbose=0,
            validation_data=g,
            validation_steps=2,
            validation_freq=2,
        ),
        4,
    ),
}


@pytest.mark.parametrize("steps_per_execution", [1, 2])
@pytest.mark.parametrize(("call", "taken"), **each(CALLS))
def test_a_call_leaves_the_rest_of_a_generator_to_others(call, taken, steps_per_execution):
    asked = Asked(100)
    generator = asked()
    call(CustomTrainer(regression(), steps_per_execution=steps_per_execution), generator)
    assert asked.made == taken


@pytest.mark.filterwarnings("error:The data gave no batch")
@pytest.mark.parametrize("steps_per_execution", [3, 5])
def test_a_group_longer_than_an_epoch_takes_what_it_takes_in_keras(steps_per_execution):
    def epochs_and_steps(run_of: Callable[[keras.Model], Any]) -> tuple:
        model = compiled(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))
        model.steps_per_execution = steps_per_execution
        history = run_of(model).fit(Asked(100)(), steps_per_epoch=2, epochs=3, verbose=0)
        predicted = run_of(model).predict(Asked(100)(), steps=2, verbose=0)
        return history.epoch, int(model.optimizer.iterations), predicted.shape

    assert epochs_and_steps(CustomTrainer) == epochs_and_steps(lambda model: model)


# Ends


@pytest.mark.parametrize("kind", ["generator", "loader", "2 threads", "2 processes"])
def test_a_closed_feed_leaves_no_thread_and_no_process(kind):
    before = set(threading.enumerate())
    processes_before = set(multiprocessing.active_children())
    feed = {
        "generator": lambda: GeneratorFeed(iter(BATCHES), None),
        "loader": lambda: loader_of(BATCHES),
    }.get(kind, lambda: PyDatasetFeed(Numbered(**WORKERS[kind]), False, 0, None))()
    feed.rewind(0)
    take(feed, 2)
    assert threads_since(before)
    feed.close()
    assert eventually(lambda: not threads_since(before))
    assert eventually(lambda: set(multiprocessing.active_children()) <= processes_before)


def test_a_closed_feed_fetches_nothing_more():
    class Slow(Numbered):
        def __getitem__(self, number):
            time.sleep(0.03)
            return super().__getitem__(number)

    before = set(threading.enumerate())
    dataset = Slow(None, workers=2)
    with feed_of(dataset) as feed:
        feed.rewind(0)
        take(feed, 1)
    assert eventually(lambda: not threads_since(before))
    assert len(dataset.made) < 1 + 10  # what was asked for ahead


class Failing(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise RuntimeError("enough")


@pytest.mark.parametrize("how", **each(WORKERS))
def test_a_failing_fit_leaves_no_thread_and_no_process(how):
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="enough"):
        CustomTrainer(regression()).fit(Numbered(**how), callbacks=[Failing()], verbose=0)
    assert eventually(lambda: not threads_since(before))
    assert eventually(lambda: not multiprocessing.active_children())


def test_a_generator_can_be_used_again_at_once():
    """Not even a slow one is still at work in a thread of the call that it was given to."""

    def slow():
        for batch in itertools.cycle(BATCHES):
            time.sleep(0.01)
            yield batch

    generator = slow()
    trainer = CustomTrainer(regression())
    for _ in range(3):
        with pytest.raises(RuntimeError, match="enough"):
            trainer.fit(generator, steps_per_epoch=5, callbacks=[Failing()], verbose=0)
        next(generator)


# Errors


def broken_after(count: int) -> Iterator[tuple]:
    yield from BATCHES[:count]
    raise ZeroDivisionError("no such batch")


class Broken(Numbered):
    def __getitem__(self, number):
        if number == 3:
            raise ZeroDivisionError("no such batch")
        return super().__getitem__(number)


BROKEN = {
    "generator": (lambda: GeneratorFeed(broken_after(3), None), "broken_after"),
    "loader": (lambda: IteratorFeed(lambda: broken_after(3)), "broken_after"),
    **{
        f"PyDataset, {name}": (
            lambda how=how: PyDatasetFeed(Broken(**how), False, 0, None),
            None if "process" in name else "__getitem__",
        )
        for name, how in WORKERS.items()
    },
}


@pytest.mark.parametrize(("make", "function"), **each(BROKEN))
def test_an_error_comes_in_its_place_with_its_type_and_traceback(make, function):
    with contextlib.closing(make()) as feed:
        feed.rewind(0)
        assert order_in(take(feed, 3)) == [0, 1, 2]
        time.sleep(0.01)
        with pytest.raises(ZeroDivisionError, match="no such batch") as caught:
            feed.next()
        if function is None:  # a process sends its traceback as text
            assert "in __getitem__" in str(caught.value.__cause__)
        else:
            assert function in [entry.name for entry in caught.traceback]
        assert feed.position == 3


def test_an_error_of_a_batch_that_is_not_taken_is_no_error():
    with contextlib.closing(PyDatasetFeed(Broken(workers=2), False, 0, None)) as feed:
        feed.rewind(0)
        take(feed, 3)  # the failed fourth is fetched by now, or soon
        time.sleep(0.02)
        feed.rewind(0)
        assert order_in(take(feed, 3)) == [0, 1, 2]


# Epochs of a PyDataset

EVENTS = ["begin", "end"]


class Watched(keras.utils.PyDataset):
    """Notes its hooks; each batch tells how many epochs had begun when it was made."""

    def __init__(self, **workers: Any):
        super().__init__(**workers)
        self.events = []
        self.epochs = 0

    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> tuple:
        return np.full((1, 3), self.epochs), np.array([number])

    def on_epoch_begin(self) -> None:
        self.events.append("begin")
        self.epochs += 1

    def on_epoch_end(self) -> None:
        self.events.append("end")


def fit_on(dataset: Watched, **arguments: Any) -> None:
    CustomTrainer(regression()).fit(dataset, **{"verbose": 0, "epochs": 3, **arguments})


@pytest.mark.parametrize("how", **each(THREADS))
def test_the_hooks_of_a_data_set_come_once_an_epoch(how):
    dataset = Watched(**how)
    fit_on(dataset)
    assert dataset.events == EVENTS * 3


def test_the_hooks_of_validation_data_come_once_a_validation():
    training, validation = Watched(), Watched()
    fit_on(training, validation_data=validation, validation_freq=2, epochs=5)
    assert training.events == EVENTS * 5
    assert validation.events == EVENTS * 2


def test_the_hooks_of_data_to_evaluate_and_to_predict():
    trainer = CustomTrainer(regression())
    for call in (trainer.evaluate, trainer.predict):
        dataset = Watched()
        call(dataset, verbose=0)
        assert dataset.events == EVENTS


class SeenInTraining(keras.Model):
    """Logs what its batches tell."""

    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(1)

    def call(self, x):
        return self.layer(x)

    def train_step(self, data):
        return {"told": tf.reduce_mean(data[0])}


@pytest.mark.parametrize(
    "watching",
    [None, keras.callbacks.EarlyStopping("told", mode="min", patience=9)],
    ids=["alone", "beside a callback that monitors"],
)
@pytest.mark.parametrize("how", **each(WORKERS))
def test_batches_are_made_after_their_epoch_has_begun(how, watching):
    """As in Keras, a data set may prepare an epoch in `on_epoch_begin`, its workers see that."""
    model = SeenInTraining()
    model.compile(jit_compile=False)
    told = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: told.append(int(logs["told"]))
    )
    callbacks = [note, watching] if watching else [note]
    CustomTrainer(model).fit(Watched(**how), epochs=3, verbose=0, callbacks=callbacks)
    assert told == [1, 1, 1, 2, 2, 2, 3, 3, 3]


# Class weights


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.dictionaries(st.integers(0, 9), st.floats(0, 9, width=32)),
    st.sampled_from(["numbers", "column", "one-hot"]),
    st.sampled_from(["int64", "uint8", "float32", "float64"]),
)
def test_each_row_gets_the_weight_of_its_class(classes, class_weight, form, dtype):
    y = np.array(classes)
    y = {"numbers": y, "column": y[:, None], "one-hot": np.eye(10)[y]}[form].astype(dtype)
    weights = class_weights(y, class_weight)
    expected = np.array([class_weight.get(label, 1.0) for label in classes], "float32")
    assert_equal(weights, expected)
    assert_equal(class_weights(tf.constant(y), class_weight), expected)


WEIGHT = {1: 0.25, 2: 5.0}
Y = labels(6)
WEIGHED = np.array([WEIGHT.get(int(label), 1.0) for label in Y], "float32")


@pytest.mark.parametrize("form", [tuple, list])
def test_weights_join_a_batch(form):
    assert_equal(weigh_batch(form([numbers(6), Y]), WEIGHT), (numbers(6), Y, WEIGHED))
    assert_equal(weigh_batch(form([numbers(6)]), WEIGHT), (numbers(6),))
    with pytest.raises(ValueError, match="for batches that have sample weights: give one of them"):
        weigh_batch(form([numbers(6), Y, WEIGHED]), WEIGHT)


class Labelled(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, number):
        rows = slice(3 * number, 3 * number + 3)
        return numbers(6, 4)[rows], Y[rows]


@pytest.mark.parametrize("how", **each(WORKERS))
def test_weights_join_the_batches_of_a_py_dataset(how):
    with feed_of(Labelled(**how), class_weight=WEIGHT) as feed:
        batches = one_pass(feed)
    for batch, expected in zip(batches, in_batches((numbers(6, 4), Y, WEIGHED), 3), strict=True):
        assert_equal(batch, expected)


def test_a_py_dataset_with_class_weight_trains_as_in_keras():
    def classifier():
        keras.utils.set_random_seed(0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return compiled(mlp(outputs=3), loss=loss, metrics=["accuracy"])

    settings = {"class_weight": WEIGHT, "epochs": 2, "shuffle": False, "verbose": 0}
    theirs = classifier().fit(Labelled(), **settings)
    ours = CustomTrainer(classifier()).fit(Labelled(), **settings)
    assert ours.history == theirs.history


# Sources that fall silent


class Silent(Numbered):
    """A data set that waits for its third batch; for ever, if nothing is set."""

    def __init__(self, **how: Any):
        super().__init__(None, **how)
        self.more = threading.Event()

    def __getitem__(self, number):
        assert number < 2 or self.more.wait()
        return BATCHES[number]

    def __iter__(self):
        return map(self.__getitem__, itertools.count())


def test_the_call_ends_where_a_generator_waits(monkeypatch):
    monkeypatch.setattr(iterables, "PATIENCE", 0.05)
    silent, before = Silent(), set(threading.enumerate())
    feed = GeneratorFeed(iter(silent), most=None)
    feed.rewind(0)
    feed.next()
    with pytest.warns(UserWarning, match="has not given it within 0.05 seconds"):
        feed.close()
    silent.more.set()
    assert eventually(lambda: not threads_since(before))


def fit_on_silent(source: Any) -> None:
    """Fits on two batches of a source that never gives a third one."""
    CustomTrainer(regression()).fit(source, steps_per_epoch=2, epochs=3, callbacks=[Stops()])


def fit_on_a_silent_generator() -> None:
    fit_on_silent(iter(Silent()))


def fit_on_a_silent_dataset() -> None:
    fit_on_silent(Silent(workers=2))


class Stops(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 1


@pytest.mark.processes
@pytest.mark.parametrize("fit", [fit_on_a_silent_generator, fit_on_a_silent_dataset])
def test_a_process_ends_where_a_source_waits(fit):
    processes.run(fit)
