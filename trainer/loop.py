"""The loop: epochs, groups of steps, validation, and the hooks in their order."""

from __future__ import annotations

import collections
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from trainer import checks
from trainer.algorithm import Algorithm
from trainer.callbacks.for_network import unwrapped
from trainer.errors import placed
from trainer.feeds import Feed
from trainer.hooks import Hooks, Mode, python_logs
from trainer.outputs import joined
from trainer.program import Program
from trainer.progress import Progress


class Run(NamedTuple):
    """What one `fit`, `evaluate` or `predict` runs on.

    Attributes:
        mode: `"train"`, `"test"` or `"predict"`.
        program: the compiled step.
        feed: the batches.
        hooks: the callbacks.
        steps: steps an epoch, or `None` for a whole pass of the feed.
        group: steps in one call, so from one batch hook to the next.
    """

    mode: Mode
    program: Program
    feed: Feed
    hooks: Hooks
    steps: int | None
    group: int


def train(
    algorithm: Algorithm,
    run: Run,
    progress: Progress,
    *,
    epochs: int,
    initial_epoch: int,
    validation: Run | None = None,
    validation_freq: int | Sequence[int] = 1,
) -> None:
    """Trains for epochs `initial_epoch` to `epochs` - 1.

        on_train_begin
        for each epoch:
            reset the metrics, on_epoch_begin
            for each group: on_train_batch_begin, its steps, on_train_batch_end
            validate if due
            on_epoch_end
        on_train_end

    Args:
        algorithm: whose metrics are reset and read.
        run: the training.
        progress: is moved on with each step and epoch.
        epochs: the epoch to end before.
        initial_epoch: the epoch to begin with, unless a callback restores another.
        validation: the evaluation after an epoch.
        validation_freq: every how many epochs, or after which, counted from 1.
    """
    model, hooks = algorithm.model, run.hooks
    model.stop_training = False
    hooks.begin("train")
    # `BackupAndRestore` leaves the epoch to go on from in this attribute; no public name has it.
    initial_epoch = getattr(model, "_initial_epoch", None) or initial_epoch
    progress.epoch = max(progress.epoch, initial_epoch)
    epoch_logs = None
    for epoch in range(initial_epoch, epochs):
        algorithm.reset_metrics()
        hooks.epoch_begin(epoch)
        _begin_epoch(run, progress.epoch)
        if epoch == initial_epoch:
            _check_monitors(run, validation)
        logs = _train_epoch(model, run, progress, epoch)
        if logs is None:
            _end_without_batch(epoch, is_first=epoch == initial_epoch)
            break
        epoch_logs = dict(algorithm.epoch_logs(logs))
        if validation is not None and is_due(epoch + 1, validation_freq):
            val_logs = _evaluated(algorithm, validation)
            if val_logs is None:
                _warn_of_no_validation(epoch)
                validation = None
            else:
                epoch_logs |= {f"val_{key}": value for key, value in val_logs.items()}
        progress.epoch += 1
        hooks.epoch_end(epoch, epoch_logs)
        if model.stop_training:
            break
    if epochs > 0:
        algorithm.finalize_weights()
    hooks.end("train", epoch_logs)


def evaluate(algorithm: Algorithm, run: Run) -> dict[str, float]:
    """Returns the logs of a pass through the feed, hooks called as in Keras.

    Raises:
        ValueError: the feed had no batch.
    """
    logs = _evaluated(algorithm, run)
    if logs is None:
        raise ValueError(_NO_BATCH)
    return logs


def _evaluated(algorithm: Algorithm, run: Run) -> dict[str, float] | None:
    model = algorithm.model
    model.stop_evaluating = False
    run.hooks.begin("test")
    algorithm.reset_metrics()
    logs = _last(_pass(run, lambda: model.stop_evaluating))
    results = python_logs(algorithm.epoch_logs(logs or {}))
    run.hooks.end("test", results)
    return None if logs is None else results


def predict(model: keras.Model, run: Run) -> list[Any]:
    """Returns the outputs of each step of a pass through the feed."""
    model.stop_predicting = False
    run.hooks.begin("predict")
    outputs = list(itertools.chain(*_pass(run, lambda: model.stop_predicting)))
    run.hooks.end("predict")
    if not outputs:
        raise ValueError(_NO_BATCH)
    return outputs


