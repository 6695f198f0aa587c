"""What metrics tell in a step on a replica, and which of the step's logs that are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer.counting import with_parts
from trainer.replacing import replaced

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


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
    """Knows the results that metrics have returned."""

    def __init__(self):
        self._told: dict[Any, Told] = {}
        self._kept: list[Any] = []  # else the next tensor may have the id of one that is gone

    def result(self, metric: keras.metrics.Metric) -> Any:
        """Returns the result of a metric."""
        result = type(metric).result(metric)
        for key, value in result.items() if isinstance(result, dict) else [("", result)]:
            self._told.setdefault(_mark(value), Told(metric, key))
            self._kept.append(value)
        return result

    def among(self, logs: dict[str, Any]) -> dict[str, Told]:
        """Returns those of a step's logs that say what metrics tell, by log key."""
        told = {}
        for key, value in logs.items():
            if _mark(value) in self._told:
                told[key] = self._told[_mark(value)]
            elif self._is_computed_from_results(value):
                told[key] = Told(None, key)
        return told

    def _is_computed_from_results(self, value: Any) -> bool:
        if not tf.is_symbolic_tensor(value):
            return False
        if value.op.type in _CALLS:
            return True  # of a function that may have called metrics
        seen, left = set(), [value]
        while left:
            tensor = left.pop()
            if _mark(tensor) in self._told:
                return True
            if tensor.op.name not in seen:
                seen.add(tensor.op.name)
                left.extend(tensor.op.inputs)
        return False


@contextlib.contextmanager
def telling(metrics: Iterable[keras.metrics.Metric]) -> Iterator[Telling]:
    """Yields what knows the results of `metrics` in steps that run meanwhile."""
    known = Telling()
    with replaced(with_parts(metrics), "result", known.result):
        yield known


def _mark(value: Any) -> Any:
    return (value.graph, value.name) if tf.is_symbolic_tensor(value) else id(value)
