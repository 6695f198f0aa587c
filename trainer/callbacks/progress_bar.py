"""A tqdm bar an epoch, with the running metrics."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

import keras
from tqdm.auto import tqdm

from trainer.callbacks.described import DescribedCallback

_SECONDS_BETWEEN_DRAWS = 0.1
_IN_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)


class ProgressBar(DescribedCallback):
    """Shows steps, rate, time left and running metrics, on standard output.

    `fit`, `evaluate` and `predict` add one unless `verbose=0`, or a callback that shows progress is
    among theirs. Their `verbose` decides what it shows: 1 a bar an epoch, 2 a line an epoch,
    `"auto"` a bar on a terminal and in a notebook, lines elsewhere. The validation's results join
    the finished line.
    """

    batch_hooks = "show"

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._title = ""
        self._in_fit = False
        self._validating = False
        self._started = 0.0
        self._drawn = 0.0
        self._done = 0
        self._steps: int | None = None

    def set_params(self, params: dict[str, Any]) -> None:  # noqa: D102
        super().set_params(params)
        self._steps = params["steps"]

    def wants_batch(self, step: int) -> bool:
        """Returns whether it is time to draw, so whether the logs of `step` will be read."""
        if self._validating:
            return False
        self._done = step + 1
        return self._bar is not None and time.monotonic() - self._drawn >= _SECONDS_BETWEEN_DRAWS

    def get_state(self) -> dict[str, Any]:  # noqa: D102
        return {"done": self._done}

    def set_state(self, state: dict[str, Any]) -> None:  # noqa: D102
        self._done = state["done"]
        if self._bar is not None:
            self._bar.n = self._bar.initial = self._done

    def close(self) -> None:
        """Ends a bar that an error left unfinished."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
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
        if not self._validating:
            self._begin("Evaluate")

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:  # noqa: D102
        if not self._validating:
            self._draw(batch + 1, logs)

    def on_test_end(self, logs: dict | None = None) -> None:  # noqa: D102
        if not self._validating:
            self._end(logs)
        self._validating = False

    def on_predict_begin(self, logs: dict | None = None) -> None:  # noqa: D102
        self._begin("Predict")

    def on_predict_batch_end(self, batch: int, logs: dict | None = None) -> None:  # noqa: D102
        self._draw(batch + 1)

    def on_predict_end(self, logs: dict | None = None) -> None:  # noqa: D102
        self._end()

    def _begin(self, title: str) -> None:
        self._title = title
        self._started = self._drawn = time.monotonic()
        self._done = 0
        if _shows_bar(self.params["verbose"]):
            self._bar = tqdm(
                total=self._steps,
                desc=title,
                unit="step",
                file=sys.stdout,
                mininterval=0,
                **_size(),
            )

    def _draw(self, done: int, logs: dict | None = None) -> None:
        self._done = done
        if self._bar is not None:
            self._bar.set_postfix_str(_told(logs, "=", ", "), refresh=False)
            self._bar.update(min(done, self._steps or done) - self._bar.n)
            self._drawn = time.monotonic()

    def _end(self, logs: dict | None = None) -> None:
        self._steps = self._steps or self._done
        if self._bar is not None:
            self._bar.n = min(self._done, self._steps)
            self._bar.ncols = None  # a finished line may wrap: nothing is drawn over it
            self._bar.set_postfix_str(_told(logs, "=", ", "), refresh=False)
            self._bar.close()
            self._bar = None
        elif self.params["verbose"]:
            seconds = time.monotonic() - self._started
            head = f"{self._title} - {min(self._done, self._steps)} steps - {seconds:.1f}s"
            told = _told(logs, ": ", " - ")
            print(f"{head} - {told}" if told else head, flush=True)


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
        return _IN_NOTEBOOK or sys.stdout.isatty()
    return verbose == 1


def _size() -> dict[str, int]:
    """Returns the size of the terminal as tqdm takes it, nothing where there is none."""
    if _IN_NOTEBOOK or not sys.stdout.isatty():
        return {}
    size = shutil.get_terminal_size()  # 80 by 24 where the terminal does not know
    return {"ncols": size.columns, "nrows": size.lines}


def _told(logs: dict | None, equals: str, comma: str) -> str:
    """Returns the logs in a line, those of validation last."""
    items = sorted((logs or {}).items(), key=lambda item: item[0].startswith("val_"))
    return comma.join(
        f"{key}{equals}{value:.4g}" if isinstance(value, float) else f"{key}{equals}{value}"
        for key, value in items
    )
