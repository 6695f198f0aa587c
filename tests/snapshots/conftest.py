"""Fixtures of the snapshots' tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import keras
import pytest

from tests.helpers.trainings import BrokenOff, Looks, break_off, trainer
from trainer.snapshots import files, writer


@pytest.fixture(autouse=True, scope="module")
def each_snapshot_is_written():
    """Lets the writer make no pauses: these steps take less time than a snapshot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_SHARE", 0)
        yield


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory) -> BrokenOff:
    directory = tmp_path_factory.mktemp("broken off")
    looks, log = Looks(), keras.callbacks.CSVLogger(directory / "log.csv")
    break_off(trainer(), directory / "snapshots", 17, looks, log)
    made = BrokenOff(directory, looks.seen)
    steps = [files.step_of(path) for path in files.found_in(directory / "snapshots")]
    assert steps == [made.newer, made.older]
    return made


@pytest.fixture
def copy(broken_off, tmp_path) -> Path:
    """Returns the folder of the snapshots of a training that was broken off."""
    return shutil.copytree(broken_off.directory, tmp_path / "copy") / "snapshots"
