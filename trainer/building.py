"""Variables made before the first step that would make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer.algorithm import Algorithm
from trainer.networks import build_optimizer, build_optimizers
from trainer.noting import noting_changed


def build_state(model: keras.Model, function: Callable[..., Any], *specs: Any) -> None:
    """Makes the variables of `model`, its losses, metrics and optimizers, without running anything.

    Args:
        model: the model; what is built already stays.
        function: makes the variables, called with symbols: a step, or what remains of one where
            the model has its variables already.
        specs: structures of `tf.TypeSpec`, the arguments of `function`.
    """
    _call_on_symbols(model, function, specs)
    with model.distribute_strategy.scope():
        build_optimizers(model)


def build_by_step(algorithm: Algorithm, step: Callable[[Any], Any], batch_spec: Any) -> None:
    """Makes the variables of a step, without running it.

    Args:
        algorithm: has the step; each optimizer will have the variables that it is to change first.
        step: takes a batch.
        batch_spec: the `tf.TypeSpec` of a batch.
    """
    with noting_changed() as changed:
        _call_on_symbols(algorithm.model, step, (batch_spec,))
    with algorithm.model.distribute_strategy.scope():
        for optimizer, variables in changed:
            build_optimizer(optimizer, variables)
        build_optimizers(algorithm.model)


def _call_on_symbols(model: keras.Model, function: Callable[..., Any], specs: tuple) -> None:
    # Keras has no symbol for ragged tensors: there is one for each tensor that they are made of.
    parts = tf.nest.flatten(specs, expand_composites=True)
    with model.distribute_strategy.scope():
        _OnSymbols(function, specs).compute_output_spec(*map(_symbol, parts))


class _OnSymbols(keras.Operation):
    """Calls a function with arguments of `specs`, made of their parts."""

    def __init__(self, function: Callable[..., Any], specs: tuple):
        super().__init__()
        self._function = function
        self._specs = specs

    def call(self, *parts: Any) -> None:
        arguments = tf.nest.pack_sequence_as(self._specs, parts, expand_composites=True)
        # A loss may be all that layers add, which Keras would not collect here.
        with keras.StatelessScope(collect_losses=True):
            self._function(*arguments)


def _symbol(spec: tf.TensorSpec | None) -> keras.KerasTensor | None:
    return None if spec is None else keras.KerasTensor(spec.shape, spec.dtype.name)
