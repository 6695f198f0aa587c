"""Calls inside a `tf.function`: what Keras refuses there is refused before anything changes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import numbers
from tests.helpers.models import dense, seeded, untrained, weights_of
from trainer import CustomTrainer

X, Y = numbers(16, 4), numbers(16, 1, seed=1)


def fit(of):
    return of.fit(X, Y, 8, verbose=0, shuffle=False).history["loss"][0]


def evaluate(of):
    return of.evaluate(X, Y, 8, verbose=0, return_dict=True)["loss"]


def predict(of):
    return of.predict(X, 8, verbose=0).sum()


def train_on_batch(of):
    return of.train_on_batch(X, Y, return_dict=True)["loss"]


def test_on_batch(of):
    return of.test_on_batch(X, Y, return_dict=True)["loss"]


def predict_on_batch(of):
    return of.predict_on_batch(X).sum()


test_on_batch.__test__ = False  # it is no test
CALLS = [fit, evaluate, predict, train_on_batch, test_on_batch, predict_on_batch]


def in_function(call, of):
    return tf.function(tf.autograph.experimental.do_not_convert(lambda: call(of)))()


@pytest.mark.parametrize("call", [fit, evaluate, predict, predict_on_batch])
def test_what_keras_refuses_there_has_its_type_and_a_sentence(call):
    with pytest.raises(Exception) as of_keras:  # noqa: PT011
        in_function(call, seeded(dense))
    trainer = CustomTrainer(seeded(dense))
    before = weights_of(trainer.model)
    with pytest.raises(of_keras.type, match=f"^{call.__name__} was called inside a tf.function"):
        in_function(call, trainer)
    assert_same(weights_of(trainer.model), before)
    assert (trainer.step, trainer.epoch) == (0, 0)
    assert isinstance(call(trainer), (float, np.floating))


@pytest.mark.parametrize("call", [train_on_batch, test_on_batch])
def test_what_keras_does_there_is_done_to_the_same_bits(call):
    found = []
    for make in (lambda model: model, CustomTrainer):
        of = make(seeded(dense))
        function = tf.function(tf.autograph.experimental.do_not_convert(lambda: call(of)))  # noqa: B023
        losses = [function().numpy() for _ in range(3)]
        found.append((losses, weights_of(getattr(of, "model", of))))
    assert_same(*found)
    assert of.step == 0
    call(of)
    assert of.step == (1 if call is train_on_batch else 0)


def all_calls(of):
    return np.float32([call(of) for call in CALLS])


def in_python_function(of):
    return tf.function(lambda: tf.py_function(lambda: all_calls(of), [], tf.float32))().numpy()


def in_init_scope(of):
    results = []

    @tf.function(autograph=False)
    def function():
        with tf.init_scope():
            results.append(all_calls(of))

    function()
    return results[-1]


def in_eager_function(of):
    tf.config.run_functions_eagerly(True)
    try:
        return in_function(all_calls, of)
    finally:
        tf.config.run_functions_eagerly(False)


def in_callback(of):
    results = []
    calls = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: results.append(all_calls(of)))
    CustomTrainer(dense()).fit(X, Y, verbose=0, callbacks=[calls])
    return results[-1]


LEGAL = [in_python_function, in_init_scope, in_eager_function, in_callback]


@pytest.mark.xdist_group("dense")
@pytest.mark.parametrize("place", LEGAL)
def test_calls_that_only_look_like_it_are_as_ever(place):
    twins = untrained(dense)
    before = twins.trainer.step
    # Once before, for no variables can be made in there.
    np.testing.assert_array_equal(all_calls(twins.trainer), all_calls(twins.theirs))
    ours, theirs = place(twins.trainer), place(twins.theirs)
    # With functions that run eagerly, these are others on both sides.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert twins.trainer.step - before == 2 * 3
