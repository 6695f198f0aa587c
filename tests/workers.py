"""Trainings of several workers: callbacks, snapshots, faults.

    python -m tests.workers SCENARIO DIRECTORY

runs one of `SCENARIOS`, and prints a line of JSON for each worker of each run of it.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tests import cluster, conftest  # noqa: F401  # threads as under test
from tests.helpers.data import Slices, labels, numbers
from tests.helpers.models import mlp
from tests.replicated import mean_square, strategy_for
from trainer import CustomTrainer, NonFiniteError
from trainer.callbacks import NaNGuard, ProgressBar, Snapshots
from trainer.snapshots import writer
from trainer.snapshots.variables import training_variables, values

ROWS, BATCH, STEPS, EPOCHS = 203, 8, 26, 4
TOTAL = STEPS * EPOCHS
X, Y = numbers(ROWS, 4), labels(ROWS, 1, classes=2)
HELD_OUT = (X[:60], Y[:60])
KILLS = 5
Callback = keras.callbacks.Callback


def network() -> keras.Model:
    normalization = keras.layers.BatchNormalization()
    return mlp(normalization, keras.layers.Dropout(0.2), activation="sigmoid")


def trainer(build: Callable[[], keras.Model] = network, devices: int = 1) -> CustomTrainer:
    strategy = strategy_for(devices)
    keras.utils.set_random_seed(7)
    with strategy.scope():
        return CustomTrainer(
            build(),
            optimizer=keras.optimizers.Adam(0.01),
            loss="binary_crossentropy",
            metrics=["accuracy", keras.metrics.AUC(name="auc")],
            jit_compile=False,
            seed=5,
        )


def fit(made: CustomTrainer, *callbacks: Callback, **how: Any) -> None:
    arguments = {"x": X, "y": Y, "batch_size": BATCH, "epochs": EPOCHS, "verbose": 0}
    arguments |= {"validation_data": HELD_OUT, "validation_batch_size": BATCH}
    made.fit(**{**arguments, **how}, callbacks=list(callbacks))


def write_outcome(made: CustomTrainer, path: Path) -> None:
    """Writes what a training ended with; each worker has to call it."""
    arrays = values(training_variables(made))
    history = made.model.history.history
    arrays |= {f"history/{key}": np.float64(logged) for key, logged in history.items()}
    np.savez(path, **arrays, step=made.step)


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


def train(
    number: int, directory: Path, moment: Moment | None = None, *callbacks: Callback, **how: Any
) -> None:
    """Trains with snapshots, to the end or until something comes at `moment`."""
    made = trainer()
    if moment is not None and moment.worker == number:
        strike(made, moment)
    log = keras.callbacks.CSVLogger(directory / "log.csv")
    fit(made, log, Snapshots(directory / "snapshots", every_steps=5, **how), *callbacks)
    write_outcome(made, directory / f"ended-{number}.npz")


def tell(name: str, ended: list[cluster.Ended]) -> None:
    for number, one in enumerate(ended):
        told = {"run": name, "worker": number, **one._asdict()}
        print(json.dumps(told), flush=True)


def run_and_tell(
    name: str, directory: Path, worker: Callable[[int], None], count: int = 2, **how: Any
) -> None:
    tell(name, cluster.run(worker, directory, count, **how))


def killed(directory: Path) -> None:
    """Workers of which now one and now the other is killed, and some that nothing happens to."""
    run_and_tell("undisturbed", directory / "undisturbed", _trains(directory / "undisturbed"))
    draws = random.Random(3)
    moments = [
        Moment(number % 2, draws.randrange(int(0.8 * TOTAL)), draws.uniform(0, 0.02))
        for number in range(2 * KILLS)
    ]
    folder = directory / "killed"
    for moment in sorted(moments, key=lambda moment: moment.step):
        run_and_tell(f"killed {moment.worker}", folder, _trains(folder, moment))
    run_and_tell("gone on", folder, _trains(folder))


def _trains(directory: Path, *arguments: Any, **how: Any) -> Callable[[int], None]:
    return lambda number: train(number, directory, *arguments, **how)


def silenced(directory: Path) -> None:
    """Workers of which one stops in the midst of training: now the chief, now the other."""
    for worker in (0, 1):
        folder = directory / str(worker)
        moment = Moment(worker, 30, 0, signal.SIGSTOP)
        run_and_tell(f"silenced {worker}", folder, _trains(folder, moment), stopped=(worker,))


class Hangs(Callback):
    """Hangs in one worker, in a hook, where only Python is at a standstill."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number

    def on_epoch_end(self, epoch, logs=None):
        if self.number == 1:
            print(f"struck {time.time()}", flush=True)
            time.sleep(600)


