"""What a step of its own returns and no metric reports: its mean over the rows of an epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer import checks
from trainer.counting import with_parts
from trainer.replacing import replaced
from trainer.shares import current_share, first_of
from trainer.telling import Telling, telling


class StepMeans:
    """Means over the rows of an epoch, of what a step returns.

    If a step updates no metric, all numbers that it returns are averaged; else only those that are
    named like a metric which it did not update. Of other keys an epoch reports the last step's.

    Args:
        metrics: returns the metrics that a step may update.
    """

    def __init__(self, metrics: Callable[[], list[keras.metrics.Metric]]):
        self._metrics = metrics
        self._means: dict[str, keras.metrics.Mean] = {}
        self._names: set[str] = set()
        self._updated: set[str] = set()
        self._reported: Telling

    @property
    def metrics(self) -> list[keras.metrics.Mean]:
        """The means."""
        return list(self._means.values())

    @contextlib.contextmanager
    def observing(self) -> Iterator[None]:
        """Observes the metrics in steps that `run` runs meanwhile, on all replicas."""
        metrics = with_parts(self._metrics())
        self._names, self._updated = {metric.name for metric in metrics}, set()
        with (
            replaced(metrics, "update_state", self._update_state),
            telling(metrics) as self._reported,
        ):
            yield

    def run(self, step: Callable[[Any], Any], name: str, batch: Any) -> dict[str, Any]:
        """Returns what `step` returns, and adds it to the means.

        Args:
            step: the step.
            name: its name.
            batch: its batch.
        """
        logs = checks.logs(step(batch), name)
        reported = self._reported.among(logs)
        for key, value in logs.items():
            is_unknown = key in self._names - self._updated if self._updated else True
            if is_unknown and key not in reported and _is_number(value):
                self._mean(key).update_state(value, sample_weight=_rows(batch))
        return logs

    def _update_state(
        self, metric: keras.metrics.Metric, update_state: Callable, *args: Any, **kwargs: Any
    ) -> Any:
        self._updated.add(metric.name)
        return update_state(*args, **kwargs)

    def results(self) -> dict[str, tf.Tensor]:
        """Returns the means by log key."""
        return {key: mean.result() for key, mean in self._means.items()}

    def reset(self) -> None:
        """Starts the means afresh."""
        for mean in self._means.values():
            mean.reset_state()

    def _mean(self, key: str) -> keras.metrics.Mean:
        if key not in self._means:
            with tf.init_scope():
                self._means[key] = keras.metrics.Mean(name=key)
        return self._means[key]


def _is_number(value: Any) -> bool:
    if isinstance(value, (int, float)):
        return True
    dtype = tf.as_dtype(value.dtype) if tf.is_tensor(value) else None
    return dtype is not None and value.shape.rank == 0 and (dtype.is_floating or dtype.is_integer)


def _rows(batch: Any) -> tf.Tensor | None:
    """Returns how many rows of a batch count here."""
    if share := current_share():
        return share.rows
    x = first_of(keras.utils.unpack_x_y_sample_weight(batch)[0])
    return tf.shape(x)[0] if x.shape.rank != 0 else None
