"""A training that is killed 20 times, at any moment, ends with the bits of one that never was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.snapshots import killed


@pytest.mark.parametrize("scenario", killed.SCENARIOS)
def test_it_ends_with_the_same_bits(tmp_path, scenario):
    command = [sys.executable, "-m", "tests.snapshots.killed", scenario, str(tmp_path), "1"]
    root = Path(__file__).parents[2]
    told = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    outcomes = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    codes = [outcome["code"] for outcome in outcomes]
    assert codes == [0, *killed.KILLS * [-9], 0], told.stderr[-5000:]
    assert any(outcome["in saving"] for outcome in outcomes)
    assert "validating" in told.stdout
    assert told.stdout.count("Training goes on from") > killed.KILLS / 2
    undisturbed, disturbed = (tmp_path / name for name in ("undisturbed", "killed"))
    for name in ("facts.json", "log.csv"):
        assert (disturbed / name).read_text() == (undisturbed / name).read_text()
    with (
        np.load(undisturbed / "variables.npz") as expected,
        np.load(disturbed / "variables.npz") as found,
    ):
        assert set(found) == set(expected)
        assert len(found.files) > 10
        for name in expected:
            assert found[name].tobytes() == expected[name].tobytes(), name
