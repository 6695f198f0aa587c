"""Losses of parts of a batch average, by their rows, to NumPy's loss of the whole batch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import numbers
from tests.helpers.devices import run_on_shards
from tests.helpers.tables import each
from trainer.losses import loss_on_replica, refusing_calls

ROWS, WORDS, CLASSES = 5, 3, 4  # of two devices one has two rows, the other one three
IGNORED = 1
Y, Y_PRED = numbers(ROWS, 2), numbers(ROWS, 2, seed=1)
WEIGHTS = np.float32([1, 0, 2, 0.5, 3])
TAGS = np.random.default_rng(3).integers(0, CLASSES, (ROWS, WORDS))
LOGITS = numbers(ROWS, WORDS, CLASSES, seed=4)
# Each device has another number of words that count: here none of the first device's, and there.
MASKS = {
    "some words": np.bool_([[1, 1, 1], [1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]]),
    "no word of a device": np.bool_([[0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]]),
}


def mean_of_losses(loss: keras.losses.Loss, *batch: np.ndarray, mask=None, devices: int = 2):
    """Returns the devices' losses of (targets, outputs, weights), averaged by their rows."""

    def step(seen):
        y, y_pred, *rest, is_counted = seen
        if mask is not None:
            y_pred._keras_mask = is_counted
        return loss_on_replica(loss, y, y_pred, *rest)

    whole = mask if mask is not None else np.ones(len(batch[0]), bool)
    ran = run_on_shards(step, tuple(map(tf.constant, (*batch, whole))), devices)
    return np.average(ran.outputs, weights=ran.rows)


def cross_entropy(logits: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """Returns -log softmax(logits)[tag] of each word."""
    log_of_sum = np.log(np.exp(logits.astype("float64")).sum(-1))
    return log_of_sum - np.take_along_axis(logits, tags[..., None], -1)[..., 0]


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("rows", [ROWS, 1])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_means_and_sums(reduction, rows, devices):
    batch = Y[:rows], Y_PRED[:rows], WEIGHTS[:rows]
    found = mean_of_losses(keras.losses.MeanSquaredError(reduction), *batch, devices=devices)
    of_rows = np.square(batch[0] - batch[1]).mean(-1) * batch[2]
    expected = of_rows.sum() if reduction == "sum" else of_rows.mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("mask", **each(MASKS))
def test_masked_words_do_not_count(mask):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    found = mean_of_losses(loss, TAGS, LOGITS, mask=mask)
    np.testing.assert_allclose(found, cross_entropy(LOGITS, TAGS)[mask].mean(), rtol=1e-5)


def test_an_ignored_class_does_not_count():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED)
    found = mean_of_losses(loss, TAGS, LOGITS)
    counted = cross_entropy(LOGITS, TAGS)[TAGS != IGNORED]
    assert 0 < counted.size < TAGS.size
    np.testing.assert_allclose(found, counted.mean(), rtol=1e-5)


def test_a_loss_that_returns_a_single_number_is_not_divided():
    class MeanSquare(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return tf.reduce_mean(tf.square(y_true - y_pred))

    found = mean_of_losses(MeanSquare(), Y, Y_PRED)
    np.testing.assert_allclose(found, np.square(Y - Y_PRED).mean(), rtol=1e-5)


def test_a_loss_that_a_step_calls_by_itself_is_refused():
    loss = keras.losses.MeanSquaredError()
    with refusing_calls([loss]), pytest.raises(ValueError, match="call it by self.call_loss"):
        run_on_shards(lambda seen: loss(*seen), (Y, Y_PRED))
    assert float(loss(Y, Y_PRED)) == pytest.approx(np.square(Y - Y_PRED).mean())
