"""Callbacks in a new process go on from the state that they had."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.helpers import gans
from tests.helpers.data import numbers
from tests.helpers.models import compiled, mlp, seeded
from tests.helpers.tables import each
from trainer import CustomTrainer
from trainer.callbacks import ForNetwork
from trainer.snapshots.callbacks import CallbackStates

X, Y = numbers(32, 4), numbers(32, 1, seed=1)
Callback = keras.callbacks.Callback


class Keeps(Callback):
    """A user's callback: a setting that stays, one that moves, and what it collects."""

    def __init__(self, every: int, rate: float):
        super().__init__()
        self.every, self.rate = every, rate
        self.seen: list[tuple[int, float]] = []
        self.best = np.full(2, np.inf)
        self.act: Callable = print

    def on_epoch_end(self, epoch, logs=None):
        self.rate *= 0.5
        self.seen.append((epoch, logs["loss"]))
        self.best = np.minimum(self.best, logs["loss"])


class WithState(Callback):
    def __init__(self):
        super().__init__()
        self._secret = 0
        self.other = 0

    def on_epoch_end(self, epoch, logs=None):
        self._secret += 1
        self.other += 1

    def get_state(self):
        return {"secret": [self._secret]}

    def set_state(self, state):
        (self._secret,) = state["secret"]


class Takes(Callback):
    """Takes the states of all after an epoch; the last in its list."""

    def __init__(self, after: int):
        super().__init__()
        self.after = after
        self.states = self.arrays = None

    def follow(self, callbacks):
        self._all = CallbackStates(callbacks)
        return [*callbacks, self]

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.after:
            self.arrays = {}
            self.states = json.loads(json.dumps(self._all.taken(self.arrays)))


class PutsBack(Callback):
    """Sets the others to states once their training has begun; the last in its list."""

    def __init__(self, takes: Takes):
        super().__init__()
        self.takes = takes

    def follow(self, callbacks):
        self._all = CallbackStates(callbacks)
        self._all.rewind_files(self.takes.states)
        return [*callbacks, self]

    def on_train_begin(self, logs=None):
        self._all.put_back(self.takes.states, self.takes.arrays)


def state_of(callback: Callback) -> dict[str, str]:
    """Returns the attributes that a process has anew, as text."""
    skipped = ("_model", "params", "monitor_op", "csv_file", "writer", "append_header", "act")
    return {k: repr(v) for k, v in vars(callback).items() if k not in skipped}


def monitors(**settings: Any) -> dict[str, Any]:
    return {"monitor": "loss", "mode": "min", **settings}


CALLBACKS = {
    "EarlyStopping": lambda folder: keras.callbacks.EarlyStopping(
        **monitors(patience=3, min_delta=10, restore_best_weights=True)
    ),
    "ReduceLROnPlateau": lambda folder: keras.callbacks.ReduceLROnPlateau(
        **monitors(patience=2, min_delta=10, cooldown=2)
    ),
    "ModelCheckpoint": lambda folder: keras.callbacks.ModelCheckpoint(
        folder / "best.keras", **monitors(save_best_only=True)
    ),
    "CSVLogger": lambda folder: keras.callbacks.CSVLogger(folder / "log.csv"),
    "History": lambda folder: keras.callbacks.History(),
    "one's own": lambda folder: Keeps(every=2, rate=1.0),
}


def run(callbacks: list[Callback], epochs: range) -> None:
    """Trains, the weights those of `range(0, ...)` from its first epoch on."""
    trainer = CustomTrainer(seeded(lambda: compiled(mlp())))
    trainer.fit(X, Y, epochs=epochs.start, shuffle=False, verbose=0)
    trainer.fit(
        *(X, Y, None, epochs.stop),
        shuffle=False,
        verbose=0,
        initial_epoch=epochs.start,
        callbacks=callbacks,
    )


@pytest.mark.parametrize("make", **each(CALLBACKS))
@pytest.mark.parametrize("after", [pytest.param(0, marks=pytest.mark.exhaustive), 2])
def test_a_callback_goes_on_as_if_it_had_never_stopped(make, after, tmp_path):
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole, first, second = (make(folders[0]), make(folders[1]), make(folders[1]))
    run([whole], range(6))
    takes = Takes(after)
    run(takes.follow([first]), range(after + 2))  # an epoch longer than what was saved
    run(PutsBack(takes).follow([second]), range(after + 1, 6))
    assert state_of(second) == {
        key: value.replace(str(folders[0]), str(folders[1]))
        for key, value in state_of(whole).items()
    }
    if isinstance(second, keras.callbacks.CSVLogger):
        logs = [(folder / "log.csv").read_text() for folder in folders]
        assert logs[0] == logs[1]
        assert logs[0].count("\n") == 7


