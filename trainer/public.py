"""Wraps public methods: suggests names of arguments, and shortens tracebacks."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import ParamSpec, TypeVar

import keras
import tensorflow as tf

from trainer.hints import did_you_mean

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_OWN, _KERAS = (os.path.join(os.path.dirname(file), "") for file in (__file__, keras.__file__))
_LIBRARIES = (
    os.path.join(os.path.dirname(tf.__file__), ""),
    os.path.join(os.path.dirname(os.path.dirname(keras.__file__)), "optree", ""),
    os.path.join(os.path.dirname(concurrent.futures.__file__), ""),
    contextlib.__file__,
)


def public(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Makes `method` suggest the nearest argument for an unknown one, and shorten tracebacks.

    Tracebacks are shortened unless `keras.config.disable_traceback_filtering()` was called.
    """
    names = [name for name in inspect.signature(method).parameters if name != "self"]
    called_as = method.__qualname__.removesuffix(".__init__").rpartition(".")[-1]

    @functools.wraps(method)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        check_names(called_as, names, kwargs)
        try:
            return method(*args, **kwargs)
        except Exception as error:
            if not keras.config.is_traceback_filtering_enabled():
                raise
            for each in _chain(error):
                each.__traceback__ = _users_part(each.__traceback__)
            raise error  # see all frames: keras.config.disable_traceback_filtering()

    return called


def check_names(method: str, names: list[str], given: Iterable[str]) -> None:
    """Raises TypeError for a name that is no argument of `method`, with the nearest that is."""
    for name in given:
        if name not in names:
            mend = did_you_mean(name, names) or f"it takes {', '.join(names)}."
            raise TypeError(f"{method} has no argument {name!r}: {mend}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields `error` and all errors that are printed with it."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            yield error
            waiting += [error.__cause__, error.__context__, *getattr(error, "exceptions", ())]


def _users_part(frames: TracebackType | None) -> TracebackType | None:
    """Returns the frames of the user's code, and Keras's innermost one if Keras raised the error.

    Where there are none of these it is the last frame alone.
    """
    every = list(_entries(frames))
    seen = [entry for entry in every if not _is_in(entry, *_LIBRARIES)]
    kept = [entry for entry in seen if not _is_in(entry, _OWN, _KERAS)]
    if seen and _is_in(seen[-1], _KERAS):
        kept.append(seen[-1])
    shortened = None
    for entry in reversed(kept or every[-1:]):
        shortened = TracebackType(shortened, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return shortened


def _entries(frames: TracebackType | None) -> Iterator[TracebackType]:
    while frames is not None:
        yield frames
        frames = frames.tb_next


def _is_in(entry: TracebackType, *places: str) -> bool:
    return entry.tb_frame.f_code.co_filename.startswith(places)
