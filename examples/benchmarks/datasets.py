"""Rows of the guide's network on `tf.data`, a `PyDataset` and a generator.

At its end an iterator of tf.data may wait for the thread that tunes its pipeline, whose pauses
double from 10 ms on. So an epoch, Keras's of arrays too, is drawn to 0.31, 0.63, 1.27 or 2.55 s
where it would have been done up to half of that before; without autotuning it is not.
"""

import itertools
import math

import keras
import tensorflow as tf

from benchmarks import networks
from benchmarks.by_hand import DatasetLoop
from benchmarks.measuring import Row, always, both

BATCH_SIZE = 64


class Losses(keras.callbacks.Callback):
    """Keeps the loss of each step; nothing tells the trainer that it does no more."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        """Keeps the loss."""
        self.losses.append(logs["loss"])


class Slices(keras.utils.PyDataset):
    """Batches of arrays, cut in Python."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return math.ceil(len(self.x) / BATCH_SIZE)

    def __getitem__(self, number):
        rows = slice(number * BATCH_SIZE, (number + 1) * BATCH_SIZE)
        return self.x[rows], self.y[rows]


def shuffled():
    """Returns the pipeline of the guide."""
    return tf.data.Dataset.from_tensor_slices(networks.mnist()).shuffle(1024).batch(BATCH_SIZE)


def untuned(dataset):
    """Returns the same pipeline without the thread that tunes it."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def epoch():
    """Returns an epoch of tf.data, and the same by hand."""
    dataset = shuffled()
    by_hand = {
        "one graph": DatasetLoop(networks.mlp(), dataset, jit_compile=False),
        "one graph, steps XLA": DatasetLoop(networks.mlp(), dataset, jit_compile=True),
        "one graph, autotuning off": DatasetLoop(networks.mlp(), untuned(dataset), False),
    }
    return both(networks.mlp, lambda side: side.fit(dataset, verbose=0))._replace(
        by_hand={name: always(loop.epoch) for name, loop in by_hand.items()}
    )


def unknown_callback():
    """Returns an epoch of tf.data with a callback that sees each step."""
    dataset = shuffled()
    return both(
        networks.mlp,
        lambda side, callback: side.fit(dataset, verbose=0, callbacks=[callback]),
        lambda: (Losses(),),
    )


def py_dataset():
    """Returns an epoch of a `PyDataset`."""
    slices = Slices(*networks.mnist())
    return both(networks.mlp, lambda side: side.fit(slices, verbose=0))


def generator():
    """Returns an epoch of a generator that never ends, a new one each time."""
    slices = Slices(*networks.mnist())

    def batches():
        return ((slices[n % len(slices)] for n in itertools.count()),)

    return both(
        networks.mlp,
        lambda side, batches: side.fit(batches, steps_per_epoch=len(slices), verbose=0),
        batches,
    )


ROWS = [
    Row("mlp-tfdata", "MLP, tf.data", epoch, target=2.5, limit=1.15),
    Row("mlp-unknown-callback", "MLP, tf.data, an unknown callback", unknown_callback, target=1),
    Row("mlp-pydataset", "MLP, PyDataset", py_dataset, target=1),
    Row("mlp-generator", "MLP, generator", generator, target=1),
]