def hung(directory: Path) -> None:
    """Workers of which one hangs, where the user gives it three seconds."""

    def worker(number: int) -> None:
        made = trainer()
        made.peer_timeout = 3.0
        fit(made, Hangs(number))

    run_and_tell("hung", directory, worker, stopped=(1,), has_chief=True)


def terminated(directory: Path) -> None:
    """Workers of which one gets SIGTERM, in an epoch and in a validation, and their restarts."""
    run_and_tell("undisturbed", directory / "undisturbed", _trains(directory / "undisturbed"))
    folder = directory / "terminated"
    in_epoch = Moment(1, 12, 0, signal.SIGTERM)
    run_and_tell("in an epoch", folder, _trains(folder, in_epoch, exit_code=7))

    class Terminates(Callback):
        def on_test_batch_end(self, batch, logs=None):
            if batch == 2 and 'index": 0' in os.environ["TF_CONFIG"]:
                signal.raise_signal(signal.SIGTERM)

    run_and_tell("in a validation", folder, _trains(folder, None, Terminates(), exit_code=7))
    run_and_tell("gone on", folder, _trains(folder))


def differing(directory: Path) -> None:
    """Workers that differ in something from one another."""

    def other_weights() -> keras.Model:
        model = network()
        model.layers[0].kernel.assign(np.ones((4, 5)))
        return model

    def with_other(number: int, what: str) -> None:
        is_other = number == 1
        if is_other and what == "settings":
            keras.Sequential()  # names are then counted on from another one, which is no difference
        made = trainer(other_weights if is_other and what == "weights" else network)
        how: dict[str, Any] = {}
        if is_other and what == "rows":
            how = {"x": X[:-50], "y": Y[:-50]}
        elif is_other and what == "content":
            how = {"x": X + 1}
        elif is_other and what == "epochs":
            how = {"epochs": EPOCHS + 1}
        elif what in ("shuffle", "PyDataset"):
            tf.random.set_seed(number)  # as in processes that were given none
            how = {"x": batches(what == "shuffle", is_other), "y": None, "batch_size": None}
        elif what == "length":
            batches_of_one = [(X[:BATCH], Y[:BATCH])] * (20 - 5 * number)
            how = {"x": iter(batches_of_one), "y": None, "batch_size": None, "epochs": 1}
        elif is_other and what == "version":
            keras.__version__ = "0.1"
        elif is_other and what == "settings":
            made.optimizer.clipnorm = 0.1
        callbacks = []
        if what == "callbacks" and is_other:
            callbacks = [NaNGuard(directory / what)]
        elif what == "begin" and is_other:
            callbacks = [SetsWeights()]
        if what == "snapshot":
            callbacks = [Snapshots(directory / what / f"snapshots-{number if is_other else 0}")]
        # What each process has of its own, which it can read when the others have ended.
        weights = made.model.trainable_variables
        before = [weight.numpy() for weight in weights]
        try:
            if what == "single batch":
                made.train_on_batch(X[:BATCH], Y[:BATCH] + is_other)
            else:
                fit(made, *callbacks, **how)
        except RuntimeError as error:
            print(f"told: {error}", flush=True)
        except ValueError as error:
            shows_late = what in ("shuffle", "PyDataset")  # in the first group
            assert shows_late or made.step == 0
            if not shows_late and what != "begin":
                assert all((w.numpy() == old).all() for w, old in zip(weights, before, strict=True))
            print(f"told: {error}", flush=True)

    def batches(shuffled: bool, is_other: bool) -> Any:
        rows = tf.data.Dataset.from_tensor_slices((X, Y))
        if shuffled:
            return rows.shuffle(ROWS).batch(BATCH)  # without a seed
        return Slices(np.flip(X, 0) if is_other else X, Y, batch_size=BATCH)

    for what in (
        "weights",
        "rows",
        "content",
        "epochs",
        "version",
        "settings",
        "callbacks",
        "begin",
        "single batch",
        "shuffle",
        "PyDataset",
        "length",
    ):
        run_and_tell(what, directory / what, lambda number, what=what: with_other(number, what))
    # A chief that has a snapshot, and a worker that looks for it elsewhere.
    shared = directory / "snapshot" / "snapshots-0"
    run_and_tell(
        "to be gone on with",
        directory / "before",
        lambda number: fit(trainer(), Snapshots(shared), epochs=2),
    )
    run_and_tell("snapshot", directory / "snapshot", lambda n: with_other(n, "snapshot"))


def network_for_writing() -> keras.Model:
    return mlp(activation="sigmoid")


