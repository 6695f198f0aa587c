"""Trainings that are broken off, damaged, refused or asked to end, and what they go on with.

As a program it is a training in a process of its own: `python -m tests.snapshots.test_snapshots
TRAINING DIRECTORY`, with one of `TRAININGS`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models import assert_same, each, labels, mlp, numbers, seeded
from tests.snapshots import test_state
from tests.snapshots.test_files import flip, rewrite_manifest, sha256
from trainer import CustomTrainer, program
from trainer.callbacks import Snapshots
from trainer.snapshots import files, writer
from trainer.snapshots.variables import training_variables, values

ROWS, BATCH, STEPS, EPOCHS = 50, 8, 7, 3  # six full batches an epoch, and two rows
TOTAL = STEPS * EPOCHS
X, Y = numbers(ROWS, 4), labels(ROWS)
ARRAYS = {"x": X, "y": Y, "batch_size": BATCH}
Callback = keras.callbacks.Callback


@pytest.fixture(autouse=True, scope="module")
def each_snapshot_is_written():
    """Lets the writer make no pauses: these steps take less time than a snapshot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_SHARE", 0)
        yield


def network() -> keras.Model:
    return mlp(keras.layers.Dropout(0.3), outputs=3)


def wide_network() -> keras.Model:
    return mlp(keras.layers.Dense(2000), outputs=3)


def trainer(
    build: Callable[[], keras.Model] = network,
    optimizer: Callable[[], keras.Optimizer] = lambda: keras.optimizers.Adam(0.01),
) -> CustomTrainer:
    return CustomTrainer(
        seeded(build),
        optimizer=optimizer(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        seed=5,
    )


def fit(made: CustomTrainer, *callbacks: Callback, **how: Any) -> dict[str, Any]:
    """Trains on the arrays, if on nothing else; returns what `outcome` does."""
    data = {} if "x" in how else ARRAYS
    made.fit(**{**data, "epochs": EPOCHS, "verbose": 0, **how}, callbacks=list(callbacks))
    return outcome(made)


def outcome(made: CustomTrainer) -> dict[str, Any]:
    """Returns all that a training ends with."""
    history = made.model.history
    return {
        "history": {key: list(logged) for key, logged in history.history.items()},
        "epochs": list(history.epoch),
        "place": [made.step, made.epoch],
        "variables": {
            name: np.asarray(value) for name, value in values(training_variables(made)).items()
        },
    }


@functools.cache
def undisturbed(epochs: int = EPOCHS) -> dict[str, Any]:
    """Returns the outcome of a training that nothing was asked of."""
    return fit(trainer(), epochs=epochs)


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def latest_in(directory: Path) -> Path:
    return files.found_in(directory)[0]


def wait_until(holds: Callable[[], Any]) -> None:
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.001)


class Watches(Callback):
    """A callback that snapshots keep nothing of."""

    def set_trainer(self, made: CustomTrainer) -> None:
        self.trainer = made

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


class Counts(Watches):
    """Knows what step an epoch began with, also one that goes on."""

    def on_epoch_begin(self, epoch, logs=None):
        self.before = self.trainer.step // STEPS * STEPS


class Waits(Counts):
    """Lets each snapshot be written: of those that wait for a slow disk only one is."""

    def __init__(self, directory: Path, every: int):
        super().__init__()
        self.directory, self.every = directory, every

    def wants_batch(self, step):
        return not step or not (self.before + step) % self.every

    def on_train_batch_end(self, batch, logs=None):
        done = self.before + batch
        due = max(self.before, done - done % self.every)
        wait_until(lambda: not due or due in map(files.step_of, files.found_in(self.directory)))


class Interrupts(Counts):
    """Is Ctrl-C, once so many steps are done, before anything can be saved of them."""

    def __init__(self, step: int):
        super().__init__()
        self.step = step

    def wants_batch(self, step):
        return self.before + step + 1 == self.step

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step == self.step:
            raise KeyboardInterrupt


class Terminates(Interrupts):
    """Is SIGTERM, once so many steps are done."""

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step == self.step:
            signal.raise_signal(signal.SIGTERM)


