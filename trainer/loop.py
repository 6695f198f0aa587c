"""The loop: epochs, validation, and the hooks in their order."""

from __future__ import annotations

import collections
import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import keras

from trainer.algorithm import Algorithm
from trainer.collecting import Ran
from trainer.groups import Run, agree_to_stop, groups
from trainer.hooks import python_logs
from trainer.outputs import collected
from trainer.progress import Progress


class Place(NamedTuple):
    """A place in a training, between two groups or two epochs.

    Attributes:
        epoch: the epoch.
        step: steps of it that are done.
        logs: what the last one returned; at the begin of an epoch, the logs of the one before;
            `None` where there is neither.
    """

    epoch: int
    step: int = 0
    logs: dict[str, Any] | None = None


class Between(Protocol):
    """What comes between two groups or two epochs, apart from hooks."""

    def wishes(self, place: Place) -> tuple[bool, ...]:
        """Returns what this process wants to do at `place`, an answer to each of some questions."""

    def act(self, *wishes: bool) -> None:
        """Does at that place what one of the processes that train together wants."""


class Resumed(NamedTuple):
    """A training to go on with.

    Attributes:
        place: where it was.
        put_back: sets all that training changes to what it was there: variables, the position of
            the feed, the progress, callbacks, and whether training is to stop.
    """

    place: Place
    put_back: Callable[[], None]


def train(
    algorithm: Algorithm,
    run: Run,
    progress: Progress,
    *,
    epochs: int,
    initial_epoch: int,
    validate: Callable[[], dict[str, float] | None] | None = None,
    validation_freq: int | Sequence[int] = 1,
    resumed: Resumed | None = None,
    begun: Callable[[int], None] = int,
    between: Between | None = None,
    validating: Callable[[], AbstractContextManager] = contextlib.nullcontext,
) -> None:
    """Trains for epochs `initial_epoch` to `epochs` - 1.

        on_train_begin
        for each epoch:
            reset the metrics, on_epoch_begin
            for each group of steps, a single one where a callback has to see each:
                on_train_batch_begin, the steps, on_train_batch_end
            validate if due
            on_epoch_end
        on_train_end

    A training that goes on in mid-epoch begins with `on_train_begin` and `on_epoch_begin`, too;
    what they change is then put back.

    Args:
        algorithm: whose metrics are reset and read.
        run: the training.
        progress: is moved on with each step and epoch.
        epochs: the epoch to end before.
        initial_epoch: the epoch to begin with, unless a callback restores another.
        validate: returns the logs of an evaluation after an epoch, `None` if there was no batch.
        validation_freq: every how many epochs, or after which, counted from 1.
        resumed: the training to go on with, if it is one.
        begun: told the epoch to begin with, after `on_train_begin`; may raise.
        between: comes between two groups and after each epoch, once all hooks were called.
        validating: goes around each validation.
    """
    model, hooks = algorithm.model, run.hooks
    model.stop_training = False
    hooks.begin("train")
    # `BackupAndRestore` leaves the epoch to go on from in this attribute; no public name has it.
    initial_epoch = getattr(model, "_initial_epoch", None) or initial_epoch
    start = resumed.place if resumed else Place(initial_epoch)
    begun(start.epoch)
    if resumed and not start.step:
        resumed.put_back()
        epochs = start.epoch if model.stop_training else epochs
    progress.epoch = max(progress.epoch, start.epoch)
    epoch_logs = None if start.step else start.logs
    for epoch in range(start.epoch, epochs):
        place = start if start.step and epoch == start.epoch else Place(epoch)
        if place.step:
            _begin_again(run, place, resumed)
        else:
            _begin_epoch(algorithm, run, progress, epoch)
        logs = _train_epoch(model, run, progress, place, between)
        if logs is None:
            _end_without_batch(epoch, is_first=epoch == start.epoch)
            break
        epoch_logs = dict(_epoch_logs(algorithm, run, logs))
        if validate is not None and is_due(epoch + 1, validation_freq):
            with validating():
                val_logs = validate()
            if val_logs is None:
                _warn_of_no_validation(epoch)
                validate = None
            else:
                epoch_logs |= {f"val_{key}": value for key, value in val_logs.items()}
        progress.epoch += 1
        hooks.epoch_end(epoch, epoch_logs)
        if _ends_with(model, run, Place(epoch + 1, logs=epoch_logs), between):
            break
    if epochs > 0:
        algorithm.finalize_weights()
    hooks.end("train", epoch_logs)