def failing(directory: Path) -> None:
    """A training with a batch that is not finite, on one device, on two, and in two processes."""
    x = X.copy()
    x[100] = np.nan  # the thirteenth batch has it

    def worker(number: int, folder: Path, devices: int) -> None:
        made = trainer(network_for_writing, devices)
        how = {"x": x, "shuffle": False}
        try:
            fit(made, NaNGuard(folder / "failures"), **how)
        except NonFiniteError as error:
            print(f"told: {error}", flush=True)
            replayed = made.replay(folder / "failures" / "step-12")
            print(f"replayed: {replayed['loss']}", flush=True)
        if folder.name != "one":
            record_what_is_split(folder / "split", devices)
        skipping = NaNGuard(folder / "skipped", skips=EPOCHS)
        made = trainer(network_for_writing, devices)
        fit(made, skipping, **how)
        assert skipping.skipped == EPOCHS
        write_outcome(made, folder / f"ended-{number}.npz")

    def record_what_is_split(folder: Path, devices: int) -> None:
        made = trainer(network_for_writing, devices)
        lines = tf.data.Dataset.from_tensor_slices((x, Y)).batch(BATCH)
        split = made.model.distribute_strategy.experimental_distribute_dataset(lines)
        try:
            fit(made, NaNGuard(folder), x=split, y=None, batch_size=None)
        except NonFiniteError as error:
            print(f"told of split: {error}", flush=True)
            print(f"replayed split: {made.replay(error.path)['loss']}", flush=True)

    for name, devices, count in (("one", 1, 1), ("devices", 2, 1), ("processes", 1, 2)):
        folder = directory / name
        run_and_tell(name, folder, lambda n, f=folder, d=devices: worker(n, f, d), count)


class SetsWeights(Callback):
    """Sets other weights at the begin."""

    def on_train_begin(self, logs=None):
        self.model.layers[0].kernel.assign(np.ones((4, 5)))


