"""Snapshots that a stranger made fail, or are data; they change nothing else and run nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import hostile, processes
from tests.helpers.comparisons import assert_same
from tests.helpers.trainings import BATCH, break_off, fit, fit_on, latest_in, rows, trainer
from trainer.snapshots import files, signing
from trainer.snapshots.files import DamagedSnapshotError


def print_ends(count: int, folder: Path) -> None:
    print(json.dumps(hostile.check_mutations(count, 3, folder)))


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.exhaustive)])
def test_mutations_change_nothing_outside_and_end_no_process(tmp_path, count):
    ends = json.loads(processes.run(print_ends, count, tmp_path).splitlines()[-1])
    assert sum(ends.values()) == count
    assert {"trained", "DamagedSnapshotError"} <= ends.keys()


def shuffled():
    return rows().shuffle(20, seed=3).batch(BATCH)


OTHERS = {
    "nobody has signed": lambda patch, snapshot: hostile.write_manifest(
        snapshot, hostile.manifest_of(snapshot)
    ),
    "somebody else has signed": lambda patch, snapshot: patch.setattr(
        signing, "_key", lambda: b"another"
    ),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("at", [9, 16])
def test_iterators_of_snapshots_of_others_are_run_forward(tmp_path, monkeypatch, change, at):
    expected = fit(trainer(), x=shuffled())
    break_off(trainer(), tmp_path, at, x=shuffled())
    latest = latest_in(tmp_path)
    assert files.read(latest).is_own
    change(monkeypatch, latest)
    assert not files.read(latest).is_own
    spoil_iterator(latest, monkeypatch)
    assert_same(fit_on(tmp_path, x=shuffled()), expected)


def spoil_iterator(snapshot: Path, patch: pytest.MonkeyPatch) -> None:
    """Lets what the iterator held be bytes that TensorFlow could not take."""
    read = files.read

    def spoilt(path):
        contents = read(path)
        for name, array in contents.arrays.items():
            if name.startswith("data/") and array.dtype == np.uint8:
                contents.arrays[name] = np.zeros_like(array)
        return contents

    patch.setattr(files, "read", spoilt)


def test_a_pipe_in_place_of_the_arrays_is_not_opened(tmp_path):
    files.write(tmp_path / "saved", files.Contents({}, {"a": np.zeros(3)}))
    (path,) = (tmp_path / "saved").glob("arrays-*")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedSnapshotError, match="is no regular file"):
        files.read(tmp_path / "saved")
