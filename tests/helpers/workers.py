"""Trainings of several workers: callbacks, snapshots, faults.

Each function runs in every process of a cluster, or in the test process on one device or two.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.cluster import number_and_count
from tests.helpers.data import Batches, labels, numbers
from tests.helpers.devices import strategy_for
from tests.helpers.models import mlp
from trainer import CustomTrainer, NonFiniteError
from trainer.callbacks import NaNGuard, ProgressBar, Snapshots
from trainer.snapshots import writer
from trainer.snapshots.variables import training_variables, values

ROWS, BATCH, STEPS, EPOCHS = 203, 8, 26, 4
TOTAL = STEPS * EPOCHS
X, Y = numbers(ROWS, 4), labels(ROWS, 1, classes=2)
HELD_OUT = (X[:60], Y[:60])
Callback = keras.callbacks.Callback


def network() -> keras.Model:
    normalization = keras.layers.BatchNormalization()
    return mlp(normalization, keras.layers.Dropout(0.2), activation="sigmoid")


def plain_network() -> keras.Model:
    return mlp(activation="sigmoid")


def adam() -> keras.Optimizer:
    return keras.optimizers.Adam(0.01)


def trainer(
    build: Callable[[], keras.Model] = network,
    devices: int = 1,
    optimizer: Callable[[], keras.Optimizer] = adam,
) -> CustomTrainer:
    strategy = strategy_for(devices)
    keras.utils.clear_session(free_memory=False)  # names count from the start
    keras.utils.set_random_seed(7)
    with strategy.scope():
        return CustomTrainer(
            build(),
            optimizer=optimizer(),
            loss="binary_crossentropy",
            metrics=["accuracy", keras.metrics.AUC(name="auc")],
            jit_compile=False,
            seed=5,
        )


def fit(made: CustomTrainer, *callbacks: Callback, **how: Any) -> None:
    arguments = {"x": X, "y": Y, "batch_size": BATCH, "epochs": EPOCHS, "verbose": 0}
    arguments |= {"validation_data": HELD_OUT, "validation_batch_size": BATCH}
    made.fit(**{**arguments, **how}, callbacks=list(callbacks))


def outcome(made: CustomTrainer) -> dict[str, np.ndarray]:
    """Returns what a training ended with; each worker has to call it."""
    arrays = {name: np.asarray(value) for name, value in values(training_variables(made)).items()}
    history = made.model.history.history
    arrays |= {f"history/{key}": np.float64(logged) for key, logged in history.items()}
    return {**arrays, "step": np.asarray(made.step)}


@contextlib.contextmanager
def printing() -> Iterator[io.StringIO]:
    """Yields a buffer that gets what is printed meanwhile."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        yield printed


