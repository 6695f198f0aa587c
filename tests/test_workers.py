"""Several workers: what callbacks leave, what faults come to, and what workers tell each other."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests import workers
from trainer.snapshots import files

ROOT = Path(__file__).parents[1]
GONE = "another one has ended or is silent"


class Ended(NamedTuple):
    """How a worker ended: the exit code, when, and what it printed."""

    code: int
    at: float
    printed: str

    @property
    def struck(self) -> float:
        """When something came over it."""
        return float(self.printed.partition("struck ")[2].split()[0])


def run(scenario: str, directory: Path) -> list[tuple[str, list[Ended]]]:
    """Returns the name of each run of a scenario, and how its workers ended."""
    command = [sys.executable, "-m", "tests.workers", scenario, str(directory)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-5000:]
    runs: list[tuple[str, list[Ended]]] = []
    for line in told.stdout.splitlines():
        one = json.loads(line)
        if one["worker"] == 0:
            runs.append((one["run"], []))
        runs[-1][1].append(Ended(one["code"], one["at"], one["printed"]))
    return runs


def assert_ended_well(ended: list[Ended]) -> None:
    assert [one.code for one in ended] == [0] * len(ended), [one.printed[-3000:] for one in ended]


def assert_same_bits(directory: Path, other: Path) -> None:
    for name in ("ended-0.npz", "ended-1.npz"):
        with np.load(directory / name) as found, np.load(other / name) as expected:
            assert set(found) == set(expected)
            assert len(found.files) > 30
            for key in expected:
                assert found[key].tobytes() == expected[key].tobytes(), f"{name}: {key}"
    assert (directory / "log.csv").read_text() == (other / "log.csv").read_text()


def sentence_of(ended: Ended) -> str:
    """Returns what the error says that a worker ended with: one line, the last it printed."""
    assert ended.code == 1, ended.printed[-3000:]
    last = ended.printed.strip().splitlines()[-1]
    assert last.startswith("trainer.peers.PeerLostError: Process"), ended.printed[-3000:]
    return last


def test_killed_workers_go_on_to_the_same_bits(tmp_path):
    (_, undisturbed), *disturbed, (_, last) = run("killed", tmp_path)
    assert_ended_well(undisturbed)
    for name, ended in disturbed:
        victim = int(name.split()[-1])
        survivor = ended[1 - victim]
        assert ended[victim].code == -9
        assert GONE in sentence_of(survivor)
        assert survivor.at - ended[victim].struck < 20  # TensorFlow waits ten for a sign of life
    assert sorted(name for name, _ in disturbed) == sorted(
        [f"killed {victim}" for victim in (0, 1)] * workers.KILLS
    )
    assert_ended_well(last)
    assert "Training goes on from" in last[0].printed
    assert "Training goes on from" not in last[1].printed
    assert_same_bits(tmp_path / "killed", tmp_path / "undisturbed")


def test_a_silent_worker_ends_the_others(tmp_path):
    for name, ended in run("silenced", tmp_path):
        victim = int(name.split()[-1])
        sentence = sentence_of(ended[1 - victim])
        assert GONE in sentence
        assert int(re.search(r"after step (\d+):", sentence)[1]) >= 30
        assert ended[1 - victim].at - ended[victim].struck < 30


def test_a_hung_worker_ends_the_others_after_the_timeout(tmp_path):
    ((_, (chief, other)),) = run("hung", tmp_path)
    assert f"after step {workers.STEPS}: {GONE}" in sentence_of(chief)
    assert "time" in sentence_of(chief)
    assert 3 <= chief.at - other.struck < 15


def test_sigterm_to_one_ends_all_with_a_snapshot(tmp_path):
    (_, undisturbed), (_, in_epoch), (_, in_validation), (_, last) = run("terminated", tmp_path)
    assert_ended_well(undisturbed)
    for ended, reason in ((in_epoch, "another process"), (in_validation, "SIGTERM came")):
        assert [one.code for one in ended] == [7, 7], [one.printed[-3000:] for one in ended]
        assert f"Training ends early, as {reason}" in ended[0].printed
        assert "Training ends early" not in ended[1].printed
    assert in_epoch[0].at - in_epoch[1].struck < 5
    assert_ended_well(last)
    assert_same_bits(tmp_path / "terminated", tmp_path / "undisturbed")


def test_workers_that_differ_are_told_so_before_the_first_step(tmp_path):
    expected = {
        "weights": "model/sequential/dense/kernel is another one in process 1 than in the chief",
        "rows": "rows of the data: 153 in process 1, 203 in the chief",
        "content": "first batch of the data is another one in process 1 than in the chief",
        "epochs": f"epochs: {workers.EPOCHS + 1} in process 1, {workers.EPOCHS} in the chief",
        "version": "version of Keras: 0.1 in process 1, ",
        "settings": "optimizer 0/clipnorm: 0.1 in process 1, None in the chief",
        "callbacks": "callbacks: ['NaNGuard'] in process 1, [] in the chief",
        "begin": "model/sequential/dense/kernel is another one in process 1 than in the chief",
        "single batch": "the batch is another one in process 1 than in the chief",
        "shuffle": "processes were given different batches. Each reads all of them",
        "PyDataset": "processes were given different batches. Each reads all of them",
        "snapshot": "snapshot to go on with: none in process 1, of step 52, checksum ",
    }
    runs = dict(run("differing", tmp_path))
    # Which process finds out is chance; to the other one it may have ended.
    printed = [one.printed for one in runs.pop("length")]
    meanwhile = "ends after step 15: another one did something else meanwhile"
    assert any(meanwhile in text for text in printed)
    assert all("ends after step 15: another one " in text for text in printed)
    assert_ended_well(runs.pop("to be gone on with"))
    assert list(runs) == list(expected)
    for name, ended in runs.items():
        assert_ended_well(ended)
        for one in ended:
            assert "told: " in one.printed
            assert expected[name] in one.printed
            assert "Training goes on" not in one.printed


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Returns a folder with what one process and two wrote: `1/files` and `2/files`."""
    directory = tmp_path_factory.mktemp("written")
    for _, ended in run("writing", directory):
        assert_ended_well(ended)
        assert all("Epoch" not in one.printed for one in ended[1:])
        assert "Epoch 4/4" in ended[0].printed
    return directory


