"""Runs examples as a user does, but in a process forked from the server."""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers.processes import EXAMPLES, Process


class Result(NamedTuple):
    """The exit code of an example, its standard output and its standard error."""

    code: int
    output: str
    errors: str


def run(name: str, *options: object) -> Result:
    """Runs an example with the options of a command line."""
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, stream) for stream in ("output", "errors")]
        code = Process(run_with_files, *files, *command(name, *options)).wait().code
        return Result(code, *(Path(file).read_text() for file in files))


def output_of(name: str, *options: object) -> str:
    """Returns the standard output of an example that exits with 0."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn, an extra")
    result = run(name, *options)
    assert result.code == 0, result.errors
    return result.output


def command(name: str, *options: object) -> tuple[str, ...]:
    """Returns the path of an example, a script or a folder, and its options, as text."""
    path = EXAMPLES / name
    return str(path if path.is_dir() else path.with_suffix(".py")), *map(str, options)


def run_with_files(output: str, errors: str, path: str, *options: str) -> None:
    """Runs a script in this process, with files as its standard output and error."""
    for descriptor, file in ((1, output), (2, errors)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    run_script(path, *options)


def run_script(path: str, *options: str) -> None:
    """Runs a script or a folder in this process like `python path options`.

    `multiprocessing` ends the process like the interpreter: the message of a `SystemExit` or the
    traceback of another error goes to standard error, and the exit code is 1.
    """
    sys.argv = [path, *options]
    if os.path.isfile(path):  # `runpy` inserts a folder
        sys.path.insert(0, os.path.dirname(path))
    runpy.run_path(path, run_name="__main__")
