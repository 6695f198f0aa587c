"""What goes on with a snapshot is the same training, whatever came before it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.callbacks import Stopper
from tests.helpers.comparisons import assert_same
from tests.helpers.tables import each
from tests.helpers.trainings import (
    BATCH,
    EPOCHS,
    STEPS,
    TOTAL,
    Begins,
    Callback,
    Interrupts,
    break_off,
    fit,
    latest_in,
    rows,
    trainer,
    undisturbed,
)
from trainer import CustomTrainer, program
from trainer.callbacks import Snapshots
from trainer.snapshots import files


def written_at(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ctime_ns for path in directory.iterdir()}


def test_a_finished_training_is_not_trained_again(tmp_path):
    expected = fit(trainer(), Snapshots(tmp_path))
    saved = written_at(tmp_path)
    begins, made = Begins(), trainer()
    assert_same(fit(made, begins, Snapshots(tmp_path)), expected)
    assert begins.begun == ["training"]
    assert written_at(tmp_path) == saved
    begins = Begins()
    assert_same(fit(trainer(), begins, Snapshots(tmp_path), epochs=5), undisturbed(epochs=5))
    assert begins.begun[:3] == ["training", "epoch 3", "step 0"]


def test_a_training_that_was_stopped_stays_so(tmp_path):
    def stopped(*more: Callback) -> dict[str, Any]:
        return fit(trainer(), Stopper("stop_training", "on_epoch_end", 2), *more)

    expected = stopped()
    assert expected["place"] == [2 * STEPS, 2]
    assert_same(stopped(Snapshots(tmp_path)), expected)
    begins = Begins()
    assert_same(stopped(begins, Snapshots(tmp_path)), expected)
    assert begins.begun == ["training"]


def test_a_second_fit_trains_on_and_is_told_from_the_first(tmp_path):
    def train(made: CustomTrainer, *callbacks: Callback) -> dict[str, Any]:
        fit(made, *callbacks)
        return fit(made, *callbacks, epochs=2)

    expected = train(trainer())
    assert expected["place"][0] == 5 * STEPS
    assert_same(train(trainer(), Snapshots(tmp_path / "whole")), expected)

    made, saved = trainer(), tmp_path / "broken off"
    fit(made, Snapshots(saved))
    break_off(made, saved, TOTAL + 10, epochs=2)
    latest = latest_in(saved)
    assert files.step_of(latest) == TOTAL + STEPS + 2
    restarted = trainer()
    mend = re.escape(f"trainer.restore_snapshot({str(latest)!r}) before fit")
    with pytest.raises(ValueError, match=f"{latest} was taken in call 2 of fit.*{mend}"):
        fit(restarted, Snapshots(saved))
    assert restarted.step == 0
    restarted.restore_snapshot(latest)
    assert_same(fit(restarted, Snapshots(saved), epochs=2), expected)


def test_each_fit_has_its_directory_over_a_restart(tmp_path):
    def train(made: CustomTrainer, *at: Callback) -> dict[str, Any]:
        fit(made, Snapshots(tmp_path / "first"))
        return fit(made, Snapshots(tmp_path / "second"), *at, epochs=2)

    with pytest.raises(KeyboardInterrupt):
        train(trainer(), Interrupts(TOTAL + 10))
    made = trainer()
    ended = train(made)
    fit(again := trainer())
    assert_same(ended, fit(again, epochs=2))


DATA = {
    "arrays": lambda: {},
    "tf.data": lambda: {"x": rows().shuffle(20, seed=3).batch(BATCH)},
    "tf.data without end": lambda: {
        "x": rows().shuffle(20, seed=3).repeat().batch(BATCH),
        "steps_per_epoch": STEPS,
    },
}


@pytest.mark.parametrize("data", **each(DATA, ["tf.data"]))
def test_ctrl_c_then_fit_goes_on_in_the_same_process(tmp_path, capsys, monkeypatch, data):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)
    expected = fit(trainer(), **data())
    made, given = trainer(), data()
    break_off(made, tmp_path, 17, **given)
    assert made.step == 17
    capsys.readouterr()
    ended = fit(made, Snapshots(tmp_path), **given)
    assert "snapshot-000000000015-000002: 2 epochs, and 1 steps" in capsys.readouterr().out
    assert_same(ended, expected)
    assert_same(fit(made, epochs=1, **given)["place"], [TOTAL + STEPS, EPOCHS + 1])


def test_a_callback_with_a_state_gets_it_back(tmp_path):
    calls: list[Any] = []

    class WithState(Callback):
        def __init__(self):
            super().__init__()
            self.secret = 0

        def on_train_begin(self, logs=None):
            self.secret = 100
            calls.append("begin")

        def on_epoch_begin(self, epoch, logs=None):
            self.secret += 1
            calls.append(f"epoch {epoch}")

        def get_state(self):
            calls.append("get")
            return {"secret": [self.secret], "array": np.arange(3)}

        def set_state(self, state):
            assert_same(state["array"], np.arange(3))
            (self.secret,) = state["secret"]
            calls.append("set")

    break_off(trainer(), tmp_path, 12, WithState())
    assert calls.count("get") == 3  # after 5, 7 and 10 steps
    assert "set" not in calls
    calls.clear()
    restarted = WithState()
    assert_same(fit(trainer(), restarted, Snapshots(tmp_path)), undisturbed())
    assert calls == ["begin", "epoch 1", "set", "get", "epoch 2", "get"]
    assert restarted.secret == 100 + EPOCHS


def test_history_is_whole_whatever_is_logged(tmp_path):
    class LogsRate(Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["rate"] = self.model.optimizer.learning_rate  # a variable, no number

    expected = fit(trainer(), LogsRate())
    break_off(trainer(), tmp_path, 17, LogsRate())
    ended = fit(trainer(), LogsRate(), Snapshots(tmp_path))
    assert_same(ended["epochs"], expected["epochs"])
    assert_same(ended["history"]["loss"], expected["history"]["loss"])
    assert len(ended["history"]["rate"]) == EPOCHS
