"""Which logs of a step are results of metrics, and what logs of several devices merge to."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import numbers
from tests.helpers.devices import strategy_for
from trainer import CustomTrainer
from trainer.telling import telling

X, Y = numbers(8, 4), numbers(8, 1, seed=1)  # a batch of five rows, and one of three


def test_results_are_found_among_the_logs():
    mean, found = keras.metrics.Mean(), {}

    @tf.function(autograph=False)
    def step(values):
        mean.update_state(values)
        with telling([mean]) as known:
            logs = {
                "mean": mean.result(),
                "root": tf.sqrt(mean.result()),
                "batch": tf.reduce_mean(values),
                "constant": 0.5,
            }
            found.update(known.among(logs))
        return values

    step(tf.constant([4.0, 16.0]))
    assert sorted(found) == ["mean", "root"]
    assert found["mean"].metric is mean
    assert found["root"].metric is None  # but computed from its variables
    assert float(found["mean"].now({})) == 10.0
    assert found["root"].now({"root": 3.0}) == 3.0


class LogsMore(CustomTrainer):
    def train_step(self, data):
        x, y, *_ = data
        logs = super().train_step(data)
        error = tf.abs(y - self.call_model(x, training=False))
        return {**logs, "error": tf.reduce_mean(error), "rows": tf.cast(tf.shape(x)[0], tf.float32)}


def test_logs_of_two_devices_are_those_of_all_rows():
    with strategy_for(2).scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        made = LogsMore(model, optimizer=keras.optimizers.SGD(0.0), loss="mse", metrics=["mae"])
    history = made.fit(X, Y, batch_size=5, shuffle=False, verbose=0).history
    kernel, bias = model.get_weights()
    errors = Y - (X @ kernel + bias)
    expected = {
        "loss": np.square(errors).mean(),  # metrics: of all batches
        "mae": np.abs(errors).mean(),
        "error": np.abs(errors[5:]).mean(),  # what no metric knows: of the last batch
        "rows": (1 * 1 + 2 * 2) / 3,  # the mean by the rows of the devices, one and two
    }
    assert sorted(history) == sorted(expected)
    for key, value in expected.items():
        assert history[key] == pytest.approx([value], rel=1e-5), key
