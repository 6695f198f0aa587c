"""What a compiled step depends on besides its batch, and what has to be set around it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.algorithm import Algorithm, has_own_step
from trainer.compiling import compile_mark
from trainer.progress import ProgressInSteps
from trainer.rollback import Rollback
from trainer.step_attributes import StepAttributes
from trainer.step_means import StepMeans
from trainer.watching import Mode


def has_means(algorithm: Algorithm, mode: Mode) -> bool:
    """Returns whether means are kept of what the step of `mode` returns."""
    return mode != "predict" and has_own_step(algorithm, mode)


class StepContext:
    """Tells when a step has to be traced again, and holds what surrounds it.

    It has to be after `compile`, after `make_train_function(force=True)`, where steps are to run
    eagerly or no longer, and where an attribute of the trainer has changed that it reads.

    Args:
        algorithm: has the step.
        mode: whose step it is.
        progress: how far training has come, for steps to read.
        assigned: returns what the forward pass of a step assigns.
        means: means of what a step returns, for one that is not Keras's.

    Attributes:
        means: as given.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        mode: Mode,
        progress: ProgressInSteps,
        assigned: Callable[[], list[keras.Variable]],
        means: StepMeans,
    ):
        self._model = algorithm.model
        self._mode = mode
        self._progress = progress
        self.means = means
        self._has_means = has_means(algorithm, mode)
        self._attributes = StepAttributes(algorithm)
        self._rollback = Rollback(assigned, algorithm.model.distribute_strategy)
        self._rollback.prepare()  # here, as processes make variables together
        self._marks: tuple = ()
        self._knows_variables = False

    @property
    def run_eagerly(self) -> bool:
        """Whether steps run as plain Python, for a debugger."""
        return self._model.run_eagerly or tf.config.functions_run_eagerly()

    @property
    def own_variables(self) -> list[tf.Variable]:
        """Variables that steps read and that are no part of a training."""
        return [*self._rollback.own_variables, *self._progress.own_variables]

    def prepare(self) -> bool:
        """Gets ready for a call; returns whether the step is another one than at the last call."""
        self._progress.prepare()
        marks = (compile_mark(self._model), self._function_of_keras(), self.run_eagerly)
        is_other = self._attributes.changed() or marks != self._marks
        self._marks = marks
        if is_other or not self._knows_variables:
            is_other = self._rollback.prepare() or is_other
            self._knows_variables = self._model.built
        return is_other

    def has_new_variables(self) -> bool:
        """Returns whether a trace has made variables that the next one has to know of."""
        if self._knows_variables or not self._model.built:
            return False
        self._knows_variables = True
        return self._rollback.prepare()

    def _function_of_keras(self) -> Callable[..., Any]:
        """Returns what Keras compiles; a user who has it made again wants another step.

        `make_train_function(force=True)` does that, and so does to set it to `None`.
        """
        if getattr(self._model, f"{self._mode}_function") is None:
            getattr(self._model, f"make_{self._mode}_function")()
        return getattr(self._model, f"{self._mode}_function")

    @contextlib.contextmanager
    def replicas(self) -> Iterator[None]:
        """Is the context of a step on all replicas together."""
        with self.means.observing() if self._has_means else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Is the context of a step on each replica."""
        with self._attributes.recording():
            yield

    def begin(self, batch: Any) -> Any:
        """Returns the batch of a step that begins, on each replica."""
        return self._rollback.begin(batch)

    def end(self, outputs: Any) -> None:
        """Marks the step with these outputs, of all replicas, as completed."""
        self._rollback.end(outputs)
        if self._mode == "train":
            self._progress.count()

    def undo(self) -> None:
        """Restores what a step assigned that failed."""
        self._rollback.undo()