def evaluate(algorithm: Algorithm, run: Run) -> dict[str, float]:
    """Returns the logs of a pass through the feed, hooks called as in Keras.

    Raises:
        ValueError: the feed had no batch.
    """
    logs = evaluated(algorithm, run)
    if logs is None:
        raise ValueError(_NO_BATCH)
    return logs


def evaluated(algorithm: Algorithm, run: Run) -> dict[str, float] | None:
    """Returns the logs of a pass through the feed, `None` if it had no batch."""
    model = algorithm.model
    model.stop_evaluating = False
    run.hooks.begin("test")
    algorithm.reset_metrics()
    run.program.means.reset()
    logs = _last_outputs(_pass(run, model))
    results = python_logs(_epoch_logs(algorithm, run, logs or {}))
    run.hooks.end("test", results)
    return None if logs is None else results


def predict(model: keras.Model, run: Run) -> Any:
    """Returns the outputs of a pass through the feed, those of all steps behind one another.

    Raises:
        ValueError: the feed had no batch.
    """
    model.stop_predicting = False
    run.hooks.begin("predict")
    passed = _pass(run, model)
    parts = itertools.chain.from_iterable(ran.outputs for ran in passed)
    outputs = collected(parts, run.feed.rows)
    run.hooks.end("predict")
    if outputs is None:
        raise ValueError(_NO_BATCH)
    return outputs


def _begin_epoch(algorithm: Algorithm, run: Run, progress: Progress, epoch: int) -> None:
    algorithm.reset_metrics()
    run.program.means.reset()
    run.hooks.epoch_begin(epoch)
    feed = run.feed
    feed.epoch_began()
    if run.steps is None or feed.ended or not feed.position:
        feed.rewind(progress.epoch)


def _begin_again(run: Run, place: Place, resumed: Resumed) -> None:
    """Begins an epoch whose first steps were done in another process."""
    run.hooks.epoch_begin(place.epoch)
    resumed.put_back()


def _train_epoch(
    model: keras.Model,
    run: Run,
    progress: Progress,
    place: Place,
    between: Between | None,
) -> dict[str, Any] | None:
    """Runs the steps of an epoch; returns the logs of the last, or `None` if there was no batch."""
    if not (place.step and model.stop_training):
        for ran in _epoch_groups(model, run, progress, place):
            place = Place(place.epoch, place.step + ran.steps, ran.outputs)
            if _ends_with(model, run, place, between):
                break
    run.feed.epoch_ended()
    run.program.end_epoch()
    return place.logs


def _ends_with(model: keras.Model, run: Run, place: Place, between: Between | None) -> bool:
    """Lets come what comes at `place`; returns whether training is to stop there."""
    wishes = between.wishes(place) if between else ()
    stops, *agreed = agree_to_stop(run, model, *wishes)
    if between:
        between.act(*agreed)
    return stops


def _epoch_groups(model: keras.Model, run: Run, progress: Progress, place: Place) -> Iterator[Ran]:
    """Runs the groups of an epoch from `place` on, in a new pass if the last one has ended."""
    position = run.feed.position
    how = (model, f"epoch {place.epoch}, ", progress.count, place.step)
    yield from groups(run, *how)
    if position and run.feed.position == position and not place.step:
        run.feed.rewind(progress.epoch)  # the epoch before took the last batch of the pass
        yield from groups(run, *how)


def is_due(number: int, frequency: int | Sequence[int]) -> bool:
    """Returns whether validation follows epoch `number`, counted from 1."""
    return number % frequency == 0 if isinstance(frequency, int) else number in frequency


def _pass(run: Run, model: keras.Model) -> Iterator[Any]:
    run.feed.epoch_began()
    run.feed.rewind(0)
    for ran in groups(run, model):
        yield ran
        (stops,) = agree_to_stop(run, model)
        if stops:
            break
    run.feed.epoch_ended()


def _epoch_logs(algorithm: Algorithm, run: Run, logs: dict[str, Any]) -> dict[str, Any]:
    if means := run.program.means.results():
        return {**algorithm.epoch_logs(logs), **means}
    # A callback may have changed the metrics since the last step. To read them takes all processes,
    # which need not have the same callbacks.
    unwatched = logs and (run.peers.count > 1 or not run.hooks.watch(run.mode).watchers)
    return logs if unwatched and run.program.returns_results else algorithm.epoch_logs(logs)


def _last_outputs(groups: Iterator[Ran]) -> Any | None:
    last = collections.deque(groups, maxlen=1)
    return last[0].outputs if last else None


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


_NO_BATCH = "The data gave no batch: expected at least one."
