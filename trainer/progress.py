"""How far training has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
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
    """How far training has come, for a step to read: tensors of `keras.config.floatx()`.

    TensorFlow divides whole numbers to float64, which goes with no other tensor.

    Args:
        progress: returns how far it has come.
    """

    def __init__(self, progress: Callable[[], Progress]):
        self._progress = progress
        self._variables: dict[str, tf.Variable] = {}
        self._is_read = False

    @property
    def own_variables(self) -> list[tf.Variable]:
        """The variables that steps read."""
        return list(self._variables.values())

    def step(self) -> tf.Tensor:
        """Returns the steps taken before this one."""
        return self._read("step")

    def epoch(self) -> tf.Tensor:
        """Returns the epochs trained."""
        return self._read("epoch")

    def prepare(self) -> None:
        """Sets what steps read to how far training has come; to be called before a step."""
        if not self._variables:  # which a trace may make only where it is the first one
            names = ("step", "epoch")
            self._variables = {n: tf.Variable(0, dtype=tf.int64, trainable=False) for n in names}
        if self._is_read:
            self._set()

    def count(self) -> None:
        """Counts a step, in the graph."""
        if self._is_read:
            self._variables["step"].assign_add(1)

    def _read(self, name: str) -> tf.Tensor:
        if not self._is_read:
            self._is_read = True
            with tf.init_scope():
                self._set()
        return tf.cast(self._variables[name], keras.config.floatx())

    def _set(self) -> None:
        progress = self._progress()
        self._variables["step"].assign(progress.step)
        self._variables["epoch"].assign(progress.epoch)
