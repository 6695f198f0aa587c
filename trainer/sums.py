"""Sums over replicas and processes: of metrics, when they are read."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from trainer.peers import spans_processes


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
