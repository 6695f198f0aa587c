"""SIGTERM, and time that is over, end a training with a snapshot."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.helpers.comparisons import assert_same
from tests.helpers.data import ReorderedBatches
from tests.helpers.processes import Process
from tests.helpers.snapshot_processes import (
    CODE,
    LONG,
    ReportsTraining,
    ReportsValidation,
    train_until_ended,
)
from tests.helpers.tables import each
from tests.helpers.trainings import (
    BATCH,
    EPOCHS,
    HELD_OUT,
    STEPS,
    TOTAL,
    Callback,
    Enough,
    Looks,
    Slow,
    Terminates,
    Watches,
    X,
    Y,
    break_off,
    fit,
    fit_on,
    latest_in,
    names_in,
    trainer,
    undisturbed,
)
from trainer.callbacks import Snapshots
from trainer.snapshots import files


class Ended(NamedTuple):
    """How a process ended, and how long after SIGTERM its training did."""

    code: int
    seconds: float
    preempted: bool
    printed: str


def terminated(*arguments: Any) -> Ended:
    """Sends SIGTERM to a process that trains with these arguments, once it is ready."""
    process = Process(train_until_ended, *arguments)
    process.wait_for("ready")
    sent = time.time()
    process.send_signal(signal.SIGTERM)
    code, _, printed = process.wait()
    report = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    return Ended(code, report["at"] - sent, report["preempted"], printed)


@pytest.mark.processes
def test_sigterm_in_an_epoch_ends_the_process_with_a_snapshot(tmp_path):
    ended = terminated(tmp_path, ReportsTraining, CODE, LONG)
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
    ended = terminated(tmp_path, ReportsValidation, None, HELD_OUT)
    assert ended.code == 0, ended.printed  # the process continued
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

    how = {**HELD_OUT, "x": ReorderedBatches((X, Y), BATCH)}
    saving = Snapshots(tmp_path)
    fit(trainer(), Ends(), saving, **how)
    assert saving.preempted
    assert files.read(latest_in(tmp_path)).facts["training"]["step"] == STEPS
    expected = fit(trainer(), **{**how, "x": ReorderedBatches((X, Y), BATCH)})
    assert_same(fit_on(tmp_path, **{**how, "x": ReorderedBatches((X, Y), BATCH)}), expected)


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


@pytest.mark.parametrize(
    "how", **each({"without validation": {}, "with validation": HELD_OUT}, ["with validation"])
)
def test_no_run_that_is_over_at_once_is_in_vain(tmp_path, how):
    saving = Snapshots(tmp_path, max_seconds=1e-9)
    steps = []
    for _ in range(STEPS + 2):
        made = trainer()
        fit(made, Slow(0), saving, **how)
        assert saving.preempted
        steps.append(made.step)
    assert steps == [*range(1, STEPS + 1), STEPS, STEPS + 1]  # once it is the epoch that ends
    assert_same(fit_on(tmp_path, **how), fit(trainer(), **how))
