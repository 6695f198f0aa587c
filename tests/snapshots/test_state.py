"""A training whose state is taken and put back ends as one that went through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import ReorderedBatches, labels, numbers
from tests.helpers.models import mlp, seeded
from tests.helpers.tables import each, names_of
from tests.helpers.ways import doubled_in_python, with_noise
from trainer import CustomTrainer
from trainer.snapshots.variables import training_variables, values

ROWS, BATCH, EPOCHS = 50, 8, 3  # six full batches an epoch, and two rows
X, Y = numbers(ROWS, 4), labels(ROWS)


def network() -> keras.Model:
    return mlp(
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        outputs=3,
    )


def pipeline(**shuffled: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(20, seed=3, **shuffled)


def batches():
    for epoch in range(EPOCHS):
        for start in range(0, ROWS, BATCH):
            rows = slice(start, start + BATCH)
            yield X[rows] + np.float32(epoch), Y[rows]


def loaded():
    torch = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    order = torch.Generator().manual_seed(3)
    loader = torch.utils.data.DataLoader(rows, batch_size=BATCH, shuffle=True, generator=order)
    return {"x": loader}


def of_grain():
    grain = pytest.importorskip("grain")
    rows = grain.MapDataset.source([(X[row], Y[row]) for row in range(ROWS)])
    return {"x": rows.shuffle(seed=1).repeat(5).batch(BATCH), "steps_per_epoch": 7}


DATA = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": BATCH},
    "arrays in chunks": lambda: {"x": X, "y": Y, "batch_size": BATCH},
    "PyDataset": lambda: {"x": ReorderedBatches((X, Y), BATCH)},
    "fewer steps than a pass": lambda: {"x": X, "y": Y, "batch_size": BATCH, "steps_per_epoch": 5},
    "tf.data": lambda: {"x": pipeline().batch(BATCH)},
    "tf.data without end": lambda: {"x": pipeline().repeat().batch(BATCH), "steps_per_epoch": 7},
    "tf.data of unknown length": lambda: {"x": pipeline().batch(BATCH).filter(lambda x, y: True)},
    "tf.data that calls Python": lambda: {"x": pipeline().batch(BATCH).map(doubled_in_python)},
    "tf.data that draws": lambda: {"x": pipeline().batch(BATCH).map(with_noise)},
    "a generator": lambda: {"x": batches(), "steps_per_epoch": 7},
    "a torch DataLoader": loaded,
    "grain": of_grain,
}
CHUNKED = ["arrays in chunks"]


def trainer(data: str = "arrays") -> CustomTrainer:
    made = CustomTrainer(
        seeded(network),
        optimizer=keras.optimizers.Adam(0.01, use_ema=True),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        seed=5,
    )
    made.array_budget = 0 if data in CHUNKED else None
    return made


class Saves(keras.callbacks.Callback):
    """Saves a snapshot at each place."""

    def __init__(self, directory: Path):
        super().__init__()
        self.directory = directory
        self.paths: list[Path] = []

    def set_trainer(self, trainer: CustomTrainer) -> None:
        self.trainer = trainer

    def on_train_batch_end(self, batch, logs=None):
        self.save()

    def on_epoch_end(self, epoch, logs=None):
        self.save()

    def save(self):
        self.paths.append(self.directory / str(len(self.paths)))
        self.trainer.save_snapshot(self.paths[-1])


def fit(made: CustomTrainer, data: dict[str, Any], *more: keras.callbacks.Callback, **how: Any):
    history = made.fit(
        **data,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping("loss", patience=2, min_delta=0.02),
            keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.1),
            *more,
        ],
        **({"validation_data": (X[:20], Y[:20])} | how),
    )
    return history.history, values(training_variables(made)), (made.step, made.epoch)


DEFAULT = ("arrays", "tf.data")


@pytest.mark.parametrize("name", names_of(DATA, DEFAULT))
def test_it_ends_with_the_same_bits_from_every_fifth_step(tmp_path, name):
    check_from_some_steps(tmp_path, name, slice(None, None, 5))


@pytest.mark.exhaustive
def test_it_ends_with_the_same_bits_from_every_step(tmp_path):
    check_from_some_steps(tmp_path, "arrays", slice(None))


def check_from_some_steps(directory: Path, name: str, some: slice) -> None:
    saves = Saves(directory)
    expected = fit(trainer(name), DATA[name](), saves)
    assert len(saves.paths) == EPOCHS + expected[2][0]
    for path in saves.paths[some]:
        made = trainer(name)
        made.restore_snapshot(path)
        assert_same(fit(made, DATA[name]()), expected, at=f"from {path.name}")
    assert np.isfinite(expected[0]["val_loss"]).all()


VALIDATION = {
    "tf.data": lambda: {"validation_data": pipeline().batch(BATCH)},
    "a generator": lambda: {"validation_data": batches(), "validation_steps": 2},
    "PyDataset": lambda: {"validation_data": ReorderedBatches((X, Y), BATCH)},
}


@pytest.mark.parametrize("make", **each(VALIDATION, default=["tf.data"]))
def test_validation_goes_on_with_its_data_too(tmp_path, make):
    saves = Saves(tmp_path)
    expected = fit(trainer(), DATA["arrays"](), saves, **make())
    for path in saves.paths[::5]:
        made = trainer()
        made.restore_snapshot(path)
        assert_same(fit(made, DATA["arrays"](), **make()), expected, at=f"from {path.name}")


def test_a_seed_that_was_left_open_comes_back(tmp_path):
    def made(state: int) -> CustomTrainer:
        model = seeded(network)
        keras.utils.set_random_seed(state)
        return CustomTrainer(model, optimizer="sgd", loss="sparse_categorical_crossentropy")

    saves = Saves(tmp_path)
    first, second = made(1), made(2)
    assert first.seed != second.seed
    expected = fit(first, DATA["arrays"](), saves)
    second.restore_snapshot(saves.paths[3])
    assert_same(fit(second, DATA["arrays"]()), expected)
    assert second.seed == first.seed
