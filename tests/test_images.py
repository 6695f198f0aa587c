"""Grids of images, PNG files, and the range of a network's numbers."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.images import grid, value_range, write_png

layers = keras.layers


def pixel(value, low, high):
    """A number's byte, by hand."""
    share = (float(value) - low) / (high - low)
    return np.rint(255 * min(max(share, 0.0), 1.0))


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    n=st.integers(1, 7),
    columns=st.integers(1, 4),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    channels=st.sampled_from([None, 1, 3]),
    bounds=st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-2.0, 3.0)]),
    seed=st.integers(0, 99),
)
def test_a_grid_has_each_image_in_its_place(n, columns, height, width, channels, bounds, seed):
    shape = (n, height, width) + (() if channels is None else (channels,))
    images = np.random.default_rng(seed).normal(0.5, 1.5, shape).astype("float32")
    made = grid(images, columns, bounds)
    rows = (n + columns - 1) // columns
    assert made.shape == (rows * height, columns * width, channels or 1)
    assert made.dtype == np.uint8
    with_channels = images.reshape(n, height, width, channels or 1)
    for row, column in np.ndindex(rows, columns):
        number = row * columns + column
        cell = made[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for place in np.ndindex(cell.shape):
            expected = pixel(with_channels[number][place], *bounds) if number < n else 0
            assert cell[place] == expected


def test_a_grid_by_hand():
    images = np.array([[[-1.0, 0.0]], [[1.0, 9.0]], [[0.5, -9.0]]])
    np.testing.assert_array_equal(
        grid(images, 2, (-1.0, 1.0))[..., 0], [[0, 128, 255, 255], [191, 0, 0, 0]]
    )


def test_a_grid_takes_bytes():
    images = np.arange(4, dtype="uint8").reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(grid(images, 1, (0, 255))[..., 0], [[0, 1], [2, 3]])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_is_read_back_as_it_was(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype("uint8")
    path = tmp_path / "a" / "b" / "x.png"
    write_png(path, pixels)
    read = tf.io.decode_png(tf.io.read_file(str(path)))
    np.testing.assert_array_equal(read, pixels)


def test_a_png_is_written_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_png("x.png", np.zeros((2, 2, 1), "uint8"))
    assert (tmp_path / "x.png").exists()


def sequential(*last):
    return keras.Sequential([keras.Input((2,)), layers.Dense(4), *last])


def functional(last):
    inputs = keras.Input((2,))
    return keras.Model(inputs, last(layers.Dense(4)(inputs)))


def nested(last):
    inputs = keras.Input((2,))
    return keras.Model(inputs, sequential(functional_of_four(last))(inputs))


def functional_of_four(last):
    inputs = keras.Input((4,))
    return keras.Model(inputs, last(inputs))


def branched():
    """A model whose last listed layer is not the one that its output comes from."""
    inputs = keras.Input((2,))
    output = layers.Dense(4, activation="tanh", name="out")(inputs)
    aside = layers.Dense(4, activation="sigmoid", name="aside")(output)
    return keras.Model(inputs, [output, aside])


class OwnClass(keras.Model):
    def call(self, x):
        return x


class Enlarged(layers.Dense):
    def call(self, x):
        return 100 * super().call(x)


class EnlargedSequential(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return 100 * super().call(x, training, mask)


def enlarging():
    return EnlargedSequential([keras.Input((2,)), layers.Dense(3, "tanh")])


RANGES = {
    "sigmoid": (lambda: sequential(layers.Dense(3, "sigmoid")), (0.0, 1.0)),
    "hard sigmoid": (lambda: sequential(layers.Dense(3, "hard_sigmoid")), (0.0, 1.0)),
    "tanh": (lambda: sequential(layers.Dense(3, "tanh")), (-1.0, 1.0)),
    "activation layer": (lambda: sequential(layers.Activation("tanh")), (-1.0, 1.0)),
    "functional": (lambda: functional(layers.Dense(3, "sigmoid")), (0.0, 1.0)),
    "nested": (lambda: nested(layers.Dense(3, "sigmoid")), (0.0, 1.0)),
    "nested activation layer": (lambda: nested(layers.Activation("tanh")), (-1.0, 1.0)),
    "sequential in sequential": (
        lambda: sequential(keras.Sequential([keras.Input((4,)), layers.Dense(3, "tanh")])),
        (-1.0, 1.0),
    ),
    "two outputs": (branched, (-1.0, 1.0)),
    "linear": (lambda: sequential(layers.Dense(3)), None),
    "relu": (lambda: sequential(layers.ReLU()), None),
    "tanh before the last": (lambda: sequential(layers.Dense(3, "tanh"), layers.Dense(3)), None),
    "a class of its own": (OwnClass, None),
    "a layer of ones own": (lambda: sequential(Enlarged(3, "tanh")), None),
    "a call of ones own": (enlarging, None),
}


@pytest.mark.parametrize("case", RANGES)
def test_the_range_is_that_of_the_last_activation(case):
    build, expected = RANGES[case]
    assert value_range(build()) == expected
