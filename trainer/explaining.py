"""What a run costs and why, in a sentence."""

from __future__ import annotations

from typing import NamedTuple

from trainer.callbacks.for_network import unwrapped
from trainer.hooks import Hooks
from trainer.program import Program
from trainer.watching import Mode, Watch
from trainer.xla import Choice

_METHODS = {"train": "fit", "test": "evaluate", "predict": "predict"}


class Facts(NamedTuple):
    """What a run is explained from.

    Attributes:
        mode: the run's.
        program: what ran the steps.
        hooks: its callbacks.
        steps_per_execution: the model's.
        choice: what was chosen for XLA.
        steps: steps of a pass, `None` where that is not known.
        is_in_graph: whether a compiled function reads the batches.
        is_eager: whether the steps run as plain Python.
    """

    mode: Mode
    program: Program
    hooks: Hooks
    steps_per_execution: int
    choice: Choice
    steps: int | None
    is_in_graph: bool
    is_eager: bool


def explanation(of: Facts) -> str | None:
    """Returns how long the groups of a run were, whether XLA compiled them, and why.

    `None` where no step has run.
    """
    if not of.program.pace.longest:
        return None
    return f"{_METHODS[of.mode]}: {_of_groups(of)}; {_of_xla(of)}."


def _of_groups(of: Facts) -> str:
    watch = of.hooks.watch(of.mode)
    if of.steps_per_execution > 1:
        return f"groups of {of.steps_per_execution} steps, as steps_per_execution asks"
    kept = ", the logs of each step kept for a callback" if watch.reads_each else ""
    if of.is_eager:
        return f"steps called one by one, as they run eagerly{kept}"
    if not of.is_in_graph:
        return f"steps called one by one, as their batches come from Python{kept}"
    if of.program.draws:
        return (
            "steps called one by one, as they draw numbers by tf.random (keras.random has seeds "
            f"that groups of steps keep){kept}"
        )
    if watch.holder is not None:
        return (
            f"groups of 1 step, held by {_name(watch.holder)}, which may act on "
            "each batch (if it only reads logs, give it the attribute batch_hooks = 'log')"
        )
    if of.program.gathers:
        return (
            "groups of 1 step, as the devices gather gradients of embeddings, which have another "
            "length in each batch"
        )
    return f"{_of_length(of, watch)}{kept}"


def _of_length(of: Facts, watch: Watch) -> str:
    """Returns how long groups were that nothing held, and why."""
    longest, aim = of.program.pace.longest, of.program.pace.steps
    groups = f"groups of up to {longest} steps" if longest > 1 else "groups of 1 step"
    if longest == of.steps:
        return f"{groups}, all that a pass has"
    if watch.limiting:
        names = dict.fromkeys(map(_name, watch.limiting))
        return f"{groups}, none going past a batch that {' or '.join(names)} waits for"
    if longest < aim:
        return f"{groups}, as the first groups of a run are short"
    return f"{groups}, a tenth of a second"


def _of_xla(of: Facts) -> str:
    if of.program.gave_up_xla:
        return "no XLA, which cannot compile the step"
    if of.choice.groups and of.program.operations.draws:
        return "no XLA, which draws other numbers than tf.random"
    if of.choice.groups and of.program.operations.checks:
        return "no XLA, which drops the checks of the step by tf.debugging"
    return f"XLA, {of.choice.why}" if of.choice.groups else f"no XLA, {of.choice.why}"


def _name(callback: object) -> str:
    return type(unwrapped(callback)).__name__
