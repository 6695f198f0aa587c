"""Snapshots of the whole training, to go on from."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any, Protocol

from trainer.callbacks.described import DescribedCallback
from trainer.snapshots.paths import path_of


class Session(Protocol):
    """What the callback tells and asks while `fit` runs.

    Attributes:
        is_ending: whether training was asked to end.
        is_ready: whether a snapshot that is due is taken, and does not wait.
    """

    is_ending: bool
    is_ready: bool

    def steps_done_of(self, epoch: int) -> int:
        """Returns how many steps of an epoch were done when it was gone on with."""

    def cut_validation(self) -> None:
        """Is told that the validation ends early, and training with it."""


class Snapshots(DescribedCallback):
    """Saves the whole training, and goes on with it where it was broken off.

    When `fit` starts and there is a snapshot, training goes on from it, in the middle of an epoch
    too, and ends with the bits of a training that was never broken off: weights, optimizers,
    metrics, random seeds, the order of the data, `History`, and what other callbacks know.

    ```python
    trainer.fit(x, y, epochs=100, callbacks=[trainer.callbacks.Snapshots("snapshots")])
    ```

    A snapshot is taken at the end of each epoch, and as often as asked. It is copied, then written
    by a thread, which pauses after each, two hundred times as long as it took but no more than five
    seconds; one that falls due meanwhile is taken after the pause. A callback of yours takes
    part by its methods `get_state()`, which returns numbers, strings, arrays, and lists and dicts
    of such, and `set_state(state)`, which is called once `on_train_begin` and `on_epoch_begin`
    were; without them its attributes of these kinds are kept.

    On SIGTERM, or when `max_seconds` have passed, the steps that run come to their end, a snapshot
    is saved, and `fit` returns: without further hooks, since training has not ended.

    Args:
        directory: the folder of the snapshots, for one `fit`. Remove it to begin anew.
        every_steps: save after every so many steps, too.
        every_seconds: save after so many seconds, too.
        keep: how many snapshots to keep, the latest.
        max_seconds: how long `fit` may take before it ends as on SIGTERM; a step, or the
            validation that it goes on with, is done in any case.
        exit_code: ends the process with this code where `fit` would return early.

    Attributes:
        preempted: whether the last `fit` returned early.

    Raises:
        ValueError: an argument does not fit.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        keep: int = 2,
        *,
        max_seconds: float | None = None,
        exit_code: int | None = None,
    ):
        super().__init__()
        for name, value in (("every_steps", every_steps), ("keep", keep)):
            if value is not None and not (isinstance(value, Integral) and value > 0):
                raise ValueError(f"{name} is {value!r}: expected a number of 1 or more.")
        for name, value in (("every_seconds", every_seconds), ("max_seconds", max_seconds)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value!r}: expected a number above 0.")
        self.directory = path_of(directory)
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.keep = keep
        self.max_seconds = max_seconds
        self.exit_code = exit_code
        self.preempted = False
        self._trainer: Any = None
        self._session: Session | None = None
        self._steps_before = 0
        self._validates = False

    def set_trainer(self, trainer: Any) -> None:
        """Takes the trainer, from `fit`."""
        self._trainer = trainer

    def begin_session(self, session: Session) -> None:
        """Takes what saves snapshots during a `fit`, from that."""
        self._session = session
        self.preempted = self._validates = False

    def end_session(self) -> None:
        """Is told that the `fit` is over."""
        self._session = None

    def wants_batch(self, step: int) -> bool:
        """Returns whether a snapshot is due after `step`, or a validation is to end with it."""
        if self._session is None:
            return False
        if self._validates:
            return self._session.is_ending
        every = self.every_steps
        is_due = every is not None and (self._steps_before + step + 1) % every == 0
        return is_due and self._session.is_ready

    def get_state(self) -> dict[str, Any]:  # noqa: D102
        return {"steps_before": self._steps_before}

    def set_state(self, state: dict[str, Any]) -> None:  # noqa: D102
        self._steps_before = state["steps_before"]

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: D102
        done = self._session.steps_done_of(epoch) if self._session else 0
        self._steps_before = self._trainer.step - done

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Does nothing: that it is wanted ends the group, and the loop asks for the snapshot."""

    def on_test_begin(self, logs: dict | None = None) -> None:  # noqa: D102
        self._validates = True

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Ends a validation, and the training with it, where that was asked for."""
        self._session.cut_validation()
        self.model.stop_evaluating = True

    def on_test_end(self, logs: dict | None = None) -> None:  # noqa: D102
        self._validates = False
