"""What metrics count on a replica: its own rows, and means over them by how many they are."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.replacing import replaced
from trainer.shares import current_share


@contextlib.contextmanager
def counting_own_rows(metrics: Iterable[keras.metrics.Metric]) -> Iterator[None]:
    """Lets metrics count on each replica what is its own, in steps that run meanwhile.

    Args:
        metrics: the metrics; their results are then those of the rows of all replicas, though what
            updates them knows of no others.
    """
    with replaced(with_parts(metrics), "update_state", _update_state):
        yield


def with_parts(metrics: Iterable[keras.metrics.Metric]) -> list[keras.metrics.Metric]:
    """Returns the metrics and those that they are made of, each once."""
    found: dict[int, keras.metrics.Metric] = {}
    left = list(metrics)
    while left:
        metric = left.pop(0)
        if id(metric) not in found:
            found[id(metric)] = metric
            own = keras.tree.flatten([vars(metric), getattr(metric, "metrics", ())])
            left += [part for part in own if isinstance(part, keras.metrics.Metric)]
    return list(found.values())


def _update_state(
    metric: keras.metrics.Metric, update_state: Callable[..., Any], *args: Any, **kwargs: Any
) -> None:
    share = current_share()
    if share is None:
        update_state(*args, **kwargs)
        return
    if _is_of_means(metric, args):
        bound = inspect.signature(update_state).bind(*args, **kwargs)
        if bound.arguments.get("sample_weight") is None:
            bound.arguments["sample_weight"] = tf.cast(share.rows / share.of, tf.float32)
        args, kwargs = bound.args, bound.kwargs

    def update() -> int:
        update_state(*args, **kwargs)
        return 0

    def refuse_variable(*args: Any, **kwargs: Any) -> None:
        raise ValueError(
            f"The metric {metric.name} makes its variables in a step, which several devices cannot "
            "do: give it a first batch, and call its reset_state(), under the strategy's scope."
        )

    if share.may_see_others:
        with tf.variable_creator_scope(refuse_variable):
            tf.cond(share.rows > 0, update, lambda: 0)
    else:
        update()


def _is_of_means(metric: keras.metrics.Metric, args: tuple) -> bool:
    """Returns whether a metric is given, or makes, a single number for all rows."""
    if isinstance(metric, keras.metrics.MeanMetricWrapper):
        return len(args) > 1 and _counts_batches(metric, *args[:2])
    is_given = isinstance(metric, (keras.metrics.Mean, keras.metrics.Sum)) and args
    return bool(is_given) and tf.TensorShape(getattr(args[0], "shape", ())).rank == 0


def _counts_batches(metric: keras.metrics.MeanMetricWrapper, y_true: Any, y_pred: Any) -> bool:
    """Returns whether two rows count as one, as where the function averages over them itself."""
    with contextlib.suppress(Exception), tf.init_scope():
        zero = tf.zeros(())
        with keras.StatelessScope([(variable, zero) for variable in metric.variables]) as scope:
            type(metric).update_state(metric, *map(_two_rows_like, (y_true, y_pred)))
            return float(scope.get_current_value(metric.count)) == 1.0
    return False


def _two_rows_like(array: Any) -> tf.Tensor:
    return tf.zeros([2, *(size or 1 for size in array.shape[1:])], array.dtype)
