"""The line on what a run costs: group length, XLA, and what holds groups."""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf

from tests.helpers import gans
from tests.helpers.data import numbers
from tests.helpers.models import compiled, mlp
from tests.helpers.tables import each
from trainer import CustomTrainer, pace, program
from trainer.callbacks import ForNetwork, ProgressBar

callbacks = keras.callbacks
X, Y = numbers(50, 4), numbers(50, 1, seed=1)


class Acts(callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass

    def on_test_batch_begin(self, batch, logs=None):
        pass


class Reads(Acts):
    batch_hooks = "log"


def explained(*made: Any, epochs: int = 1, **settings: Any) -> str:
    """Returns what is told of a fit with callbacks."""
    trainer = CustomTrainer(compiled(mlp(), **settings))
    trainer.fit(X, Y, 16, epochs=epochs, callbacks=[*made], verbose=0)
    return trainer.explain()


NO_XLA = "; no XLA, model.jit_compile is False."
HELD = (
    "fit: groups of 1 step, held by {}, which may act on each batch (if it only reads logs, give "
    f"it the attribute batch_hooks = 'log'){NO_XLA}"
)


@pytest.fixture
def slow(monkeypatch):
    """Any step takes long."""
    monkeypatch.setattr(pace, "_SECONDS_A_CALL", 0)


@pytest.fixture
def quick(monkeypatch):
    """Any step is done at once."""
    monkeypatch.setattr(pace, "_SECONDS_A_CALL", 1e9)


def test_nothing_to_tell_before_a_run():
    assert CustomTrainer(compiled(mlp())).explain() == "Nothing has run yet."


def test_nothing_to_tell_of_what_was_to_run_and_did_not():
    trainer = CustomTrainer(compiled(mlp()))
    trainer.fit(X, Y, validation_data=(X, Y), validation_freq=2, verbose=0)
    assert [line.split(":")[0] for line in trainer.explain().split("\n")] == ["fit"]
    with pytest.raises(ZeroDivisionError):
        breaks = callbacks.LambdaCallback(on_train_begin=lambda logs: 1 / 0)
        trainer.fit(X, Y, callbacks=[breaks], verbose=0)
    assert trainer.explain() == "Nothing has run yet."


FREE = {
    "none": [],
    "epochs": [callbacks.EarlyStopping("loss")],
    "a bar": [ProgressBar()],
    "TerminateOnNaN": [callbacks.TerminateOnNaN()],
}


@pytest.mark.parametrize("made", **each(FREE))
def test_groups_that_nobody_holds(made, slow):
    assert explained(*made) == f"fit: groups of 1 step, a tenth of a second{NO_XLA}"


def test_a_callback_that_holds_groups_is_named_with_what_to_do():
    assert explained(callbacks.EarlyStopping("loss"), Acts()) == HELD.format("Acts")


def test_the_first_that_holds_groups_is_named():
    noting = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    assert explained(Reads(), noting, Acts()) == HELD.format("LambdaCallback")


def test_logs_that_are_kept_are_told(slow):
    told = "a tenth of a second, the logs of each step kept for a callback"
    assert explained(Reads()) == f"fit: groups of 1 step, {told}{NO_XLA}"


def test_short_groups_at_first(quick):
    told = f"fit: groups of 1 step, as the first groups of a run are short{NO_XLA}"
    assert explained() == told  # four steps, each called alone


def test_groups_of_all_that_there_are(quick, monkeypatch):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)
    trainer = CustomTrainer(compiled(mlp()))
    trainer.fit(X[:48], Y[:48], 12, epochs=3, verbose=0)
    assert trainer.explain() == f"fit: groups of up to 4 steps, all that a pass has{NO_XLA}"
    trainer.predict(X[:3], verbose=0)
    told = trainer.explain().split("\n")[1]
    assert told == f"predict: groups of 1 step, all that a pass has{NO_XLA}"
    trainer.fit(X, Y, 16, verbose=0, steps_per_epoch=3)
    assert trainer.explain().startswith("fit: groups of up to 3 steps, all that a pass has")


class Waits(callbacks.Callback):
    def wants_batch(self, step):
        return step % 2 == 1

    def on_train_batch_end(self, batch, logs=None):
        pass


def test_groups_that_end_with_certain_batches(quick, monkeypatch, tmp_path):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)
    saves = callbacks.ModelCheckpoint(tmp_path / "{batch}.keras", save_freq=2)
    for made, name in (([Waits(), ProgressBar()], "Waits"), ([saves], "ModelCheckpoint")):
        told = explained(*made, callbacks.EarlyStopping("loss"), epochs=3)
        assert told.startswith(
            f"fit: groups of up to 2 steps, none going past a batch that {name} waits for"
        )


