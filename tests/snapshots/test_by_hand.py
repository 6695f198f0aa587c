"""Snapshots saved and restored by hand."""

from __future__ import annotations

import random
import re
from pathlib import Path

import keras
import pytest

from tests.helpers.comparisons import assert_same
from tests.helpers.tables import each
from tests.helpers.trainings import (
    EPOCHS,
    OF_WIDTH,
    TOTAL,
    Watches,
    X,
    Y,
    fit,
    latest_in,
    other_network,
    trainer,
    undisturbed,
)
from tests.snapshots.test_files import arrays_of, flip


def test_a_trainer_is_saved_and_restored(tmp_path):
    first, second = trainer(), trainer()
    fit(first)
    first.save_snapshot(tmp_path / "saved")
    second.restore_snapshot(tmp_path / "saved")
    assert (second.step, second.epoch) == (TOTAL, EPOCHS)
    assert_same(second.predict(X, verbose=0), first.predict(X, verbose=0))
    mine, theirs = ([v.numpy() for v in made.optimizer.variables] for made in (second, first))
    assert_same(mine, theirs)
    assert_same(fit(second, epochs=2), fit(first, epochs=2))
    assert_same(second.evaluate(X, Y, verbose=0), first.evaluate(X, Y, verbose=0))


def damaged(path: Path) -> Path:
    flip(arrays_of(path), random.Random(1))
    return path


NOT_RESTORABLE = {
    "damaged": (trainer, damaged, "npz is not what was written"),
    "not there": (trainer, lambda path: path.with_name("nowhere"), "no folder .*nowhere: give one"),
    "the folder of several": (
        trainer,
        lambda path: path.parent,
        "a folder of several: give one of",
    ),
    "of another model": (
        lambda: trainer(other_network),
        lambda path: path,
        OF_WIDTH,
    ),
    "of another optimizer": (
        lambda: trainer(optimizer=keras.optimizers.SGD),
        lambda path: path,
        "optimizer/adam",
    ),
}


@pytest.mark.parametrize(("make", "change", "message"), **each(NOT_RESTORABLE))
def test_a_snapshot_that_does_not_fit_changes_nothing(copy, make, change, message):
    made, expected = make(), fit(make())
    path = change(latest_in(copy))
    before = made.model.get_weights()
    with pytest.raises(ValueError, match=message):
        made.restore_snapshot(path)
    assert_same(made.model.get_weights(), before)
    assert (made.step, made.epoch) == (0, 0)
    assert_same(fit(made), expected)


def test_a_snapshot_that_does_not_fit_is_named(copy):
    path = damaged(latest_in(copy))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        trainer().restore_snapshot(path)


def test_a_model_without_variables_yet_is_told_of(tmp_path):
    def not_built() -> keras.Model:
        return keras.Sequential([keras.layers.Dense(3)])

    made = trainer(not_built)
    fit(made)
    made.save_snapshot(tmp_path / "saved")
    with pytest.raises(ValueError, match="not built"):
        trainer(not_built).restore_snapshot(tmp_path / "saved")


def test_what_was_restored_outlives_a_fit_that_was_refused(copy):
    made = trainer()
    made.restore_snapshot(latest_in(copy))
    with pytest.raises(ValueError, match="batch size"):
        fit(made, batch_size=10)
    assert_same(fit(made), undisturbed())


def test_a_snapshot_asked_for_at_the_end_is_written(tmp_path):
    class SavesAtTheEnd(Watches):
        def on_train_end(self, logs=None):
            self.trainer.save_snapshot(tmp_path / "saved")

    made, restored = trainer(), trainer()
    ended = fit(made, SavesAtTheEnd())
    restored.restore_snapshot(tmp_path / "saved")
    assert_same(restored.model.get_weights(), made.model.get_weights())
    assert [restored.step, restored.epoch] == ended["place"]
