"""A pipeline that shuffles by a seed gives the rows in the orders that it has under Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same, assert_same_training
from tests.helpers.data import numbers
from tests.helpers.models import Twins, dense, untrained
from tests.helpers.tables import each, names_of

ROWS, BATCH, STEPS = 22, 5, 5
X, Y = numbers(ROWS, 4), numbers(ROWS, 1, seed=1)

pytestmark = pytest.mark.xdist_group("dense")


def rows() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y))


def shuffled(**how: Any) -> tf.data.Dataset:
    return rows().shuffle(ROWS, **{"seed": 3, **how}).batch(BATCH)


def parts_shuffled(number):
    return rows().skip(6 * number).take(6).shuffle(6, seed=1)


def with_drawn_noise(row, seed):
    x, y = row
    return x + tf.random.stateless_normal(tf.shape(x), tf.cast([seed, 0], tf.int32)), y


PIPELINES: dict[str, Callable[[], tf.data.Dataset]] = {
    "shuffle": shuffled,
    "full batches": lambda: rows().shuffle(ROWS, seed=3).batch(BATCH, drop_remainder=True),
    "the seed of all": lambda: shuffled(seed=None),
    "one order": lambda: shuffled(reshuffle_each_iteration=False),
    "cache": lambda: rows().cache().shuffle(ROWS, seed=3).batch(BATCH),
    "cached in its order": lambda: rows().shuffle(ROWS, seed=3).cache().batch(BATCH),
    "repeat": lambda: rows().shuffle(ROWS, seed=3).repeat(2).batch(BATCH),
    "shuffled over the ends": lambda: rows().repeat(2).shuffle(30, seed=3).batch(BATCH),
    "batches shuffled": lambda: shuffled().shuffle(3, seed=2),
    "prefetched": lambda: shuffled().prefetch(2),
    "side by side": lambda: (
        tf.data.Dataset.zip(
            rows().shuffle(ROWS, seed=3), tf.data.Dataset.range(ROWS).shuffle(9, seed=1)
        )
        .map(lambda row, _: row)
        .batch(BATCH)
    ),
    "one after the other": lambda: (
        rows().take(10).shuffle(9, seed=3).concatenate(rows().skip(10).shuffle(9, seed=3))
    ).batch(BATCH),
    "drawn": lambda: (
        tf.data.Dataset.zip(rows(), tf.data.Dataset.random(seed=5, rerandomize_each_iteration=True))
        .map(with_drawn_noise)
        .batch(BATCH)
    ),
    "shuffled in parts": lambda: (
        (tf.data.Dataset.range(4).shuffle(4, seed=2).interleave(parts_shuffled, cycle_length=2))
        .batch(BATCH)
        .apply(tf.data.experimental.assert_cardinality(STEPS))
    ),
}
DEFAULT = ("shuffle", "the seed of all", "cached in its order", "repeat")
# Whether a second shuffle begins where a run ends after a few steps depends, under Keras as well,
# on how much was fetched ahead: here it has begun by then, in the others not yet.
STEPS_OF = {"one after the other": 3, "shuffled in parts": 3}


@pytest.mark.parametrize("name", names_of(PIPELINES, DEFAULT))
@pytest.mark.filterwarnings("ignore:.*(ran out of data|a pass through the data)")
def test_epochs_validations_and_calls_on_one_dataset(name):
    twins, make = untrained(dense), PIPELINES[name]
    data, held_out = [], []
    for _ in range(2):  # one for each of the twins, with the same seed for all
        tf.random.set_seed(5)
        data.append(make())
        held_out.append(make())
    theirs, ours = zip(data, held_out, strict=True)

    def fit_both(**arguments: Any) -> None:
        theirs_how, ours_how = (
            {"verbose": 0, **{name: value(given) for name, value in arguments.items()}}
            for given in (theirs, ours)
        )
        twins.theirs.fit(**theirs_how)
        twins.trainer.fit(**ours_how)
        assert_same_training(twins.ours, twins.theirs, f"{list(arguments)}: ")

    def always(value: Any) -> Callable:
        return lambda _: value

    fit_both(x=lambda given: given[0], epochs=always(3), validation_data=lambda given: given[1])
    fit_both(x=lambda given: given[0], epochs=always(2), steps_per_epoch=always(3))
    fit_both(x=lambda given: given[0], validation_data=lambda given: given[0])
    for steps in (STEPS_OF.get(name, 2), None, None):
        results = [
            called.evaluate(given[0], steps=steps, verbose=0)
            for called, given in ((twins.trainer, ours), (twins.theirs, theirs))
        ]
        assert_same(*results, at=f"evaluate of {steps} steps")
    for _ in range(2):
        outputs = [
            called.predict(given[0], verbose=0)
            for called, given in ((twins.trainer, ours), (twins.theirs, theirs))
        ]
        assert_same(*outputs, at="predict")


STEPS_PER_EPOCH = {"all of a pass": STEPS, "fewer": 2, "more": 7, "two in a pass": 3}


@pytest.mark.parametrize("steps", **each(STEPS_PER_EPOCH, ["all of a pass", "fewer"]))
@pytest.mark.filterwarnings("ignore:.*(ran out of data|a pass through the data)")
def test_steps_per_epoch(steps):
    twins = untrained(dense)
    for trains in (twins.theirs, twins.trainer):
        data = shuffled()
        trains.fit(data, epochs=4, steps_per_epoch=steps, verbose=0)
        trains.fit(data, verbose=0)
    assert_same_training(twins.ours, twins.theirs)


class StopsAt(keras.callbacks.Callback):
    def __init__(self, batch: int):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == self.batch


@pytest.mark.parametrize("batch", **each({"inside": 1, "the last": STEPS - 1}, ["the last"]))
def test_a_training_that_a_callback_stops(batch):
    twins = untrained(dense)
    for trains in (twins.theirs, twins.trainer):
        data = shuffled()
        trains.fit(data, epochs=3, callbacks=[StopsAt(batch)], verbose=0)
        trains.fit(data, epochs=2, verbose=0)
    assert_same_training(twins.ours, twins.theirs)


def test_class_weights():
    targets = np.arange(ROWS) % 3

    def data() -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((X, targets)).shuffle(ROWS, seed=3).batch(BATCH)

    def build() -> keras.Model:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
        return model

    twins = Twins(build)
    for trains in (twins.theirs, twins.trainer):
        trains.fit(data(), epochs=2, class_weight={0: 2.0, 2: 0.5}, verbose=0)
    assert_same_training(twins.ours, twins.theirs)


def test_the_orders_are_not_all_the_same():
    """Otherwise none of the above would show anything."""
    dataset = shuffled()
    orders = [np.concatenate([x for x, _ in dataset]) for _ in range(3)]
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])
