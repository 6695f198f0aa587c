"""Small models, and pairs of them that start with the same bits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from tests.helpers.shared import shared
from trainer import CustomTrainer


def mlp(*layers: keras.Layer, outputs: int = 1, activation: str | None = None) -> keras.Model:
    """Returns a dense model on rows of four numbers, with `layers` before the last one."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh"),
            *layers,
            keras.layers.Dense(outputs, activation=activation),
        ]
    )


def compiled(
    model: keras.Model, optimizer: Any = "sgd", loss: Any = "mse", **settings: Any
) -> keras.Model:
    """Returns `model`, compiled without XLA."""
    model.compile(optimizer, loss, **{"metrics": ["mae"], "jit_compile": False, **settings})
    return model


def dense(optimizer: Any = None, **settings: Any) -> keras.Model:
    """Returns the model that most tests train: dense layers and SGD with momentum."""
    return compiled(mlp(), optimizer or keras.optimizers.SGD(0.1, momentum=0.5), **settings)


def dense_by_two() -> keras.Model:
    return dense(steps_per_execution=2)


def dense_by_three() -> keras.Model:
    return dense(steps_per_execution=3)


def seeded(build: Callable[[], keras.Model]) -> keras.Model:
    """Returns what `build` makes: the same weights, seeds and names each time."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(7)
    return build()


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Makes models created in it have the dtype policy `name`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class Twins:
    """Two models of the same bits: one to train under Keras, one under a trainer."""

    def __init__(self, build: Callable[[], keras.Model]):
        self.theirs, self.ours = seeded(build), seeded(build)
        self.trainer = CustomTrainer(self.ours)


def untrained(build: Callable[[], keras.Model]) -> Twins:
    """Returns twins, the same for all tests of a process, so that their steps are compiled once.

    Args:
        build: makes a compiled model whose weights exist at once; a function of a module.
    """
    twins, values = twins_and_values(build)
    twins.theirs.reset_metrics()
    twins.ours.reset_metrics()
    for variable, value in values:
        variable.assign(value)
    return twins


@shared
def twins_and_values(build: Callable[[], keras.Model]) -> tuple[Twins, list[tuple]]:
    twins = Twins(build)
    for model in (twins.theirs, twins.ours):
        model.optimizer.build(model.trainable_variables)
    variables = [*variables_of(twins.theirs), *variables_of(twins.ours)]
    return twins, [(variable, variable.numpy()) for variable in variables]


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """Returns the weights, the states of random seeds and the optimizer's variables."""
    return [*model.variables, *(model.optimizer.variables if model.optimizer is not None else [])]


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the values of `variables_of` by a name of their own."""
    return {f"{number}:{v.path}": v.numpy() for number, v in enumerate(variables_of(model))}
