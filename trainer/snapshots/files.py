"""Snapshots on disk: written beside, flushed, then renamed; read only where every checksum holds.

A snapshot is a folder `snapshot-<step>-<epoch>`: `arrays.npz` holds the arrays, `manifest` its own
checksum on a line, then, as JSON, the facts and the checksum of the other file. Nothing is pickled,
so loading a snapshot runs no code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

FORMAT = 1
_MANIFEST, _ARRAYS = "manifest", "arrays.npz"
_NAME = re.compile(r"snapshot-(\d{12,})-(\d{6,})")
_UNFINISHED = ".unfinished-"


class Contents(NamedTuple):
    """What a snapshot holds.

    Attributes:
        facts: what JSON can hold, by name.
        arrays: arrays by name; floats of 16 bits and less, too.
    """

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]


class DamagedSnapshotError(ValueError):
    """A snapshot that is not what was written."""


def name_of(step: int, epoch: int) -> str:
    """Returns the name of the folder of a snapshot, taken after so many steps and epochs."""
    return f"snapshot-{step:012}-{epoch:06}"


def found_in(directory: Path) -> list[Path]:
    """Returns the snapshots in `directory`, damaged ones too, the latest first."""
    if not directory.is_dir():
        return []
    return sorted(filter(_place_of, directory.iterdir()), key=_place_of, reverse=True)


def step_of(path: Path) -> int:
    """Returns the steps that were done by a snapshot, told by its name."""
    return _place_of(path)[0]


def _place_of(path: Path) -> tuple[int, int] | None:
    match = _NAME.fullmatch(path.name)
    return match and (int(match[1]), int(match[2]))


def check_writable(directory: Path) -> None:
    """Makes `directory`, and clears away what killed processes left unfinished in it.

    Raises:
        ValueError: nothing can be written there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ValueError(
            f"Snapshots cannot be written to {directory}: {error.strerror}. Give a directory that "
            "can be made and written to."
        ) from error


@contextlib.contextmanager
def _unfinished(directory: Path) -> Iterator[Path]:
    """Yields a new folder in `directory` that is removed in the end, if it is still there."""
    folder = directory / f"{_UNFINISHED}{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(path: Path, contents: Contents) -> None:
    """Writes a snapshot to the folder `path`, in place of one that is there.

    Whoever looks while this goes on, or after it was broken off, finds no new snapshot there.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    facts, arrays = contents
    path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have removed it meanwhile
    with _unfinished(path.parent) as folder:
        names = [str(number) for number in range(len(arrays))]
        plain = [_plain(array) for array in arrays.values()]
        np.savez(folder / _ARRAYS, **dict(zip(names, plain, strict=True)))
        files = {_ARRAYS: _checksum(folder / _ARRAYS, flush=True)}
        dtypes = {name: array.dtype.name for name, array in arrays.items()}
        _write_manifest(
            folder / _MANIFEST,
            {"format": FORMAT, "facts": facts, "arrays": dtypes, "files": files},
        )
        _flush(folder)
        if path.exists():
            os.replace(path, folder.with_name(f"{folder.name}-replaced"))
        os.replace(folder, path)
        _flush(path.parent)
    shutil.rmtree(folder.with_name(f"{folder.name}-replaced"), ignore_errors=True)


def existing(path: Path, writer: str) -> Path:
    """Returns `path`, the folder of a snapshot.

    Raises:
        ValueError: there is no such folder, or it holds the folders of snapshots; what `writer`
            wrote is expected.
    """
    if not path.is_dir():
        raise ValueError(f"There is no folder {path}: give one that {writer} wrote.")
    inside = sorted(manifest.parent for manifest in path.glob(f"*/{_MANIFEST}"))
    if inside and not (path / _MANIFEST).exists():
        raise ValueError(f"{path} is a folder of several: give one of them, such as {inside[-1]}.")
    return path


def read(path: Path) -> Contents:
    """Returns what is in the snapshot `path`, after all of it was verified.

    Raises:
        DamagedSnapshotError: something is missing or not what was written; the message names it.
        ValueError: another version of the package wrote it.
    """
    manifest = _manifest(path / _MANIFEST)
    for name, expected in manifest["files"].items():
        try:
            checksum = _checksum(path / name)
        except OSError as error:
            raise DamagedSnapshotError(f"{name}: {error.strerror}") from None
        if checksum != expected:
            raise DamagedSnapshotError(f"{name} is not what was written")
    return Contents(manifest["facts"], _arrays(path / _ARRAYS, manifest["arrays"]))


def prune(directory: Path, latest: Path, keep: int) -> None:
    """Removes all snapshots but `latest` and the `keep` - 1 that were taken just before it."""
    snapshots = found_in(directory)
    if latest not in snapshots:
        return  # somebody has removed it meanwhile
    place = snapshots.index(latest)
    for path in [*snapshots[:place], *snapshots[place + keep :]]:
        shutil.rmtree(path, ignore_errors=True)


def _write_manifest(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content)
    checksum = hashlib.sha256(text.encode()).hexdigest()
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{checksum}\n{text}\n")
        file.flush()
        os.fsync(file.fileno())


def _manifest(path: Path) -> dict[str, Any]:
    try:
        checksum, text, rest = path.read_text("utf-8").split("\n")
        if rest or hashlib.sha256(text.encode()).hexdigest() != checksum:
            raise ValueError
    except OSError as error:
        raise DamagedSnapshotError(f"{path.name}: {error.strerror}") from None
    except ValueError:  # of what is no text, or not two lines, too
        raise DamagedSnapshotError(f"{path.name} is not what was written") from None
    content = json.loads(text)
    if content["format"] != FORMAT:
        raise ValueError(
            f"The snapshot {path.parent} has format {content['format']}, where this version of the "
            f"package reads {FORMAT}: go on with the version that wrote it, or give another folder."
        )
    return content


def _arrays(path: Path, dtypes: dict[str, str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as loaded:
            return {
                name: _with_dtype(loaded[str(number)], dtype)
                for number, (name, dtype) in enumerate(dtypes.items())
            }
    except Exception as error:
        # The checksum holds, so somebody made it so: with pickled objects, for one.
        raise DamagedSnapshotError(f"{path.name} is not arrays alone: {error}") from error


def _checksum(path: Path, flush: bool = False) -> str:
    digest = hashlib.sha256()
    with path.open("r+b" if flush else "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
        if flush:
            os.fsync(file.fileno())
    return digest.hexdigest()


def _flush(folder: Path) -> None:
    """Makes the names in `folder` last, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns `array` in a dtype of NumPy's own, the same bits."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.isbuiltin == 2 else array


def _with_dtype(array: np.ndarray, name: str) -> np.ndarray:
    return array if array.dtype.name == name else array.view(tf.as_dtype(name).as_numpy_dtype)
