"""How far training has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf


@dataclass
class Progress:
    """How far training has come, over all calls of `fit`.

    Attributes:
        step: steps taken.
        epoch: epochs trained.
    """

    step: int = 0
    epoch: int = 0

    def count(self, steps: int) -> None:
        """Adds `steps` to the steps taken."""
        self.step += steps


class ProgressInSteps:
    """How far training has come, as tensors for a step to read.

    Args:
        progress: returns how far it has come.
    """

    def __init__(self, progress: Callable[[], Progress]):
        self._progress = progress
        self._step: tf.Variable | None = None
        self._epoch: tf.Variable | None = None

    @property
    def own_variables(self) -> list[tf.Variable]:
        """The variables that steps read."""
        return [variable for variable in (self._step, self._epoch) if variable is not None]

    def step(self) -> tf.Tensor:
        """Returns the steps taken before this one, int64."""
        if self._step is None:
            self._step = _counter(self._progress().step)
        return tf.convert_to_tensor(self._step)

    def epoch(self) -> tf.Tensor:
        """Returns the epochs trained, int64."""
        if self._epoch is None:
            self._epoch = _counter(self._progress().epoch)
        return tf.convert_to_tensor(self._epoch)

    def prepare(self) -> None:
        """Sets what steps read to how far training has come; to be called outside of a graph."""
        if self._step is not None:
            self._step.assign(self._progress().step)
        if self._epoch is not None:
            self._epoch.assign(self._progress().epoch)

    def count(self) -> None:
        """Counts a step, in the graph."""
        if self._step is not None:
            self._step.assign_add(1)


def _counter(value: int) -> tf.Variable:
    with tf.init_scope():
        return tf.Variable(value, trainable=False, dtype=tf.int64)
