"""Undoes what a step that failed has assigned before it came to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer.collecting import tensors_of


class Rollback:
    """Copies of what a step assigns in its forward pass: averages and seeds of layers.

    Weights change last. A step that fails, in its loss for one, has assigned these by then.

    Args:
        variables: returns the variables, those that exist by now.
        strategy: whose replicas have them.
    """

    def __init__(
        self, variables: Callable[[], list[keras.Variable]], strategy: tf.distribute.Strategy
    ):
        self._variables = variables
        self._strategy = strategy
        self._copies: list[tuple[tf.Variable, tf.Variable]] = []  # variable and copy
        self._in_progress: tf.Variable | None = None

    @property
    def own_variables(self) -> list[tf.Variable]:
        """The copies, and the flag that marks a step in progress."""
        copies = [
            part
            for _, copy in self._copies
            for part in (copy, *self._strategy.experimental_local_results(copy))
        ]
        return [*copies, self._in_progress] if self._copies else []

    def prepare(self) -> bool:
        """Makes a copy for each variable that has none yet, before a step is traced.

        Returns:
            Whether there were such.
        """
        known = {id(variable) for variable, _ in self._copies}
        for variable in self._variables():
            if id(variable.value) not in known:
                self._copies.append((variable.value, self._copy_of(variable.value)))
        if self._copies and self._in_progress is None:
            self._in_progress = tf.Variable(False, trainable=False)
        return len(self._copies) > len(known)

    def _copy_of(self, variable: tf.Variable) -> tf.Variable:
        with self._strategy.scope():
            return tf.Variable(
                tf.zeros(variable.shape, variable.dtype),
                trainable=False,
                synchronization=variable.synchronization,
                aggregation=variable.aggregation,
            )

    def begin(self, batch: Any) -> Any:
        """Copies the variables; returns `batch` with a control dependency on the copies."""
        if not self._copies:
            return batch
        assigned = [copy.assign(variable) for variable, copy in self._copies]
        with tf.control_dependencies(assigned):
            begun = self._in_progress.assign(True)
        with tf.control_dependencies([begun]):
            return keras.tree.map_structure(
                lambda leaf: leaf if leaf is None else tf.identity(leaf), batch
            )

    def end(self, outputs: Any) -> None:
        """Marks the step with these outputs as completed."""
        if self._copies:
            with tf.control_dependencies(tensors_of(outputs)):
                self._in_progress.assign(False)

    def undo(self) -> None:
        """Restores the variables where a step began and did not come to its end."""
        if not self._copies or not self._in_progress.numpy():
            return
        results = self._strategy.experimental_local_results
        for variable, copy in self._copies:
            for part, value in zip(results(variable), results(copy), strict=True):
                part.assign(value)
        self._in_progress.assign(False)
