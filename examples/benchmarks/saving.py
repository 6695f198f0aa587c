"""Rows of what snapshots cost, beside Keras's `BackupAndRestore`, and of going on from one."""

import functools
import pathlib
import shutil
import tempfile

import keras
import tensorflow as tf

from benchmarks import gan, networks
from benchmarks.measuring import Row, Sides, always
from trainer.callbacks import Snapshots
from trainer.snapshots import files

BATCH_SIZE = 64
EPOCHS = 10
EVERY = 100
GAN_STEPS = GAN_EVERY = 20


class Folders:
    """A temporary folder that has a new one for each call."""

    def __init__(self):
        self._root = tempfile.TemporaryDirectory()

    def new(self):
        """Returns a path where nothing is."""
        return pathlib.Path(tempfile.mkdtemp(dir=self._root.name)) / "saved"


def saving(model, trainer, every, *data, **settings):
    """Returns a `fit` of both that saves, and that of the trainer without.

    Args:
        model: the model whose `fit` saves by `BackupAndRestore`.
        trainer: the trainer.
        every: after so many steps, and after each epoch.
        data: what both train on.
        settings: arguments of `fit`.
    """
    folders = Folders()

    def side(fit, callback):
        def ready():
            path = folders.new()
            return lambda: fit(*data, **settings, callbacks=[callback(path)])

        return ready

    backup = functools.partial(keras.callbacks.BackupAndRestore, save_freq=every)
    snapshots = functools.partial(Snapshots, every_steps=every)
    without = {"without snapshots": always(trainer.fit, *data, **settings)}
    return Sides(side(model.fit, backup), side(trainer.fit, snapshots), without)


def mlp(*data, **settings):
    """Returns some epochs of the guide's network."""
    model = networks.compiled(networks.mlp())
    trainer = networks.with_trainer(networks.mlp())
    return saving(model, trainer, EVERY, *data, epochs=EPOCHS, verbose=0, **settings)


def mlp_arrays():
    """Returns some epochs on arrays."""
    return mlp(*networks.mnist(), batch_size=BATCH_SIZE)


def mlp_tfdata():
    """Returns some epochs on the guide's pipeline, its shuffle with a seed."""
    rows = tf.data.Dataset.from_tensor_slices(networks.mnist())
    return mlp(rows.shuffle(1024, seed=1).batch(BATCH_SIZE))


def dcgan():
    """Returns some steps of the guide's DCGAN."""
    model, trainer = gan.both()
    images, _ = networks.data(GAN_STEPS * gan.BATCH_SIZE, 28, 28, 1)
    settings = {"batch_size": gan.BATCH_SIZE, "verbose": 0}
    return saving(model, trainer, GAN_EVERY, images, **settings)


def going_on():
    """Returns a `fit` that finds a training at its end, and reading the files alone."""
    x, y = networks.mnist()
    folders = Folders()
    saved, backed_up = folders.new(), folders.new()
    settings = {"batch_size": BATCH_SIZE, "verbose": 0}
    backup = functools.partial(keras.callbacks.BackupAndRestore, delete_checkpoint=False)
    networks.with_trainer(networks.mlp()).fit(x, y, **settings, callbacks=[Snapshots(saved)])
    networks.compiled(networks.mlp()).fit(x, y, **settings, callbacks=[backup(backed_up)])
    (latest, *_) = files.found_in(saved)

    def side(make, callback, kept):
        def ready():
            subject, path = make(networks.mlp()), folders.new()
            shutil.copytree(kept, path)
            return lambda: subject.fit(x, y, **settings, callbacks=[callback(path)])

        return ready

    return Sides(
        side(networks.compiled, backup, backed_up),
        side(networks.with_trainer, Snapshots, saved),
        {"reading the files": always(files.read, latest)},
    )


ROWS = [
    Row(
        "snapshots-mlp-arrays",
        f"MLP, arrays, {EPOCHS} epochs, saved every {EVERY} steps",
        mlp_arrays,
        limit=1.05,
    ),
    Row(
        "snapshots-mlp-tfdata",
        f"MLP, tf.data, {EPOCHS} epochs, saved every {EVERY} steps",
        mlp_tfdata,
        limit=1.05,
    ),
    Row(
        "snapshots-dcgan",
        f"the guide's DCGAN, {GAN_STEPS} steps, saved every {GAN_EVERY}",
        dcgan,
        limit=1.05,
        most_rounds=3,
    ),
    Row("going-on", "MLP, arrays, a new model goes on with a training at its end", going_on),
]