class Slow(Watches):
    """Lets each step, and each step of a validation, take its time."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds = seconds

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.seconds)

    def on_test_batch_end(self, batch, logs=None):
        time.sleep(self.seconds)


class Begins(Watches):
    """Keeps the hooks that begin something, in their order."""

    def __init__(self):
        super().__init__()
        self.begun: list[Any] = []

    def on_train_begin(self, logs=None):
        self.begun.append("training")

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(f"epoch {epoch}")

    def on_train_batch_begin(self, batch, logs=None):
        self.begun.append(f"step {batch}")


def break_off(
    made: CustomTrainer, directory: Path, at: int, *callbacks: Callback, **how: Any
) -> None:
    """Trains with snapshots every five steps until Ctrl-C comes at the end of step `at`."""
    saving = [Snapshots(directory, every_steps=5), Waits(directory, 5), Interrupts(at)]
    with pytest.raises(KeyboardInterrupt):
        fit(made, *callbacks, *saving, **how)


def fit_on(directory: Path, **how: Any) -> dict[str, Any]:
    """Returns what a new trainer ends with that has the snapshots in `directory`."""
    return fit(trainer(), Snapshots(directory), **how)


# Damage


class Enough(Exception):  # noqa: N818
    """Ends a training that has told enough."""


class Looks(Watches):
    """Keeps what a step begins with, of all steps or of the first one, which then is enough."""

    def __init__(self, ends: bool = False):
        super().__init__()
        self.ends = ends
        self.seen: dict[int, Any] = {}

    def on_train_batch_begin(self, batch, logs=None):
        self.seen[self.trainer.step] = (batch, outcome(self.trainer))
        if self.ends:
            raise Enough


class BrokenOff(NamedTuple):
    """A training that was broken off.

    Attributes:
        directory: has its log file, and the folder of its snapshots, two of them.
        seen: what each of its steps began with.
        older: the step of the older snapshot, taken between two epochs.
        newer: that of the newer one, taken in the midst of an epoch.
    """

    directory: Path
    seen: dict[int, Any]
    older: int = 14
    newer: int = 15


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
    for names, damages in ((("manifest", "arrays.npz"), OF_FILES), (("",), OF_SNAPSHOTS))
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


@pytest.mark.parametrize("case", DAMAGES)
def test_what_is_damaged_is_passed_over(tmp_path, broken_off, case):
    name, damage = DAMAGES[case]
    draws = random.Random(case)
    for number in range(damage.times):
        copied = shutil.copytree(broken_off.directory / "snapshots", tmp_path / str(number))
        newest = latest_in(copied)
        damage.do(newest / name, draws)
        is_gone = not newest.exists()
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
    flip(newer / "arrays.npz", random.Random(1))
    cut_short(older / "manifest", random.Random(1))
    lines = (f"{newer} is damaged.*arrays.npz", f"{older} is damaged.*manifest")
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
    with np.load(aside / "arrays.npz") as loaded:
        arrays = {name: np.array([Runs()]) for name in loaded}
    np.savez(aside / "arrays.npz", **arrays)
    rewrite_manifest(aside, files={"arrays.npz": sha256(aside / "arrays.npz")})
    newest = shutil.copytree(aside, copy / files.name_of(999, epoch=99))
    with told_of_damage(f"{newest} is damaged.*arrays.npz is not arrays alone"):
        assert_same(fit_on(copy), undisturbed())
    with pytest.raises(ValueError, match=r"arrays\.npz is not arrays alone"):
        trainer().restore_snapshot(aside)
    assert not witness.exists()
    with np.load(aside / "arrays.npz", allow_pickle=True) as loaded:
        next(iter(loaded.values()))  # what it would have done
    assert witness.exists()


# A disk that takes no more


PROCESS = [sys.executable, "-m", "tests.snapshots.test_snapshots"]
ROOT = Path(__file__).parents[2]


FIRST = files.name_of(STEPS, epoch=1)


class Fills(Watches):
    """Sees to it that nothing can be written once there is a snapshot."""

    def __init__(self, directory: Path, fill: Callable[[Path], None]):
        super().__init__()
        self.directory, self.fill = directory, fill

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            wait_until(lambda: [path.name for path in files.found_in(self.directory)] == [FIRST])
            self.fill(self.directory)


def fill_disk(directory: Path) -> None:
    with (directory / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))


def limit_files(directory: Path, size: int | None = 10_000) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))


def train_while_it_fills(directory: Path, fill: Callable[[Path], None]) -> None:
    saved = directory / "snapshots"
    made = trainer(wide_network)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(made, Fills(saved, fill), Snapshots(saved, every_steps=2, keep=1))
    limit_files(directory, None)
    whole = [path.name for path in files.found_in(saved) if files.read(path)]
    told = [str(one.message) for one in caught if "could not be written" in str(one.message)]
    write_outcome(directory, outcome(made), told=told, whole=whole, there=names_in(saved))


def write_outcome(directory: Path, ended: dict[str, Any], **facts: Any) -> None:
    np.savez(directory / "variables.npz", **ended.pop("variables"))
    (directory / "facts.json").write_text(json.dumps([ended, facts]))


def read_outcome(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    ended, facts = json.loads((directory / "facts.json").read_text())
    with np.load(directory / "variables.npz") as variables:
        return {**ended, "variables": dict(variables)}, facts


def check_it_went_on(directory: Path, reason: str) -> tuple[float, float]:
    """Checks what is left of such a training; returns the megabytes needed and free, as told."""
    ended, facts = read_outcome(directory)
    assert_same(ended, fit_wide())
    assert facts["whole"] == [FIRST]
    assert [name for name in facts["there"] if name != "filling"] == [FIRST]
    (told,) = facts["told"]  # once, not for each snapshot
    assert reason in told
    assert f"the latest snapshot is {FIRST}" in told
    needed, free = re.search(r"needs ([\d.]+) MB, and ([\d.]+) MB are free", told).groups()
    held = sum(array.nbytes for array in ended["variables"].values()) / 1e6
    assert round(held, 1) <= float(needed) < 1.5 * held
    return float(needed), float(free)


@functools.cache
def fit_wide() -> dict[str, Any]:
    return fit(trainer(wide_network))


def test_training_goes_on_where_the_disk_is_full(tmp_path):
    (tmp_path / "snapshots").mkdir()
    mounting = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=500k t "$0" && exec "$@"']
    mounting += [tmp_path / "snapshots"]
    try:
        tried = subprocess.run([*mounting, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"a small disk cannot be mounted: {error}")
    if tried.returncode:
        pytest.skip(f"a small disk cannot be mounted: {tried.stderr}")
    subprocess.run([*mounting, *PROCESS, "on a full disk", tmp_path], cwd=ROOT, check=True)
    needed, free = check_it_went_on(tmp_path, "No space left on device")
    assert free < needed


def test_training_goes_on_where_files_may_not_be_so_large(tmp_path):
    subprocess.run([*PROCESS, "with small files", tmp_path], cwd=ROOT, check=True)
    check_it_went_on(tmp_path, "File too large")


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


# An early end: SIGTERM


LONG = {"x": numbers(16_000, 4), "y": labels(16_000), "batch_size": 2, "epochs": 2}
HELD_OUT = {"validation_data": (X, Y), "validation_batch_size": 2}
CODE = 7


class Says(Watches):
    """Says that training, and that the second validation, are under way; holds no group."""

    batch_hooks = "show"

    def __init__(self):
        super().__init__()
        self.validations = 0
        self.said: set[str] = set()

    def on_train_batch_end(self, batch, logs=None):
        if batch > 500:
            self.say("training")

    def on_test_begin(self, logs=None):
        self.validations += 1

    def on_test_batch_end(self, batch, logs=None):
        if self.validations == 2:
            self.say("validating")

    def say(self, what: str) -> None:
        if what not in self.said:
            self.said.add(what)
            print(what, flush=True)


def train_until_ended(directory: Path, exit_code: int | None, *slow: Callback, **how: Any) -> None:
    saving = Snapshots(directory / "snapshots", exit_code=exit_code)
    try:
        fit(trainer(), Says(), *slow, saving, **how)
    finally:
        # `fit` is left: whether by its return or by the end of the process.
        print(json.dumps({"at": time.time(), "preempted": saving.preempted}), flush=True)


class Ended(NamedTuple):
    """How a process ended, and how long after SIGTERM its training did."""

    code: int
    seconds: float
    preempted: bool
    printed: str


def terminated(training: str, directory: Path, sign: str) -> Ended:
    """Lets a process train, and sends SIGTERM once it says `sign`."""
    process = subprocess.Popen(
        [*PROCESS, training, directory], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout:
            if line.strip() == sign:
                break
        sent = time.time()
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    told = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    return Ended(process.returncode, told["at"] - sent, told["preempted"], printed)


def test_sigterm_in_an_epoch_ends_the_process_with_a_snapshot(tmp_path):
    ended = terminated("ended in an epoch", tmp_path, "training")
    assert ended.code == CODE, ended.printed
    assert ended.preempted
    assert ended.seconds < 2
    assert "Training ends early, as SIGTERM came" in ended.printed
    latest = latest_in(tmp_path / "snapshots")
    training = files.read(latest).facts["training"]
    assert 500 < training["step"] < 8000
    assert latest.name == files.name_of(
        training["step"] + 8000 * training["epoch"], training["epoch"]
    )
    looks = Looks(ends=True)
    with pytest.raises(Enough):
        fit(trainer(), Snapshots(tmp_path / "snapshots"), looks, **LONG)
    assert list(looks.seen) == [files.step_of(latest)]
    assert_same(fit_on(tmp_path / "snapshots", **LONG), fit(trainer(), **LONG))


def test_sigterm_in_a_validation_ends_it_with_a_snapshot(tmp_path):
    ended = terminated("ended in validation", tmp_path, "validating")
    assert ended.code == 0, ended.printed  # the process went on
    assert ended.preempted
    assert ended.seconds < 2
    contents = files.read(latest_in(tmp_path / "snapshots"))
    assert (contents.facts["training"]["epoch"], contents.facts["training"]["step"]) == (1, STEPS)
    expected = fit(trainer(), **HELD_OUT)
    assert len(expected["history"]["val_loss"]) == EPOCHS
    assert_same(fit_on(tmp_path / "snapshots", **HELD_OUT), expected)


def test_a_data_set_ends_its_epoch_once_where_its_validation_was_ended(tmp_path):
    class Ends(Callback):
        def on_test_begin(self, logs=None):
            signal.raise_signal(signal.SIGTERM)

    how = {**HELD_OUT, "x": test_state.Slices()}
    saving = Snapshots(tmp_path)
    fit(trainer(), Ends(), saving, **how)
    assert saving.preempted
    assert files.read(latest_in(tmp_path)).facts["training"]["step"] == STEPS
    expected = fit(trainer(), **{**how, "x": test_state.Slices()})
    assert_same(fit_on(tmp_path, **{**how, "x": test_state.Slices()}), expected)


@pytest.fixture
def handled() -> Iterator[list[Any]]:
    """Returns what the user's own handler of SIGTERM was called with; a test may add to it."""
    calls: list[Any] = []

    def handle(number, frame):
        calls.extend(answer() for answer in handle.answers)

    handle.answers = [lambda: "called"]
    before = signal.signal(signal.SIGTERM, handle)
    yield calls
    assert signal.getsignal(signal.SIGTERM) is handle
    signal.signal(signal.SIGTERM, before)


