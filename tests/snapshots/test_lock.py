"""One process at a time trains with snapshots in a folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.helpers.processes import Process, run
from tests.helpers.trainings import Begins, Watches, fit, names_in, trainer
from trainer.callbacks import Snapshots
from trainer.snapshots.lock import locked


class Waits(Watches):
    def on_epoch_end(self, epoch, logs=None):
        print("trains", flush=True)
        signal.pause()


def train_for_ever(directory: Path) -> None:
    fit(trainer(), Snapshots(directory), Waits())


@pytest.mark.processes
def test_a_second_training_in_a_folder_is_refused_before_its_first_step(tmp_path):
    first = Process(train_for_ever, tmp_path)
    try:
        first.wait_for("trains")
        made, begins = trainer(), Begins()
        with pytest.raises(ValueError, match=f"Process {first.pid} trains with snapshots in"):
            fit(made, begins, Snapshots(tmp_path))
        assert (begins.begun, made.step) == ([], 0)
    finally:
        first.kill()
        first.wait()
    fit(trainer(), Snapshots(tmp_path))  # the lock of a killed process holds nobody up
    assert {name[:9] for name in names_in(tmp_path)} == {"snapshot-"}


def hold_in_a_forked_process(directory: Path) -> None:
    """Holds the lock, forks a process that outlives this one, and prints its number."""
    with locked(directory):
        child = os.fork()
        if not child:
            os.closerange(0, 3)  # whose end the tests wait for
            signal.pause()
        print(child, flush=True)
        os._exit(0)


def test_a_process_that_was_forked_does_not_have_the_lock(tmp_path):
    child = int(run(hold_in_a_forked_process, tmp_path))
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_one_in_the_same_process_leaves_it_held(tmp_path):
    with locked(tmp_path):
        with locked(tmp_path):
            pass
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()
