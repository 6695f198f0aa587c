"""The row that a progress bar draws, fitted to its terminal."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from tqdm.auto import tqdm
from tqdm.utils import disp_len

from trainer.replacing import replaced

IN_NOTEBOOK = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)

# What a row shows, and how many logs at least; the first one that there is room for.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt}"
_COUNT = "{desc}: {n_fmt} steps"
_LAYOUTS = (
    (_BAR + " [{elapsed}<{remaining}, {rate_fmt}{postfix}]", 1),
    (_BAR + " [{elapsed}<{remaining}{postfix}]", 1),
    (_BAR + "{postfix}", 1),
    (_BAR, 0),
    ("{desc}: {percentage:3.0f}%", 0),
    ("{desc}", 0),
)
_LAYOUTS_WITHOUT_TOTAL = (
    (_COUNT + " [{elapsed}, {rate_fmt}{postfix}]", 1),
    (_COUNT + " [{elapsed}{postfix}]", 1),
    (_COUNT, 0),
    ("{desc}", 0),
)


class BarRow(tqdm):
    """A tqdm bar whose row fits its terminal: what has no room is left out before the bar is.

    Attributes:
        items: the logs, each as text, the most important one first.
        note: text for the end of the row.
        seconds: how long the steps have taken.
        has_ended: whether all steps are done; the rate is then their mean.
    """

    items: Sequence[str] = ()
    note: str = ""
    seconds: float = 0.0
    has_ended: bool = False
    _open: ClassVar[weakref.WeakSet[BarRow]] = weakref.WeakSet()
    _is_away = False  # it made room for what is printed
    _is_line_open = False  # what was printed has no end of line yet
    _outer: BarRow | None = None  # the row that stays away until this one is closed
    _inner: BarRow | None = None

    def __init__(self, title: str, total: int | None):
        self._thread = threading.get_ident()
        rows = (row for row in self._open if row._inner is None and row._thread == self._thread)
        self._outer = next(rows, None)
        if self._outer is not None:
            self._outer.step_aside(self)
        self._open.add(self)
        super().__init__(
            total=total,
            desc=title,
            unit="step",
            file=sys.stdout,
            mininterval=0,
            miniters=0,
            position=self._outer and abs(self._outer.pos),
            **_terminal_size(),
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm makes the row of."""
        facts = {**super().format_dict, "elapsed": self.seconds}
        if self.has_ended:
            facts["rate"] = None
        return self._fitted(facts)

    def start_at(self, step: int) -> None:
        """Begins with a step that is not the first one."""
        self.n = self.initial = self.last_print_n = step

    def draw(self, step: int) -> None:
        """Draws the row of `step` steps, in the terminal's present width."""
        for name, value in _terminal_size().items():
            setattr(self, name, value)
        self.update(step - self.n)

    def finish(self, step: int) -> None:
        """Leaves the row of `step` steps with all it has: nothing is drawn over it any more."""
        self.n, self.ncols, self.has_ended = step, None, True
        self.close()

    def close(self) -> None:
        """Ends the row, and lets the one come again that was there before it."""
        self._open.discard(self)
        if self._outer is not None:
            self._outer._inner, self._outer = None, None
        super().close()

    def step_aside(self, inner: BarRow) -> None:
        """Leaves the place to another row until that is closed."""
        self._inner = inner
        if not self._is_away:
            self.clear()
            self._is_away = True

    def display(self, *args: Any, **keywords: Any) -> Any:
        """Draws the row, below what was printed."""
        if self._is_away:
            self.fp.write("\n" * self._is_line_open)
            self._is_away = False
        return super().display(*args, **keywords)

    def print_above(self, stream: Any, write: Callable[[str], int], text: str) -> int:
        """Writes `text` to `stream` by `write` where the row is, and draws the row below it."""
        if self.disable or self._inner is not None:
            return write(text)
        if not self._is_away and self._is_printed(text):
            self.clear()
            self._is_away = True
        written = write(text)
        if self._is_away and text:
            self._is_line_open = not text.endswith("\n")
            if not self._is_line_open:
                self.refresh()
        return written

    def _is_printed(self, text: str) -> bool:
        """Returns whether `text` goes where the cursor is; another tqdm bar has its own place."""
        if text[:1] in ("\r", "\b"):  # as Keras's own progress bar does
            return bool(text.strip()) and len(self._instances) == 1
        return text[:1] not in ("", "\n", "\x1b")

    def _fitted(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Returns `facts` with the layout and the logs that there is room for."""
        layouts = _LAYOUTS if self.total else _LAYOUTS_WITHOUT_TOTAL
        for layout, least in layouts:
            kept = list(self.items[:least])
            fitted = self._laid_out(facts, layout, kept)
            if self._fits(fitted):
                break
        for item in self.items[least:]:
            longer = self._laid_out(facts, layout, [*kept, item])
            if self._fits(longer):
                kept, fitted = [*kept, item], longer
        return fitted

    def _laid_out(self, facts: dict[str, Any], layout: str, items: list[str]) -> dict[str, Any]:
        return {**facts, "bar_format": layout + self.note, "postfix": ", ".join(items)}

    def _fits(self, facts: dict[str, Any]) -> bool:
        # Without a width, the bar itself is ten characters wide.
        text = self.format_meter(**{**facts, "ncols": None})
        return not isinstance(self.ncols, int) or disp_len(text) <= self.ncols


@contextlib.contextmanager
def printing_above(row: BarRow) -> Iterator[None]:
    """Has what Python prints on the terminal meanwhile come above `row`, not into it."""
    with contextlib.ExitStack() as stack:
        for stream in _terminal_streams():
            if row._outer is None and "write" in vars(stream):
                continue  # it serves a row of another thread, or code of the user's
            stack.enter_context(replaced([stream], "write", row.print_above))
        yield


def is_terminal(stream: Any) -> bool:
    """Returns whether `stream` writes to a terminal."""
    return bool(getattr(stream, "isatty", bool)())


def _terminal_streams() -> list[Any]:
    if IN_NOTEBOOK or not is_terminal(sys.stdout):
        return []
    streams = {id(stream): stream for stream in (sys.stdout, sys.stderr) if is_terminal(stream)}
    return [stream for stream in streams.values() if hasattr(stream, "__dict__")]


def _terminal_size() -> dict[str, int]:
    """Returns the room on the terminal as tqdm takes it, nothing where there is none."""
    if IN_NOTEBOOK or not is_terminal(sys.stdout):
        return {}
    size = shutil.get_terminal_size()  # 80 by 24 where the terminal does not know
    # A row that is full would wrap on some terminals.
    return {"ncols": max(1, size.columns - 1), "nrows": size.lines}
