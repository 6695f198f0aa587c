"""Undoes what a step that failed has assigned before it came to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


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
        self._is_under_way: tf.Variable | None = None

    @property
    def own_variables(self) -> list[tf.Variable]:
        """The copies, and what tells whether they count."""
        copies = [
            part
            for _, copy in self._copies
            for part in (copy, *self._strategy.experimental_local_results(copy))
        ]
        return [*copies, self._is_under_way] if self._copies else []

    def prepare(self) -> bool:
        """Makes a copy for each variable that has none yet, before a step is traced.

        Returns:
            Whether there were such.
        """
        known = {id(variable) for variable, _ in self._copies}
        for variable in self._variables():
            if id(variable.value) not in known:
                self._copies.append((variable.value, self._copy_of(variable.value)))
        if self._copies and self._is_under_way is None:
            self._is_under_way = tf.Variable(False, trainable=False)
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
        """Copies the variables; returns `batch`, which is to be had only after that."""
        if not self._copies:
            return batch
        assigned = [copy.assign(variable) for variable, copy in self._copies]
        with tf.control_dependencies(assigned):
            begun = self._is_under_way.assign(True)
        with tf.control_dependencies([begun]):
            return keras.tree.map_structure(
                lambda leaf: leaf if leaf is None else tf.identity(leaf), batch
            )

    def end(self, outputs: Any) -> None:
        """Is told that a step came to its end, with these outputs."""
        if self._copies:
            with tf.control_dependencies(tf.nest.flatten(outputs, expand_composites=True)):
                self._is_under_way.assign(False)

    def undo(self) -> None:
        """Restores the variables where a step began and did not come to its end."""
        if not self._copies or not self._is_under_way.numpy():
            return
        results = self._strategy.experimental_local_results
        for variable, copy in self._copies:
            for part, value in zip(results(variable), results(copy), strict=True):
                part.assign(value)
        self._is_under_way.assign(False)
