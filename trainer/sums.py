"""Sums over replicas: of metrics when they are read, of gradients before they are clipped."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from trainer.peers import spans_processes

_CLIPS: dict[str, Callable[[list[Any], float], list[Any]]] = {
    "clipnorm": lambda gradients, norm: [tf.clip_by_norm(g, norm) for g in gradients],
    "global_clipnorm": lambda gradients, norm: tf.clip_by_global_norm(gradients, norm)[0],
    "clipvalue": lambda gradients, most: [tf.clip_by_value(g, -most, most) for g in gradients],
}


def read_at_once(
    strategy: tf.distribute.Strategy,
    variables: Iterable[keras.Variable],
    results: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """Returns what `results` does, the sums that it reads added up over processes together.

    In a graph, that is: read one by one, as they are outside, each takes a collective of its own.

    Args:
        strategy: the strategy.
        variables: what `results` reads.
        results: returns what the metrics say.
    """
    by_dtype: dict[str, list[keras.Variable]] = {}
    if spans_processes(strategy) and not tf.executing_eagerly():
        for variable in filter(_is_summed, variables):
            by_dtype.setdefault(variable.dtype, []).append(variable)
    mapping = [
        pair
        for sums in by_dtype.values()
        for pair in zip(sums, _added_up(strategy, sums), strict=True)
    ]
    with keras.StatelessScope(mapping) if mapping else contextlib.nullcontext():
        return results()


def _is_summed(variable: keras.Variable) -> bool:
    """Returns whether replicas add up a variable when it is read."""
    held = variable.value
    is_on_read = held.synchronization is tf.VariableSynchronization.ON_READ
    return is_on_read and held.aggregation is tf.VariableAggregation.SUM


def _added_up(strategy: tf.distribute.Strategy, sums: list[keras.Variable]) -> list[tf.Tensor]:
    """Returns the values of variables of one dtype, added up over all replicas."""

    def added_up() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        packed = tf.concat([tf.reshape(tf.convert_to_tensor(v), [-1]) for v in sums], 0)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, packed)

    packed = strategy.experimental_local_results(strategy.run(added_up))[0]
    parts = tf.split(packed, [math.prod(variable.shape) for variable in sums])
    return [tf.reshape(p, v.shape) for p, v in zip(parts, sums, strict=True)]


def apply_on_replicas(
    optimizer: keras.Optimizer, gradients: list[Any], variables: list[keras.Variable]
) -> None:
    """Applies gradients of which each replica has its part, to be called on each of them.

    Keras clips the parts before they are added up; here the sum is clipped, as on one device.

    Args:
        optimizer: adds up the gradients that it is given on all replicas.
        gradients: the parts of this replica; `None` for a variable without one.
        variables: the variables.
    """
    clips = {name: getattr(optimizer, name, None) for name in _CLIPS}
    name, limit = next(((n, limit) for n, limit in clips.items() if limit), (None, None))
    if name is None:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return
    context = tf.distribute.get_replica_context()
    there = [gradient for gradient in gradients if gradient is not None]
    clipped = iter(_CLIPS[name](context.all_reduce(tf.distribute.ReduceOp.SUM, there), limit))
    share = 1 / context.num_replicas_in_sync
    gradients = [None if gradient is None else next(clipped) * share for gradient in gradients]
    setattr(optimizer, name, None)
    try:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    finally:
        setattr(optimizer, name, limit)
