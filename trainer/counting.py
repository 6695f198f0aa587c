"""What metrics count on a replica: its own rows, and means over them by how many they are."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.shares import Share, current_share


@contextlib.contextmanager
def counting_own_rows(metrics: Iterable[keras.metrics.Metric]) -> Iterator[None]:
    """Lets metrics count on each replica what is its own, in steps that run meanwhile.

    Args:
        metrics: the metrics; their results are then those of the rows of all replicas, though what
            updates them knows of no others.
    """
    metrics = list(metrics)
    for metric in metrics:
        metric.update_state = functools.partial(_update_state, metric)
    try:
        yield
    finally:
        for metric in metrics:
            del metric.update_state


def _update_state(metric: keras.metrics.Metric, *args: Any, **kwargs: Any) -> None:
    update_state = type(metric).update_state
    share = current_share()
    if share is None:
        return update_state(metric, *args, **kwargs)
    bound = inspect.signature(update_state).bind(metric, *args, **kwargs)
    bound.arguments |= share.own(
        {name: bound.arguments[name] for name in list(bound.arguments)[1:]}
    )
    if isinstance(metric, keras.metrics.Mean) and _is_scalar(bound.arguments.get("values")):
        weight = bound.arguments.get("sample_weight")
        bound.arguments["sample_weight"] = _weight(share, weight)
    return update_state(*bound.args, **bound.kwargs)


def _weight(share: Share, weight: Any) -> tf.Tensor:
    """Returns what a mean over this replica's rows weighs, given its `weight` on one device."""
    if weight is None:
        return tf.cast(share.rows / share.of, tf.float32)
    return tf.where(share.rows > 0, tf.cast(weight, tf.float32), 0.0)


def _is_scalar(values: Any) -> bool:
    return values is not None and tf.TensorShape(getattr(values, "shape", ())).rank == 0
