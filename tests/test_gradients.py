"""Gradients of devices are clipped as their sum, as NumPy's formulas of clipping say."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import numbers
from tests.helpers.devices import run_on_shards, strategy_for
from tests.helpers.tables import each
from trainer.gradients import apply_on_replicas, refusing_to_apply, weighed
from trainer.shares import current_share

# Parts of two devices for two variables. Clipped one by one they would not sum to these sums.
PARTS = [np.float32([[3, 4], [-3, 1]]), np.float32([[[6], [0.1]], [[-5], [0.2]]])]
SUMS = [parts.sum(0) for parts in PARTS]


def norm(*arrays: np.ndarray) -> float:
    return float(np.sqrt(sum(np.square(array).sum() for array in arrays)))


CLIPPED: dict[str, tuple[dict[str, float], Callable[[np.ndarray], np.ndarray]]] = {
    "clipnorm": ({"clipnorm": 2.0}, lambda total: total * min(1.0, 2.0 / norm(total))),
    "global_clipnorm": (
        {"global_clipnorm": 2.0},
        lambda total: total * min(1.0, 2.0 / norm(*SUMS)),
    ),
    "clipvalue": ({"clipvalue": 0.5}, lambda total: np.clip(total, -0.5, 0.5)),
    "nothing": ({}, lambda total: total),
}


def applied(optimizer: Callable[[], keras.Optimizer], part: Callable, shapes=((2,), (2, 1))):
    """Returns how far the optimizer moves variables by what `part` gives on each device."""
    with strategy_for(2).scope():
        made = optimizer()
        variables = [keras.Variable(np.zeros(shape, "float32")) for shape in shapes]
        made.build(variables)

    def step(_):
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        gradients = [part(made, parts, number) for parts in PARTS[: len(shapes)]]
        apply_on_replicas(made, gradients, variables)
        return tf.constant(0)

    run_on_shards(step, tf.zeros([2, 1]))
    return [-variable.numpy() for variable in variables]


def dense_part(_, parts: np.ndarray, number: tf.Tensor) -> tf.Tensor:
    return tf.gather(tf.constant(parts), number)


@pytest.mark.parametrize(("settings", "clip"), **each(CLIPPED))
def test_the_sum_is_clipped(settings, clip):
    found = applied(lambda: keras.optimizers.SGD(1.0, **settings), dense_part)
    for change, total in zip(found, SUMS, strict=True):
        np.testing.assert_allclose(change, clip(total), rtol=1e-5)


@pytest.mark.parametrize(("settings", "clip"), **each(CLIPPED))
def test_the_sum_of_scaled_gradients_is_clipped(settings, clip):
    def optimizer() -> keras.Optimizer:
        inner = keras.optimizers.SGD(1.0, **settings)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)

    def scaled_part(made, parts, number):
        return made.scale_loss(dense_part(made, parts, number))

    for change, total in zip(applied(optimizer, scaled_part), SUMS, strict=True):
        np.testing.assert_allclose(change, clip(total), rtol=1e-5)


@pytest.mark.parametrize("scale", [None, 8.0])
@pytest.mark.parametrize("name", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_each_of_several_optimizers_clips_the_sums_of_its_own(name, scale):
    several = []

    def optimizer() -> keras.Optimizer:
        clipping = keras.optimizers.SGD(1.0, **{name: 0.5})
        plain = keras.optimizers.SGD(1.0)
        both = keras.optimizers.MultiOptimizer(lambda v: plain if len(v.shape) == 1 else clipping)
        several.extend([both, clipping, plain])
        return keras.optimizers.LossScaleOptimizer(both, scale) if scale else both

    def part(made, parts, number):
        return made.scale_loss(dense_part(made, parts, number))

    first, second = applied(optimizer, part)
    np.testing.assert_allclose(first, SUMS[0], rtol=1e-5)
    clipped = np.clip(SUMS[1], -0.5, 0.5) if name == "clipvalue" else SUMS[1] / norm(SUMS[1]) / 2
    np.testing.assert_allclose(second, clipped, rtol=1e-5)
    assert [each.iterations.numpy() for each in several] == [1, 1, 1]


@pytest.mark.parametrize(("settings", "clip"), **each(CLIPPED))
def test_a_device_whose_scaled_gradient_overflows_stops_all(settings, clip):
    def optimizer() -> keras.Optimizer:
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0, **settings))

    def overflowing_part(made, parts, number):
        part = dense_part(made, parts, number)
        return tf.where(number == 1, np.inf * tf.ones_like(part), part)

    for change in applied(optimizer, overflowing_part):
        np.testing.assert_array_equal(change, np.zeros_like(change))


@pytest.mark.parametrize("name", ["clipnorm", "clipvalue"])
def test_the_sum_of_sparse_gradients_is_clipped(name):
    def sparse_part(_, parts, number):
        # Each device has another row of the variable.
        values = tf.gather(tf.constant(parts), number)[None]
        return tf.IndexedSlices(values, number[None], tf.constant([2, 2]))

    settings, clip = CLIPPED[name]
    (found,) = applied(lambda: keras.optimizers.SGD(1.0, **settings), sparse_part, [(2, 2)])
    np.testing.assert_allclose(found, clip(PARTS[0]), rtol=1e-5)


@pytest.mark.parametrize("devices", [2, 4])
def test_gradients_of_means_are_weighted_by_rows(devices):
    """Three rows of five on one device count three fifths; a device without rows counts nothing."""
    x, kernel = numbers(3, 2), np.float32([[0.5], [-1.0]])

    def step(rows):
        weights = tf.constant(kernel)
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_mean(tf.square(rows @ weights))
        assert current_share() is not None
        return weighed([tape.gradient(loss, weights), None])[0]

    found = sum(run_on_shards(step, tf.constant(x), devices).outputs)
    np.testing.assert_allclose(found, 2 * x.T @ (x @ kernel) / len(x), rtol=1e-5)


def test_gradients_that_a_step_applies_by_itself_are_refused():
    with strategy_for(2).scope():
        optimizer, variable = keras.optimizers.SGD(), keras.Variable([1.0, 2.0])

    def step(_):
        optimizer.apply([tf.ones(2)], [variable])
        return tf.constant(0)

    with refusing_to_apply([optimizer]), pytest.raises(ValueError, match="self.apply_gradients"):
        run_on_shards(step, tf.zeros([2, 1]))
