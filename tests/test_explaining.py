"""The line on what a run costs: group length, XLA, and what holds groups."""

from __future__ import annotations

import re
from typing import Any

import keras
import pytest
import tensorflow as tf

from tests.helpers import gans
from tests.helpers.data import numbers
from tests.helpers.models import compiled, mlp
from tests.helpers.tables import each
from trainer import CustomTrainer
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


def explained(*made: Any, **settings: Any) -> str:
    """Returns what is told of a fit with callbacks."""
    trainer = CustomTrainer(compiled(mlp(), **settings))
    trainer.fit(X, Y, 16, callbacks=[*made], verbose=0)
    return trainer.explain()


HELD = (
    "fit: groups of 1 step, held by {}, which may act on each batch (if it only reads logs, give "
    "it the attribute batch_hooks = 'log'); no XLA, jit_compile is False."
)
AS_LONG = r"fit: groups of about \d+ steps, a tenth of a second; no XLA, jit_compile is False\."
KEPT = AS_LONG.replace("second;", "second, the logs of each step kept for a callback;")


def test_nothing_to_tell_before_a_run():
    assert CustomTrainer(compiled(mlp())).explain() == "Nothing has run yet."


FREE = {
    "none": [],
    "epochs": [callbacks.EarlyStopping("loss")],
    "a bar": [ProgressBar()],
    "TerminateOnNaN": [callbacks.TerminateOnNaN()],
}


@pytest.mark.parametrize("made", **each(FREE))
def test_groups_that_nobody_holds(made):
    assert re.fullmatch(AS_LONG, explained(*made))


def test_a_callback_that_holds_groups_is_named_with_what_to_do():
    assert explained(callbacks.EarlyStopping("loss"), Acts()) == HELD.format("Acts")


def test_the_first_that_holds_groups_is_named():
    noting = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    assert explained(Reads(), noting, Acts()) == HELD.format("LambdaCallback")


def test_logs_that_are_kept_are_told():
    assert re.fullmatch(KEPT, explained(Reads()))


def test_groups_that_were_asked_for():
    for made in ([], [Acts()], [Reads()]):
        assert explained(*made, steps_per_execution=3) == (
            "fit: groups of 3 steps, as steps_per_execution asks; no XLA, jit_compile is False."
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
    "few steps": ({}, {}, "no XLA, 4 steps, and compiling pays from 500 on."),
    "many steps": ({}, {"batch_size": 5, "epochs": 50}, "XLA, dense layers and 500 steps."),
}


@pytest.mark.xdist_group("xla")
@pytest.mark.parametrize(("settings", "arguments", "told"), **each(XLA))
def test_whether_xla_compiles_and_why(settings, arguments, told):
    trainer = CustomTrainer(mlp(), optimizer="sgd", loss="mse", **settings)
    trainer.fit(X, Y, **{"batch_size": 16, "verbose": 0, **arguments})
    assert trainer.explain().split("; ")[1] == told


def test_other_data_and_models_are_told():
    dropout = CustomTrainer(mlp(keras.layers.Dropout(0.5)), optimizer="sgd", loss="mse")
    dropout.fit(X, Y, verbose=0)
    assert dropout.explain().endswith(
        "; no XLA, Dropout is not faster under XLA on a CPU, or not known to be."
    )
    dropout.fit(tf.data.Dataset.from_tensors((X, Y)), verbose=0)
    assert dropout.explain().endswith("; no XLA, batches are not cut out of arrays.")
