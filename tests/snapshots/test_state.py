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
from tests.helpers.processes import run
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


class Augments(ReorderedBatches):
    """Batches with noise of a generator of its own, and of NumPy's."""

    def __init__(self):
        super().__init__((X, Y), BATCH)
        self.draws = np.random.default_rng(4)
        np.random.seed(4)

    def __getitem__(self, number):
        x, y = super().__getitem__(number)
        noise = self.draws.normal(size=x.shape) + np.random.normal(size=x.shape)
        return x + np.float32(0.1 * noise), y


def two_loaders() -> dict[str, Any]:
    """Returns loaders that each draw from torch's own generator, in turn."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    rows = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return {
        name: torch.utils.data.DataLoader(rows, batch_size=BATCH, shuffle=True)
        for name in ("x", "validation_data")
    }


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
    "PyDataset that draws": lambda: {"x": Augments()},
    "two loaders of torch that draw in turn": two_loaders,
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
    data = {"validation_data": (X[:20], Y[:20]), **data, **how}
    history = made.fit(
        **data,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping("loss", patience=2, min_delta=0.02),
            keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.1),
            *more,
        ],
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


# Models that hold what training changes


class Pair(keras.Model):
    """Two networks of the same shapes, their optimizers given to `compile`; without `call`."""

    def __init__(self):
        super().__init__()
        self.one, self.two = mlp(outputs=1), mlp(outputs=1)

    def compile(self, optimizers):
        super().compile(jit_compile=False)
        self.own_optimizers = optimizers

    def train_step(self, data):
        x, _ = data
        for number, (part, optimizer) in enumerate(self.own_optimizers.items()):
            network = getattr(self, part)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(network(x) - number))
            optimizer.apply(
                tape.gradient(loss, network.trainable_weights), network.trainable_weights
            )
        return {"loss": loss}


def pair() -> CustomTrainer:
    model = seeded(Pair)
    model.compile({"one": keras.optimizers.Adam(0.01), "two": keras.optimizers.Adam(0.02)})
    return CustomTrainer(model, seed=5)


def fit_pair(made: CustomTrainer, *callbacks: keras.callbacks.Callback) -> dict[str, np.ndarray]:
    made.fit(X, Y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=list(callbacks))
    return values(training_variables(made))


def save_pair_in_mid_training(directory: Path) -> None:
    fit_pair(pair(), Saves(directory))


def test_optimizers_that_a_model_holds_go_on_in_another_process(tmp_path):
    run(save_pair_in_mid_training, tmp_path)
    expected = fit_pair(pair())
    assert sum("model.own_optimizers.one/" in name for name in expected) > 8
    for number in (3, 10):
        made = pair()
        made.restore_snapshot(tmp_path / str(number))
        assert_same(fit_pair(made), expected)


def test_optimizers_that_a_model_holds_are_restored_by_hand(tmp_path):
    made = pair()
    fit_pair(made)
    made.save_snapshot(tmp_path / "saved")
    expected = fit_pair(made)
    made.restore_snapshot(tmp_path / "saved")
    assert_same(fit_pair(made), expected)


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
