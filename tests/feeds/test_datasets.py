"""`tf.data` as a feed, and class weights put into it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import labels, numbers
from tests.helpers.feeds import assert_equal, in_batches, one_pass, rest_of, take
from tests.helpers.models import compiled, mlp, seeded
from tests.helpers.tables import each
from trainer import CustomTrainer
from trainer.feeds.datasets import DatasetFeed, weigh_classes

ROWS, BATCH = 10, 4
X, Y = numbers(ROWS, 2), labels(ROWS)
BATCHES = in_batches((X, Y), BATCH)


def dataset() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)


def of_a_generator() -> tf.data.Dataset:
    spec = (tf.TensorSpec((None, 2), tf.float32), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(lambda: iter(BATCHES), output_signature=spec)


LENGTHS = {
    "known": (dataset, 3, False),
    "asserted": (
        lambda: of_a_generator().apply(tf.data.experimental.assert_cardinality(3)),
        3,
        False,
    ),
    "unknown": (lambda: dataset().filter(lambda *_: True), None, False),
    "of a generator": (of_a_generator, None, False),
    "infinite": (lambda: dataset().repeat(), None, True),
    "empty": (lambda: dataset().take(0), 0, False),
}


@pytest.mark.parametrize(("make", "steps", "infinite"), **each(LENGTHS))
def test_length(make, steps, infinite):
    feed = DatasetFeed(make())
    assert (feed.steps, feed.infinite) == (steps, infinite)
    weighed = DatasetFeed(weigh_classes(make(), {0: 1.0, 2: 3.0}))
    assert (weighed.steps, weighed.infinite) == (steps, infinite)


@pytest.mark.parametrize("length", ["known", "asserted", "unknown", "of a generator"])
def test_a_pass_is_an_iteration(length):
    make, _, _ = LENGTHS[length]
    feed = DatasetFeed(make())
    for epoch in (0, 0, 1):
        batches = one_pass(feed, epoch)
        assert len(batches) == len(BATCHES)
        for batch, expected in zip(batches, BATCHES, strict=True):
            assert_equal(batch, expected)
        assert feed.position == 3
        with pytest.raises(StopIteration):
            feed.next()
        assert feed.position == 3


def test_an_infinite_pass_goes_round():
    feed = DatasetFeed(dataset().repeat())
    feed.rewind(0)
    for batch, expected in zip(take(feed, 7), (BATCHES * 3)[:7], strict=True):
        assert_equal(batch, expected)
    assert (feed.position, feed.ended) == (7, False)


def test_the_end_of_a_known_length_is_known_beforehand():
    feed = DatasetFeed(dataset())
    feed.rewind(0)
    ended = []
    for _ in range(3):
        ended.append(feed.ended)
        feed.next()
    assert [*ended, feed.ended] == [False, False, False, True]


def test_a_rewound_pass_starts_the_iteration_again():
    feed = DatasetFeed(dataset())
    feed.rewind(0)
    take(feed, 2)
    feed.rewind(0)
    assert feed.position == 0
    assert len(rest_of(feed)) == 3


def test_a_pass_that_has_just_begun_is_not_begun_again():
    """Each iterator that is made of a dataset makes it shuffle another way."""

    def shuffled() -> tf.data.Dataset:
        return tf.data.Dataset.range(100).shuffle(100, seed=1).batch(10)

    first, second = ([batch.numpy() for batch in data] for data in [shuffled()] * 2)
    assert not np.array_equal(first, second)
    feed = DatasetFeed(shuffled())
    for _ in range(3):
        feed.rewind(4)
    np.testing.assert_array_equal(rest_of(feed), first)
    feed.rewind(4)
    np.testing.assert_array_equal(rest_of(feed), second)


def test_a_dataset_shuffles_anew_in_each_pass():
    shuffled = tf.data.Dataset.range(100).shuffle(100, seed=1).batch(10)
    feed = DatasetFeed(shuffled)
    orders = [np.concatenate(one_pass(feed, epoch)) for epoch in (0, 1)]
    assert [sorted(order) for order in orders] == [list(range(100))] * 2
    assert list(orders[0]) != list(orders[1])


def test_the_spec_is_the_element_spec():
    for make, _, _ in LENGTHS.values():
        assert DatasetFeed(make()).batch_spec() == make().element_spec


def test_a_graph_takes_batches_and_finds_the_end():
    feed = DatasetFeed(of_a_generator())
    feed.rewind(0)

    @tf.function
    def rows_in_next(source, wanted):
        seen = source.look(tf.constant(0, tf.int64), wanted)
        return tf.cond(
            source.has_batch(seen), lambda: tf.shape(source.batch(seen)[0])[0], lambda: -1
        )

    source = feed.window(7).source
    assert feed.window(7).steps == 7
    wanted, unwanted = tf.constant(True), tf.constant(False)
    assert int(rows_in_next(source, unwanted)) == -1
    assert [int(rows_in_next(source, wanted)) for _ in range(5)] == [4, 4, 2, -1, -1]
    feed.position += 3
    feed.rewind(1)

    @tf.function
    def take_one(source):
        return source.batch(source.look(tf.constant(0, tf.int64), tf.constant(True)))

    for expected in BATCHES:
        assert_equal(take_one(feed.window(1).source), expected)
    with pytest.raises(tf.errors.InvalidArgumentError):  # nothing is there
        take_one(feed.window(1).source)


@pytest.mark.parametrize("length", LENGTHS)
def test_what_a_graph_reads_has_the_spec_of_a_batch_and_no_full_window(length):
    feed = DatasetFeed(LENGTHS[length][0]())
    feed.rewind(0)
    assert feed.is_in_graph
    assert feed.window(1).source.spec() == feed.batch_spec()
    assert (feed.full_steps, feed.full_window(3)) == (0, None)


# Class weights

WEIGHTS = {0: 0.25, 2: 3.0}
EXPECTED = np.array([WEIGHTS.get(int(label), 1.0) for label in Y], "float32")
TARGETS = {
    "numbers": Y,
    "int32": Y.astype("int32"),
    "uint8": Y.astype("uint8"),
    "floats": Y.astype("float32"),
    "float64": Y.astype("float64"),
    "column": Y[:, None],
    "column of floats": Y[:, None].astype("float32"),
    "one-hot": keras.utils.to_categorical(Y, 3),
    "one-hot integers": keras.utils.to_categorical(Y, 3).astype("int64"),
}


@pytest.mark.parametrize("y", **each(TARGETS))
def test_each_row_gets_the_weight_of_its_class(y):
    weighed = weigh_classes(tf.data.Dataset.from_tensor_slices((X, y)).batch(BATCH), WEIGHTS)
    batches = list(weighed)
    for batch, expected in zip(batches, in_batches((X, y, EXPECTED), BATCH), strict=True):
        assert_equal(batch, expected)


@pytest.mark.parametrize("class_weight", [{0: 2.0}, {5: 0.5, 2: 3.0}, {9: 2.0}], ids=str)
def test_classes_without_a_weight_weigh_1(class_weight):
    data = tf.data.Dataset.from_tensors((np.zeros(7), np.arange(7)))
    ((_, _, weights),) = weigh_classes(data, class_weight)
    np.testing.assert_array_equal(weights, [class_weight.get(label, 1.0) for label in range(7)])


def weights_of_targets(y: np.ndarray, shape: tuple | None) -> np.ndarray:
    """Returns the weights of targets of which the graph knows no more than `shape`."""
    spec = (tf.TensorSpec((None, 2), tf.float32), tf.TensorSpec(shape, y.dtype))
    data = tf.data.Dataset.from_generator(lambda: iter([(X, y)]), output_signature=spec)
    ((_, _, weights),) = weigh_classes(data, WEIGHTS)
    return weights.numpy()


OF_UNKNOWN_WIDTH = {"column": Y[:, None], "one-hot": np.eye(3)[Y]}


@pytest.mark.parametrize("y", **each(OF_UNKNOWN_WIDTH))
def test_targets_whose_width_is_known_only_at_run_time(y):
    np.testing.assert_array_equal(weights_of_targets(y, (None, None)), EXPECTED)


@pytest.mark.parametrize("y", **each({"numbers": Y, **OF_UNKNOWN_WIDTH}))
def test_targets_of_unknown_rank_are_weighed_right_or_refused(y):
    """Keras refuses them, too."""
    try:
        weights = weights_of_targets(y, None)
    except ValueError:
        return
    np.testing.assert_array_equal(weights, EXPECTED)


FORMS = {
    "numbers": (Y, "sparse_categorical_crossentropy"),
    "column": (Y[:, None], "sparse_categorical_crossentropy"),
    "one-hot": (np.eye(3, dtype="float32")[Y], "categorical_crossentropy"),
}


@pytest.mark.parametrize(("y", "loss"), **each(FORMS))
def test_fit_with_class_weight(y, loss):
    """As Keras's, and as weights given by hand."""
    x = numbers(ROWS, 4)

    def classifier() -> keras.Model:
        return compiled(mlp(outputs=3, activation="softmax"), "sgd", loss, metrics=["accuracy"])

    def history_of(make_run: Callable[[keras.Model], Any], *data: Any, **weights: Any) -> dict:
        run = make_run(seeded(classifier))
        return run.fit(*data, epochs=2, shuffle=False, verbose=0, **weights).history

    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    theirs = history_of(lambda model: model, batches, class_weight=WEIGHTS)
    ours = history_of(CustomTrainer, batches, class_weight=WEIGHTS)
    by_hand = history_of(CustomTrainer, x, y, BATCH, sample_weight=EXPECTED)
    assert_same(ours, theirs)
    assert_same(by_hand, theirs)


