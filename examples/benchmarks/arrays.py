"""Rows of the guide's network on NumPy arrays."""

import contextlib
import os
import pathlib
import tempfile

import keras

from benchmarks import networks
from benchmarks.by_hand import ArrayLoop
from benchmarks.measuring import Row, always, both

BATCH_SIZE = 64
EPOCHS_WITH_CALLBACKS = 3


class LossOfEachStep(keras.callbacks.Callback):
    """Keeps the loss of each step; `batch_hooks` declares that it only reads the logs."""

    batch_hooks = "log"

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        """Keeps the loss."""
        self.losses.append(logs["loss"])


def epoch():
    """Returns an epoch and nothing else, and the same by hand."""
    x, y = networks.mnist()
    by_hand = {
        "XLA, each batch gathered": ArrayLoop(networks.mlp(), x, y, BATCH_SIZE),
        "XLA, gathered ahead": ArrayLoop(networks.mlp(), x, y, BATCH_SIZE, gather_ahead=True),
    }
    return both(
        networks.mlp,
        lambda side: side.fit(x, y, batch_size=BATCH_SIZE, verbose=0),
    )._replace(by_hand={name: always(loop.epoch) for name, loop in by_hand.items()})


def with_callbacks():
    """Returns some epochs with what people use at their ends, and the bar, drawn into nothing."""
    x, y = networks.mnist()
    folder = tempfile.TemporaryDirectory()

    def fit(side, callbacks):
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            side.fit(
                x,
                y,
                batch_size=BATCH_SIZE,
                epochs=EPOCHS_WITH_CALLBACKS,
                verbose=1,
                callbacks=callbacks,
                validation_data=networks.mnist_held_out(),
            )

    def callbacks():
        path = pathlib.Path(folder.name)
        return (
            [
                keras.callbacks.EarlyStopping(patience=100),  # random labels: it must not stop
                keras.callbacks.ReduceLROnPlateau(patience=100),
                keras.callbacks.CSVLogger(path / "log.csv"),
                keras.callbacks.ModelCheckpoint(path / "model.keras"),
            ],
        )

    return both(networks.mlp, fit, callbacks)


def reading_logs():
    """Returns an epoch with a callback that reads the logs of each step, and says so."""
    x, y = networks.mnist()
    return both(
        networks.mlp,
        lambda side, callback: side.fit(
            x, y, batch_size=BATCH_SIZE, verbose=0, callbacks=[callback]
        ),
        lambda: (LossOfEachStep(),),
    )


ROWS = [
    Row("mlp-arrays", "MLP, arrays", epoch, target=5, limit=1.15),
    Row(
        "mlp-callbacks",
        f"MLP, arrays, validation, four callbacks and the bar, {EPOCHS_WITH_CALLBACKS} epochs",
        with_callbacks,
        target=3.5,
    ),
    Row("mlp-logs", "MLP, arrays, a callback that reads each step's logs", reading_logs, 2.5),
]
