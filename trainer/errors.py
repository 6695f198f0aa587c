"""Errors told in one sentence: what came, what was expected, how to mend it."""

from __future__ import annotations

import contextlib


class placed(contextlib.ContextDecorator):  # noqa: N801
    """A context that adds to an exception the place in the loop where it came up."""

    def __init__(self, place: str):
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            add_note(error, f"(at {self._place})")


def add_note(error: BaseException, note: str) -> None:
    """Adds a line to what `error` prints, also where Python has no notes yet (3.10)."""
    if hasattr(error, "add_note"):
        error.add_note(note)
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}", *error.args[1:])
