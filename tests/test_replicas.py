"""Several devices and several processes end with the numbers of one device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.replicated import SETUPS

ROOT = Path(__file__).parents[1]
WITHIN = 1e-6  # relative, and absolute for what is nearly zero


def test_they_end_with_the_numbers_of_one_device(tmp_path):
    command = [sys.executable, "-m", "tests.replicated", str(tmp_path)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-5000:]
    for setup, (_, workers, names) in SETUPS.items():
        for path in (
            tmp_path / setup / str(n) / f"{name}.npz" for n in range(workers) for name in names
        ):
            assert_alike(path, tmp_path / "1 device" / "0" / path.name)


def assert_alike(path: Path, other: Path) -> None:
    with np.load(path) as found, np.load(other) as expected:
        assert list(found) == list(expected)
        assert len(found.files) > 1
        for key in expected:
            np.testing.assert_allclose(
                found[key], expected[key], rtol=WITHIN, atol=WITHIN, err_msg=f"{path}: {key}"
            )
