"""Snapshots on disk: the same bits come back, or an error that says what is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as drawn

from tests.helpers.hostile import manifest_of, write_manifest
from tests.helpers.processes import Process
from tests.helpers.tables import each
from tests.helpers.trainings import wait_until
from trainer.snapshots import files
from trainer.snapshots.files import Contents, DamagedSnapshotError

FACTS = {"epoch": 3, "history": {"loss": [0.1, float("inf")]}, "names": ["ä", None, True]}
ARRAYS = {
    "dense/kernel": np.arange(6, dtype="float32").reshape(2, 3),
    "optimizer/iterations": np.int64(7) * np.ones((), "int64"),
}
DTYPES = [
    "bool",
    "uint8",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    ">f4",
    "U3",
]
SMALL_DTYPES = [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = tmp_path / files.name_of(120, epoch=2)
    files.write(path, Contents(FACTS, ARRAYS))
    return path


def assert_is_whole(path: Path) -> None:
    facts, arrays, _ = files.read(path)
    assert facts == FACTS
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        assert arrays[name].tobytes() == array.tobytes()


def test_what_was_written_is_read(snapshot):
    assert_is_whole(snapshot)
    assert sorted(path.name for path in snapshot.iterdir()) == [
        arrays_of(snapshot).name,
        "manifest",
    ]


def arrays_of(snapshot: Path) -> Path:
    """Returns the file of a snapshot's arrays."""
    (path,) = snapshot.glob("arrays-*.npz")
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(data=st.data())
def test_arrays_of_any_shape_and_dtype_come_back_bit_for_bit(tmp_path, data):
    def one(dtype):
        shape = data.draw(drawn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        return data.draw(drawn.arrays(dtype, shape))

    arrays = {f"a/{dtype}": one(dtype) for dtype in DTYPES}
    for dtype in SMALL_DTYPES:
        arrays[str(dtype)] = one("uint16" if dtype is ml_dtypes.bfloat16 else "uint8").view(dtype)
    files.write(tmp_path / "snapshot", Contents({}, arrays))
    found = files.read(tmp_path / "snapshot").arrays
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def test_nothing_at_all_can_be_written_and_read(tmp_path):
    files.write(tmp_path / "snapshot", Contents({}, {}))
    assert files.read(tmp_path / "snapshot") == Contents({}, {})


# Damage

DAMAGES = {
    "removed": lambda path, draws: path.unlink(),
    "emptied": lambda path, draws: path.write_bytes(b""),
    "cut short": lambda path, draws: os.truncate(path, draws.randrange(path.stat().st_size)),
    "longer": lambda path, draws: path.write_bytes(path.read_bytes() + b"\n"),
    "a bit flipped": lambda path, draws: flip(path, draws),
    "a folder": lambda path, draws: (path.unlink(), path.mkdir()),
}


def flip(path: Path, draws: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["manifest", "arrays"])
def test_damage_is_told_by_the_name_of_the_file(tmp_path, snapshot, file, damage):
    draws = random.Random(f"{file} {damage}")
    name = "manifest" if file == "manifest" else arrays_of(snapshot).name
    for _ in range(10):
        copy = tmp_path / "damaged"
        shutil.copytree(snapshot, copy)
        DAMAGES[damage](copy / name, draws)
        with pytest.raises(DamagedSnapshotError, match=name):
            files.read(copy)
        shutil.rmtree(copy)


def test_a_later_format_is_told_and_no_damage(snapshot):
    rewrite_manifest(snapshot, format=3)
    with pytest.raises(ValueError, match="has format 3, .* reads 2: go on with") as told:
        files.read(snapshot)
    assert not isinstance(told.value, DamagedSnapshotError)


def test_the_first_format_is_told_and_no_damage(tmp_path):
    text = json.dumps({"format": 1, "facts": {}})
    checksum = hashlib.sha256(text.encode()).hexdigest()
    (tmp_path / "manifest").write_text(f"{checksum}\n{text}\n", "utf-8")
    with pytest.raises(ValueError, match="has format 1, .* reads 2: go on with") as told:
        files.read(tmp_path)
    assert not isinstance(told.value, DamagedSnapshotError)


def test_pickled_objects_are_refused_and_run_nothing(tmp_path, snapshot):
    witness = tmp_path / "ran"

    class Runs:
        def __reduce__(self):
            return Path.touch, (witness,)

    np.savez(arrays_of(snapshot), **{"0": np.array([Runs()]), "1": np.zeros(())})
    rewrite_checksum(snapshot)
    with pytest.raises(DamagedSnapshotError, match=r"arrays-.*\.npz is not arrays alone"):
        files.read(snapshot)
    assert not witness.exists()
    pickle.loads(pickle.dumps(Runs()))  # what it would have done
    assert witness.exists()


def test_arrays_that_are_no_archive_are_refused(snapshot):
    for data in (b"", b"PK\x03\x04 and no more", pickle.dumps([1]), saved(np.zeros(2))):
        arrays_of(snapshot).write_bytes(data)
        rewrite_checksum(snapshot)
        with pytest.raises(DamagedSnapshotError, match=r"arrays-.*\.npz is not arrays alone"):
            files.read(snapshot)


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def rewrite_checksum(snapshot: Path) -> None:
    """Lets the manifest hold for the file of arrays that is there."""
    data = arrays_of(snapshot).read_bytes()
    rewrite_manifest(snapshot, checksum=hashlib.sha256(data).hexdigest(), size=len(data))


def rewrite_manifest(snapshot: Path, **changes) -> None:
    """Changes entries of the manifest, with a checksum that holds."""
    write_manifest(snapshot, manifest_of(snapshot) | changes)


# One beside the other


def test_the_latest_comes_first(tmp_path):
    places = [(70, 2), (70, 1), (5, 0), (1_000_000_000_000_000, 1_000_000_000)]
    for place in places:
        files.write(tmp_path / files.name_of(*place), Contents({"place": place}, {}))
    (tmp_path / "snapshot-of-something-else").mkdir()
    found = files.found_in(tmp_path)
    assert [tuple(files.read(path).facts["place"]) for path in found] == sorted(places)[::-1]
    assert [files.step_of(path) for path in found[1:]] == [70, 70, 5]
    assert files.found_in(tmp_path / "nowhere") == []


def test_a_snapshot_takes_the_place_of_one_of_the_same_step(tmp_path, snapshot):
    files.write(snapshot, Contents({"new": True}, {}))
    assert files.read(snapshot).facts == {"new": True}
    assert [path.name for path in tmp_path.iterdir()] == [snapshot.name]


def test_pruning_keeps_the_latest_and_those_before_it(tmp_path):
    paths = [tmp_path / files.name_of(step, epoch=0) for step in range(6)]
    for path in paths:
        files.write(path, Contents({}, {}))
    # The later ones are of a future that was given up.
    files.prune(tmp_path, paths[3], keep=2)
    assert files.found_in(tmp_path) == [paths[3], paths[2]]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, snapshot):
    class Unwritable(dict):
        pass

    with pytest.raises(TypeError):
        files.write(snapshot, Contents({"fact": Unwritable.fromkeys}, {}))
    assert_is_whole(snapshot)
    assert sorted(path.name for path in tmp_path.iterdir()) == [snapshot.name]


