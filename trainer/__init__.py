"""Trains Keras models by a loop of its own: fit() with your steps, every callback, same numbers."""

import keras

if keras.config.backend() != "tensorflow":
    raise ImportError(
        f"trainer needs Keras on TensorFlow, but its backend is {keras.config.backend()!r}: set "
        "the environment variable KERAS_BACKEND=tensorflow before keras is first imported."
    )

__version__ = "0.1.0"

from trainer import callbacks  # noqa: E402
from trainer.custom_trainer import CustomTrainer  # noqa: E402
from trainer.gan_trainer import GANTrainer  # noqa: E402
from trainer.networks import Networks  # noqa: E402
from trainer.peers import PeerLostError  # noqa: E402
from trainer.snapshots.guarding import NonFiniteError  # noqa: E402

__all__ = [
    "CustomTrainer",
    "GANTrainer",
    "Networks",
    "NonFiniteError",
    "PeerLostError",
    "callbacks",
]


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__version__"]
