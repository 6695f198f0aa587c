"""A tqdm bar an epoch, with the running metrics."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import keras

from trainer.callbacks.bar_row import IN_NOTEBOOK, BarRow, is_terminal, printing_above
from trainer.callbacks.described import DescribedCallback

_SECONDS_BETWEEN_DRAWS = 0.1


class ProgressBar(DescribedCallback):
    """Shows steps, rate, time left and running metrics, on standard output.

    `fit`, `evaluate` and `predict` add one unless `verbose=0`, or a callback that shows progress is
    among theirs. Their `verbose` decides what it shows: 1 a bar an epoch, 2 a line an epoch,
    `"auto"` a bar on a terminal and in a notebook, lines elsewhere. Rate and time are those of the
    steps alone; a validation after them has its own count, and its results join the finished line.
    On a terminal a row shows the metrics that it has room for, the finished line all of them, and
    what Python prints meanwhile comes above the bar.

    Attributes:
        validation_steps: steps of a validation, `None` where that is not known.
    """

    batch_hooks = "show"

    def __init__(self) -> None:
        super().__init__()
        self.validation_steps: int | None = None
        self._row: BarRow | None = None
        self._prints = contextlib.ExitStack()
        self._is_closed_by_trainer = False
        self._title = ""
        self._in_fit = False
        self._validating = False
        self._started = self._ended = self._drawn = 0.0
        self._done = self._validated = 0
        self._steps: int | None = None

    def set_trainer(self, trainer: Any) -> None:
        """Is told of the trainer, which calls `close` however a run ends."""
        self._is_closed_by_trainer = True

    def set_params(self, params: dict[str, Any]) -> None:  # noqa: D102
        super().set_params(params)
        self._steps = params["steps"]
        self.validation_steps = None

    def wants_batch(self, step: int) -> bool:
        """Returns whether it is time to draw, so whether the logs of `step` will be read."""
        now = time.monotonic()
        if not self._validating:
            self._done, self._ended = step + 1, now
        if self._row is None:
            return False
        steps = self.validation_steps if self._validating else self._steps
        is_last = steps is not None and step + 1 >= steps
        return is_last or now - self._drawn >= _SECONDS_BETWEEN_DRAWS

    def get_state(self) -> dict[str, Any]:  # noqa: D102
        return {"done": self._done}

    def set_state(self, state: dict[str, Any]) -> None:  # noqa: D102
        self._done = state["done"]
        if self._row is not None:
            self._row.start_at(self._done)

    def close(self) -> None:
        """Ends a bar that an error left unfinished."""
        if self._row is not None:
            self._finish_row()
        self._in_fit = self._validating = False

    def on_train_begin(self, logs: dict | None = None) -> None:  # noqa: D102
        self._in_fit = True

    def on_train_end(self, logs: dict | None = None) -> None:  # noqa: D102
        self._in_fit = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: D102
        epochs = self.params["epochs"]
        self._begin(f"Epoch {epoch + 1}/{epochs}" if epochs > 1 else "Epoch 1")

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:  # noqa: D102
        self._draw(batch + 1, logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:  # noqa: D102
        self._end(logs)

    def on_test_begin(self, logs: dict | None = None) -> None:  # noqa: D102
        self._validating = self._in_fit
        if self._validating:
            self._draw_validation(0)
        else:
            self._begin("Evaluate")

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:  # noqa: D102
        if self._validating:
            self._draw_validation(batch + 1)
        else:
            self._draw(batch + 1, logs)

    def on_test_end(self, logs: dict | None = None) -> None:  # noqa: D102
        if self._validating:
            self._end_validation()
        else:
            self._end(logs)
        self._validating = False

    def on_predict_begin(self, logs: dict | None = None) -> None:  # noqa: D102
        self._begin("Predict")

    def on_predict_batch_end(self, batch: int, logs: dict | None = None) -> None:  # noqa: D102
        self._draw(batch + 1)

    def on_predict_end(self, logs: dict | None = None) -> None:  # noqa: D102
        self._end()

    @property
    def _shown(self) -> int:
        """The steps to show: a last group may count more than there are."""
        return min(self._done, self._steps or self._done)

    def _begin(self, title: str) -> None:
        self._title = title
        self._started = self._ended = self._drawn = time.monotonic()
        self._done = 0
        if _shows_bar(self.params["verbose"]):
            self._row = BarRow(title, self._steps)
            if self._is_closed_by_trainer:
                self._prints.enter_context(printing_above(self._row))

    def _draw(self, done: int, logs: dict | None = None) -> None:
        if done != self._done:  # under `model.fit`, which does not ask what is wanted
            self._done, self._ended = done, time.monotonic()
        if self._row is not None:
            self._row.items = _items(logs, "=")
            self._draw_row()

    def _draw_validation(self, done: int) -> None:
        self._validated = done
        if self._row is not None:
            of = f"/{self.validation_steps}" if self.validation_steps else ""
            shown = min(done, self.validation_steps or done)
            self._row.has_ended, self._row.note = True, f" validating {shown}{of}"
            self._draw_row()

    def _end_validation(self) -> None:
        self.validation_steps = self.validation_steps or self._validated
        if self._row is not None:
            self._row.note = ""
            self._draw_row()

    def _draw_row(self) -> None:
        self._row.seconds = self._ended - self._started
        self._row.draw(self._shown)
        self._drawn = time.monotonic()

    def _end(self, logs: dict | None = None) -> None:
        self._steps = self._steps or self._done
        if self._row is not None:
            self._row.note, self._row.items = "", _items(logs, "=")
            self._finish_row()
        elif self.params["verbose"]:
            seconds = f"{self._ended - self._started:.1f}s"
            told = [self._title, f"{self._shown} steps", seconds, *_items(logs, ": ")]
            print(" - ".join(told), flush=True)

    def _finish_row(self) -> None:
        self._prints.close()
        self._row.seconds = self._ended - self._started
        self._row.finish(self._shown)
        self._row = None


def replaces_bar(callbacks: Any) -> bool:
    """Returns whether one of `callbacks` shows progress itself, a tqdm callback for one."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return True
    return any(map(shows_progress, keras.tree.flatten(callbacks)))


def shows_progress(callback: Any) -> bool:
    """Returns whether a callback is there to show progress."""
    return isinstance(callback, (keras.callbacks.ProgbarLogger, ProgressBar)) or any(
        "tqdm" in base.__module__ for base in type(callback).__mro__
    )


def _shows_bar(verbose: int | str) -> bool:
    if verbose == "auto":
        return IN_NOTEBOOK or is_terminal(sys.stdout)
    return verbose == 1


def _items(logs: dict | None, equals: str) -> list[str]:
    """Returns each of the logs as text, the loss first, those of validation last."""

    def rank(item: tuple[str, Any]) -> tuple[bool, bool]:
        return item[0].startswith("val_"), item[0].removeprefix("val_") != "loss"

    return [
        f"{key}{equals}{_number(value)}" for key, value in sorted((logs or {}).items(), key=rank)
    ]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
