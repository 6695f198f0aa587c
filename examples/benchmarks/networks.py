"""The networks that are trained, and random data of the shapes they take."""

import functools

import keras
import numpy as np
from keras import layers

from trainer import CustomTrainer

CLASSES = 10
MNIST_ROWS, MNIST_HELD_OUT = 50_000, 10_000
PIXELS = 784
SEQUENCE = (32, 16)  # steps, features
WIDTH = 64  # of a step in the transformer block


def mlp(inputs=PIXELS):
    """Returns the guide's network of dense layers, to logits."""
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(CLASSES),
        ]
    )


def convnet():
    """Returns a small convolutional network of images of 28x28, to logits."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(32, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ]
    )


def lstm():
    """Returns a recurrent network of sequences, to logits."""
    return keras.Sequential([keras.Input(SEQUENCE), layers.LSTM(64), layers.Dense(CLASSES)])


def transformer():
    """Returns a network of one transformer block of sequences, to logits."""
    inputs = keras.Input((SEQUENCE[0], WIDTH))
    normal = layers.LayerNormalization()(inputs)
    x = inputs + layers.MultiHeadAttention(num_heads=4, key_dim=WIDTH // 4)(normal, normal)
    normal = layers.LayerNormalization()(x)
    hidden = layers.Dense(4 * WIDTH, activation="gelu")(normal)
    x = layers.GlobalAveragePooling1D()(x + layers.Dense(WIDTH)(hidden))
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def compile_arguments():
    """Returns what the guide's network is compiled with, made anew."""
    return {
        "optimizer": keras.optimizers.SGD(),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": [keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    }


def compiled(network):
    """Returns `network`, compiled as the guide's is."""
    network.compile(**compile_arguments())
    return network


def with_trainer(network):
    """Returns a trainer that has compiled `network` as the guide's is."""
    return CustomTrainer(network, **compile_arguments())


@functools.lru_cache(maxsize=2)
def data(rows, *shape):
    """Returns `rows` float32 inputs of a shape, from 0 to 1, and their class numbers."""
    draws = np.random.default_rng(rows)
    return draws.random((rows, *shape), dtype="float32"), draws.integers(0, CLASSES, rows)


def mnist():
    """Returns training data of MNIST's size and shape."""
    return data(MNIST_ROWS, PIXELS)


def mnist_held_out():
    """Returns validation data of MNIST's size and shape."""
    return data(MNIST_HELD_OUT, PIXELS)