def refused(directory: Path) -> None:
    """What several devices cannot do, each on two of them."""

    class OwnStep(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    class OwnLoss(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return mean_square(y, y_pred)

    class CallsLoss(CustomTrainer):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.square = keras.losses.MeanSquaredError()

        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            return self.square(y, y_pred)

    class OfCorrelation(keras.metrics.Mean):
        def __init__(self):
            super().__init__()
            self.correlation = keras.metrics.PearsonCorrelation()

    class Correlates(CustomTrainer):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.correlation = OfCorrelation()

    class Applies(CustomTrainer):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = mean_square(tf.cast(y, tf.float32), self.model(x))
            weights = self.model.trainable_weights
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    class LogsRoot(CustomTrainer):
        def compute_metrics(self, *args: Any, **kwargs: Any):
            logs = super().compute_metrics(*args, **kwargs)
            return {**logs, "root": tf.sqrt(logs["loss"])}

    class PredictsMean(CustomTrainer):
        def predict_step(self, data):
            return tf.reduce_mean(super().predict_step(data))

    def dense(kind: type[keras.Sequential] = keras.Sequential) -> keras.Model:
        return kind([keras.Input((4,)), keras.layers.Dense(1)])

    def fits(made: CustomTrainer, **how: Any) -> None:
        made.fit(X, Y, batch_size=BATCH, verbose=0, **how)

    def tell(
        what: str,
        model: Callable[[], keras.Model] = dense,
        optimizer: Callable[[], keras.Optimizer] = keras.optimizers.Adam,
        loss: Any = "mse",
        kind: type[CustomTrainer] = CustomTrainer,
        runs: Callable[[CustomTrainer], Any] = fits,
        **how: Any,
    ) -> None:
        try:
            with strategy_for(2).scope():
                made = kind(model(), optimizer=optimizer(), loss=loss, **how)
        except ValueError as error:
            print(f"{what}: {error}", flush=True)
            return
        before = made.model.get_weights()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                runs(made)
                print(f"{what}: {[str(one.message) for one in caught]}", flush=True)
            except ValueError as error:
                after = made.model.get_weights()
                assert all(map(np.array_equal, before, after))
                print(f"{what}: {error}".partition("\n")[0], flush=True)

    def worker(number: int) -> None:
        strategy_for(2)  # before anything else is made
        mse, adam = keras.losses.MeanSquaredError, keras.optimizers.Adam
        outside, model_outside = adam(), dense()
        metric_outside = keras.metrics.MeanAbsoluteError(name="outside")
        rows = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
        with_ten_weights = rows.map(lambda x, y: (x, y, tf.ones(10)))
        tell("none", loss=mse(reduction="none"))
        tell("weights", loss=mse(reduction="mean_with_sample_weight"))
        tell("several losses", loss=[mse(reduction="sum"), "mae"])
        tell("no sum", metrics=["PearsonCorrelation"])
        tell("no sum in it", kind=Correlates)
        tell("metric outside", metrics=[metric_outside])
        tell("accumulation", optimizer=lambda: adam(gradient_accumulation_steps=2))
        tell("overwriting", optimizer=lambda: adam(use_ema=True, ema_overwrite_frequency=3))
        tell("scope", optimizer=lambda: outside)
        tell("model outside", lambda: model_outside)
        tell("own step", lambda: dense(OwnStep))
        tell("own loss", lambda: dense(OwnLoss))
        tell("loss called", kind=CallsLoss)
        tell("gradients applied", kind=Applies)
        tell("log computed", kind=LogsRoot)
        tell("loss of a batch", loss="dice")
        tell("loss of all rows", loss=keras.losses.Circle())
        tell("loss weighed", loss=mean_square, runs=functools.partial(fits, sample_weight=Y[:, 0]))
        tell("rows", runs=lambda made: made.fit(with_ten_weights, verbose=0))
        tell("number", kind=PredictsMean, runs=lambda made: made.predict(X, verbose=0))

    run_and_tell("refused", directory, worker, count=1)


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


def write_lines(folder: Path) -> None:
    folder.mkdir()
    rows = [",".join(map(str, row)) for row in np.concatenate([X, Y], 1)]
    for number in range(4):
        (folder / f"lines-{number}.txt").write_text("\n".join(rows[number::4]))


def broken_off(directory: Path) -> None:
    """Trainings that are broken off and gone on with: on two devices, and in two processes."""
    write_lines(directory / "files")
    np.save(directory / "x.npy", X)
    kinds: dict[str, Callable[[], Any]] = {
        "arrays": lambda: {},
        "arrays on disk": lambda: {"x": np.load(directory / "x.npy", mmap_mode="r")},
        "PyDataset": lambda: {"x": Slices(X, Y, batch_size=BATCH)},
        "tf.data": lambda: {"x": shuffled()},
        "split by tf.distribute": lambda: {
            "x": strategy_for(2).experimental_distribute_dataset(shuffled())
        },
        "files of each worker": lambda: {"x": lines_of_files(directory / "files")},
    }

    def run(devices: int, kind: str, outcome: Path, *callbacks: Callback) -> None:
        made, how = trainer(devices=devices), kinds[kind]()
        if "x" in how and "arrays" not in kind:
            how |= {"y": None, "batch_size": None}
        try:
            fit(made, *callbacks, **how, epochs=2, validation_data=None)
        except KeyboardInterrupt:
            return
        write_outcome(made, outcome)

    def worker(number: int, folder: Path, devices: int, kinds: Sequence[str]) -> None:
        for kind in kinds:
            snapshots = folder / kind
            run(devices, kind, folder / f"{kind}, undisturbed, {number}.npz")
            breaks_off = BreaksOff(STEPS + 9)
            run(devices, kind, folder, Snapshots(snapshots, every_steps=5), breaks_off)
            run(devices, kind, folder / f"{kind}, gone on, {number}.npz", Snapshots(snapshots))
        if devices == 1:
            made = trainer()
            tf.random.set_seed(None)  # else TensorFlow has a seed for what has none
            lines = lines_of_files(directory / "files", seed=None)
            try:
                fit(made, Snapshots(directory / "unseeded"), x=lines, y=None, batch_size=None)
            except ValueError as error:
                print(f"told: {error}", flush=True)

    on_devices = ("arrays", "PyDataset", "split by tf.distribute")
    in_processes = ("arrays on disk", "tf.data", "files of each worker")
    for name, devices, count, some in (
        ("devices", 2, 1, on_devices),
        ("processes", 1, 2, in_processes),
    ):
        folder = directory / name
        train_some = functools.partial(worker, folder=folder, devices=devices, kinds=some)
        run_and_tell(name, folder, train_some, count, limit=300)


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


def writing(directory: Path) -> None:
    """A training with callbacks that write, by one process and by two."""

    def worker(number: int, folder: Path) -> None:
        fit(trainer(network_for_writing), epochs=2, verbose=2)  # only the chief has a bar
        made = trainer(network_for_writing)
        fit(made, *callbacks_that_write(folder / "files"), verbose=2)
        made.save_snapshot(folder / "files" / "by hand")
        write_outcome(made, folder / f"ended-{number}.npz")

    for count in (1, 2):
        folder = directory / str(count)
        run_and_tell(
            str(count), folder, lambda number, folder=folder: worker(number, folder), count
        )


SCENARIOS: dict[str, Callable[[Path], None]] = {
    "killed": killed,
    "silenced": silenced,
    "hung": hung,
    "terminated": terminated,
    "differing": differing,
    "writing": writing,
    "failing": failing,
    "refused": refused,
    "broken off": broken_off,
}


if __name__ == "__main__":
    writer._SHARE = 0  # each snapshot is written
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