def test_a_handler_of_sigterm_is_called_once_and_put_back(tmp_path, handled):
    saving = Snapshots(tmp_path)
    handle = signal.getsignal(signal.SIGTERM)
    handle.answers = [lambda: names_in(tmp_path), lambda: saving.preempted]
    made = trainer()
    fit(made, Terminates(10), saving)
    assert saving.preempted
    assert made.step == 10
    saved = [files.name_of(step, epoch=1) for step in (STEPS, 10)]
    assert handled == [saved, True]
    assert signal.getsignal(signal.SIGTERM) is handle
    assert_same(fit_on(tmp_path), undisturbed())
    assert len(handled) == 2


def test_a_handler_is_put_back_after_any_end(tmp_path, handled):
    handle = signal.getsignal(signal.SIGTERM)
    fit(trainer(), Snapshots(tmp_path / "whole"))
    assert signal.getsignal(signal.SIGTERM) is handle
    break_off(trainer(), tmp_path / "broken off", 10)
    assert signal.getsignal(signal.SIGTERM) is handle
    assert handled == []


def test_an_exit_code_ends_the_process_after_the_handler(tmp_path, handled):
    saving = Snapshots(tmp_path, exit_code=CODE)
    with pytest.raises(SystemExit) as exited:
        fit(trainer(), Terminates(10), saving)
    assert exited.value.code == CODE
    assert saving.preempted
    assert handled == ["called"]
    assert files.step_of(latest_in(tmp_path)) == 10