def test_a_callback_with_a_state_says_itself_what_it_is():
    takes, first, second = Takes(2), WithState(), WithState()
    run(takes.follow([first]), range(4))
    run(PutsBack(takes).follow([second]), range(3, 6))
    assert (second._secret, second.other) == (6, 3)


def test_a_setting_may_change_unless_training_changed_it():
    takes = Takes(1)
    run(takes.follow([Keeps(every=2, rate=1.0)]), range(2))
    changed = Keeps(every=3, rate=100.0)
    CallbackStates([changed]).put_back(takes.states, takes.arrays)
    assert (changed.every, changed.rate) == (3, 0.25)
    assert changed.act is print


def test_states_are_by_class_and_order_and_new_callbacks_begin_anew():
    takes = Takes(0)
    run(takes.follow([Keeps(2, 1.0), keras.callbacks.History(), Keeps(2, 3.0)]), range(1))
    others = [WithState(), Keeps(2, 0.0), Keeps(2, 0.0), Keeps(2, 0.0)]
    CallbackStates(others).put_back(takes.states, takes.arrays)
    assert [callback.rate for callback in others[1:]] == [0.5, 1.5, 0.0]
    assert others[0]._secret == 0


def test_a_callback_of_a_network_is_known_by_it():
    def bound(name):
        return ForNetwork(name, Keeps(2, 1.0))

    takes = Takes(0)
    generator, discriminator = bound("generator"), bound("discriminator")
    followed = takes.follow([generator, discriminator])
    gans.gan().fit(gans.images(8), batch_size=4, verbose=0, callbacks=followed[:2])
    generator.callback.rate = 7.0
    takes.on_epoch_end(0)
    swapped = [bound("discriminator"), bound("generator")]
    CallbackStates(swapped).put_back(takes.states, takes.arrays)
    assert [one.callback.rate for one in swapped] == [0.5, 7.0]


LOST = {
    "all": (lambda path: path.unlink(), "It is begun anew", ["epoch", "2", "3"]),
    "its end": (
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        "These lines stay",
        ["epoch", "0", "2", "3"],
    ),
}


@pytest.mark.parametrize(("lose", "outcome", "rows"), **each(LOST))
def test_a_log_that_has_lost_lines_is_told_of_and_keeps_the_others(tmp_path, lose, outcome, rows):
    takes = Takes(1)
    path: Path = tmp_path / "log.csv"
    run(takes.follow([keras.callbacks.CSVLogger(path)]), range(2))
    lose(path)
    log = keras.callbacks.CSVLogger(path)
    with pytest.warns(UserWarning, match=f"The log {path} had .*{outcome}"):
        run(PutsBack(takes).follow([log]), range(2, 4))
    assert [line.split(",")[0] for line in path.read_text().split()] == rows
    assert log.append is False


class InAFolder(Callback):
    """Derives a path from its setting, and has a string that training changes."""

    def __init__(self, folder: str):
        super().__init__()
        self.folder = folder
        self._path = f"{folder}/file"
        self.phase = "warmup"

    def on_epoch_end(self, epoch, logs=None):
        self.phase = "main"


def test_settings_that_are_strings_and_paths_made_of_them_are_those_of_the_process():
    takes = Takes(0)
    run(takes.follow([InAFolder("old")]), range(1))
    new = InAFolder("new")
    CallbackStates([new]).put_back(takes.states, takes.arrays)
    assert (new.folder, new._path, new.phase) == ("new", "new/file", "main")


CRAFTED = {
    "a setting": ("folder", "victim"),
    "a path made of one": ("_path", "victim/file"),
    "a method": ("on_epoch_end", 3),
    "the class": ("__class__", 3),
    "a property": ("model", 3),
}


@pytest.mark.parametrize(("attribute", "value"), **each(CRAFTED))
def test_a_crafted_snapshot_sets_no_setting_no_path_and_nothing_of_the_class(attribute, value):
    callback = InAFolder("mine")
    before = dict(vars(callback))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CallbackStates([callback]).put_back({"InAFolder 1": {attribute: value}}, {})
    assert vars(callback) == before
    is_told = any(f"InAFolder keeps {attribute}" in str(one.message) for one in caught)
    assert is_told == isinstance(value, str)
