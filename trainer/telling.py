"""What metrics tell in a step on a replica, and which of the step's logs that are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer.counting import with_parts
from trainer.replacing import replaced


class Told(NamedTuple):
    """A log that says what metrics tell, and so something else of the rows of all replicas.

    Attributes:
        metric: the metric whose result it is; `None` where it was computed from results.
        key: the log's key; of a result that is a dict, the result's.
    """

    metric: keras.metrics.Metric | None
    key: str

    def now(self, results: dict[str, Any]) -> Any:
        """Returns what the log has to be.

        Args:
            results: what the metrics tell by log key.
        """
        if self.metric is None:
            return results[self.key]
        result = self.metric.result()
        return result[self.key] if isinstance(result, dict) else result


class Telling:
    """Knows the results that metrics have returned.

    Args:
        metrics: the metrics, and those that they are made of.
    """

    def __init__(self, metrics: list[keras.metrics.Metric]):
        self._metrics = metrics
        self._told: dict[Any, Told] = {}
        self._kept: list[Any] = []  # else the next tensor may have the id of one that is gone

    def result(self, metric: keras.metrics.Metric, result_of: Callable[[], Any]) -> Any:
        """Returns the result of a metric, which `result_of` returns."""
        result = result_of()
        for key, value in result.items() if isinstance(result, dict) else [("", result)]:
            self._told.setdefault(_mark(value), Told(metric, key))
            self._kept.append(value)
        return result

    def among(self, logs: dict[str, Any]) -> dict[str, Told]:
        """Returns those of a step's logs that say what metrics tell, by log key."""
        told = {key: self._told[_mark(value)] for key, value in logs.items() if self._tells(value)}
        others = {key: value for key, value in logs.items() if key not in told}
        if any(map(tf.is_symbolic_tensor, others.values())):
            states = self._states()
            computed = (key for key, value in others.items() if states & _resources_of(value))
            told |= {key: Told(None, key) for key in computed}
        return told

    def _tells(self, value: Any) -> bool:
        return _mark(value) in self._told

    def _states(self) -> set[str]:
        """Returns the names, in the graph, of what holds the metrics' variables."""
        variables = [variable for metric in self._metrics for variable in metric.variables]
        return set().union(*(_resources_of(tf.convert_to_tensor(v)) for v in variables))


@contextlib.contextmanager
def telling(metrics: Iterable[keras.metrics.Metric]) -> Iterator[Telling]:
    """Yields what knows the results of `metrics` in steps that run meanwhile."""
    metrics = with_parts(metrics)
    known = Telling(metrics)
    with replaced(metrics, "result", known.result):
        yield known


def _resources_of(value: Any) -> set[str]:
    """Returns the names of the variables, in the graph, that a value is computed from."""
    resources, seen = set(), set()
    left = [value] if tf.is_symbolic_tensor(value) else []
    while left:
        tensor = left.pop()
        if tensor.dtype == tf.resource:
            resources.add(tensor.name)
        if tensor.op.name not in seen:
            seen.add(tensor.op.name)
            left.extend(tensor.op.inputs)
    return resources


def _mark(value: Any) -> Any:
    return (value.graph, value.name) if tf.is_symbolic_tensor(value) else id(value)