def test_sigterm_before_the_last_step_is_over_is_not_lost(tmp_path, handled):
    saving = Snapshots(tmp_path)
    fit(trainer(), Terminates(TOTAL), saving)
    assert saving.preempted
    assert handled == ["called"]
    assert_same(fit_on(tmp_path), undisturbed())


def test_sigterm_in_the_last_hook_ends_the_process_too(tmp_path, handled):
    class TerminatesAtTheEnd(Watches):
        def on_train_end(self, logs=None):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as exited:
        fit(trainer(), TerminatesAtTheEnd(), Snapshots(tmp_path, exit_code=CODE))
    assert exited.value.code == CODE
    assert handled == ["called"]


def test_an_end_without_a_snapshot_does_not_claim_one(tmp_path, handled, capsys):
    class PutsFileInPlace(Terminates):
        def on_train_batch_end(self, batch, logs=None):
            shutil.rmtree(tmp_path / "snapshots")
            (tmp_path / "snapshots").write_text("")
            super().on_train_batch_end(batch, logs)

    saving = Snapshots(tmp_path / "snapshots")
    with pytest.warns(UserWarning, match="could not be written"):
        fit(trainer(), PutsFileInPlace(5), saving)
    assert saving.preempted
    printed = capsys.readouterr().out
    assert "Training ends early, as SIGTERM came" in printed
    assert "its snapshot is in" not in printed


def test_fit_goes_on_in_the_same_process_after_sigterm(tmp_path, handled):
    made, saving = trainer(), Snapshots(tmp_path)
    fit(made, Terminates(10), saving)
    assert_same(fit(made, saving), undisturbed())
    assert not saving.preempted
    assert handled == ["called"]


def test_hooks_of_a_validation_that_was_ended_count_once(tmp_path, handled):
    class CountsValidations(Callback):
        count = 0

        def on_test_begin(self, logs=None):
            self.count += 1

    class EndsValidation(Watches):
        def on_test_batch_end(self, batch, logs=None):
            signal.raise_signal(signal.SIGTERM)

    counts = CountsValidations()
    fit(trainer(), counts, EndsValidation(), Snapshots(tmp_path), **HELD_OUT)
    assert handled == ["called"]
    assert counts.count == 1
    counts = CountsValidations()
    fit(trainer(), counts, Snapshots(tmp_path), **HELD_OUT)
    assert counts.count == EPOCHS


