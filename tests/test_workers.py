"""Several workers: files of callbacks, faults, and checks that workers do the same."""

from __future__ import annotations

import csv
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.helpers import cluster, processes, workers
from tests.helpers.cluster import Cluster
from tests.helpers.processes import Ended
from tests.helpers.workers import EPOCHS, STEPS, TOTAL, Moment
from trainer.snapshots import files

ROOT = Path(__file__).parents[1]
GONE = "another one has ended or is silent"
IN_TWO_PROCESSES = [pytest.mark.processes, pytest.mark.xdist_group("two workers")]


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Cluster]:
    """Returns a cluster of two processes that stay alive between tests."""
    both = Cluster(2)
    yield both
    both.stop()


@pytest.fixture(scope="module")
def undisturbed(two_workers, tmp_path_factory) -> Path:
    """Returns a folder with what two workers write that nothing happens to."""
    directory = tmp_path_factory.mktemp("undisturbed")
    two_workers.call(workers.train, directory)
    return directory


def marked(*marks: pytest.MarkDecorator):
    """Returns a decorator that gives a test several marks."""

    def with_marks(test):
        for mark in marks:
            test = mark(test)
        return test

    return with_marks


def assert_ended_well(ended: list[Ended]) -> None:
    assert [one.code for one in ended] == [0] * len(ended), [one.printed[-3000:] for one in ended]


def assert_same_arrays(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    assert len(set(found)) > 30
    for key in expected:
        assert found[key].tobytes() == expected[key].tobytes(), key


def assert_same_bits(directory: Path, other: Path) -> None:
    for name in ("ended-0.npz", "ended-1.npz"):
        with np.load(directory / name) as found, np.load(other / name) as expected:
            assert_same_arrays(found, expected)
    assert (directory / "log.csv").read_text() == (other / "log.csv").read_text()


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-5, atol=1e-6, err_msg=key)


def sentence_of(ended: Ended) -> str:
    """Returns the error that a worker ended with: one line, the last it printed."""
    assert ended.code == 1, ended.printed[-3000:]
    last = ended.printed.strip().splitlines()[-1]
    assert last.startswith("trainer.peers.PeerLostError: Process"), ended.printed[-3000:]
    return last


def struck_at(ended: Ended) -> float:
    """Returns when something came over a worker."""
    return float(ended.printed.partition("struck ")[2].split()[0])


# Faults

KILLS = 6


def moments_of_kills() -> list[Moment]:
    """Returns random moments, early ones first; each worker has half of them."""
    draws = random.Random(3)
    moments = [
        Moment(number % 2, draws.randrange(int(0.8 * TOTAL)), draws.uniform(0, 0.02))
        for number in range(KILLS)
    ]
    return sorted(moments, key=lambda moment: moment.step)


