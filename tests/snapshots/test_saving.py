"""When snapshots are taken, and how many are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.comparisons import assert_same
from tests.helpers.tables import each
from tests.helpers.trainings import (
    STEPS,
    TOTAL,
    Begins,
    SavesByHand,
    Slow,
    Waits,
    Watches,
    break_off,
    fit,
    names_in,
    trainer,
    undisturbed,
)
from trainer import program
from trainer.callbacks import Snapshots
from trainer.snapshots import files


class Sees(Watches):
    """Keeps which snapshots are there when a step begins, and how long groups are."""

    batch_hooks = "show"

    def __init__(self, directory: Path):
        super().__init__()
        self.directory = directory
        self.names: set[str] = set()
        self.steps: list[int] = []

    def on_train_batch_end(self, batch, logs=None):
        self.names |= {path.name for path in files.found_in(self.directory)}
        self.steps.append(self.trainer.step)

    @property
    def in_epochs(self) -> list[str]:
        """Those that were taken in the midst of an epoch."""
        return [name for name in self.names if int(name.split("-")[1]) % STEPS]


@pytest.mark.parametrize(("seconds", "saves"), [(0.04, True), (600, False)])
def test_every_so_many_seconds_one_is_saved(tmp_path, seconds, saves):
    sees = Sees(tmp_path)
    ended = fit(trainer(), Slow(0.03), sees, Snapshots(tmp_path, every_seconds=seconds, keep=99))
    assert bool(sees.in_epochs) == saves
    assert_same(ended, undisturbed())


GROUPS = {"single steps": [Slow(0)], "groups": []}


@pytest.mark.parametrize("slow", **each(GROUPS))
def test_every_so_many_steps_one_is_saved(tmp_path, monkeypatch, slow):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)  # groups from the first step on
    sees = Sees(tmp_path)
    saving = Snapshots(tmp_path, every_steps=5, keep=99)
    ended = fit(trainer(), *slow, sees, Waits(saving), saving)
    places = [(5, 0), (7, 1), (10, 1), (14, 2), (15, 2), (20, 2), (21, 3)]
    assert names_in(tmp_path) == [files.name_of(*place) for place in places]
    assert (len(sees.steps) < TOTAL) == (not slow)
    for path in files.found_in(tmp_path):
        facts = files.read(path).facts
        progress, training = facts["progress"], facts["training"]
        assert path.name == files.name_of(progress["step"], progress["epoch"])
        assert training["epoch"] * STEPS + training["step"] == progress["step"]
    assert_same(ended, undisturbed())


@pytest.mark.parametrize("keep", [1, 3])
def test_no_more_are_kept_than_asked(tmp_path, keep):
    saving = Snapshots(tmp_path, every_steps=5, keep=keep)
    fit(trainer(), Waits(saving), saving)
    places = [(15, 2), (20, 2), (21, 3)]
    assert names_in(tmp_path) == [files.name_of(*place) for place in places[-keep:]]


def test_steps_are_counted_on_where_they_were_saved_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)
    fit(trainer(), SavesByHand(tmp_path / "by hand", after=9))
    made, saving = trainer(), Snapshots(tmp_path / "saved", every_steps=4, keep=99)
    made.restore_snapshot(tmp_path / "by hand")
    ended = fit(made, Waits(saving), saving)
    places = [(12, 1), (14, 2), (16, 2), (20, 2), (21, 3)]
    assert names_in(saving.directory) == [files.name_of(*place) for place in places]
    assert_same(ended, undisturbed())


def test_steps_are_counted_on_where_training_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)
    break_off(trainer(), tmp_path, 11)  # after the snapshot of step 10
    before = names_in(tmp_path)
    saving = Snapshots(tmp_path, every_steps=4, keep=99)
    fit(trainer(), Slow(0), Waits(saving), saving)
    places = [(12, 1), (14, 2), (16, 2), (20, 2), (21, 3)]
    assert names_in(tmp_path) == before + [files.name_of(*place) for place in places]


@pytest.mark.parametrize(
    "argument",
    [
        {"every_steps": 0},
        {"every_steps": 2.5},
        {"keep": 0},
        {"every_seconds": 0},
        {"max_seconds": -1},
    ],
    ids=str,
)
def test_an_argument_that_does_not_fit_is_named(argument):
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=f"{name} is {value}: expected a number"):
        Snapshots("snapshots", **argument)


def test_there_is_one_of_them(tmp_path):
    begins = Begins()
    with pytest.raises(ValueError, match="There are 2 Snapshots callbacks: give one"):
        fit(trainer(), begins, Snapshots(tmp_path / "a"), Snapshots(tmp_path / "b"))
    assert begins.begun == []
