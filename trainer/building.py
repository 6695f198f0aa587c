"""Variables made before the first step that would make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def build_state(model: keras.Model, step: Callable[[Any], Any], batch_spec: Any) -> None:
    """Makes the variables of `model`, its losses, metrics and optimizer, without running anything.

    Args:
        model: the model; what is built already stays.
        step: a step that calls the model, its loss and its metrics.
        batch_spec: structure of `tf.TypeSpec`, the batch that `step` takes.
    """
    with model.distribute_strategy.scope():
        _Symbolically(step).compute_output_spec(keras.tree.map_structure(_symbol, batch_spec))
        optimizer = getattr(model, "optimizer", None)
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)


class _Symbolically(keras.Operation):
    """Runs a function on symbols only."""

    def __init__(self, function: Callable[[Any], Any]):
        super().__init__()
        self._function = function

    def call(self, batch: Any) -> None:
        self._function(batch)


def _symbol(spec: tf.TypeSpec | None) -> keras.KerasTensor | None:
    if spec is None:
        return None
    return keras.KerasTensor(
        spec.shape, spec.dtype.name, sparse=isinstance(spec, tf.SparseTensorSpec)
    )
