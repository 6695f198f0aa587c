"""The inner loop: groups of steps, and the batch hooks around each."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from trainer.collecting import Ran
from trainer.errors import add_note, placed
from trainer.feeds import Feed
from trainer.hooks import Hooks
from trainer.peers import Peers
from trainer.program import Program
from trainer.watching import Mode

_DOING = {"train": "training", "test": "evaluating", "predict": "predicting"}
_STOPS = {"train": "stop_training", "test": "stop_evaluating", "predict": "stop_predicting"}
_OTHER_BATCHES = (
    "The processes were given different batches. Each reads all of them, and takes its rows of "
    "each: give what shuffles or draws a seed, or call keras.utils.set_random_seed before the data "
    "are made; or let tf.distribute split the data."
)


class Run(NamedTuple):
    """What one `fit`, `evaluate` or `predict` runs on.

    Attributes:
        mode: `"train"`, `"test"` or `"predict"`.
        program: the compiled step.
        feed: the batches.
        hooks: the callbacks.
        steps: steps an epoch, or `None` for a whole pass of the feed.
        steps_per_execution: steps from one batch hook to the next, where the user asked for more
            than one; otherwise a group is as long as the callbacks and the clock allow.
        under_xla: whether XLA may compile the steps of a group together.
        peers: the processes that run it together.
        learning_rates: what the chief says of them counts.
    """

    mode: Mode
    program: Program
    feed: Feed
    hooks: Hooks
    steps: int | None
    steps_per_execution: int = 1
    under_xla: bool = False
    peers: Peers = Peers()
    learning_rates: Sequence[keras.Variable] = ()


def groups(
    run: Run,
    model: keras.Model,
    epoch: str = "",
    count: Callable[[int], None] = int,
    first: int = 0,
) -> Iterator[Ran]:
    """Runs the groups of one epoch, batch hooks around each; yields what each ran.

    Args:
        run: what to run.
        model: a group that is to be the last one, for what a callback asked of it, has one step.
        epoch: the epoch, for messages.
        count: told how many steps a group had, before its hooks.
        first: the step to begin with.
    """
    feed, hooks = run.feed, run.hooks
    place = f"{_DOING[run.mode]}, {epoch}step"
    while not feed.ended and (run.steps is None or first < run.steps):
        with placed(f"{place} {first}"):
            hooks.group_begin(run.mode, first)
        try:
            # A run that is to stop has its next batch still, as in Keras.
            most = 1 if getattr(model, _STOPS[run.mode]) else run.program.pace.steps
            ran = _next_group(run, first, most, place, count)
        except StopIteration:
            feed.exhausted = True
            if run.steps and first:
                _warn_of_early_end(first, run.steps)
            return
        # A last group that is a short one counts like the others, as in Keras.
        following = first + max(ran.steps, run.steps_per_execution)
        with placed(f"{place} {following - 1}"):
            hooks.group_end(run.mode, first, following - 1, ran)
        yield ran
        first = following
    feed.finish_pass(goes_on=run.mode == "train" and run.steps is not None)


def agree_to_stop(run: Run, model: keras.Model, *wishes: bool) -> tuple[bool, ...]:
    """Returns whether to stop, and then each of `wishes`, as one of all processes wants it.

    Lets `model` know whether to stop.

    Raises:
        ValueError: processes were given different batches.
    """
    wishes = (getattr(model, _STOPS[run.mode]), *wishes)
    if run.peers.count > 1:
        wishes = run.peers.of_any_if_alike(run.program.seen, *wishes)
    if wishes is None:
        raise ValueError(_OTHER_BATCHES)
    if wishes[0]:
        setattr(model, _STOPS[run.mode], True)
    return wishes


def _next_group(run: Run, first: int, most: int, place: str, count: Callable[[int], None]) -> Ran:
    """Runs the group that starts with step `first`."""
    at_once, how = run.steps_per_execution, {}
    if at_once == 1:
        watch = run.hooks.watch(run.mode)
        k = watch.reach(first, min(most, (run.steps or sys.maxsize) - first))
        k, reads_each = _agreed(run, k, watch.reads_each)
        how = {"each": reads_each, "until": watch.until}
    else:
        k, _ = _agreed(run, at_once, False)
    ran = _call(run, first, k, place, count, **how)
    with contextlib.suppress(StopIteration):
        while ran.steps < at_once:
            done = ran.steps
            ran = ran.followed_by(_call(run, first + done, at_once - done, place, count))
    return ran


def _agreed(run: Run, k: int, reads_each: bool) -> tuple[int, bool]:
    """Returns what suits all processes for the next group; takes over the chief's learning rates.

    All of it may follow from what a process alone knows: its clock, its callbacks.
    """
    if run.peers.count == 1:
        return k, reads_each
    mine = [float(rate.numpy()) for rate in run.learning_rates]
    of_each = run.peers.numbers_of_each(np.float64([k, reads_each, *mine]))
    for variable, before, rate in zip(run.learning_rates, mine, of_each[0, 2:], strict=True):
        if rate != before:
            variable.assign(rate)
    return int(of_each[:, 0].min()), bool(of_each[:, 1].max())


def _call(
    run: Run, first: int, k: int, place: str, count: Callable[[int], None], **how: Any
) -> Ran:
    program, started = run.program, time.perf_counter()
    program.done = 0  # an interrupt may come before the program says so
    try:
        ran = program.run(run.feed, k, under_xla=run.under_xla, **how)
        program.pace.took(ran.steps, time.perf_counter() - started)
    except Exception as error:
        add_note(error, f"(while {place} {first + program.done})")
        raise
    finally:
        count(program.done)
    return ran


def _warn_of_early_end(done: int, steps: int) -> None:
    warnings.warn(
        f"The data ended after {done} of {steps} steps, and so did the epoch: ask for fewer steps, "
        "or give a dataset with .repeat().",
        stacklevel=8,
    )