def test_groups_that_were_asked_for():
    for made in ([], [Acts()], [Reads()]):
        told = explained(*made, steps_per_execution=3)
        assert told == f"fit: groups of 3 steps, as steps_per_execution asks{NO_XLA}"


def test_steps_that_python_calls():
    trainer = CustomTrainer(compiled(mlp()))
    for made in ([], [Acts()]):
        trainer.fit(iter([(X, Y)] * 3), callbacks=made, verbose=0)
        told = "steps called one by one, as their batches come from Python"
        assert trainer.explain() == f"fit: {told}{NO_XLA}"
    assert explained(run_eagerly=True) == (
        "fit: steps called one by one, as they run eagerly; no XLA, steps run eagerly."
    )


def test_a_line_for_the_last_run_of_each_kind():
    trainer = CustomTrainer(compiled(mlp()))
    trainer.fit(X, Y, validation_data=(X, Y), verbose=0)
    assert [line.split(":")[0] for line in trainer.explain().split("\n")] == ["fit", "evaluate"]
    trainer.predict(X, verbose=0)
    trainer.evaluate(X, Y, callbacks=[Acts()], verbose=0)
    told = dict(line.split(": ", 1) for line in trainer.explain().split("\n"))
    assert sorted(told) == ["evaluate", "fit", "predict"]
    assert "held by Acts" in told["evaluate"]
    assert "held by" not in told["fit"] + told["predict"]
    trainer.evaluate(X, Y, verbose=0)
    assert "held by" not in trainer.explain()


def test_a_bound_callback_is_named_itself():
    trainer = gans.gan()
    acts = ForNetwork("generator", Acts())
    trainer.fit(gans.images(8), batch_size=4, callbacks=[acts], verbose=0)
    assert "held by Acts, which" in trainer.explain()


XLA = {
    "asked for": ({"jit_compile": True}, {}, "XLA, jit_compile is True."),
    "asked not to": ({"jit_compile": False}, {}, "no XLA, jit_compile is False."),
    "eager": ({"run_eagerly": True}, {}, "no XLA, steps run eagerly."),
    "few steps": ({}, {}, "no XLA, 4 steps in all, and compiling pays from 500 on."),
    "many steps": ({}, {"batch_size": 5, "epochs": 50}, "XLA, dense layers and 500 steps in all."),
}


@pytest.mark.xdist_group("xla")
@pytest.mark.parametrize(("settings", "arguments", "told"), **each(XLA))
def test_whether_xla_compiles_and_why(settings, arguments, told):
    trainer = CustomTrainer(mlp(), optimizer="sgd", loss="mse", **settings)
    trainer.fit(X, Y, **{"batch_size": 16, "verbose": 0, **arguments})
    assert trainer.explain().split("; ")[1] == told


class InPython(keras.layers.Layer):
    def call(self, x):
        return tf.ensure_shape(tf.py_function(lambda rows: 2 * rows, [x], x.dtype), x.shape)


@pytest.mark.filterwarnings("ignore:XLA cannot compile")
def test_what_xla_could_not_compile_is_told():
    trainer = CustomTrainer(mlp(InPython()), optimizer="sgd", loss="mse", jit_compile=True)
    trainer.evaluate(X, Y, verbose=0)
    assert trainer.explain().endswith("; no XLA, which cannot compile the step.")


def test_other_data_and_models_are_told():
    dropout = CustomTrainer(mlp(keras.layers.Dropout(0.5)), optimizer="sgd", loss="mse")
    dropout.fit(X, Y, verbose=0)
    assert dropout.explain().endswith(
        "; no XLA, Dropout is not faster under XLA on a CPU, or not known to be."
    )
    dropout.fit(tf.data.Dataset.from_tensors((X, Y)), verbose=0)
    assert dropout.explain().endswith("; no XLA, batches are not cut out of arrays.")


def test_a_prediction_and_a_step_of_ones_own_have_their_own_reasons():
    class OwnStep(CustomTrainer):
        def train_step(self, data):
            return super().train_step(data)

    trainer = OwnStep(mlp(), optimizer="sgd", loss="mse")
    for rows in (3, 50):
        trainer.predict(X[:rows], verbose=0)
        assert trainer.explain().endswith("; no XLA, predicting is not faster under XLA on a CPU.")
    trainer.fit(X, Y, verbose=0)
    assert trainer.explain().endswith("; no XLA, OwnStep.train_step is not Keras's.")
    trainer.evaluate(X[:3], Y[:3], verbose=0)
    assert trainer.explain().endswith("; no XLA, 3 rows are less than a batch of 32.")
