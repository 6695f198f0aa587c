"""Metrics that devices update with parts of a batch have NumPy's result of the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.devices import run_on_shards, strategy_for
from tests.helpers.replicas import mean_square
from tests.helpers.tables import each
from trainer.counting import counting_own_rows, with_parts

Y = np.float32([[1], [0], [1], [1], [0]])
Y_PRED = np.float32([[0.9], [0.8], [0.1], [0.7], [0.2]])
SQUARES = np.square(Y - Y_PRED)
WEIGHTS = np.float32([1, 2, 0, 3, 0.5])


class Doubled(keras.metrics.Metric):
    """Is made of another metric."""

    def __init__(self):
        super().__init__(name="doubled")
        self.square = keras.metrics.MeanSquaredError()

    def update_state(self, y, y_pred):
        self.square.update_state(y, y_pred)

    def result(self):
        return 2.0 * self.square.result()


Update = Callable[[keras.metrics.Metric, tf.Tensor, tf.Tensor, tf.Tensor], None]
CASES: dict[str, tuple[Callable[[], keras.metrics.Metric], Update, float]] = {
    "accuracy": (
        keras.metrics.BinaryAccuracy,
        lambda metric, y, y_pred, _: metric.update_state(y, y_pred),
        ((Y_PRED > 0.5) == Y).mean(),
    ),
    "weighted": (
        keras.metrics.MeanSquaredError,
        lambda metric, y, y_pred, weights: metric.update_state(y, y_pred, weights),
        np.average(SQUARES[:, 0], weights=WEIGHTS),
    ),
    "a function that returns a single number": (
        lambda: keras.metrics.MeanMetricWrapper(mean_square),
        lambda metric, y, y_pred, _: metric.update_state(y, y_pred),
        SQUARES.mean(),
    ),
    "a mean of the rows' mean": (
        keras.metrics.Mean,
        lambda metric, y, y_pred, _: metric.update_state(mean_square(y, y_pred)),
        SQUARES.mean(),
    ),
    "a sum of the rows' mean": (
        keras.metrics.Sum,
        lambda metric, y, y_pred, _: metric.update_state(mean_square(y, y_pred)),
        SQUARES.mean(),
    ),
    "a sum of rows": (
        keras.metrics.Sum,
        lambda metric, y, y_pred, _: metric.update_state(tf.square(y - y_pred)),
        SQUARES.sum(),
    ),
    "made of another": (
        Doubled,
        lambda metric, y, y_pred, _: metric.update_state(y, y_pred),
        2 * SQUARES.mean(),
    ),
}


@pytest.mark.parametrize(("make", "update", "expected"), **each(CASES))
def test_it_counts_each_row_once(make, update, expected):
    with strategy_for(2).scope():
        metric = make()

    def step(seen):
        update(metric, *seen)
        return tf.constant(0)

    with counting_own_rows([metric]):
        run_on_shards(step, (Y, Y_PRED, WEIGHTS))
    assert float(metric.result()) == pytest.approx(expected, rel=1e-5)


def test_a_device_without_rows_counts_nothing():
    with strategy_for(4).scope():
        metric = keras.metrics.MeanSquaredError()

    def step(seen):
        metric.update_state(*seen)
        return tf.constant(0)

    with counting_own_rows([metric]):
        ran = run_on_shards(step, (tf.constant(Y[:3]), tf.constant(Y_PRED[:3])), devices=4)
    assert sorted(ran.rows) == [0, 1, 1, 1]
    assert float(metric.result()) == pytest.approx(SQUARES[:3].mean(), rel=1e-5)


def test_parts_of_metrics_are_found_once():
    metric = Doubled()
    assert with_parts([metric, metric.square]) == [metric, metric.square]