def groups(
    run: Run, stopped: Callable[[], bool], place: str = "", count: Callable[[int], None] = int
) -> Iterator[Any]:
    """Runs the groups of one epoch, batch hooks around each; yields the outputs of each.

    Args:
        run: what to run.
        stopped: asked after each group whether to end here.
        place: the epoch, for messages.
        count: told how many steps a group had, before its hook.
    """
    feed, group = run.feed, run.group
    for first in range(0, run.steps, group) if run.steps else itertools.count(0, group):
        if feed.ended:
            return
        with placed(f"{_DOING[run.mode]}, {place}step {first}"):
            run.hooks.batch_begin(run.mode, first)
            before = feed.position
            try:
                outputs = run.program.run(feed, group)
            except StopIteration:
                feed.exhausted = True
                if run.steps and first:
                    _warn_of_early_end(first, run.steps)
                return
            count(feed.position - before)
            logs = {"outputs": joined(outputs)} if run.mode == "predict" else outputs
            run.hooks.batch_end(run.mode, first + group - 1, logs)
        yield outputs
        if stopped():
            return


def _begin_epoch(run: Run, epoch: int) -> None:
    feed = run.feed
    feed.epoch_began()
    if run.steps is None or feed.ended or not feed.position:
        feed.rewind(epoch)


def _check_monitors(run: Run, validation: Run | None) -> None:
    callbacks = map(unwrapped, run.hooks.callbacks)
    monitoring = [callback for callback in callbacks if _reads_monitor(callback)]
    if not monitoring:
        return
    keys, val_keys = _log_keys(run), set()
    if validation is not None and validation.feed.source is not None:
        validation.feed.rewind(0)
        val_keys = _log_keys(validation)
    elif validation is not None:
        val_keys = keys  # for the step's own, a batch would have to be fetched before its time
    if keys is not None and val_keys is not None:
        checks.monitors(monitoring, keys, val_keys, has_validation=validation is not None)


def _reads_monitor(callback: keras.callbacks.Callback) -> bool:
    # A `ModelCheckpoint` that saves each time has a `monitor`, too.
    monitors = isinstance(getattr(callback, "monitor", None), str)
    return monitors and getattr(callback, "save_best_only", True)


def _log_keys(run: Run) -> set[str] | None:
    """Returns the log keys of a step, `None` if only running it would tell."""
    spec = run.program.output_spec(run.feed, run.group)
    return None if spec is None else set(spec)


def _train_epoch(
    model: keras.Model, run: Run, progress: Progress, epoch: int
) -> dict[str, Any] | None:
    """Runs the steps of an epoch; returns the logs of the last, or `None` if there was no batch."""
    feed = run.feed
    place = f"epoch {epoch}, "
    logs = _last(groups(run, lambda: model.stop_training, place, progress.count))
    if logs is None and feed.position:
        feed.rewind(progress.epoch)  # the epoch before took the last batch of the pass
        logs = _last(groups(run, lambda: model.stop_training, place, progress.count))
    feed.epoch_ended()
    return logs


def is_due(number: int, frequency: int | Sequence[int]) -> bool:
    """Returns whether validation follows epoch `number`, counted from 1."""
    return number % frequency == 0 if isinstance(frequency, int) else number in frequency


def _pass(run: Run, stopped: Callable[[], bool]) -> Iterator[Any]:
    run.feed.epoch_began()
    run.feed.rewind(0)
    yield from groups(run, stopped)
    run.feed.epoch_ended()


def _last(outputs: Iterator[Any]) -> Any | None:
    return next(iter(collections.deque(outputs, maxlen=1)), None)


def _warn_of_early_end(done: int, steps: int) -> None:
    warnings.warn(
        f"The data ended after {done} of {steps} steps, and so did the epoch: ask for fewer steps, "
        "or give a dataset with .repeat().",
        stacklevel=8,
    )


def _end_without_batch(epoch: int, is_first: bool) -> None:
    if is_first:
        raise ValueError(_NO_BATCH)
    warnings.warn(
        f"The data gave no batch in epoch {epoch}, so training ends before it: a generator yields "
        "its batches once. Give one that goes on for all epochs, with steps_per_epoch, or a "
        "dataset that can be iterated over again.",
        stacklevel=5,
    )


def _warn_of_no_validation(epoch: int) -> None:
    warnings.warn(
        f"The validation data gave no batch after epoch {epoch}, so training goes on without "
        "validation: a generator yields its batches once. Give one that goes on for all epochs, "
        "with validation_steps, or a dataset that can be iterated over again.",
        stacklevel=5,
    )


_DOING = {"train": "training", "test": "evaluating", "predict": "predicting"}
_NO_BATCH = "The data gave no batch: expected at least one."
