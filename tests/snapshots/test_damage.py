"""What is damaged is passed over, and what would run code runs none."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

from tests.helpers.comparisons import assert_same
from tests.helpers.trainings import (
    EPOCHS,
    STEPS,
    TOTAL,
    Begins,
    BrokenOff,
    Enough,
    Looks,
    fit,
    fit_on,
    latest_in,
    trainer,
    undisturbed,
)
from tests.snapshots.test_files import arrays_of, flip, rewrite_checksum
from trainer.callbacks import Snapshots
from trainer.snapshots import files

pytestmark = pytest.mark.xdist_group("broken off")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a snapshot")


def cut_short(path: Path, draws: random.Random) -> None:
    os.truncate(path, draws.randrange(1, path.stat().st_size))


class Damage(NamedTuple):
    """A way to damage a snapshot.

    Attributes:
        do: does it to a path, with draws to choose by.
        times: how many times it is tried.
    """

    do: Callable[[Path, random.Random], Any]
    times: int = 1


OF_FILES = {
    "cut short": Damage(cut_short, 22),
    "a bit flipped": Damage(flip, 24),
    "emptied": Damage(lambda path, draws: path.write_bytes(b"")),
    "removed": Damage(lambda path, draws: path.unlink()),
    "a folder": Damage(lambda path, draws: replace_by_folder(path)),
}


OF_SNAPSHOTS = {
    "removed": Damage(lambda path, draws: shutil.rmtree(path)),
    "a file": Damage(lambda path, draws: replace_by_file(path)),
}


DAMAGES = {
    f"{name or 'the snapshot'}, {kind}": (name, damage)
    for names, damages in ((("manifest", "arrays"), OF_FILES), (("",), OF_SNAPSHOTS))
    for name, (kind, damage) in itertools.product(names, damages.items())
}


def test_there_are_a_hundred_damages():
    assert sum(damage.times for _, damage in DAMAGES.values()) == 100


@contextlib.contextmanager
def told_of_damage(*expected: str) -> Iterator[None]:
    """Checks that there is a warning of damage for each pattern, in their order, and no other."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    told = [line for line in (str(one.message) for one in caught) if "is damaged" in line]
    assert len(told) == len(expected), told
    for line, pattern in zip(told, expected, strict=True):
        assert re.search(pattern, line), line


FIRST = 2  # of the draws of a damage are in the default tier


@pytest.mark.parametrize("case", DAMAGES)
def test_what_is_damaged_is_passed_over(tmp_path, broken_off, case):
    check_damages(tmp_path, broken_off, case, range(min(FIRST, DAMAGES[case][1].times)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("case", [name for name, (_, one) in DAMAGES.items() if one.times > FIRST])
def test_more_of_what_is_damaged_is_passed_over(tmp_path, broken_off, case):
    check_damages(tmp_path, broken_off, case, range(FIRST, DAMAGES[case][1].times))


def check_damages(directory: Path, broken_off: BrokenOff, case: str, numbers: range) -> None:
    """Checks that a training resumes from the older of two snapshots if the newer is damaged.

    Args:
        directory: for the copies of the snapshots.
        broken_off: the training.
        case: the damage.
        numbers: those of the damage's draws.
    """
    name, damage = DAMAGES[case]
    for number in numbers:
        draws = random.Random(f"{case} {number}")
        copied = shutil.copytree(broken_off.directory / "snapshots", directory / str(number))
        newest = latest_in(copied)
        damage.do(arrays_of(newest) if name == "arrays" else newest / name, draws)
        is_gone = not newest.exists() or (newest.is_dir() and not (newest / "manifest").exists())
        lines = [] if is_gone else [rf"{newest} is damaged and passed over: {name or 'manifest'}"]
        looks = Looks(ends=number > 0)
        with told_of_damage(*lines), contextlib.suppress(Enough):
            assert_same(fit(trainer(), Snapshots(copied), looks), undisturbed())
        assert next(iter(looks.seen)) == broken_off.older
        assert len(looks.seen) == (1 if looks.ends else TOTAL - broken_off.older)
        assert_same(looks.seen[broken_off.older], broken_off.seen[broken_off.older])


def test_what_is_whole_is_gone_on_with(copy, broken_off):
    looks = Looks(ends=True)
    with told_of_damage(), pytest.raises(Enough):
        fit(trainer(), Snapshots(copy), looks)
    assert list(looks.seen) == [broken_off.newer]
    assert_same(looks.seen[broken_off.newer], broken_off.seen[broken_off.newer])


def test_training_begins_anew_where_all_are_damaged(copy, capsys):
    newer, older = files.found_in(copy)
    flip(arrays_of(newer), random.Random(1))
    cut_short(older / "manifest", random.Random(1))
    lines = (f"{newer} is damaged.*arrays-", f"{older} is damaged.*manifest")
    log = keras.callbacks.CSVLogger(copy.parent / "log.csv")
    begins = Begins()
    with told_of_damage(*lines):
        assert_same(fit(trainer(), Snapshots(copy), log, begins), undisturbed())
    assert begins.begun[:3] == ["training", "epoch 0", "step 0"]
    assert "Training goes on from" not in capsys.readouterr().out
    assert (copy.parent / "log.csv").read_text().count("\n") == 1 + EPOCHS
    assert [files.step_of(path) for path in files.found_in(copy)] == [TOTAL, TOTAL - STEPS]


def test_a_snapshot_that_would_run_code_runs_none(tmp_path, copy):
    witness = tmp_path / "ran"

    class Runs:
        def __reduce__(self):
            return Path.touch, (witness,)

    aside = shutil.copytree(latest_in(copy), tmp_path / "aside")
    with np.load(arrays_of(aside)) as loaded:
        arrays = {name: np.array([Runs()]) for name in loaded}
    np.savez(arrays_of(aside), **arrays)
    rewrite_checksum(aside)
    newest = shutil.copytree(aside, copy / files.name_of(999, epoch=99))
    with told_of_damage(f"{newest} is damaged.*npz is not arrays alone"):
        assert_same(fit_on(copy), undisturbed())
    with pytest.raises(ValueError, match=r"npz is not arrays alone"):
        trainer().restore_snapshot(aside)
    assert not witness.exists()
    with np.load(arrays_of(aside), allow_pickle=True) as loaded:
        next(iter(loaded.values()))  # what it would have done
    assert witness.exists()
