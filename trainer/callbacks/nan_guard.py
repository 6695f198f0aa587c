"""A guard against losses and weights that are no finite numbers."""

from __future__ import annotations

import os
from numbers import Integral

from trainer.callbacks.described import DescribedCallback
from trainer.snapshots.paths import path_of


class NaNGuard(DescribedCallback):
    """Ends training at the first step whose loss or gradients are not finite, and records it.

    The state before that step and its batch are written to `directory`; the trainer is left as it
    was before the step, and `trainer.NonFiniteError` tells the step, the first layer whose output
    is not finite and, coming from the loss, the first variable whose gradient is not.
    `trainer.replay(path)` runs the step again, eagerly, for a debugger.

    ```python
    trainer.fit(x, y, callbacks=[trainer.callbacks.NaNGuard("failures")])
    ```

    A gradient is seen by what it does to a weight: what clipping or loss scaling keeps from it is
    no failure. The checks read the weights after each step, in the compiled call, and hold no group
    at fewer steps.

    Args:
        directory: the folder for a folder a failure, `step-<number>`, counted from 0.
        skips: how many such steps to leave out, as if the data did not have their batches, before
            one ends the training. Each is recorded, and told by a warning.

    Attributes:
        skipped: how many were left out of this training.

    Raises:
        ValueError: `skips` is below 0.
    """

    def __init__(self, directory: str | os.PathLike, skips: int = 0):
        super().__init__()
        if not (isinstance(skips, Integral) and skips >= 0):
            raise ValueError(f"skips is {skips!r}: expected a number of 0 or more.")
        self.directory = path_of(directory)
        self.skips = skips
        self.skipped = 0

    def on_train_begin(self, logs: dict | None = None) -> None:  # noqa: D102
        self.skipped = 0
