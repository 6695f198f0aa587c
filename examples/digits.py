"""What the examples share: digits to learn, a command line, and a classifier to judge by."""

import argparse
import os
import pathlib
import sys
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # counts only before TensorFlow is imported

# ruff: noqa: E402
import keras
import numpy as np
import tensorflow as tf

from trainer import CustomTrainer

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def parser(description, digits_epochs, epochs):
    """Returns a parser of the options that every example has.

    Args:
        description: what the example does; its first line is shown.
        digits_epochs: epochs by default on scikit-learn's digits, which are few.
        epochs: epochs by default on other data.
    """
    made = argparse.ArgumentParser(description=description.partition("\n")[0])
    made.add_argument(
        "--data",
        default="digits",
        metavar="{digits,mnist,FILE}",
        help="digits: scikit-learn's 1,797 digits, offline; mnist: MNIST, downloaded once; or an "
        ".npz file with x_train, y_train, x_test and y_test, images of 28x28 pixels from 0 to 255 "
        "(default: %(default)s)",
    )
    made.add_argument(
        "--epochs",
        type=int,
        help=f"passes over the training rows (default: {digits_epochs} for digits, which are few, "
        f"else {epochs})",
    )
    made.add_argument(
        "--seed",
        type=int,
        default=1,
        help="decides the initial weights, the order of the rows and all draws "
        "(default: %(default)s)",
    )
    made.set_defaults(epochs_by_default=(digits_epochs, epochs))
    return made


def parsed(made):
    """Returns the command line's arguments, `epochs` by the data where not given."""
    args = made.parse_args()
    digits_epochs, epochs = vars(args).pop("epochs_by_default")
    if args.epochs is None:
        args.epochs = digits_epochs if args.data == "digits" else epochs
    return args


def add_devices(made):
    """Adds `--devices`, how many devices of this machine share each batch."""
    made.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="train on N devices of this machine: its GPUs, or else parts of its processor",
    )


def strategy_of(devices):
    """Returns the strategy of so many devices of this machine; `None` stands for one.

    To be called before TensorFlow has made a tensor: the processor is divided only then.
    """
    if devices in (None, 1):
        return tf.distribute.get_strategy()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
        tf.config.set_logical_device_configuration(cpu, parts)
    elif len(gpus) < devices:
        sys.exit(f"--devices is {devices}, but this machine has {len(gpus)} GPUs.")
    kind = "GPU" if gpus else "CPU"
    return tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(devices)])


def add_output(made, script):
    """Adds `--output`, the folder for files, by default one named after the script."""
    script = pathlib.Path(script)
    made.add_argument(
        "--output",
        type=pathlib.Path,
        default=script.parent / "output" / script.stem,
        metavar="FOLDER",
        help=f"where pictures and other files go (default: output/{script.stem}, beside this file)",
    )


def load(name):
    """Returns the uint8 arrays x_train, y_train, x_test and y_test that `--data` names."""
    if name == "digits":
        return load_digits()
    if name == "mnist":
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
        return x_train, y_train, x_test, y_test
    if not zipfile.is_zipfile(name):
        sys.exit(f"--data takes digits, mnist or the path of an .npz file, but got {name!r}.")
    with np.load(name) as file:
        if not set(ARRAYS) <= set(file):
            sys.exit(f"--data needs {', '.join(ARRAYS)}, but {name!r} has {', '.join(file)}.")
        return [file[array] for array in ARRAYS]


def load_images(name):
    """Returns the same arrays, images as float32 from 0 to 1 of shape `(rows, 28, 28, 1)`."""
    x_train, y_train, x_test, y_test = load(name)
    return as_images(x_train), y_train, as_images(x_test), y_test


def as_images(pixels):
    """Returns pixels from 0 to 255 as numbers from 0 to 1, with an axis for the channel."""
    return (pixels / 255).astype("float32").reshape(-1, 28, 28, 1)


def load_digits():
    """Returns scikit-learn's digits at MNIST's size, the last 360 as test.

    Each pixel of the 8x8 images becomes 2x2, and a border of 6 goes around. 3x3 would fit as well,
    but with so much ink the first steps, which are large, silence most of the first layer for good.
    """
    try:
        from sklearn import datasets
    except ImportError:
        sys.exit("--data digits needs scikit-learn: pip install scikit-learn.")
    digits = datasets.load_digits()
    images = np.kron(digits.images, np.ones((2, 2))) * (255 / 16)
    images = np.pad(images.astype("uint8"), ((0, 0), (6, 6), (6, 6)))
    return images[:-360], digits.target[:-360], images[-360:], digits.target[-360:]


def convnet(dropout=0.0):
    """Returns a small convolutional classifier of images, to logits."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(10),
        ]
    )


def trained_judge(x, y, seed):
    """Returns a trainer whose model has learned to read real digits.

    That takes some 2,000 steps, but at most 100 epochs: more of so few rows teach little.
    """
    judge = CustomTrainer(
        convnet(dropout=0.5),
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        seed=seed,
    )
    epochs = min(max(2, 2000 * 64 // len(x)), 100)
    judge.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return judge


def read_by(judge, images):
    """Returns the digit that the judge reads in each image."""
    return judge.predict(images, batch_size=256, verbose=0).argmax(axis=-1)
