"""Several devices and several processes end with the numbers of one device."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import replicated

ROOT = Path(__file__).parents[1]
ALL = list(replicated.TRAININGS)
SOME = ["a plain model", "add_loss", "sample_weight", "AUC", "a GAN"]  # two cores, four processes
WITHIN = 1e-6  # relative, and absolute for what is nearly zero


def free_addresses(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [f"localhost:{one.getsockname()[1]}" for one in sockets]


@contextlib.contextmanager
def started(*arguments: str | Path, workers: int = 1) -> Iterator[list[subprocess.Popen]]:
    """Yields processes of `tests.replicated`, workers of one cluster where there are several.

    The first argument is given to each with its number behind it: a folder of its own.
    """
    directory, *others = map(str, arguments)
    addresses = free_addresses(workers)
    processes = []
    try:
        for index in range(workers):
            environment = dict(os.environ)
            if workers > 1:
                cluster = {"cluster": {"worker": addresses}}
                task = {"task": {"type": "worker", "index": index}}
                environment["TF_CONFIG"] = json.dumps(cluster | task)
            command = [sys.executable, "-m", "tests.replicated", f"{directory}/{index}", *others]
            processes.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
                )
            )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def trained(directory: Path, devices: int, workers: int, names: list[str]) -> list[Path]:
    """Returns the folder that each worker wrote."""
    with started(directory, str(devices), *names, workers=workers) as processes:
        for process in processes:
            _, told = process.communicate(timeout=300)
            assert process.returncode == 0, told[-5000:]
    return [directory / str(index) for index in range(workers)]


@functools.cache
def on_one_device() -> Path:
    (folder,) = trained(Path(tempfile.mkdtemp()), 1, 1, ALL)
    return folder


@pytest.mark.parametrize(
    ("devices", "workers", "names"),
    [(2, 1, ALL), (4, 1, ALL), (1, 2, ALL), (1, 4, SOME)],
    ids=["2 devices", "4 devices", "2 processes", "4 processes"],
)
def test_they_end_with_the_numbers_of_one_device(tmp_path, devices, workers, names):
    folders = trained(tmp_path, devices, workers, names)
    for name in names:
        expected = np.load(on_one_device() / f"{name}.npz")
        for folder in folders:
            found = np.load(folder / f"{name}.npz")
            assert list(found) == list(expected)
            for key in expected:
                np.testing.assert_allclose(
                    found[key], expected[key], rtol=WITHIN, atol=WITHIN, err_msg=f"{name}: {key}"
                )