@contextlib.contextmanager
def writing_each_snapshot() -> Iterator[None]:
    """Lets snapshots be written one right after the other, where some would be left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_SHARE", 0)
        yield


# Workers that are killed, suspended or interrupted


class Moment(NamedTuple):
    """When a signal comes to one worker: once so many steps are done, and some seconds later."""

    worker: int
    step: int
    seconds: float
    signal: int = signal.SIGKILL


def strike(made: CustomTrainer, moment: Moment) -> None:
    """Sends this process the signal of `moment`, from a thread."""

    def wait_and_strike() -> None:
        while made.step < moment.step:
            time.sleep(0.0005)
        time.sleep(moment.seconds)
        os.write(1, f"struck {time.time()}\n".encode())
        os.kill(os.getpid(), moment.signal)

    threading.Thread(target=wait_and_strike, daemon=True).start()


def train(directory: Path, moment: Moment | None = None, *callbacks: Callback, **how: Any) -> None:
    """Trains with snapshots, to the end or until something comes at `moment`."""
    number, _ = number_and_count()
    made = trainer()
    if moment is not None and moment.worker == number:
        strike(made, moment)
    log = keras.callbacks.CSVLogger(directory / "log.csv")
    saving = Snapshots(directory / "snapshots", every_steps=5, **how)
    with writing_each_snapshot():
        fit(made, log, saving, *callbacks)
    np.savez(directory / f"ended-{number}.npz", **outcome(made))


class Hangs(Callback):
    """Hangs in the last worker, in a hook, where only Python is at a standstill."""

    def on_epoch_end(self, epoch, logs=None):
        if number_and_count()[0] == 1:
            print(f"struck {time.time()}", flush=True)
            time.sleep(600)


def hang() -> None:
    """Trains until one worker hangs; the user has set a time-out of three seconds."""
    made = trainer()
    made.peer_timeout = 3.0
    fit(made, Hangs())


class Terminates(Callback):
    """Is SIGTERM to the chief in a validation."""

    def on_test_batch_end(self, batch, logs=None):
        if batch == 2 and number_and_count()[0] == 0:
            signal.raise_signal(signal.SIGTERM)


def train_until_sigterm(directory: Path, moment: Moment | None) -> None:
    """Trains until SIGTERM comes at `moment`, or in the first validation."""
    train(directory, moment, *([] if moment else [Terminates()]), exit_code=7)


# Workers that differ from one another


class SetsWeights(Callback):
    """Sets other weights when training begins."""

    def on_train_begin(self, logs=None):
        self.model.layers[0].kernel.assign(np.ones((4, 5)))


def with_other_weights() -> keras.Model:
    model = network()
    model.layers[0].kernel.assign(np.ones((4, 5)))
    return model


def named_otherwise() -> keras.Model:
    keras.Sequential()  # names then count from another number, which is no difference
    return network()


def rows_in_another_order(is_other: bool) -> Any:
    return Batches((np.flip(X, 0) if is_other else X, Y), BATCH)


def rows_shuffled_without_a_seed(is_other: bool) -> tf.data.Dataset:
    tf.random.set_seed(int(is_other))  # as in processes that were given none
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(ROWS).batch(BATCH)


BATCHES = {"shuffle": rows_shuffled_without_a_seed, "PyDataset": rows_in_another_order}
OTHER_ARGUMENTS = {
    "rows": {"x": X[:-50], "y": Y[:-50]},
    "content": {"x": X + 1},
    "epochs": {"epochs": EPOCHS + 1},
}
OTHER_NETWORKS = {"weights": with_other_weights, "settings": named_otherwise}


def fit_with_difference(what: str, folder: Path) -> tuple[str, str]:
    """Trains workers of which the second has another `what`.

    Returns:
        The error that each worker raises, and what it prints.
    """
    is_other = number_and_count()[0] == 1
    made = trainer(
        OTHER_NETWORKS.get(what, network) if is_other else network,
        optimizer=keras.optimizers.SGD if is_other and what == "optimizer" else adam,
    )
    how = OTHER_ARGUMENTS.get(what, {}) if is_other else {}
    if what in BATCHES:
        how = {"x": BATCHES[what](is_other), "y": None, "batch_size": None}
    callbacks = []
    if what == "snapshot":
        callbacks = [Snapshots(folder / "elsewhere" if is_other else folder)]
    elif is_other and what == "callbacks":
        callbacks = [NaNGuard(folder)]
    elif is_other and what == "begin":
        callbacks = [SetsWeights()]
    # What each process has of its own, which it can read when the others have ended.
    weights = made.model.trainable_variables
    before = [weight.numpy() for weight in weights]
    with pytest.MonkeyPatch.context() as patch, printing() as printed:
        if is_other and what == "version":
            patch.setattr(keras, "__version__", "0.1")
        if is_other and what == "settings":
            made.optimizer.clipnorm = 0.1
        with pytest.raises(ValueError) as raised:
            if what == "single batch":
                made.train_on_batch(X[:BATCH], Y[:BATCH] + is_other)
            else:
                fit(made, *callbacks, **how)
    if what not in BATCHES:  # which only the first group of steps shows
        assert made.step == 0
        if what != "begin":
            assert all((w.numpy() == old).all() for w, old in zip(weights, before, strict=True))
    return str(raised.value), printed.getvalue()


def fit_with_snapshots(folder: Path) -> None:
    with writing_each_snapshot():
        fit(trainer(), Snapshots(folder), epochs=2)


def fit_on_other_lengths() -> None:
    """Trains workers of which the second has fewer batches, of an iterator."""
    batches = [(X[:BATCH], Y[:BATCH])] * (20 - 5 * number_and_count()[0])
    fit(trainer(), x=iter(batches), y=None, batch_size=None, epochs=1)


# Steps that are not finite


def rows_with_nan() -> np.ndarray:
    """Returns rows of which one, in the thirteenth batch, is not a number."""
    x = X.copy()
    x[100] = np.nan
    return x


def record_failure(folder: Path, devices: int = 1) -> tuple[str, float]:
    """Returns the error of a training with a row that is no number, and its replayed loss."""
    made = trainer(plain_network, devices)
    with pytest.raises(NonFiniteError) as raised:
        fit(made, NaNGuard(folder), x=rows_with_nan(), shuffle=False)
    return str(raised.value), float(made.replay(folder / "step-12")["loss"])


def record_failure_in_split_data(folder: Path, devices: int = 1) -> tuple[str, float]:
    """Returns what `record_failure` does, of data that `tf.distribute` has split."""
    made = trainer(plain_network, devices)
    lines = tf.data.Dataset.from_tensor_slices((rows_with_nan(), Y)).batch(BATCH)
    split = made.model.distribute_strategy.experimental_distribute_dataset(lines)
    with pytest.raises(NonFiniteError) as raised:
        fit(made, NaNGuard(folder), x=split, y=None, batch_size=None)
    return str(raised.value), float(made.replay(raised.value.path)["loss"])


def skip_failures(folder: Path, devices: int = 1) -> dict[str, np.ndarray]:
    """Returns the outcome of a training that leaves the failing step out in each epoch."""
    skipping = NaNGuard(folder, skips=EPOCHS)
    made = trainer(plain_network, devices)
    fit(made, skipping, x=rows_with_nan(), shuffle=False)
    assert skipping.skipped == EPOCHS
    return outcome(made)


# Trainings that are broken off


class BreaksOff(Callback):
    """Is Ctrl-C after a step."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def set_trainer(self, made: CustomTrainer) -> None:
        self.trainer = made

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step == self.step:
            raise KeyboardInterrupt


