"""A training whose state is taken and put back ends as one that went through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from tests.models import assert_same, each, labels, mlp, numbers, seeded
from trainer import CustomTrainer, loop
from trainer.loop import Place
from trainer.snapshots import files
from trainer.snapshots.files import Contents
from trainer.snapshots.state import TrainingState
from trainer.snapshots.variables import training_variables, values

ROWS, BATCH, EPOCHS = 50, 8, 3  # six full batches an epoch, and two rows
X, Y = numbers(ROWS, 4), labels(ROWS)


def network() -> keras.Model:
    return mlp(
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        outputs=3,
    )


class Slices(keras.utils.PyDataset):
    def __len__(self):
        return -(-ROWS // BATCH)

    def __getitem__(self, number):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        return X[rows], Y[rows]


DATA = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": BATCH},
    "PyDataset": lambda: {"x": Slices()},
    "fewer steps than a pass": lambda: {"x": X, "y": Y, "batch_size": BATCH, "steps_per_epoch": 5},
}


def trainer() -> CustomTrainer:
    return CustomTrainer(
        seeded(network),
        optimizer=keras.optimizers.Adam(0.01, use_ema=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        seed=5,
    )


def callbacks() -> list[keras.callbacks.Callback]:
    return [
        keras.callbacks.EarlyStopping("loss", patience=2, min_delta=0.02),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.1),
    ]


class Fit:
    """A `fit` that keeps the states at all places, or goes on from one."""

    def __init__(self, monkeypatch, data: dict[str, Any]):
        self.patch, self.data = monkeypatch, data
        self.kept: list[Contents] = []

    def whole(self):
        def keep(state: TrainingState) -> Callable[[Place], None]:
            return lambda place: self.kept.append(state.taken(place))

        return self._fit(lambda state: {"between": keep(state)})

    def from_state(self, contents: Contents):
        return self._fit(lambda state: {"resumed": state.resumed(contents)})

    def _fit(self, how):
        original, made = loop.train, trainer()

        def train(algorithm, run, progress, **keywords):
            state = TrainingState(algorithm, run, progress, run.hooks.callbacks)
            original(algorithm, run, progress, **keywords, **how(state))

        with self.patch.context() as patch:
            patch.setattr(loop, "train", train)
            history = made.fit(
                **self.data,
                epochs=EPOCHS,
                verbose=0,
                callbacks=callbacks(),
                validation_data=(X[:20], Y[:20]),
            )
        return history.history, values(training_variables(made)), (made.step, made.epoch)


@pytest.mark.parametrize("make", **each(DATA))
def test_it_ends_with_the_same_bits_from_anywhere(monkeypatch, tmp_path, make):
    whole = Fit(monkeypatch, make())
    expected = whole.whole()
    assert len(whole.kept) > EPOCHS
    for number, contents in enumerate(whole.kept):
        files.write(tmp_path / "snapshot", contents)
        found = Fit(monkeypatch, make()).from_state(files.read(tmp_path / "snapshot"))
        assert_same(found, expected, at=f"from place {number}")
    assert np.isfinite(expected[0]["val_loss"]).all()


def test_the_state_of_another_model_changes_nothing(monkeypatch):
    fit = Fit(monkeypatch, DATA["arrays"]())
    fit.whole()
    arrays = dict(fit.kept[0].arrays)
    del arrays["variables/model/sequential/dense/kernel"]
    told = "another training: model/sequential/dense/kernel, float32 of shape .* is not in the"
    with pytest.raises(ValueError, match=told):
        fit.from_state(fit.kept[0]._replace(arrays=arrays))