def names_in(folder: Path) -> list[str]:
    """Returns the files in `folder`, without what makes the names of event files unique.

    Of the snapshots only the latest: one that has to wait is left out for the next one.
    """
    latest, *earlier = files.found_in(folder / "snapshots")
    names = (
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.parent not in earlier
    )
    return sorted(name.partition(".tfevents.")[0] for name in names)


def test_callbacks_leave_the_files_of_one_process(written):
    names = names_in(written / "1" / "files")
    assert names_in(written / "2" / "files") == names
    assert len(names) > 12


def test_the_files_hold_what_those_of_one_process_do(written):
    one, two = (written / count / "files" for count in ("1", "2"))
    for name in ("epoch-1.keras", "best.weights.h5", "every-seven.weights.h5"):
        assert_close(weights_in(two / name), weights_in(one / name))
    rows, expected = (list(csv.reader((f / "log.csv").open())) for f in (two, one))
    assert rows[0] == expected[0]
    assert_close({"log": np.float64(rows[1:])}, {"log": np.float64(expected[1:])})
    written_by_both = names_of_snapshots(one) & names_of_snapshots(two)
    assert len(written_by_both) > 1
    for name in ("by hand", *(f"snapshots/{name}" for name in written_by_both)):
        found, known = files.read(two / name).arrays, files.read(one / name).arrays
        variables = {key for key in found if key.startswith("variables/")}
        assert variables == {key for key in known if key.startswith("variables/")}
        assert_close({key: found[key] for key in known}, known)


def names_of_snapshots(folder: Path) -> set[str]:
    return {path.name for path in files.found_in(folder / "snapshots")}


def weights_in(path: Path) -> dict[str, np.ndarray]:
    model = workers.network_for_writing()
    if path.suffix == ".keras":
        model = workers.keras.saving.load_model(path)
    else:
        model.load_weights(path)
    return {str(number): weight for number, weight in enumerate(model.get_weights())}


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-5, atol=1e-6, err_msg=key)


