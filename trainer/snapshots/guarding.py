"""A program whose first step that is not finite is undone, recorded and explained."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.algorithm import Algorithm
from trainer.callbacks.for_network import unwrapped
from trainer.callbacks.nan_guard import NaNGuard
from trainer.collecting import Ran
from trainer.feeds import Batch, Feed
from trainer.groups import Run
from trainer.hooks import python_logs
from trainer.networks import build_optimizers, single_optimizers, trained_networks
from trainer.program import Program, Until
from trainer.progress import Progress
from trainer.snapshots import files
from trainer.snapshots.algorithm import AlgorithmState
from trainer.snapshots.diagnosing import diagnosis, is_finite
from trainer.snapshots.files import Contents
from trainer.snapshots.paths import AnyPath, shown
from trainer.snapshots.plain import encoded
from trainer.snapshots.variables import on_this_process


class NonFiniteError(ArithmeticError):
    """A training step whose loss or weights are no finite numbers.

    Attributes:
        path: the folder that has the state before it and its batch, for `trainer.replay`.
    """

    def __init__(self, message: str, path: AnyPath):
        super().__init__(message)
        self.path = path


def guarded(run: Run, algorithm: Algorithm, progress: Progress) -> Run:
    """Returns `run`, its steps guarded where a `NaNGuard` is among its callbacks."""
    for callback in map(unwrapped, run.hooks.callbacks):
        if isinstance(callback, NaNGuard):
            if algorithm.is_chief:
                files.check_writable(callback.directory)
            return run._replace(program=GuardedProgram(run.program, callback, algorithm, progress))
    return run


class GuardedProgram:
    """A training program that undoes the first step that is not finite.

    A call that meets one is run again from its begin, up to that step: from there the trainer
    records it, and ends, or goes on with the next batch.

    Args:
        program: the program.
        guard: says where to record steps, and how many to leave out.
        algorithm: whose steps they are.
        progress: how far training came.

    Attributes:
        done: how many steps the last call of `run` had, also if something ended it.
    """

    def __init__(self, program: Program, guard: NaNGuard, algorithm: Algorithm, progress: Progress):
        self._program = program
        self._guard = guard
        self._algorithm = algorithm
        self._progress = progress
        self._state = AlgorithmState(algorithm, progress, lambda: program.variables)
        self._endings: dict[Until | None, Until] = {}
        self._has_failed = tf.function(self._fails)
        self._variables: list[Any] = []
        self._read, self._is_compiled = tf.function(self._copies), True
        self.done = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def run(self, feed: Feed, k: int = 1, *, until: Until | None = None, **how: Any) -> Ran:
        """Runs up to `k` steps; arguments, result and errors as in `Program.run`.

        Raises:
            NonFiniteError: a step was not finite; the trainer is as before it.
        """
        self.done = 0
        self._look_for_variables(feed)
        before = self._read()
        place = feed.state() if feed.is_in_graph else None
        ending = self._ending(until)
        with _noted(feed) as batches:
            try:
                ran = self._program.run(feed, k, until=ending, **how)
            finally:
                self.done = self._program.done
        if not self._has_failed(ran.outputs):
            return ran
        told = self._told(ran.outputs)
        self._put_back(before)
        self.done = ran.steps - 1
        if place is not None and not batches:
            feed.restore(place)
        again = _Given(batches) if batches else feed
        # The steps before it, and then its batch is the next one.
        good = self._program.run(again, self.done, until=ending, **how) if self.done else None
        self._record(self._program.whole(again.next()), told)
        return good or self.run(feed, k, until=until, **how)

    def _look_for_variables(self, feed: Feed) -> None:
        if self._variables and self._is_compiled:
            return
        if self._program.output_spec(feed) is None:  # which has made them, unless steps are eager
            build_optimizers(self._algorithm.model)
            self._read, self._is_compiled = self._copies, False  # the first steps make more
        self._variables = on_this_process(self._state.variables(), self._algorithm)

    def _ending(self, until: Until | None) -> Until:
        """Returns what ends a call at a step that failed, or that `until` is true of."""
        if until not in self._endings:

            def ending(outputs: Any) -> tf.Tensor:
                failed = self._fails(outputs)
                return failed if until is None else failed | until(outputs)

            self._endings[until] = ending
        return self._endings[until]

    def _fails(self, outputs: dict[str, Any]) -> tf.Tensor:
        """Returns whether a step with these logs failed, a bool scalar."""
        losses = [outputs[key] for key in _losses(outputs)]
        numbers = [*losses, *map(tf.convert_to_tensor, _updated(self._algorithm.model))]
        floats = [number for number in numbers if number.dtype.is_floating]
        finite = [tf.reduce_all(tf.math.is_finite(number)) for number in floats]
        return ~tf.reduce_all(tf.stack(finite)) if finite else tf.constant(False)

    def _copies(self) -> list[tf.Tensor]:
        # What is read of a variable shares its memory.
        read = map(tf.convert_to_tensor, self._variables)
        return [tf.raw_ops.DeepCopy(x=value) for value in read]

    def _put_back(self, values: list[tf.Tensor]) -> None:
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)

    def _told(self, outputs: dict[str, Any]) -> str:
        """Returns what is not finite after a step with these logs: losses, or else weights."""
        logs = python_logs(outputs)
        losses = [f"{key} is {logs[key]}" for key in _losses(logs) if not np.isfinite(logs[key])]
        variables = _updated(self._algorithm.model)
        names = [v.path for v in variables if not is_finite(tf.convert_to_tensor(v))]
        return ", ".join(losses) or f"a gradient spoils {', '.join(names)}"

    def _record(self, batch: Batch, told: str) -> None:
        """Records the step that comes next, and ends the training with it unless it may be skipped.

        Args:
            batch: its batch.
            told: what is not finite after it.

        Raises:
            NonFiniteError: no more steps may be skipped.
        """
        step = self._progress.step + self.done
        path = self._guard.directory / f"step-{step}"
        before = self._read()
        facts, arrays, _ = self._state.taken()
        facts["progress"]["step"] = step
        if self._algorithm.is_chief:
            batch_code = encoded(batch, arrays, "batch")
            files.write(path, Contents({**facts, "batch": batch_code}, arrays))
        lines = diagnosis(self._algorithm, self._program.run_eagerly_on, batch)
        # The process whose rows are at fault has the most to tell.
        of_each = self._algorithm.peers.text_of_each(json.dumps(lines))
        lines = max(map(json.loads, of_each), key=len)
        self._put_back(before)
        place = shown(path)
        message = (
            f"Step {step}, counted from 0, is not finite: {'; '.join([told, *lines])}. The state "
            f"before it and its batch are in {place}: trainer.replay({place!r}) runs it again."
        )
        if self._guard.skipped >= self._guard.skips:
            raise NonFiniteError(message, path)
        self._guard.skipped += 1
        warnings.warn(f"{message} It is left out.", stacklevel=2)


def _updated(model: keras.Model) -> list[keras.Variable]:
    """Returns what takes up the gradients of a step: weights, or an optimizer's sums of them."""
    optimizers = (one for _, outer in trained_networks(model) for one in single_optimizers(outer))
    summing = (one for one in optimizers if one.gradient_accumulation_steps)
    return [*model.trainable_variables, *(v for one in summing for v in one.variables)]


def _losses(logs: dict[str, Any]) -> list[str]:
    return [key for key in logs if key.endswith("loss")]


class _Given(Feed):
    """Batches at hand."""

    def __init__(self, batches: list[Batch]):
        self._batches = iter(batches)
        self.position = 1  # none of them is the first of a pass

    def next(self) -> Batch:
        return next(self._batches)

    def batch_spec(self) -> Any:
        raise NotImplementedError

    def _start_pass(self, epoch: int) -> None:
        raise NotImplementedError


@contextlib.contextmanager
def _noted(feed: Feed) -> Iterator[list[Batch]]:
    """Yields a list to which the batches are added that Python takes from `feed` meanwhile."""
    batches: list[Batch] = []
    take = feed.next

    def noting() -> Batch:
        batches.append(take())
        return batches[-1]

    feed.next = noting
    try:
        yield batches
    finally:
        del feed.next
