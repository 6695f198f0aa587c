"""A training that is not that of the snapshot is refused, and nothing is changed."""

from __future__ import annotations

import keras
import pytest

from tests.helpers.comparisons import assert_same
from tests.helpers.hostile import manifest_of, write_manifest
from tests.helpers.tables import each
from tests.helpers.trainings import (
    ARRAYS,
    EPOCHS,
    OF_WIDTH,
    Begins,
    X,
    Y,
    fit,
    latest_in,
    names_in,
    other_network,
    trainer,
    undisturbed,
)
from trainer.callbacks import Snapshots

pytestmark = pytest.mark.xdist_group("broken off")

CHANGES = {
    "the width of a layer": (
        {"build": other_network},
        {},
        OF_WIDTH,
    ),
    "the optimizer": (
        {"optimizer": lambda: keras.optimizers.SGD(0.01)},
        {},
        r"optimizer/adam/\S*kernel_momentum, float32 of shape \(4, 5\), which is not there now",
    ),
    "the rows of a batch": (
        {},
        {**ARRAYS, "batch_size": 10},
        "the data had 8 for batch size, and have 10",
    ),
    "the number of rows": (
        {},
        {**ARRAYS, "x": X[:44], "y": Y[:44]},
        "the data had 50 for rows, and have 44",
    ),
    "the steps of an epoch": (
        {},
        {"steps_per_epoch": 5},
        "the data had None for steps an epoch, and have 5",
    ),
    "the order": ({}, {"shuffle": False}, "the data had True for shuffle, and have False"),
    "what a batch is": (
        {},
        {**ARRAYS, "x": X.astype("int64")},
        r"the data had .*float32.* for a batch, and have .*int64",
    ),
}


@pytest.mark.parametrize(("made", "given", "message"), **each(CHANGES))
def test_another_training_is_refused(copy, capsys, made, given, message):
    made, log = trainer(**made), copy.parent / "log.csv"
    with log.open("a") as file:
        file.write("2,0.5,1.0\n")  # as if training had gone on without a snapshot
    written, begins = log.read_bytes(), Begins()
    before = made.model.get_weights()
    with pytest.raises(ValueError, match="The snapshot is of another training: .*" + message):
        fit(made, keras.callbacks.CSVLogger(log), begins, Snapshots(copy), **given)
    assert begins.begun == []
    assert "Training goes on" not in capsys.readouterr().out
    assert log.read_bytes() == written
    assert_same(made.model.get_weights(), before)
    variables = made.optimizer.variables
    assert {v.path for v in variables if v.numpy().any()} <= {
        f"{made.optimizer.name}/learning_rate"
    }
    assert (made.step, made.epoch) == (0, 0)


def test_what_was_refused_goes_on_once_it_is_as_it_was(copy):
    made, saving = trainer(), Snapshots(copy)
    log = keras.callbacks.CSVLogger(copy.parent / "log.csv")
    for _ in range(2):
        with pytest.raises(ValueError, match="batch size"):
            fit(made, saving, log, batch_size=10)
    assert_same(fit(made, saving, log), undisturbed())
    assert (copy.parent / "log.csv").read_text().count("\n") == 1 + EPOCHS


def test_what_a_later_version_wrote_is_refused_and_kept(copy):
    write_manifest(latest_in(copy), manifest_of(latest_in(copy)) | {"format": 3})
    names, begins = names_in(copy), Begins()
    with pytest.raises(ValueError, match=f"{latest_in(copy)} has format 3"):
        fit(trainer(), begins, Snapshots(copy))
    assert begins.begun == []
    assert names_in(copy) == names
