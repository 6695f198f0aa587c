"""A step that knows its batches is traced for the shapes that `tf.function` comes to by itself."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import numbers
from tests.helpers.models import Twins, compiled, weights_of
from tests.helpers.tables import each
from tests.helpers.ways import as_arrays, as_dataset, as_generator
from trainer import CustomTrainer, programs
from trainer.program import STEPS_ALONE
from trainer.traced_shapes import TracedShapes, keras_traces_batches

ROWS = 50  # the last batch is an odd one
X, Y = numbers(ROWS, 4), numbers(ROWS, 1, seed=1)


def two_outputs() -> keras.Model:
    """Keras weighs the loss of each output by the rows that its trace knows."""
    x = keras.Input((4,))
    outputs = [keras.layers.Dense(1, name=name)(x) for name in "pq"]
    return compiled(keras.Model(x, outputs), loss=["mse", "mae"], metrics=None)


def by_hand(model: keras.Model, epochs: int) -> list[dict[str, Any]]:
    """Trains as a version of Keras does that traces the step for batches; returns the logs."""
    step = tf.function(model.train_step, reduce_retracing=True)
    logs = []
    for _ in range(epochs):
        model.reset_metrics()
        for batch in as_dataset((X, [Y, Y]))["x"]:
            told = step(batch)
        logs.append({key: float(value) for key, value in told.items()})
    return logs


@pytest.mark.parametrize("give", **each({"arrays": as_arrays, "tf.data": as_dataset}))
@pytest.mark.parametrize("alone", [0, STEPS_ALONE])
def test_a_hand_written_loop(give, alone, monkeypatch):
    monkeypatch.setattr("trainer.program.STEPS_ALONE", alone)
    monkeypatch.setattr(programs, "keras_traces_batches", lambda: True)
    twins = Twins(two_outputs)
    history = CustomTrainer(twins.ours).fit(**give((X, [Y, Y])), epochs=2, shuffle=False, verbose=0)
    expected = by_hand(twins.theirs, 2)
    assert_same(
        [
            dict(zip(history.history, v, strict=True))
            for v in zip(*history.history.values(), strict=True)
        ],
        expected,
    )
    assert_same(weights_of(twins.ours), weights_of(twins.theirs))


def test_a_generator(monkeypatch):
    monkeypatch.setattr(programs, "keras_traces_batches", lambda: True)
    twins = Twins(two_outputs)
    CustomTrainer(twins.ours).fit(**as_generator((X, [Y, Y])), verbose=0)
    by_hand(twins.theirs, 1)
    assert_same(weights_of(twins.ours), weights_of(twins.theirs))


def spec(*shapes: tuple) -> tuple[tf.TensorSpec, ...]:
    return tuple(tf.TensorSpec(shape, tf.float32) for shape in shapes)


def test_shapes_are_those_of_the_first_batch_and_else_open():
    shapes = TracedShapes(knows_batches=True)
    assert shapes.traced(spec((None, 3), (None,))) == spec((None, 3), (None,))
    assert shapes.traced(spec((8, 3), (8,))) == spec((8, 3), (8,))
    assert shapes.traced(spec((2, 3), (2,))) == spec((None, 3), (None,))
    assert shapes.traced(spec((8, 5), (8,))) == spec((8, None), (8,))
    assert shapes.traced(spec((8, 3), (8,))) == spec((8, 3), (8,))
    assert shapes.traced(spec((2, 3))) == spec((2, 3))  # the first one of another structure


def test_shapes_of_a_snapshot_count_as_those_of_the_first_batch():
    before, after = TracedShapes(knows_batches=True), TracedShapes(knows_batches=True)
    before.traced(spec((8, 3)))
    after.first = dict(before.first)
    assert after.traced(spec((2, 3))) == spec((None, 3))


def test_it_is_found_out_what_keras_does():
    """The step notes what it knows of a batch of data that leave the rows open."""
    known = []

    class Notes(keras.Model):
        def train_step(self, data):
            known.append(data.shape[0])
            return {"loss": tf.reduce_sum(data)}

    model = Notes()
    model.compile(jit_compile=False)
    model.fit(tf.data.Dataset.from_tensor_slices(np.ones(4, "float32")).batch(2), verbose=0)
    assert keras_traces_batches() == (None not in known)