def write_snapshots(directory: Path) -> None:
    files.check_writable(directory)
    for step in range(1_000_000):
        array = np.full(100_000, step)
        latest = directory / files.name_of(step, 0)
        files.write(latest, files.Contents({"step": step}, {"a": array}))
        files.prune(directory, latest, keep=2)


def unfinished_files(directory: Path) -> list[str] | None:
    """Returns the kinds of files of the snapshot that is being written, if one is."""
    folders = [f for f in directory.glob("snapshot-*") if not (f / "manifest").exists()]
    return sorted(path.name.partition("-")[0] for path in folders[0].iterdir()) if folders else None


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "before the arrays": lambda directory: unfinished_files(directory) == [],
    "in the arrays": lambda directory: unfinished_files(directory) == ["arrays"],
    "in the manifest": lambda directory: unfinished_files(directory) == ["arrays", "next"],
    "before pruning": lambda directory: len(files.found_in(directory)) > 2,
}


@pytest.mark.processes
@pytest.mark.parametrize("is_moment", **each(MOMENTS))
def test_a_process_killed_while_writing_leaves_whole_snapshots(tmp_path, is_moment):
    process = Process(write_snapshots, tmp_path)
    try:
        wait_until(lambda: len(files.found_in(tmp_path)) >= 2)
        wait_until(lambda: is_stopped_when(process, lambda: is_moment(tmp_path)))
    finally:
        process.kill()
        process.wait()
    latest = files.found_in(tmp_path)[0]
    facts, arrays, _ = files.read(latest)
    assert latest.name == files.name_of(facts["step"], 0)
    assert (arrays["a"] == facts["step"]).all()
    files.remove_unfinished(tmp_path)
    assert {path.name[:9] for path in tmp_path.iterdir()} == {"snapshot-"}


def is_stopped_when(process: Process, holds: Callable[[], bool]) -> bool:
    """Stops a process, and lets it continue if the condition does not hold then."""
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    if holds():
        return True
    process.send_signal(signal.SIGCONT)
    return False


def test_a_directory_is_made_or_refused(tmp_path):
    files.check_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to .*file: .*Give a directory"):
        files.check_writable(tmp_path / "file")