def test_fit_works_in_a_thread(tmp_path, handled):
    seen, ended = [], []

    class SeesHandler(Watches):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(signal.getsignal(signal.SIGTERM))

    def train() -> None:
        ended.append(fit(trainer(), SeesHandler(), Snapshots(tmp_path, every_steps=5)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert_same(ended, [undisturbed()])
    assert set(seen) == {signal.getsignal(signal.SIGTERM)}
    assert files.step_of(latest_in(tmp_path)) == TOTAL


# When


def test_max_seconds_end_it_and_the_next_one_goes_on(tmp_path, capsys):
    saving = Snapshots(tmp_path, max_seconds=0.6)
    made, began = trainer(), time.monotonic()
    fit(made, Slow(0.1), saving)  # 2.1 seconds in all
    assert 0.6 <= time.monotonic() - began < 2.6
    assert saving.preempted
    assert 0 < made.step < TOTAL
    assert files.step_of(latest_in(tmp_path)) == made.step
    assert "Training ends early, as its time is over" in capsys.readouterr().out
    saving = Snapshots(tmp_path, max_seconds=600)
    assert_same(fit(trainer(), saving), undisturbed())
    assert not saving.preempted


def test_no_run_that_is_over_at_once_is_in_vain(tmp_path):
    saving = Snapshots(tmp_path, max_seconds=1e-9)
    steps = []
    for _ in range(STEPS + 2):
        made = trainer()
        fit(made, Slow(0), saving)
        assert saving.preempted
        steps.append(made.step)
    assert steps == [*range(1, STEPS + 1), STEPS, STEPS + 1]  # once it is the epoch that ends
    assert_same(fit_on(tmp_path), undisturbed())


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
    ended = fit(trainer(), *slow, sees, Waits(tmp_path, 5), saving)
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
    fit(trainer(), Waits(tmp_path, 5), Snapshots(tmp_path, every_steps=5, keep=keep))
    places = [(15, 2), (20, 2), (21, 3)]
    assert names_in(tmp_path) == [files.name_of(*place) for place in places[-keep:]]


def test_steps_are_counted_on_where_they_were_saved_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)
    fit(trainer(), SavesByHand(tmp_path / "by hand", after=9))
    made, saved = trainer(), tmp_path / "saved"
    made.restore_snapshot(tmp_path / "by hand")
    ended = fit(made, Waits(saved, 4), Snapshots(saved, every_steps=4, keep=99))
    places = [(12, 1), (14, 2), (16, 2), (20, 2), (21, 3)]
    assert names_in(saved) == [files.name_of(*place) for place in places]
    assert_same(ended, undisturbed())


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


# What changed


def other_network() -> keras.Model:
    return mlp(keras.layers.Dropout(0.3), outputs=4)


OF_WIDTH = (
    r"model/sequential/dense/kernel \(2\) is float32 of shape \(5, 4\), "
    r"and was float32 of shape \(5, 3\)"
)
CHANGES = {
    "the width of a layer": (
        {"build": other_network},
        {},
        OF_WIDTH,
    ),
    "the optimizer": (
        {"optimizer": lambda: keras.optimizers.SGD(0.01)},
        {},
        r"optimizer/adam/\S*kernel_momentum, float32 of shape \(4, 5\), which is not there now",
    ),
    "the rows of a batch": (
        {},
        {**ARRAYS, "batch_size": 10},
        "the data had 8 for batch size, and have 10",
    ),
    "the number of rows": (
        {},
        {**ARRAYS, "x": X[:44], "y": Y[:44]},
        "the data had 50 for rows, and have 44",
    ),
    "the steps of an epoch": (
        {},
        {"steps_per_epoch": 5},
        "the data had None for steps an epoch, and have 5",
    ),
    "the order": ({}, {"shuffle": False}, "the data had True for shuffle, and have False"),
    "what a batch is": (
        {},
        {**ARRAYS, "x": X.astype("int64")},
        r"the data had .*float32.* for a batch, and have .*int64",
    ),
}


@pytest.mark.parametrize(("made", "given", "message"), **each(CHANGES))
def test_another_training_is_refused(copy, made, given, message):
    made, log = trainer(**made), copy.parent / "log.csv"
    with log.open("a") as file:
        file.write("2,0.5,1.0\n")  # as if training had gone on without a snapshot
    written, begins = log.read_bytes(), Begins()
    before = made.model.get_weights()
    with pytest.raises(ValueError, match="The snapshot is of another training: .*" + message):
        fit(made, keras.callbacks.CSVLogger(log), begins, Snapshots(copy), **given)
    assert begins.begun == []
    assert log.read_bytes() == written
    assert_same(made.model.get_weights(), before)
    variables = made.optimizer.variables
    assert {v.path for v in variables if v.numpy().any()} <= {
        f"{made.optimizer.name}/learning_rate"
    }
    assert (made.step, made.epoch) == (0, 0)


def test_what_was_refused_goes_on_once_it_is_as_it_was(copy):
    made, saving = trainer(), Snapshots(copy)
    log = keras.callbacks.CSVLogger(copy.parent / "log.csv")
    for _ in range(2):
        with pytest.raises(ValueError, match="batch size"):
            fit(made, saving, log, batch_size=10)
    assert_same(fit(made, saving, log), undisturbed())
    assert (copy.parent / "log.csv").read_text().count("\n") == 1 + EPOCHS


def rows() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y))


def as_they_are(x, y):
    return x * 1, y


def through_python(x, y):
    shape = x.shape
    return tf.ensure_shape(tf.numpy_function(lambda x: x * 2, [x], tf.float32), shape), y


OTHER_PIPELINES = {
    "no shuffle": lambda: rows().map(as_they_are).batch(BATCH),
    "a step more": lambda: (
        rows().map(as_they_are).shuffle(20, seed=3).map(as_they_are).batch(BATCH)
    ),
    "another step": lambda: rows().enumerate().map(lambda n, row: row).shuffle(20, seed=3).batch(8),
}


@pytest.mark.parametrize("other", **each(OTHER_PIPELINES))
def test_another_pipeline_is_refused(tmp_path, other):
    def usual() -> tf.data.Dataset:
        return rows().map(as_they_are).shuffle(20, seed=3).batch(BATCH)

    break_off(trainer(), tmp_path, 12, x=usual())
    made = trainer()
    before = made.model.get_weights()
    with pytest.raises(ValueError, match="pipeline"):
        fit(made, Snapshots(tmp_path), x=other())
    assert_same(made.model.get_weights(), before)
    assert made.step == 0
    assert_same(fit(made, Snapshots(tmp_path), x=usual()), fit(trainer(), x=usual()))


def test_a_pipeline_that_now_calls_python_is_refused(tmp_path):
    break_off(trainer(), tmp_path, 12, x=rows().map(as_they_are).batch(BATCH))
    made = trainer()
    with pytest.raises(ValueError, match="pipeline"):
        fit(made, Snapshots(tmp_path), x=rows().map(through_python).batch(BATCH))
    assert made.step == 0


# One training after another


def written_at(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ctime_ns for path in directory.iterdir()}