WEIGHED = (X, Y, np.ones(ROWS, "float32"))
REFUSED = {
    "weights already": (WEIGHED, "class_weight was given for a dataset that yields sample weights"),
    "targets in a dict": (
        (X, {"a": Y, "b": Y}),
        "class_weight is for a single target; the dataset yields",
    ),
    "targets in a tuple": ((X, (Y, Y)), "class_weight is for a single target; the dataset yields"),
    "no targets": (X, "class_weight"),
}


@pytest.mark.parametrize(("data", "message"), **each(REFUSED))
def test_data_that_class_weights_do_not_go_with(data: Any, message: str):
    batched = tf.data.Dataset.from_tensor_slices(data).batch(BATCH)
    with pytest.raises(ValueError, match=message):
        weigh_classes(batched, WEIGHTS)


def test_feeds_do_not_keep_a_dataset_alive():
    dataset = tf.data.Dataset.range(4).batch(2)
    for _ in range(2):
        feed = DatasetFeed(dataset)
        feed.rewind(0)
        feed.next()
        feed.close()
    kept = weakref.ref(dataset)
    del dataset, feed
    gc.collect()
    assert kept() is None


def test_two_feeds_of_a_shuffled_dataset_go_on_as_two_iterators_do():
    def shuffled():
        tf.random.set_seed(7)
        return tf.data.Dataset.range(50).shuffle(50).batch(10)

    def rows(batches):
        return np.concatenate([batch.numpy() for batch in batches]).tolist()

    dataset = shuffled()
    expected = [rows(iter(dataset)) for _ in range(2)]
    dataset, found = shuffled(), []
    for _ in range(2):
        feed = DatasetFeed(dataset)
        feed.rewind(0)
        found.append(rows(feed.next() for _ in range(5)))
    assert found == expected
    assert found[0] != found[1]