def test_a_step_that_is_not_finite_is_recorded_and_left_out_as_on_one_device(tmp_path):
    runs = dict(run("failing", tmp_path))
    for name, ended in runs.items():
        assert_ended_well(ended)
        for number, one in enumerate(ended):
            assert "told: Step 12, counted from 0, is not finite: loss is nan; " in one.printed
            assert "part 0 of the batch is not finite in row 4; the first layer" in one.printed
            assert "replayed: nan" in one.printed
            if name != "one":
                assert "told of split: Step 12, counted from 0, is not finite" in one.printed
                assert "replayed split: nan" in one.printed
            with (
                np.load(tmp_path / name / f"ended-{number}.npz") as found,
                np.load(tmp_path / "one" / "ended-0.npz") as expected,
            ):
                assert_close(dict(found), dict(expected))
    assert list(runs) == ["one", "devices", "processes"]


def test_what_several_devices_cannot_do_is_told_before_the_first_step(tmp_path):
    ((_, (ended,)),) = run("refused", tmp_path)
    assert_ended_well([ended])
    told = dict(line.split(": ", 1) for line in ended.printed.splitlines() if ": " in line)
    expected = {
        "none": "has the reduction 'none', which several devices cannot share: give it reduction=",
        "weights": "has the reduction 'mean_with_sample_weight', which several devices cannot",
        "no sum": "keeps what is no sum, so several devices cannot share it",
        "no sum in it": "The metric pearson_correlation keeps what is no sum",
        "metric outside": "but the metric outside was made outside of the scope of their strategy",
        "accumulation": "has gradient_accumulation_steps=2, which Keras cannot do on 2 devices",
        "overwriting": "has ema_overwrite_frequency=3, which Keras cannot do on 2 devices",
        "scope": "but the optimizer adam was made outside of the scope of their strategy",
        "model outside": "but the model was made outside of the scope of their strategy",
        "several losses": "it has to be known which loss, target and sample weight an output has",
        "own step": "OwnStep has a train_step of its own, which each of 2 devices takes",
        "own loss": "OwnLoss has a compute_loss of its own, of which 2 devices cannot tell whether",
        "loss called": "A step calls the loss mean_squared_error, whose result Keras divides",
        "gradients applied": "A step applies gradients by the optimizer adam",
        "log computed": "The log 'root' is computed from results of metrics",
        "loss of a batch": "The loss dice is one of all rows of a batch together, which several",
        "loss of all rows": "The loss circle is one of all rows of a batch together",
        "loss weighed": "The loss mean_square returns a single number for all rows, which several",
        "rows": "A batch has arrays of the shapes (None, 1) and (10,): several devices share its",
        "number": "The predict_step returns a single number for a batch, which several devices",
    }
    for what, sentence in expected.items():
        assert sentence in told[what]


def test_devices_and_processes_go_on_to_the_same_bits(tmp_path):
    runs = dict(run("broken off", tmp_path))
    assert [len(ended) for ended in runs.values()] == [1, 2]
    for name, ended in runs.items():
        assert_ended_well(ended)
        folder = tmp_path / name
        kinds = [path.name for path in folder.iterdir() if path.is_dir()]
        assert len(kinds) == 3
        for kind in kinds:
            assert f"Training goes on from {folder / kind}/snapshot-" in ended[0].printed
            for number in range(len(ended)):
                with (
                    np.load(folder / f"{kind}, gone on, {number}.npz") as found,
                    np.load(folder / f"{kind}, undisturbed, {number}.npz") as expected,
                ):
                    assert set(found) == set(expected)
                    for key in expected:
                        assert found[key].tobytes() == expected[key].tobytes(), f"{kind}: {key}"
    for one in runs["processes"]:
        assert "told: The tf.data pipeline shuffles without a seed" in one.printed


def test_ray_starts_workers_anew_and_they_end_with_the_undisturbed_numbers(tmp_path):
    pytest.importorskip("ray", reason="Ray is an extra")

    def told(example: str, *options: str | Path) -> str:
        command = [sys.executable, ROOT / "examples" / f"{example}.py", "--epochs", "3", *options]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-5000:]
        return ended.stdout + ended.stderr

    out = told("ray_train", "--lose-worker-at", "50", "--output", tmp_path)
    assert [path.name for path in tmp_path.glob("*/lost")] == ["lost"]
    assert "Training goes on from" in out
    alone = told("multi_worker")
    for name in ("loss", "accuracy"):
        (found,) = re.findall(rf"^val_{name} after 3 epochs: (.*)$", out, re.MULTILINE)
        (expected,) = re.findall(rf"^{name} on 360 held-out digits: (.*)$", alone, re.M | re.I)
        assert f"{float(found):.4f}" == expected
