"""Several devices and several processes end with the numbers of one device."""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests import replicated

ROOT = Path(__file__).parents[1]
ALL = list(replicated.TRAININGS)
SOME = ["a plain model", "add_loss", "sample_weight", "AUC", "a GAN"]  # for there are two cores
WITHIN = 1e-6  # relative, and absolute for what is nearly zero


def trained(directory: Path, devices: int, workers: int, names: list[str]) -> list[Path]:
    """Returns the folder that each worker wrote."""
    command = [sys.executable, "-m", "tests.replicated", str(directory), str(devices), str(workers)]
    told = subprocess.run([*command, *names], cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-5000:]
    return [directory / str(number) for number in range(workers)]


@functools.cache
def on_one_device() -> Path:
    (folder,) = trained(Path(tempfile.mkdtemp()), 1, 1, ALL)
    return folder


@pytest.mark.parametrize(
    ("devices", "workers", "names"),
    [(2, 1, ALL), (4, 1, SOME), (1, 2, ALL), (1, 4, SOME)],
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
