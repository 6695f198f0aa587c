"""What a run costs and why, in a sentence."""

from __future__ import annotations

from trainer.callbacks.for_network import unwrapped
from trainer.hooks import Hooks
from trainer.program import Program
from trainer.watching import Mode, Watch
from trainer.xla import Choice

_METHODS = {"train": "fit", "test": "evaluate", "predict": "predict"}


def explanation(
    mode: Mode, program: Program, hooks: Hooks, steps_per_execution: int, choice: Choice
) -> str:
    """Returns how long the groups of a run are, whether XLA compiles them, and why.

    Args:
        mode: the run's.
        program: what ran the steps.
        hooks: its callbacks.
        steps_per_execution: the model's.
        choice: what was chosen for XLA.
    """
    groups = _of_groups(program, hooks.watch(mode), steps_per_execution)
    return f"{_METHODS[mode]}: {groups}; {_of_xla(choice)}."


def _of_groups(program: Program, watch: Watch, steps_per_execution: int) -> str:
    if steps_per_execution > 1:
        return f"groups of {steps_per_execution} steps, as steps_per_execution asks"
    if watch.holder is not None:
        return (
            f"groups of 1 step, held by {type(unwrapped(watch.holder)).__name__}, which may act on "
            "each batch (if it only reads logs, give it the attribute batch_hooks = 'log')"
        )
    if program.gathers:
        return (
            "groups of 1 step, as the devices gather gradients of embeddings, which have another "
            "length in each batch"
        )
    told = f"groups of about {program.pace.steps} steps, a tenth of a second"
    return f"{told}, the logs of each step kept for a callback" if watch.reads_each else told


def _of_xla(choice: Choice) -> str:
    return f"XLA, {choice.why}" if choice.groups else f"no XLA, {choice.why}"
