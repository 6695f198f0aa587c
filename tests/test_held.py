"""What objects hold is found by their attributes, in an order that each process has."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.held import Draws, held_by


class Thing:
    """An object of a user's, with attributes."""

    def __init__(self, **attributes: Any):
        vars(self).update(attributes)


def paths_in(owner: Any) -> list[str]:
    return [path for path, _ in held_by(owner, "it", set())]


def test_variables_and_generators_are_found_in_the_order_of_attributes():
    variable, other = tf.Variable(1.0), keras.Variable(2.0)
    owner = Thing(
        b=variable,
        a=[other, {"c": Thing(d=np.random.default_rng(0))}],
        same=variable,
        seeds=keras.random.SeedGenerator(1),
        of_python=random.Random(1),
        of_tensorflow=tf.random.Generator.from_seed(1),
        metric=keras.metrics.Mean(),
        words=["a"] * 100,
        function=len,
    )
    owner.itself = owner
    assert paths_in(owner) == [
        *("it.b", "it.a.0", "it.a.1.c.d", "it.seeds", "it.of_python", "it.of_tensorflow"),
        *("it.metric", "it.metric"),
    ]


def test_a_layer_has_its_variables_and_what_else_was_given_to_it():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.averages = tf.Variable(0.0)
    model.optimizer_of_its_own = keras.optimizers.SGD(momentum=0.9)
    model.optimizer_of_its_own.build(model.trainable_variables)
    found = paths_in(model)
    assert found[:2] == ["it", "it"]
    assert "it.averages" in found
    assert found.count("it.optimizer_of_its_own") == 4


GENERATORS = {
    "numpy": lambda: np.random.default_rng(3),
    "a Mersenne twister": lambda: np.random.Generator(np.random.MT19937(3)),
    "of old": lambda: np.random.RandomState(3),
    "python": lambda: random.Random(3),
}


def drawn(generator: Any) -> list[float]:
    return [generator.normal() if hasattr(generator, "normal") else generator.random()] * 3


@pytest.mark.parametrize("make", GENERATORS.values(), ids=GENERATORS)
def test_generators_draw_again_what_they_drew(make):
    owner = Thing(generator=make())
    draws = Draws(owner)
    state = draws.state()
    first = drawn(owner.generator)
    draws.set_state(state)
    assert drawn(owner.generator) == first


def test_the_generators_of_numpy_and_python_are_among_them():
    draws = Draws(None)
    state = draws.state()
    first = np.random.normal(), random.random()
    draws.set_state(state)
    assert (np.random.normal(), random.random()) == first


def test_keys_that_another_process_has_otherwise_are_no_part_of_a_path():
    variables = [tf.Variable(1.0), tf.Variable(2.0)]
    owner = Thing(of={id(variable): variable for variable in variables})
    assert paths_in(owner) == ["it.of.0", "it.of.1"]


def test_what_has_no_state_is_passed_over():
    draws = Draws({"of_the_system": random.SystemRandom()})
    assert set(draws.state()) == {"numpy.random", "random"}


@pytest.mark.parametrize("position", [-1, 625, 2**30])
def test_a_position_outside_of_a_generator_is_refused(position):
    state = np.random.RandomState(1).get_state(legacy=False)
    state["state"]["pos"] = position
    with pytest.raises(ValueError, match="outside"):
        Draws({}).check({"numpy.random": state})
