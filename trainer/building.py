"""Variables made before the first step that would make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def build_state(model: keras.Model, function: Callable[..., Any], *specs: Any) -> None:
    """Makes the variables of `model`, its losses, metrics and optimizer, without running anything.

    Args:
        model: the model; what is built already stays.
        function: makes the variables of all but the optimizer, called with symbols: a step, or
            what remains of one where the model has its variables already.
        specs: structures of `tf.TypeSpec`, the arguments of `function`.
    """
    with model.distribute_strategy.scope():
        _Symbolically(function).compute_output_spec(*keras.tree.map_structure(_symbol, specs))
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)


class _Symbolically(keras.Operation):
    """Runs a function on symbols only."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self._function = function

    def call(self, *arguments: Any) -> None:
        # A loss may be all that layers add, which Keras would not collect here.
        with keras.StatelessScope(collect_losses=True):
            self._function(*arguments)


def _symbol(spec: tf.TypeSpec | None) -> keras.KerasTensor | None:
    if spec is None:
        return None
    return keras.KerasTensor(
        spec.shape, spec.dtype.name, sparse=isinstance(spec, tf.SparseTensorSpec)
    )