def shuffled() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(100, seed=4).batch(BATCH)


def lines_of_files(folder: Path, seed: int | None = 4) -> tf.data.Dataset:
    """Returns rows of text files, of which each worker reads files of its own."""

    def parsed(line: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        columns = tf.strings.to_number(tf.strings.split(line, ","))
        return tf.ensure_shape(columns[:4], [4]), columns[4:]

    names = [str(folder / f"lines-{number}.txt") for number in range(4)]
    return tf.data.TextLineDataset(names).map(parsed).shuffle(30, seed=seed).batch(BATCH)


def write_data(folder: Path) -> None:
    """Writes the rows into text files and an array."""
    rows = [",".join(map(str, row)) for row in np.concatenate([X, Y], 1)]
    for number in range(4):
        (folder / f"lines-{number}.txt").write_text("\n".join(rows[number::4]))
    np.save(folder / "x.npy", X)


SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "arrays": lambda _: {},
    "arrays on disk": lambda folder: {"x": np.load(folder / "x.npy", mmap_mode="r")},
    "PyDataset": lambda _: {"x": Batches((X, Y), BATCH)},
    "tf.data": lambda _: {"x": shuffled()},
    "split by tf.distribute": lambda _: {
        "x": strategy_for(2).experimental_distribute_dataset(shuffled())
    },
    "files of each worker": lambda folder: {"x": lines_of_files(folder)},
}


class Resumed(NamedTuple):
    """The outcomes of two trainings, and what the resumed one printed."""

    undisturbed: dict[str, np.ndarray]
    resumed: dict[str, np.ndarray]
    printed: str


def break_off_and_resume(source: str, folder: Path, devices: int = 1) -> Resumed:
    """Trains undisturbed, then until Ctrl-C, then from the latest snapshot on.

    Args:
        source: the data, of `SOURCES`.
        folder: has what `write_data` writes; gets the snapshots.
        devices: how many devices of this process train.
    """

    def run(*callbacks: Callback) -> CustomTrainer:
        made, how = trainer(devices=devices), SOURCES[source](folder)
        if "x" in how and "arrays" not in source:
            how |= {"y": None, "batch_size": None}
        with contextlib.suppress(KeyboardInterrupt):
            fit(made, *callbacks, **how, epochs=2, validation_data=None)
        return made

    with writing_each_snapshot():
        undisturbed = outcome(run())
        broken_off = run(Snapshots(folder / source, every_steps=5), BreaksOff(STEPS + 9))
        assert broken_off.step == STEPS + 9
        with printing() as printed:
            resumed = outcome(run(Snapshots(folder / source)))
    return Resumed(undisturbed, resumed, printed.getvalue())


def fit_on_files_shuffled_without_a_seed(folder: Path) -> str:
    """Returns the error that says that such a training cannot resume."""
    made = trainer()
    tf.random.set_seed(None)  # else TensorFlow has a seed for what has none
    lines = lines_of_files(folder, seed=None)
    with pytest.raises(ValueError) as raised:
        fit(made, Snapshots(folder / "unseeded"), x=lines, y=None, batch_size=None)
    return str(raised.value)


# Callbacks that write


def callbacks_that_write(directory: Path) -> list[Callback]:
    names = keras.callbacks
    return [
        names.ModelCheckpoint(directory / "epoch-{epoch}.keras"),
        names.ModelCheckpoint(
            directory / "best.weights.h5",
            save_best_only=True,
            save_weights_only=True,
            monitor="val_loss",
            mode="min",
        ),
        names.ModelCheckpoint(
            directory / "every-seven.weights.h5", save_freq=7, save_weights_only=True
        ),
        names.CSVLogger(directory / "log.csv"),
        names.TensorBoard(directory / "board", histogram_freq=1, update_freq=5),
        names.BackupAndRestore(directory / "backup", save_freq=9, delete_checkpoint=False),
        names.ReduceLROnPlateau("loss", patience=1, min_delta=0.5),
        ProgressBar(),
        Snapshots(directory / "snapshots", every_steps=10, keep=100),
        NaNGuard(directory / "failures"),
    ]


def fit_with_callbacks_that_write(directory: Path) -> str:
    """Trains with callbacks that write into `directory`; returns what is printed."""
    with printing() as printed, writing_each_snapshot():
        fit(trainer(plain_network), epochs=2, verbose=2)  # only the chief has a bar
        made = trainer(plain_network)
        fit(made, *callbacks_that_write(directory), verbose=2)
        made.save_snapshot(directory / "by hand")
    return printed.getvalue()