@marked(*IN_TWO_PROCESSES)
def test_killed_workers_resume_to_the_same_bits(tmp_path, undisturbed):
    moments = moments_of_kills()
    assert sorted(moment.worker for moment in moments) == [0] * (KILLS // 2) + [1] * (KILLS // 2)
    for moment in moments:
        ended = cluster.run(workers.train, tmp_path, moment)
        victim, survivor = ended[moment.worker], ended[1 - moment.worker]
        assert victim.code == -signal.SIGKILL, victim.printed[-3000:]
        assert GONE in sentence_of(survivor)
        assert survivor.at - struck_at(victim) < 20  # TensorFlow waits ten for a sign of life
    last = cluster.run(workers.train, tmp_path)
    assert_ended_well(last)
    assert "Training goes on from" in last[0].printed
    assert "Training goes on from" not in last[1].printed
    assert_same_bits(tmp_path, undisturbed)


@pytest.mark.processes
@pytest.mark.parametrize("suspended", [0, 1], ids=["the chief", "the other one"])
def test_a_suspended_worker_ends_the_others(suspended, tmp_path):
    moment = Moment(suspended, 30, 0, signal.SIGSTOP)
    ended = cluster.run(workers.train, tmp_path, moment, suspended=(suspended,))
    sentence = sentence_of(ended[1 - suspended])
    assert GONE in sentence
    assert int(re.search(r"after step (\d+):", sentence)[1]) >= 30
    assert ended[1 - suspended].at - struck_at(ended[suspended]) < 30


@pytest.mark.processes
def test_a_hung_worker_ends_the_others_after_the_timeout():
    chief, other = cluster.run(workers.hang, has_chief=True, suspended=(1,))
    assert f"after step {STEPS}: {GONE}" in sentence_of(chief)
    assert "time" in sentence_of(chief)
    assert 3 <= chief.at - struck_at(other) < 15


@marked(*IN_TWO_PROCESSES)
def test_sigterm_to_one_ends_all_with_a_snapshot(tmp_path, undisturbed):
    in_epoch = cluster.run(workers.train_until_sigterm, tmp_path, Moment(1, 12, 0, signal.SIGTERM))
    assert_ended_early(in_epoch, "another process")
    assert in_epoch[0].at - struck_at(in_epoch[1]) < 5
    in_validation = cluster.run(workers.train_until_sigterm, tmp_path, None)
    assert_ended_early(in_validation, "SIGTERM came")
    last = cluster.run(workers.train, tmp_path)
    assert_ended_well(last)
    assert_same_bits(tmp_path, undisturbed)


def assert_ended_early(ended: list[Ended], reason: str) -> None:
    assert [one.code for one in ended] == [7, 7], [one.printed[-3000:] for one in ended]
    assert f"Training ends early, as {reason}" in ended[0].printed
    assert "Training ends early" not in ended[1].printed


# Workers that differ from one another

DIFFERENCES = {
    "weights": "model/sequential/dense/kernel is another one in process 1 than in the chief",
    "rows": "rows of the data: 153 in process 1, 203 in the chief",
    "content": "first batch of the data is another one in process 1 than in the chief",
    "epochs": f"epochs: {EPOCHS + 1} in process 1, {EPOCHS} in the chief",
    "version": "version of Keras: 0.1 in process 1, ",
    "optimizer": "optimizer 0: SGD in process 1, Adam in the chief",
    "settings": "optimizer 0/clipnorm: 0.1 in process 1, None in the chief",
    "callbacks": "callbacks: ['NaNGuard'] in process 1, [] in the chief",
    "begin": "model/sequential/dense/kernel is another one in process 1 than in the chief",
    "single batch": "the batch is another one in process 1 than in the chief",
    "shuffle": "processes were given different batches. Each reads all of them",
    "PyDataset": "processes were given different batches. Each reads all of them",
}


@marked(*IN_TWO_PROCESSES)
@pytest.mark.parametrize(("what", "sentence"), DIFFERENCES.items(), ids=DIFFERENCES)
def test_workers_that_differ_raise_before_the_first_step(what, sentence, two_workers, tmp_path):
    for error, printed in two_workers.call(workers.fit_with_difference, what, tmp_path):
        assert sentence in error
        assert "Training goes on" not in printed


@marked(*IN_TWO_PROCESSES)
def test_a_snapshot_that_one_worker_has_not_raises_before_the_first_step(two_workers, tmp_path):
    two_workers.call(workers.fit_with_snapshots, tmp_path)
    for error, printed in two_workers.call(workers.fit_with_difference, "snapshot", tmp_path):
        assert "snapshot to go on with: none in process 1, of step 52, checksum " in error
        assert "Training goes on" not in printed


@pytest.mark.processes
def test_iterators_of_different_lengths_end_all_workers_with_an_error():
    printed = [one.printed for one in cluster.run(workers.fit_on_other_lengths)]
    # Which process finds out is chance; to the other one it may have ended.
    meanwhile = "ends after step 15: another one did something else meanwhile"
    assert any(meanwhile in text for text in printed)
    assert all("ends after step 15: another one " in text for text in printed)


# Callbacks that write


@pytest.fixture(scope="module")
def written(two_workers, tmp_path_factory) -> tuple[Path, Path]:
    """Returns a folder with what one process wrote, and one with what two wrote."""
    alone, together = (tmp_path_factory.mktemp(name) for name in ("alone", "together"))
    printed = workers.fit_with_callbacks_that_write(alone)
    assert "Epoch 4/4" in printed
    of_chief, of_other = two_workers.call(workers.fit_with_callbacks_that_write, together)
    assert "Epoch 4/4" in of_chief
    assert "Epoch" not in of_other
    return alone, together


def names_in(folder: Path) -> list[str]:
    """Returns the files in `folder`, without what makes the names of events and arrays unique.

    Of the snapshots only the latest: one that has to wait is left out for the next one.
    """
    latest, *earlier = files.found_in(folder / "snapshots")
    names = (
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.parent not in earlier
    )
    return sorted(re.split(r"\.tfevents\.|-[0-9a-f]{32}", name)[0] for name in names)


@marked(*IN_TWO_PROCESSES)
def test_callbacks_write_the_files_of_one_process(written):
    alone, together = written
    names = names_in(alone)
    assert names_in(together) == names
    assert len(names) > 12


@marked(*IN_TWO_PROCESSES)
def test_the_files_hold_what_those_of_one_process_do(written):
    alone, together = written
    for name in ("epoch-1.keras", "best.weights.h5", "every-seven.weights.h5"):
        assert_close(weights_in(together / name), weights_in(alone / name))
    rows, expected = (list(csv.reader((f / "log.csv").open())) for f in (together, alone))
    assert rows[0] == expected[0]
    assert_close({"log": np.float64(rows[1:])}, {"log": np.float64(expected[1:])})
    written_by_both = names_of_snapshots(alone) & names_of_snapshots(together)
    assert len(written_by_both) > 1
    for name in ("by hand", *(f"snapshots/{name}" for name in written_by_both)):
        found, known = files.read(together / name).arrays, files.read(alone / name).arrays
        variables = {key for key in found if key.startswith("variables/")}
        assert variables == {key for key in known if key.startswith("variables/")}
        assert_close({key: found[key] for key in known}, known)


def names_of_snapshots(folder: Path) -> set[str]:
    return {path.name for path in files.found_in(folder / "snapshots")}


def weights_in(path: Path) -> dict[str, np.ndarray]:
    model = workers.plain_network()
    if path.suffix == ".keras":
        model = keras.saving.load_model(path)
    else:
        model.load_weights(path)
    return {str(number): weight for number, weight in enumerate(model.get_weights())}


# Steps that are not finite, and trainings that are broken off: on two devices, in two processes

ON_DEVICES = [pytest.mark.exhaustive, pytest.mark.xdist_group("two devices")]
TWO_DEVICES = pytest.param(2, None, id="two devices", marks=ON_DEVICES)
TWO_PROCESSES = pytest.param(1, "two_workers", id="two processes", marks=IN_TWO_PROCESSES)
ONE_DEVICE = pytest.param(1, None, id="one device", marks=ON_DEVICES)


def results_of(function: Any, *arguments: Any, devices: int, together: Cluster | None) -> list:
    """Returns the results of a function of `workers`, one of each process."""
    if together is not None:
        return together.call(function, *arguments)
    return [function(*arguments, devices)]


@pytest.fixture
def together(request) -> Cluster | None:
    """Returns the cluster to train in; `None` for devices of this process."""
    return request.getfixturevalue(request.param) if request.param else None


@pytest.mark.parametrize(
    ("devices", "together"), [ONE_DEVICE, TWO_DEVICES, TWO_PROCESSES], indirect=["together"]
)
def test_a_step_that_is_not_finite_is_recorded(devices, together, tmp_path):
    results = results_of(workers.record_failure, tmp_path, devices=devices, together=together)
    for message, replayed in results:
        assert "Step 12, counted from 0, is not finite: loss is nan; " in message
        assert "part 0 of the batch is not finite in row 4; the first layer" in message
        assert np.isnan(replayed)


@pytest.mark.parametrize(
    ("devices", "together"), [TWO_DEVICES, TWO_PROCESSES], indirect=["together"]
)
def test_a_step_on_split_data_that_is_not_finite_is_recorded(devices, together, tmp_path):
    run = workers.record_failure_in_split_data
    for message, replayed in results_of(run, tmp_path, devices=devices, together=together):
        assert "Step 12, counted from 0, is not finite" in message
        assert np.isnan(replayed)


@pytest.mark.parametrize(
    ("devices", "together"), [TWO_DEVICES, TWO_PROCESSES], indirect=["together"]
)
def test_a_step_that_is_not_finite_is_left_out_as_on_one_device(devices, together, tmp_path):
    expected = workers.skip_failures(tmp_path / "one")
    run, folder = workers.skip_failures, tmp_path / "several"
    for found in results_of(run, folder, devices=devices, together=together):
        assert_close(found, expected)


@pytest.mark.parametrize(
    ("source", "devices", "together"),
    [
        pytest.param(source, *where.values, id=f"{where.id}-{source}", marks=where.marks)
        for where, sources in (
            (TWO_DEVICES, ["arrays", "PyDataset", "split by tf.distribute"]),
            (TWO_PROCESSES, ["arrays on disk", "tf.data", "files of each worker"]),
        )
        for source in sources
    ],
    indirect=["together"],
)
def test_they_resume_to_the_same_bits(source, devices, together, tmp_path):
    workers.write_data(tmp_path)
    run = workers.break_off_and_resume
    results = results_of(run, source, tmp_path, devices=devices, together=together)
    assert f"Training goes on from {tmp_path / source}/snapshot-" in results[0].printed
    for result in results:
        assert_same_arrays(result.resumed, result.undisturbed)


@marked(*IN_TWO_PROCESSES)
def test_a_pipeline_that_shuffles_without_a_seed_is_refused(two_workers, tmp_path):
    workers.write_data(tmp_path)
    for error in two_workers.call(workers.fit_on_files_shuffled_without_a_seed, tmp_path):
        assert "The tf.data pipeline shuffles without a seed" in error


# Ray

# Ray starts a dozen processes, six of which import TensorFlow: that is a minute of two processors,
# which the tests' own processor time leaves out. What can be spared is its waiting.
RAY_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # for it to find the lost worker, and the end
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_worker_niceness": "0",  # or a busy machine lets its workers have nothing
}


def run_multi_worker_example(*options: str) -> None:
    """Runs the example of the same training in this process, alone."""
    import multi_worker

    sys.argv = ["multi_worker.py", *options]
    multi_worker.main()


@pytest.mark.examples
def test_ray_restarts_workers_and_they_end_with_the_undisturbed_numbers(tmp_path):
    pytest.importorskip("ray", reason="Ray is an extra")
    script = ROOT / "examples" / "ray_train.py"
    options = ["--epochs", "3", "--lose-worker-at", "50", "--output", tmp_path]
    environment = {**os.environ, **RAY_SETTINGS}
    ended = subprocess.run(
        [sys.executable, script, *options], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-5000:]
    out = ended.stdout + ended.stderr
    assert [path.name for path in tmp_path.glob("*/lost")] == ["lost"]
    assert "Training goes on from" in out
    alone = processes.run(run_multi_worker_example, "--epochs", "3")
    for name in ("loss", "accuracy"):
        (found,) = re.findall(rf"^val_{name} after 3 epochs: (.*)$", out, re.MULTILINE)
        (expected,) = re.findall(rf"^{name} on 360 held-out digits: (.*)$", alone, re.M | re.I)
        assert f"{float(found):.4f}" == expected