def test_a_finished_training_is_not_trained_again(tmp_path):
    expected = fit(trainer(), Snapshots(tmp_path))
    saved = written_at(tmp_path)
    begins, made = Begins(), trainer()
    assert_same(fit(made, begins, Snapshots(tmp_path)), expected)
    assert begins.begun == ["training"]
    assert written_at(tmp_path) == saved
    begins = Begins()
    assert_same(fit(trainer(), begins, Snapshots(tmp_path), epochs=5), undisturbed(epochs=5))
    assert begins.begun[:3] == ["training", "epoch 3", "step 0"]


def test_a_second_fit_trains_on_and_is_told_from_the_first(tmp_path):
    def train(made: CustomTrainer, *callbacks: Callback) -> dict[str, Any]:
        fit(made, *callbacks)
        return fit(made, *callbacks, epochs=2)

    expected = train(trainer())
    assert expected["place"][0] == 5 * STEPS
    assert_same(train(trainer(), Snapshots(tmp_path / "whole")), expected)

    made, saved = trainer(), tmp_path / "broken off"
    fit(made, Snapshots(saved))
    break_off(made, saved, TOTAL + 10, epochs=2)
    latest = latest_in(saved)
    assert files.step_of(latest) == TOTAL + STEPS + 2
    restarted = trainer()
    mend = re.escape(f"trainer.restore_snapshot({str(latest)!r}) before fit")
    with pytest.raises(ValueError, match=f"{latest} was taken in call 2 of fit.*{mend}"):
        fit(restarted, Snapshots(saved))
    assert restarted.step == 0
    restarted.restore_snapshot(latest)
    assert_same(fit(restarted, Snapshots(saved), epochs=2), expected)


def test_each_fit_has_its_directory_over_a_restart(tmp_path):
    def train(made: CustomTrainer, *at: Callback) -> dict[str, Any]:
        fit(made, Snapshots(tmp_path / "first"))
        return fit(made, Snapshots(tmp_path / "second"), *at, epochs=2)

    with pytest.raises(KeyboardInterrupt):
        train(trainer(), Interrupts(TOTAL + 10))
    made = trainer()
    ended = train(made)
    fit(again := trainer())
    assert_same(ended, fit(again, epochs=2))


DATA = {
    "arrays": lambda: {},
    "tf.data": lambda: {"x": rows().shuffle(20, seed=3).batch(BATCH)},
    "tf.data without end": lambda: {
        "x": rows().shuffle(20, seed=3).repeat().batch(BATCH),
        "steps_per_epoch": STEPS,
    },
}


@pytest.mark.parametrize("data", **each(DATA))
def test_ctrl_c_then_fit_goes_on_in_the_same_process(tmp_path, capsys, monkeypatch, data):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)
    expected = fit(trainer(), **data())
    made, given = trainer(), data()
    break_off(made, tmp_path, 17, **given)
    assert made.step == 17
    capsys.readouterr()
    ended = fit(made, Snapshots(tmp_path), **given)
    assert "snapshot-000000000015-000002: 2 epochs, and 1 steps" in capsys.readouterr().out
    assert_same(ended, expected)
    assert_same(fit(made, epochs=1, **given)["place"], [TOTAL + STEPS, EPOCHS + 1])


# tf.data


IMAGES = numbers(ROWS, 2, 2, 1)


def image_network() -> keras.Model:
    return keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])


def images() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((IMAGES, Y))


def flips(seed: int | None) -> Callable:
    return lambda x, y: (tf.image.random_flip_left_right(x, seed=seed), y)


FLIPPED = {
    "without a seed": (lambda: images().map(flips(None)), "has no seed"),
    "in parallel": (lambda: images().map(flips(1), num_parallel_calls=2), "in parallel"),
    "before a shuffle": (lambda: images().map(flips(None)).shuffle(20, seed=3), "has no seed"),
    "in a part": (
        lambda: images().take(25).concatenate(images().skip(25).map(flips(None))),
        "has no seed",
    ),
}


def trainer_without_seed(build: Callable[[], keras.Model] = network) -> CustomTrainer:
    """Returns a trainer; what TensorFlow makes after it has no seed that it is not given."""
    made = trainer(build)
    tf.random.set_seed(None)
    return made


@pytest.mark.parametrize(("data", "why"), **each(FLIPPED))
def test_what_cannot_be_drawn_again_is_refused(tmp_path, data, why):
    made, begins = trainer_without_seed(image_network), Begins()
    before = made.model.get_weights()
    with pytest.raises(ValueError, match=f"RandomUniform.*{why}") as refused:
        fit(made, begins, Snapshots(tmp_path), x=data().batch(BATCH))
    assert "tf.image.stateless_random_flip_left_right" in str(refused.value)
    assert begins.begun == []
    assert_same(made.model.get_weights(), before)
    assert names_in(tmp_path) == []
    fit(made, x=data().batch(BATCH))  # which is all right without snapshots
    assert made.step == TOTAL


def test_what_is_drawn_by_a_seed_is_drawn_again(tmp_path, capsys):
    def flipped() -> dict[str, Any]:
        return {"x": images().map(flips(1)).batch(BATCH)}

    expected = fit(trainer_without_seed(image_network), **flipped())
    break_off(trainer_without_seed(image_network), tmp_path, 17, **flipped())
    restarted = trainer_without_seed(image_network)
    assert_same(fit(restarted, Snapshots(tmp_path), **flipped()), expected)
    line = "The data cannot be set back: its first 15 batches are fetched again."
    assert capsys.readouterr().out.count(line) == 1


