"""Arguments of unusual kinds that `model.fit` takes: they train as under Keras."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import labels, numbers
from tests.helpers.models import compiled, dense, mlp, seeded, untrained, weights_of
from trainer import CustomTrainer
from trainer.callbacks import NaNGuard, SampleImages, Snapshots

X, Y = numbers(24, 4), numbers(24, 1, seed=1)
VALIDATION = (X[:8], Y[:8])

FITS = {
    "batch size 0": {"batch_size": 0},
    "batch size, NumPy": {"batch_size": np.int64(8)},
    "batch size, array": {"batch_size": np.array(8)},
    "batch size, tensor": {"batch_size": tf.constant(8)},
    "batch size, bool": {"batch_size": True},
    "validation batch size 0": {"validation_data": VALIDATION, "validation_batch_size": 0},
    "epochs, NumPy": {"epochs": np.int64(2), "initial_epoch": np.int32(1)},
    "epochs, array": {"epochs": np.array(2)},
    "epochs, tensor": {"epochs": tf.constant(2)},
    "epochs, bool": {"epochs": True},
    "epochs below 0": {"epochs": -1},
    "steps, NumPy": {"steps_per_epoch": np.int64(2), "batch_size": 8},
    "steps 0": {"steps_per_epoch": 0, "batch_size": 8},
    "validation steps 0": {"validation_data": VALIDATION, "validation_steps": 0},
    "validation frequency below 0": {"validation_data": VALIDATION, "validation_freq": -1},
    "split, NumPy": {"validation_split": np.float32(0.25)},
    "split, array": {"validation_split": np.array(0.25)},
    "no split": {"validation_split": None},
    "shuffle, NumPy": {"shuffle": np.bool_(False)},
    "verbose, NumPy": {"verbose": np.int64(0)},
}


class Duck:
    """No `Callback`, but all that Keras calls."""

    def __init__(self):
        self.seen = []

    def set_params(self, params):
        self.params = params

    def set_model(self, model):
        self.model = model

    def __getattr__(self, name):
        if name.startswith("on_"):
            return lambda *args, **kwargs: self.seen.append(name)
        raise AttributeError(name)


class Lists(keras.callbacks.CallbackList):
    pass


CALLBACKS = {
    "one": lambda stop: stop,
    "tuple": lambda stop: (stop,),
    "nested": lambda stop: [[stop], [keras.callbacks.History()]],
    "dict": lambda stop: {"stop": stop},
    "list in a list": lambda stop: [keras.callbacks.CallbackList([stop])],
    "False": lambda stop: False,
}


def stopping():
    return keras.callbacks.EarlyStopping("loss", patience=0, min_delta=10.0)


@pytest.mark.parametrize("case", FITS)
def test_an_unusual_argument_means_what_it_means_to_keras(case):
    twins = untrained(dense)
    arguments = {"shuffle": False, "verbose": 0, **FITS[case]}
    ours, theirs = (each.fit(X, Y, **arguments) for each in (twins.trainer, twins.theirs))
    assert ours.history == theirs.history
    assert_same(weights_of(twins.ours), weights_of(twins.theirs))


@pytest.mark.parametrize("case", CALLBACKS)
def test_callbacks_in_any_structure_are_those_that_keras_takes(case):
    twins = untrained(dense)
    runs = [
        each.fit(X, Y, epochs=4, shuffle=False, verbose=0, callbacks=CALLBACKS[case](stopping()))
        for each in (twins.trainer, twins.theirs)
    ]
    assert runs[0].history == runs[1].history
    assert len(runs[0].epoch) == (4 if case == "False" else 2)


def test_a_callback_may_be_any_object_that_keras_can_call():
    twins, ducks = untrained(dense), [Duck(), Duck()]
    for each, duck in zip((twins.trainer, twins.theirs), ducks, strict=True):
        each.fit(X, Y, batch_size=8, verbose=0, callbacks=[duck])
    assert ducks[0].seen == ducks[1].seen
    assert "on_train_batch_end" in ducks[0].seen


@pytest.mark.parametrize("kind", [keras.callbacks.CallbackList, Lists])
def test_a_callback_list_of_ones_own_is_taken(kind):
    twins = untrained(dense)
    callbacks = kind([stopping()], model=twins.ours, params={"epochs": 4})
    assert twins.trainer.fit(X, Y, epochs=4, verbose=0, callbacks=callbacks).epoch == [0, 1]


def test_callbacks_of_the_package_take_any_kind_of_whole_number():
    number = np.int64(2)
    assert Snapshots("s", every_steps=number, keep=number).every_steps == 2
    assert NaNGuard("n", skips=number).skips == 2
    assert SampleImages("i", every=number).every == 2


def test_strings_as_targets_train_in_a_step_of_ones_own():
    class Numbers(CustomTrainer):
        def train_step(self, data):
            x, y = data
            return super().train_step((x, tf.strings.to_number(y)))

    twins = untrained(dense)
    theirs = twins.theirs.fit(X, np.round(Y, 2), shuffle=False, verbose=0)
    text = np.array([[f"{float(value):.2f}"] for value in Y[:, 0]], object)
    ours = Numbers(twins.ours).fit(X, text, shuffle=False, verbose=0)
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=1e-6)


class LossOfText(keras.losses.Loss):
    """Does without what Keras's losses do with targets first."""

    def __call__(self, y, y_pred, sample_weight=None):
        return tf.reduce_mean(tf.square(tf.strings.to_number(y) - y_pred))


def test_strings_as_targets_train_under_a_loss_of_ones_own():
    def build():
        return compiled(mlp(), loss=LossOfText(), metrics=None)

    text = tf.strings.as_string(tf.constant(Y), precision=2)
    ours, theirs = (
        each.fit(X, text, shuffle=False, verbose=0).history
        for each in (CustomTrainer(seeded(build)), seeded(build))
    )
    assert ours == theirs


OBJECTS = {
    "numbers": np.array([[1, 2.5, True, np.float32(4)]] * 24, object),
    "text that is numbers": np.array([["1", 2.5, 1, 4]] * 24, object),
    "NaN": np.array([[np.nan, 2.5, 1, 4]] * 24, object),
    "frame": pd.DataFrame({"a": 1, "b": 2.5, "c": [True] * 24, "d": pd.array([4] * 24, "Int64")}),
}


@pytest.mark.parametrize("case", OBJECTS)
def test_objects_that_are_numbers_are_their_numbers(case):
    first = np.nan if case == "NaN" else 1
    expected = np.array([[first, 2.5, 1, 4]] * 24, "float32")
    twins = untrained(dense)
    histories = [
        each.fit(x, Y, batch_size=8, verbose=0, shuffle=False, validation_split=1 / 3).history
        for each, x in ((twins.trainer, OBJECTS[case]), (twins.theirs, expected))
    ]
    np.testing.assert_equal(*histories)


def test_class_weights_may_be_any_mapping():
    def build():
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return compiled(mlp(outputs=3), loss=loss, metrics=None)

    y = labels(24)
    ours, theirs = (
        each.fit(X, y, verbose=0, shuffle=False, class_weight=pd.Series([2.0, 0.5])).history
        for each in (CustomTrainer(seeded(build)), seeded(build))
    )
    assert ours == theirs
