"""Tracebacks as short as Keras's: the user's own frames, not those of the trainer or TensorFlow."""

import contextlib
import os
import pdb
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainer
from tests.helpers.data import numbers
from tests.helpers.models import dense, untrained
from trainer import CustomTrainer

X, Y = numbers(20, 4), numbers(20, 1, seed=1)
OWN, TENSORFLOW = (os.path.dirname(module.__file__) for module in (trainer, tf))


class Broken(CustomTrainer):
    """A step that calls a function of its own, which fails and says why."""

    def train_step(self, data):
        try:
            return lookup({}, "weights")
        except KeyError as error:
            raise RuntimeError("no weights") from error


def lookup(table, key):
    return table[key]


class Breaks(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        lookup({}, "callback")


class EvaluatesBadly(keras.callbacks.Callback):
    """Makes a mistake of its own in a call of the trainer inside `fit`."""

    def set_trainer(self, trainer):
        self.trainer = trainer

    def on_epoch_end(self, epoch, logs=None):
        self.trainer.evaluate(X[:, :2], Y, verbose=0)


@contextlib.contextmanager
def all_frames():
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        keras.config.enable_traceback_filtering()


def error_of(call, *args, **kwargs):
    with pytest.raises(Exception) as caught:  # noqa: B017
        call(*args, **{"verbose": 0, **kwargs})
    return caught.value


def functions(error):
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def frames_in(error, *folders):
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in frames if frame.filename.startswith(folders)]


def printed(error):
    return "".join(traceback.format_exception(error))


def wrong_shape(trainer):
    return error_of(trainer.fit, X[:, :2], Y)


def no_targets(trainer):
    return error_of(trainer.fit, X)


@pytest.mark.parametrize("mistake", [wrong_shape, no_targets])
def test_a_mistake_prints_no_more_frames_than_under_keras(mistake):
    twins = untrained(dense)
    ours, theirs = mistake(twins.trainer), mistake(twins.theirs)
    assert type(ours) is type(theirs)
    assert frames_in(ours, OWN)[0] == "called"
    assert len(frames_in(ours, OWN)) <= 2
    assert not frames_in(ours, TENSORFLOW)
    frames = [traceback.extract_tb(error.__traceback__) for error in (ours, theirs)]
    assert len(frames[0]) <= len(frames[1])
    assert "keras.config.disable_traceback_filtering()" in printed(ours)


def test_with_filtering_disabled_all_frames_are_there():
    trainer = untrained(dense).trainer  # which may clear the session, and so the setting
    with all_frames():
        error = wrong_shape(trainer)
    assert {"fit", "train", "groups", "run"} <= set(frames_in(error, OWN))
    assert frames_in(error, TENSORFLOW)


def test_an_error_keeps_its_users_frames_its_cause_and_its_notes():
    error = error_of(Broken(dense()).fit, X, Y)
    assert (type(error), error.args) == (RuntimeError, ("no weights",))
    assert functions(error)[-1] == "train_step"
    assert not frames_in(error, TENSORFLOW)
    assert "(while training, epoch 0, step 0)" in printed(error)
    assert isinstance(error.__cause__, KeyError)
    assert functions(error.__cause__) == ["train_step", "lookup"]


def test_a_debugger_begins_in_the_users_function():
    error = error_of(Broken(dense()).fit, X, Y)
    debugger = pdb.Pdb()
    debugger.setup(None, error.__traceback__)
    assert debugger.curframe.f_code.co_name == "train_step"
    assert "data" in debugger.curframe.f_locals


def test_the_frames_of_a_callback_stay():
    error = error_of(untrained(dense).trainer.fit, X, Y, callbacks=[Breaks()])
    assert functions(error)[-2:] == ["on_train_batch_end", "lookup"]


def test_a_call_inside_a_callback_shows_the_callback():
    error = error_of(CustomTrainer(dense()).fit, X, Y, callbacks=[EvaluatesBadly()])
    assert isinstance(error, ValueError)
    assert "on_epoch_end" in functions(error)
    assert len(frames_in(error, OWN)) <= 3


def test_an_error_of_a_source_keeps_the_frames_of_its_thread():
    def batches():
        yield X, Y
        yield X, lookup({}, "rows")

    error = error_of(CustomTrainer(dense()).fit, batches())
    assert functions(error)[-2:] == ["batches", "lookup"]
    assert len(traceback.extract_tb(error.__traceback__)) == 4


def test_an_interrupt_keeps_all_frames():
    class Interrupts(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        untrained(dense).trainer.fit(X, Y, verbose=0, callbacks=[Interrupts()])
    assert "groups" in functions(caught.value)


def test_errors_that_name_each_other_in_a_circle_end():
    first, second = KeyError("a"), KeyError("b")
    first.__cause__, second.__cause__ = second, first

    class Circle(CustomTrainer):
        def train_step(self, data):
            raise first

    error = error_of(Circle(dense()).fit, np.copy(X), Y)
    assert error is first
    assert error.__cause__ is second