def test_a_generator_tells_how_many_batches_it_is_asked_for_again(tmp_path, capsys):
    fetched = []

    def batches() -> Iterator[tuple]:
        for epoch, start in itertools.product(range(EPOCHS), range(0, ROWS, BATCH)):
            fetched.append(epoch)
            yield X[start : start + BATCH] + np.float32(epoch), Y[start : start + BATCH]

    expected = fit(trainer(), x=batches(), steps_per_epoch=STEPS)
    break_off(trainer(), tmp_path, 17, x=batches(), steps_per_epoch=STEPS)
    fetched.clear()
    capsys.readouterr()
    assert_same(fit_on(tmp_path, x=batches(), steps_per_epoch=STEPS), expected)
    printed = capsys.readouterr().out.splitlines()
    line = "The data cannot be set back: its first 15 batches are fetched again."
    assert printed.count(line) == 1
    assert len(printed) == 2  # and what it goes on from
    assert len(fetched) == TOTAL


@pytest.mark.parametrize("seed", [None, 3])
def test_a_shuffle_without_a_seed_warns_on_the_restart(tmp_path, seed):
    def shuffled() -> tf.data.Dataset:
        return rows().shuffle(20, seed=seed).batch(BATCH)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        break_off(trainer_without_seed(), tmp_path, 12, x=shuffled())
    restarted = trainer_without_seed()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(restarted, Snapshots(tmp_path), x=shuffled())
    told = [str(one.message) for one in caught if "shuffles without a seed" in str(one.message)]
    assert len(told) == (seed is None)
    assert all("give shuffle a seed" in line for line in told)
    assert restarted.step == TOTAL


# By hand


class SavesByHand(Watches):
    def __init__(self, path: Path, after: int):
        super().__init__()
        self.path, self.after = path, after

    def on_train_batch_end(self, batch, logs=None):
        if self.trainer.step == self.after:
            self.trainer.save_snapshot(self.path)


def test_a_trainer_is_saved_and_restored(tmp_path):
    first, second = trainer(), trainer()
    fit(first)
    first.save_snapshot(tmp_path / "saved")
    second.restore_snapshot(tmp_path / "saved")
    assert (second.step, second.epoch) == (TOTAL, EPOCHS)
    assert_same(second.predict(X, verbose=0), first.predict(X, verbose=0))
    mine, theirs = ([v.numpy() for v in made.optimizer.variables] for made in (second, first))
    assert_same(mine, theirs)
    assert_same(fit(second, epochs=2), fit(first, epochs=2))
    assert_same(second.evaluate(X, Y, verbose=0), first.evaluate(X, Y, verbose=0))


def damaged(path: Path) -> Path:
    flip(path / "arrays.npz", random.Random(1))
    return path


NOT_RESTORABLE = {
    "damaged": (trainer, damaged, "arrays.npz is not what was written"),
    "not there": (trainer, lambda path: path.with_name("nowhere"), "No such file"),
    "of another model": (
        lambda: trainer(other_network),
        lambda path: path,
        OF_WIDTH,
    ),
    "of another optimizer": (
        lambda: trainer(optimizer=keras.optimizers.SGD),
        lambda path: path,
        "optimizer/adam",
    ),
}


@pytest.mark.parametrize(("make", "change", "message"), **each(NOT_RESTORABLE))
def test_a_snapshot_that_does_not_fit_changes_nothing(copy, make, change, message):
    made, expected = make(), fit(make())
    path = change(latest_in(copy))
    before = made.model.get_weights()
    with pytest.raises(ValueError, match=message):
        made.restore_snapshot(path)
    assert_same(made.model.get_weights(), before)
    assert (made.step, made.epoch) == (0, 0)
    assert_same(fit(made), expected)


def test_a_snapshot_that_does_not_fit_is_named(copy):
    path = damaged(latest_in(copy))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        trainer().restore_snapshot(path)


def test_a_model_without_variables_yet_is_told_of(tmp_path):
    def not_built() -> keras.Model:
        return keras.Sequential([keras.layers.Dense(3)])

    made = trainer(not_built)
    fit(made)
    made.save_snapshot(tmp_path / "saved")
    with pytest.raises(ValueError, match="not built"):
        trainer(not_built).restore_snapshot(tmp_path / "saved")


def test_what_was_restored_outlives_a_fit_that_was_refused(copy):
    made = trainer()
    made.restore_snapshot(latest_in(copy))
    with pytest.raises(ValueError, match="batch size"):
        fit(made, batch_size=10)
    assert_same(fit(made), undisturbed())


def test_a_snapshot_asked_for_at_the_end_is_written(tmp_path):
    class SavesAtTheEnd(Watches):
        def on_train_end(self, logs=None):
            self.trainer.save_snapshot(tmp_path / "saved")

    made, restored = trainer(), trainer()
    ended = fit(made, SavesAtTheEnd())
    restored.restore_snapshot(tmp_path / "saved")
    assert_same(restored.model.get_weights(), made.model.get_weights())
    assert [restored.step, restored.epoch] == ended["place"]


