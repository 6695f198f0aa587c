"""Training continues where nothing can be written; where nothing ever could, it does not begin."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.comparisons import assert_same
from tests.helpers.processes import ROOT, run
from tests.helpers.snapshot_processes import (
    FIRST,
    Fills,
    limit_files,
    read_outcome,
    train_while_disk_fills,
)
from tests.helpers.tables import each
from tests.helpers.trainings import (
    EPOCHS,
    TOTAL,
    Begins,
    fit,
    latest_in,
    names_in,
    trainer,
    undisturbed,
    wide_network,
)
from trainer.callbacks import Snapshots
from trainer.snapshots import files


def check_training_continued(directory: Path, reason: str) -> tuple[float, float]:
    """Checks the outcome of such a training; returns the megabytes needed and free it printed."""
    ended, facts = read_outcome(directory)
    assert_same(ended, fit_wide())
    assert facts["whole"] == [FIRST]
    assert [name for name in facts["there"] if name != "filling"] == [FIRST]
    (message,) = facts["messages"]  # once, not for each snapshot
    assert reason in message
    assert f"the latest snapshot is {FIRST}" in message
    needed, free = re.search(r"needs ([\d.]+) MB, and ([\d.]+) MB are free", message).groups()
    held = sum(array.nbytes for array in ended["variables"].values()) / 1e6
    assert round(held, 1) <= float(needed) < 1.5 * held
    return float(needed), float(free)


@functools.cache
def fit_wide() -> dict[str, Any]:
    return fit(trainer(wide_network))


@pytest.mark.processes
def test_training_continues_where_the_disk_is_full(tmp_path):
    (tmp_path / "snapshots").mkdir()
    mounting = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=500k t "$0" && exec "$@"']
    mounting += [tmp_path / "snapshots"]
    try:
        tried = subprocess.run([*mounting, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"a small disk cannot be mounted: {error}")
    if tried.returncode:
        pytest.skip(f"a small disk cannot be mounted: {tried.stderr}")
    command = [sys.executable, "-m", "tests.helpers.snapshot_processes", tmp_path]
    subprocess.run([*mounting, *command], cwd=ROOT, check=True)
    needed, free = check_training_continued(tmp_path, "No space left on device")
    assert free < needed


def test_training_continues_where_files_may_not_be_so_large(tmp_path):
    run(train_while_disk_fills, tmp_path, limit_files)
    check_training_continued(tmp_path, "File too large")


def test_a_directory_that_went_away_is_told_of(tmp_path):
    saved = tmp_path / "snapshots"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ended = fit(trainer(), Fills(saved, shutil.rmtree), Snapshots(saved))
    assert_same(ended, undisturbed())
    told = [str(one.message) for one in caught if "could not be written" in str(one.message)]
    assert told or files.step_of(latest_in(saved)) == TOTAL


def test_nothing_is_pruned_for_a_snapshot_that_went_away(copy):
    names = names_in(copy)
    files.prune(copy, copy / files.name_of(TOTAL, epoch=EPOCHS), keep=1)
    assert names_in(copy) == names


PLACES = {
    "a file in its place": "file",
    "a path below a file": "file/folder",
}


@pytest.mark.parametrize("place", **each(PLACES))
def test_a_directory_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    made, begins = trainer(), Begins()
    before = made.model.get_weights()
    with pytest.raises(ValueError, match=f"cannot be written to {tmp_path / place}: .* Give a"):
        fit(made, begins, Snapshots(tmp_path / place))
    assert begins.begun == []
    assert_same(made.model.get_weights(), before)
    assert (made.step, int(made.optimizer.iterations)) == (0, 0)
    assert (tmp_path / "file").read_text() == "mine"
    assert_same(fit(made), undisturbed())
