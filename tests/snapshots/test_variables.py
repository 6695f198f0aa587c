"""The variables of a training: all of them, under names that last, and their values put back."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import gans
from tests.helpers.data import numbers
from tests.helpers.models import mlp
from tests.helpers.tables import each
from trainer import CustomTrainer
from trainer.snapshots.variables import differences, put_back, training_variables, values

X, Y = numbers(32, 4), numbers(32, 1, seed=1)


def dense() -> CustomTrainer:
    model = mlp(keras.layers.BatchNormalization(), keras.layers.Dropout(0.5))
    optimizer = keras.optimizers.Adam(use_ema=True)
    return CustomTrainer(model, optimizer=optimizer, loss="mse", metrics=["mae"])


def scaled() -> CustomTrainer:
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(momentum=0.9))
    return CustomTrainer(mlp(), optimizer=optimizer, loss="mse")


class WithAttributes(CustomTrainer):
    def __init__(self):
        super().__init__(mlp(), optimizer="sgd", loss="mse")
        self.error = keras.metrics.MeanSquaredError(name="error")
        self.draws = keras.random.SeedGenerator(1)
        self.counts = {"a": keras.Variable(1.0, name="a"), "b": [tf.Variable(2, name="b")]}


TRAINERS = {"dense": dense, "scaled": scaled, "attributes": WithAttributes}


@pytest.fixture(scope="module", params=TRAINERS)
def pair(request):
    """Returns two trainers made alike, trained otherwise, the second named on from the first."""
    made = [TRAINERS[request.param]() for _ in range(2)]
    for epochs, trainer in enumerate(made, 1):
        trainer.fit(X, Y, epochs=epochs, verbose=0)
    return made


def test_names_are_the_same_for_what_is_built_alike(pair):
    first, second = map(training_variables, pair)
    assert list(first) == list(second)
    assert differences(second, values(first)) == []


def test_each_variable_is_there_once(pair):
    trainer = pair[0]
    there = {id(variable) for variable in training_variables(trainer).values()}
    assert len(there) == len(training_variables(trainer))
    of_model = [*trainer.model.variables, *trainer.optimizer.variables]
    of_metrics = [variable for metric in trainer.metrics for variable in metric.variables]
    assert there >= {id(variable) for variable in [*of_model, *of_metrics]}


def test_values_put_back_are_the_same_bits(pair):
    first, second = map(training_variables, pair)
    known = values(first)
    assert any((value != known[name]).any() for name, value in values(second).items())
    put_back(second, known, {}, pair[1])
    for name, value in values(second).items():
        assert value.dtype == known[name].dtype
        assert value.tobytes() == known[name].tobytes(), name


@pytest.mark.parametrize("jit_compile", **each({"graph": False, "XLA": True}, ["graph"]))
def test_training_on_does_not_change_what_was_taken(jit_compile):
    trainer = CustomTrainer(mlp(), optimizer="adam", loss="mse", jit_compile=jit_compile)
    trainer.fit(X, Y, batch_size=8, verbose=0)
    taken = values(training_variables(trainer))
    copies = {name: value.copy() for name, value in taken.items()}
    trainer.fit(X, Y, batch_size=8, epochs=3, verbose=0)
    now = values(training_variables(trainer))
    assert (now["optimizer/adam/iteration"], taken["optimizer/adam/iteration"]) == (16, 4)
    for name, value in taken.items():
        assert value.tobytes() == copies[name].tobytes(), name


def test_attributes_of_a_trainer_count():
    names = set(training_variables(WithAttributes()))
    draws = "draws/seed_generator/seed_generator_state"
    assert names >= {draws, "counts.a/a", "counts.b.0/b", "metrics/error/total"}


def test_a_gan_has_both_networks_and_optimizers():
    trainer = gans.gan()
    owners = {name.split("/")[0] for name in training_variables(trainer)}
    assert {"model", "optimizer generator", "optimizer discriminator", "metrics"} <= owners
    seeds = [name for name in training_variables(trainer) if "seed_generator" in name]
    assert len(seeds) >= 2


def test_what_only_a_step_reads_is_included():
    counter = tf.Variable(0, name="hidden")
    trainer = dense()
    known = training_variables(trainer)
    of_steps = [counter, trainer.model.trainable_variables[0].value]
    assert list(training_variables(trainer, of_steps)) == [*known, "step/hidden"]


# What differs


def wider() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(7), keras.layers.Dense(1)])


DIFFERENT = {
    "shape": (
        lambda: CustomTrainer(wider(), optimizer="sgd", loss="mse"),
        "model/sequential/dense/kernel is float32 of shape (4, 7), and was float32 of shape (4, 5)",
    ),
    "optimizer": (
        lambda: CustomTrainer(mlp(), optimizer="rmsprop", loss="mse"),
        "the snapshot has optimizer/sgd/iteration, int64 of shape (), which is not there now",
    ),
    "metric": (
        lambda: CustomTrainer(mlp(), optimizer="sgd", loss="mse", metrics=["mae"]),
        "metrics/mean_absolute_error/total, float32 of shape (), is not in the snapshot",
    ),
}


@pytest.mark.parametrize(("make", "line"), **each(DIFFERENT))
def test_what_differs_is_told(make, line):
    plain = CustomTrainer(mlp(), optimizer="sgd", loss="mse")
    plain.fit(X, Y, verbose=0)
    other = make()
    other.fit(X, Y, verbose=0)
    found = differences(training_variables(other), values(training_variables(plain)))
    assert line in found
    assert found == sorted(found)


def test_another_dtype_is_told():
    name = "model/a"
    here = {name: keras.Variable(np.zeros(2, "float32"))}
    assert differences(here, {name: np.zeros(2, "float64")}) == [
        "model/a is float32 of shape (2,), and was float64 of shape (2,)"
    ]
    assert differences({}, {}) == []
