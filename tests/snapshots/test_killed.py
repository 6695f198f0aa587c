"""A training that is killed, at any moment, ends with the bits of one that never was."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import killed
from tests.helpers.processes import Process, run


def check(scenario: str, directory: Path, kills: int) -> None:
    """Kills a training again and again, and compares what it ends with."""
    undisturbed, disturbed = directory / "undisturbed", directory / "killed"
    run(killed.train, scenario, undisturbed, False)
    steps = json.loads((undisturbed / "facts.json").read_text())["step"]
    printed, in_saving = "", 0
    for moment in killed.moments(random.Random(f"{scenario} 1"), steps, kills):
        ended = Process(killed.train, scenario, disturbed, True, moment).wait()
        assert ended.code == -9, ended.printed
        in_saving += killed.is_saving(disturbed / "snapshots")
        printed += ended.printed
    printed += run(killed.train, scenario, disturbed, True)
    assert in_saving
    assert "validating" in printed
    assert printed.count("Training goes on from") > kills / 2
    assert_same_outcome(disturbed, undisturbed)


def assert_same_outcome(directory: Path, other: Path) -> None:
    for name in ("facts.json", "log.csv"):
        assert (directory / name).read_text() == (other / name).read_text()
    with (
        np.load(other / "variables.npz") as expected,
        np.load(directory / "variables.npz") as found,
    ):
        assert set(found) == set(expected)
        assert len(found.files) > 10
        for name in expected:
            assert found[name].tobytes() == expected[name].tobytes(), name


@pytest.mark.parametrize("scenario", ["arrays", "tf.data"])
def test_it_ends_with_the_same_bits_after_three_kills(tmp_path, scenario):
    check(scenario, tmp_path, kills=3)


@pytest.mark.processes
@pytest.mark.parametrize("scenario", killed.SCENARIOS)
def test_it_ends_with_the_same_bits_after_twelve_kills(tmp_path, scenario):
    check(scenario, tmp_path, kills=12)