def test_a_callback_with_a_state_gets_it_back(tmp_path):
    calls: list[Any] = []

    class WithState(Callback):
        def __init__(self):
            super().__init__()
            self.secret = 0

        def on_train_begin(self, logs=None):
            self.secret = 100
            calls.append("begin")

        def on_epoch_begin(self, epoch, logs=None):
            self.secret += 1
            calls.append(f"epoch {epoch}")

        def get_state(self):
            calls.append("get")
            return {"secret": [self.secret], "array": np.arange(3)}

        def set_state(self, state):
            assert_same(state["array"], np.arange(3))
            (self.secret,) = state["secret"]
            calls.append("set")

    break_off(trainer(), tmp_path, 12, WithState())
    assert calls.count("get") == 3  # after 5, 7 and 10 steps
    assert "set" not in calls
    calls.clear()
    restarted = WithState()
    assert_same(fit(trainer(), restarted, Snapshots(tmp_path)), undisturbed())
    assert calls == ["begin", "epoch 1", "set", "get", "epoch 2", "get"]
    assert restarted.secret == 100 + EPOCHS


def test_history_is_whole_whatever_is_logged(tmp_path):
    class LogsRate(Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["rate"] = self.model.optimizer.learning_rate  # a variable, no number

    expected = fit(trainer(), LogsRate())
    break_off(trainer(), tmp_path, 17, LogsRate())
    ended = fit(trainer(), LogsRate(), Snapshots(tmp_path))
    assert_same(ended["epochs"], expected["epochs"])
    assert_same(ended["history"]["loss"], expected["history"]["loss"])
    assert len(ended["history"]["rate"]) == EPOCHS


# A snapshot changes nothing


def with_noise(x, y):
    return x + tf.random.normal(tf.shape(x), seed=4), y


def with_stateless_noise(row, seed):
    x, y = row
    return x + tf.random.stateless_normal(tf.shape(x), tf.cast([seed, 0], tf.int32)), y


def parts_shuffled(number):
    return rows().skip(10 * number).take(10).shuffle(10, seed=1)


def sampled() -> tf.data.Dataset:
    halves = [rows().take(25).shuffle(9, seed=1), rows().skip(25)]
    return tf.data.Dataset.sample_from_datasets(halves, [0.5, 0.5], seed=2)


PIPELINES = {
    "arrays": None,
    "shuffled": lambda: rows().shuffle(20, seed=3),
    "shuffled by the seed of all": lambda: rows().shuffle(20),
    "shuffled in one order": lambda: rows().shuffle(20, seed=3, reshuffle_each_iteration=False),
    "shuffled twice": lambda: rows().shuffle(7, seed=3).shuffle(9, seed=4),
    "without end": lambda: rows().shuffle(20, seed=3).repeat(),
    "shuffled over the ends": lambda: rows().repeat().shuffle(70, seed=3),
    "cached": lambda: rows().cache().shuffle(20, seed=3),
    "cached in its order": lambda: rows().shuffle(20, seed=3).cache(),
    "of parts": lambda: tf.data.Dataset.range(5).interleave(parts_shuffled, cycle_length=2),
    "sampled": sampled,
    "in parallel": lambda: rows().shuffle(20, seed=3).map(as_they_are, num_parallel_calls=2),
    "with seeds": lambda: tf.data.Dataset.zip(rows(), tf.data.Dataset.random(seed=5)).map(
        with_stateless_noise
    ),
    "that draws": lambda: rows().shuffle(20, seed=3).map(with_noise),
    "shuffled after it drew": lambda: rows().map(with_noise).shuffle(20, seed=3),
    "that calls Python": lambda: rows().shuffle(20, seed=3).map(through_python),
}
ENDLESS = ("without end", "shuffled over the ends")


CASES = {
    **{f"{name}, groups": (name, []) for name in PIPELINES},
    **{f"{name}, single steps": (name, [Slow(0)]) for name in ("arrays", "shuffled")},
}


@pytest.mark.parametrize(("name", "slow"), **each(CASES))
def test_a_snapshot_never_changes_the_training(tmp_path, monkeypatch, name, slow):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)

    def data() -> dict[str, Any]:
        if PIPELINES[name] is None:
            return {}
        steps = {"steps_per_epoch": STEPS} if name in ENDLESS else {}
        return {"x": PIPELINES[name]().batch(BATCH), **steps}

    expected = fit(trainer(), *slow, **data())
    saving = [*slow, Snapshots(tmp_path, every_steps=5, keep=99), Waits(tmp_path, 5)]
    assert_same(fit(trainer(), *saving, **data()), expected)
    for path in files.found_in(tmp_path):
        if files.step_of(path) > 10:
            shutil.rmtree(path)
    assert files.step_of(latest_in(tmp_path)) == 10
    assert_same(fit(trainer(), *saving, **data()), expected, at="after a restart")


TRAININGS: dict[str, Callable[[Path], None]] = {
    "on a full disk": functools.partial(train_while_it_fills, fill=fill_disk),
    "with small files": functools.partial(train_while_it_fills, fill=limit_files),
    "ended in an epoch": lambda directory: train_until_ended(directory, CODE, **LONG),
    "ended in validation": lambda directory: train_until_ended(
        directory, None, Slow(0.02), **HELD_OUT
    ),
}


if __name__ == "__main__":
    writer._SHARE = 0
    from tests import conftest  # noqa: F401  # threads as under test, and so the same bits

    TRAININGS[sys.argv[1]](Path(sys.argv[2]))
