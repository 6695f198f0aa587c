"""What a step draws by `tf.random` is what `model.fit` draws, and goes on after a restart."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import keras
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.devices import strategy_for
from tests.helpers.models import Twins, compiled, mlp
from tests.helpers.tables import each
from tests.helpers.trainings import (
    ARRAYS,
    BATCH,
    Begins,
    X,
    Y,
    break_off,
    fit,
    outcome,
    rows,
    trainer,
)
from trainer import CustomTrainer
from trainer.callbacks import Snapshots

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
HELD_OUT = {"validation_data": (X[:20], Y[:20])}


class Noise(keras.layers.Layer):
    """Adds what `draw` returns, in training and in evaluation."""

    def __init__(self, draw: Callable[[tf.Tensor], tf.Tensor]):
        super().__init__()
        self.draw = draw

    def call(self, x):
        return x + 0.1 * tf.cast(self.draw(x), x.dtype)


def noisy(draw: Callable) -> Callable[[], keras.Model]:
    return lambda: mlp(Noise(draw), outputs=3)


def several(x):
    uniform = tf.random.uniform(tf.shape(x)[:1], 1, 2, dtype=tf.float64)[:, None]
    return tf.random.normal(tf.shape(x)) * tf.cast(uniform, x.dtype) + tf.random.normal([5])


DRAWS = {
    "normal": lambda x: tf.random.normal(tf.shape(x)),
    "uniform": lambda x: tf.random.uniform(tf.shape(x), -1, 1),
    "integers": lambda x: tf.random.uniform(tf.shape(x), 0, 9, dtype=tf.int64),
    "truncated": lambda x: tf.random.truncated_normal(tf.shape(x), seed=3),
    "several": several,
}
WAYS = {
    "arrays": lambda: ARRAYS,
    "tf.data": lambda: {"x": rows().batch(BATCH)},
    "a generator": lambda: {
        "x": ((X[row : row + BATCH], Y[row : row + BATCH]) for row in range(0, 48, BATCH))
    },
    "batches with None": lambda: {
        "x": ((X[row : row + BATCH], Y[row : row + BATCH], None) for row in range(0, 48, BATCH))
    },
}


@pytest.mark.parametrize("draw", **each(DRAWS, ["normal", "several"]))
@pytest.mark.parametrize("way", **each(WAYS, ["arrays", "tf.data", "batches with None"]))
def test_numbers_are_those_of_keras(draw, way, tmp_path):
    twins = Twins(lambda: compiled(noisy(draw)(), loss=LOSS, metrics=None))
    histories = []
    for runner, callbacks in ((twins.theirs, []), (twins.trainer, [Snapshots(tmp_path)])):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(3)
        data = {**way(), "shuffle": False} if "y" in way() else way()
        history = runner.fit(**data, **HELD_OUT, epochs=1, verbose=0, callbacks=callbacks)
        histories.append(history.history)
    assert_same(*histories)
    assert_same(twins.ours.get_weights(), twins.theirs.get_weights())


@pytest.mark.parametrize("draw", **each(DRAWS, ["several"]))
@pytest.mark.parametrize("at", [7, 12])
def test_they_go_on_after_a_restart(draw, at, tmp_path):
    expected = fit(trainer(noisy(draw)), Snapshots(tmp_path / "whole"), **HELD_OUT)
    break_off(trainer(noisy(draw)), tmp_path / "parts", at, **HELD_OUT)
    assert_same(fit(trainer(noisy(draw)), Snapshots(tmp_path / "parts"), **HELD_OUT), expected)


def without_seed(draw: Callable = DRAWS["normal"]) -> CustomTrainer:
    made = trainer(noisy(draw))
    keras.backend.clear_session()
    tf.random.set_seed(None)
    return made


def test_those_without_a_seed_go_on_too(tmp_path):
    break_off(without_seed(), tmp_path / "saved", 9)
    ends = []
    for name in ("one", "another"):
        made = without_seed()
        made.restore_snapshot(next(iter(sorted((tmp_path / "saved").glob("snapshot-*")))))
        ends.append(fit(made, Snapshots(tmp_path / name)))
    assert_same(*ends)
    assert_same(fit(without_seed()) != ends[0], True)


def test_they_go_on_by_hand(tmp_path):
    made = trainer(noisy(several))
    fit(made, Snapshots(tmp_path / "first"), epochs=1)
    made.save_snapshot(tmp_path / "saved")
    fit(made, Snapshots(tmp_path / "more"), epochs=2)
    other = trainer(noisy(several))
    other.restore_snapshot(tmp_path / "saved")
    fit(other, Snapshots(tmp_path / "again"), epochs=2)
    assert_same(outcome(other), outcome(made))


class DrawsMoreLater(CustomTrainer):
    draws = 1

    def train_step(self, data):
        x, y = data
        noise = [tf.random.normal(tf.shape(x)) for _ in range(self.draws)]
        return super().train_step((x + 0.1 * tf.add_n(noise), y))


def test_a_step_may_have_other_operations_later(tmp_path):
    class Changes(Begins):
        def on_epoch_begin(self, epoch, logs=None):
            made.draws = 1 + epoch

    made = DrawsMoreLater(mlp(outputs=3), optimizer="sgd", loss=LOSS, jit_compile=False)
    fit(made, Snapshots(tmp_path), Changes())
    assert made.epoch == 3


@tf.function
def drawn_apart(x):
    return tf.random.normal(tf.shape(x))


REFUSED = {
    "of another kind": (lambda: trainer(noisy(lambda x: tf.random.gamma([5], 2.0)))),
    "in a function of their own": lambda: trainer(noisy(drawn_apart)),
    "in a condition": lambda: trainer(
        noisy(lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: DRAWS["normal"](x), lambda: x))
    ),
    "under XLA": lambda: CustomTrainer(
        noisy(DRAWS["normal"])(), optimizer="sgd", loss=LOSS, jit_compile=True
    ),
    "on two devices": lambda: on_two_devices(),
}


def on_two_devices() -> CustomTrainer:
    with strategy_for(2).scope():
        return CustomTrainer(noisy(DRAWS["normal"])(), optimizer="sgd", loss=LOSS)


@pytest.mark.parametrize("make", **each(REFUSED))
def test_others_are_told_of_before_the_first_step(make, tmp_path):
    seen = []

    class First(Begins):
        def on_train_batch_end(self, batch, logs=None):
            seen.append([str(one.message) for one in caught])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(make(), Snapshots(tmp_path), First(), epochs=1)
    told = [message for message in seen[0] if "by tf.random where their state" in message]
    assert len(told) == 1


def test_a_snapshot_by_hand_without_the_callback_tells_of_them(tmp_path):
    class Saves(Begins):
        def on_train_batch_end(self, batch, logs=None):
            self.trainer.save_snapshot(tmp_path / "saved")

    with pytest.warns(UserWarning, match="by tf.random where their state cannot be saved"):
        fit(trainer(noisy(DRAWS["normal"])), Saves(), epochs=1)


@pytest.mark.parametrize("draw", [lambda x: keras.random.normal(keras.ops.shape(x)), tf.ones_like])
def test_of_others_nothing_is_told(draw, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(trainer(noisy(draw)), Snapshots(tmp_path), epochs=1)
