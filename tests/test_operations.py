"""Steps with operations that a loop or XLA would change train as under Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import numbers
from trainer import CustomTrainer

layers = keras.layers
X, Y = numbers(300, 4), numbers(300, 1, seed=1)
GIVE = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 2, "shuffle": False},
    "tf.data": lambda: {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)},
}


class AddsNoise(layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


class ShufflesRows(keras.Sequential):
    def train_step(self, data):
        x, y = data
        order = tf.random.shuffle(tf.range(tf.shape(x)[0]))
        return super().train_step((tf.gather(x, order), y))


def noisy():
    return keras.Sequential([keras.Input((4,)), AddsNoise(), layers.Dense(1)])


def shuffling():
    return ShufflesRows([keras.Input((4,)), layers.Dense(1)])


class HasOwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


def built_by_its_step():
    return HasOwnStep([AddsNoise(), layers.BatchNormalization(), layers.Dense(1)])


class Looks(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


def fit(make, through, give, callbacks=()):
    """Trains, validates and trains on, for more steps than the first short groups have."""
    keras.backend.clear_session()  # seeds of operations count those before them
    keras.utils.set_random_seed(1)
    model = make()
    model.compile("adam", "mse", jit_compile=False)
    runner, how = through(model), {"validation_data": (X[:50], Y[:50]), "verbose": 0}
    first = runner.fit(**GIVE[give](), **how, epochs=2, callbacks=list(callbacks)).history
    return first, runner.fit(**GIVE[give](), **how).history, model.get_weights()


@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed")
@pytest.mark.parametrize("give", GIVE)
@pytest.mark.parametrize("make", [noisy, shuffling, built_by_its_step])
def test_numbers_drawn_by_tf_random_are_those_of_keras_whoever_looks_on(make, give):
    expected = fit(make, lambda model: model, give)
    assert_same(fit(make, CustomTrainer, give), expected)
    assert_same(fit(make, CustomTrainer, give, [Looks()]), expected)


def test_explain_tells_why_such_steps_are_called_one_by_one():
    trainer = CustomTrainer(noisy(), optimizer="sgd", loss="mse")
    trainer.fit(X, Y, verbose=0)
    trainer.predict(X, verbose=0)
    for line in trainer.explain().splitlines():
        assert "called one by one, as they draw numbers by tf.random" in line


def checked_loss(y, y_pred):
    with tf.control_dependencies([tf.debugging.assert_less(y, 100.0, message="a check of mine")]):
        return tf.reduce_mean((y - y_pred) ** 2, -1)


def test_checks_of_a_loss_are_not_dropped_by_the_xla_that_nobody_asked_for():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(1)])
    trainer = CustomTrainer(model, optimizer="sgd", loss=checked_loss)
    trainer.fit(X, Y, batch_size=2, epochs=4, verbose=0)
    assert "no XLA, which drops the checks" in trainer.explain()
    with pytest.raises(tf.errors.InvalidArgumentError, match="a check of mine"):
        trainer.fit(X, np.full_like(Y, 200), batch_size=2, epochs=4, verbose=0)
