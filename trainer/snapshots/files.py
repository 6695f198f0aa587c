"""Snapshots on disk: a manifest, written last, names the file of the arrays and its checksum.

A snapshot is a folder `snapshot-<step>-<epoch>`. Its file `manifest` has, a line each, the checksum
of the rest; as JSON the facts, and of the file of the arrays its name, its size, its checksum and
the arrays' names and dtypes; the signature of that JSON. A folder without a manifest is no
snapshot. A snapshot is replaced by writing a new file of arrays, then the manifest that names it:
at any time one of both is complete.

What a snapshot from a stranger may do: nothing but fail. The manifest is checked as a whole before
anything else is opened. It names no path: the file of the arrays is in the folder, and its name is
one that `write` gives. Arrays are of plain numbers and not compressed, so that they need no more
memory than their file. Nothing is pickled. Facts are data; what may be set to them is for those to
say who read them (`trainer.snapshots.callbacks`, `trainer.feeds`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import uuid
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainer.snapshots.paths import (
    AnyPath,
    flush_names,
    readable,
    remove_tree,
    shown,
    size_of,
    written,
)
from trainer.snapshots.signing import is_signed, signature_of

FORMAT = 2
_MANIFEST = "manifest"
_NEXT_MANIFEST = "next-manifest"
_ARRAYS = re.compile(r"arrays-[0-9a-f]{32}\.npz")
_NAME = re.compile(r"snapshot-(\d{12,})-(\d{6,})")
_LONGEST_MANIFEST = 2**28  # bytes


class Contents(NamedTuple):
    """What a snapshot holds.

    Attributes:
        facts: what JSON can hold, by name.
        arrays: arrays by name; floats of 16 bits and less, too.
        is_own: whether this user has written it, on this machine.
    """

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]
    is_own: bool = True


class _Manifest(NamedTuple):
    """What a manifest says.

    Attributes:
        facts: what JSON can hold, by name.
        dtypes: the names of the arrays' dtypes by the arrays' names, in the order of the file.
        file: the name of the file of the arrays.
        checksum: of that file.
        size: of that file in bytes.
        is_own: whether the manifest is signed.
    """

    facts: dict[str, Any]
    dtypes: dict[str, str]
    file: str
    checksum: str
    size: int
    is_own: bool


class DamagedSnapshotError(ValueError):
    """A snapshot that is not what was written."""


def name_of(step: int, epoch: int) -> str:
    """Returns the name of the folder of a snapshot, taken after so many steps and epochs."""
    return f"snapshot-{step:012}-{epoch:06}"


def found_in(directory: AnyPath) -> list[AnyPath]:
    """Returns the snapshots in `directory`, damaged ones too, the latest first."""
    return [folder for folder in _folders_in(directory) if _has_manifest(folder)]


def step_of(path: AnyPath) -> int:
    """Returns the steps that were done by a snapshot, told by its name."""
    return _place_of(path)[0]


def _folders_in(directory: AnyPath) -> list[AnyPath]:
    """Returns the folders of snapshots, those without a manifest, too, the latest first."""
    if not directory.is_dir():
        return []
    return sorted(filter(_place_of, directory.iterdir()), key=_place_of, reverse=True)


def _place_of(path: AnyPath) -> tuple[int, int] | None:
    match = _NAME.fullmatch(path.name)
    return match and (int(match[1]), int(match[2]))


def _has_manifest(path: AnyPath) -> bool:
    if (path / _MANIFEST).exists() or path.is_file():
        return True
    with contextlib.suppress(DamagedSnapshotError):
        return bool(_checked_text(path / _NEXT_MANIFEST))
    return False


def check_writable(directory: AnyPath) -> None:
    """Makes `directory`, if need be.

    Raises:
        ValueError: nothing can be written there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        trial = directory / f".trial-{uuid.uuid4().hex}"
        with written(trial) as path:
            path.write_bytes(b"")
        trial.unlink()
    except OSError as error:
        raise ValueError(
            f"Snapshots cannot be written to {shown(directory)}: {error.strerror}. Give a "
            "directory that can be made and written to."
        ) from error


def remove_unfinished(directory: AnyPath) -> None:
    """Removes from `directory` the snapshots that killed processes did not come to finish."""
    for folder in _folders_in(directory):
        if not _has_manifest(folder):
            remove_tree(folder)


def write(path: AnyPath, contents: Contents) -> None:
    """Writes a snapshot to the folder `path`, in place of one that is there.

    Whoever looks while this goes on, or after it was broken off, finds the old one, or none.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)  # its parent may have been removed meanwhile
    name = f"arrays-{uuid.uuid4().hex}.npz"
    try:
        with written(path / name) as local:
            _write_arrays(local, contents.arrays)
            content = {
                **{"format": FORMAT, "facts": contents.facts},
                "arrays": {key: array.dtype.name for key, array in contents.arrays.items()},
                **{"arrays file": name, "checksum": _checksum(local), "size": size_of(local)},
            }
        flush_names(path)
        _write_manifest(path, content)
    except BaseException:
        if is_new:
            remove_tree(path)
        else:
            with contextlib.suppress(OSError):
                (path / name).unlink()
        raise
    flush_names(path)
    flush_names(path.parent)
    for file in path.iterdir():
        if file.name not in (name, _MANIFEST):
            with contextlib.suppress(OSError):
                file.unlink()


def existing(path: AnyPath, writer: str) -> AnyPath:
    """Returns `path`, the folder of a snapshot.

    Raises:
        ValueError: there is no such folder, or it holds the folders of snapshots; what `writer`
            wrote is expected.
    """
    if not path.is_dir():
        raise ValueError(f"There is no folder {shown(path)}: give one that {writer} wrote.")
    if not (path / _MANIFEST).exists():
        inside = [folder for folder in path.iterdir() if (folder / _MANIFEST).exists()]
        if inside:
            latest = max(inside, key=lambda folder: folder.name)
            raise ValueError(
                f"{shown(path)} is a folder of several: give one of them, such as {shown(latest)}."
            )
    return path


def read(path: AnyPath) -> Contents:
    """Returns what is in the snapshot `path`, after all of it was verified.

    Raises:
        DamagedSnapshotError: something is missing or not what was written; the message names it.
        ValueError: another version of the package wrote it.
    """
    manifest = _manifest(path)
    file = path / manifest.file
    try:
        if size_of(file) != manifest.size:
            raise DamagedSnapshotError(f"{file.name} is not what was written")
        with readable(file) as local:
            if _checksum(local) != manifest.checksum:
                raise DamagedSnapshotError(f"{file.name} is not what was written")
            return Contents(manifest.facts, _arrays(local, manifest.dtypes), manifest.is_own)
    except OSError as error:
        raise DamagedSnapshotError(f"{file.name}: {error.strerror}") from None


def prune(directory: AnyPath, latest: AnyPath, keep: int) -> None:
    """Removes all snapshots but `latest` and the `keep` - 1 that were taken just before it."""
    snapshots = found_in(directory)
    if latest not in snapshots:
        return  # somebody has removed it meanwhile
    place = snapshots.index(latest)
    for path in [*snapshots[:place], *snapshots[place + keep :]]:
        with contextlib.suppress(OSError):
            (path / _MANIFEST).unlink()  # from here on it is none
        remove_tree(path)


def _write_manifest(path: AnyPath, content: dict[str, Any]) -> None:
    text = json.dumps(content)
    lines = f"{text}\n{signature_of(text)}\n"
    checksum = hashlib.sha256(lines.encode()).hexdigest()
    with written(path / _NEXT_MANIFEST) as local:
        local.write_text(f"{checksum}\n{lines}", "utf-8")
    (path / _NEXT_MANIFEST).replace(path / _MANIFEST)


def _manifest(path: AnyPath) -> _Manifest:
    """Returns what the manifest of a snapshot says, all of it checked."""
    manifest = path / _MANIFEST
    if not manifest.exists() and (path / _NEXT_MANIFEST).exists():
        manifest = path / _NEXT_MANIFEST  # a store may remove the one before it renames the next
    try:
        text, is_own = _checked_text(manifest)
        content = json.loads(text)
        version = content["format"]
        found = version == FORMAT and _Manifest(
            *(content[key] for key in ("facts", "arrays", "arrays file", "checksum", "size")),
            is_own,
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        if isinstance(error, DamagedSnapshotError):
            raise
        raise _no_manifest(manifest) from None
    if not found:
        raise ValueError(
            f"The snapshot {shown(path)} has format {version}, where this version of the "
            f"package reads {FORMAT}: go on with the version that wrote it, or give another folder."
        )
    if not _is_well_formed(found):
        raise _no_manifest(manifest)
    return found


def _checked_text(path: AnyPath) -> tuple[str, bool]:
    """Returns the text of a manifest whose checksum holds, and whether it is signed."""
    try:
        if size_of(path) > _LONGEST_MANIFEST:
            raise _no_manifest(path)
        with readable(path) as local:
            checksum, lines = local.read_bytes().split(b"\n", 1)
        text, *signature, rest = lines.decode().split("\n")
    except OSError as error:
        raise DamagedSnapshotError(f"{path.name}: {error.strerror}") from None
    except ValueError:  # of what is no text, or not two lines
        raise _no_manifest(path) from None
    # Format 1 had the checksum of its JSON alone: it is to be refused as what it is.
    sums = {hashlib.sha256(part).hexdigest().encode() for part in (lines, lines.rstrip(b"\n"))}
    if rest or len(signature) > 1 or checksum not in sums:
        raise _no_manifest(path)
    return text, bool(signature) and is_signed(text, signature[0])


def _no_manifest(path: AnyPath) -> DamagedSnapshotError:
    return DamagedSnapshotError(f"{path.name} is not what was written")


def _is_well_formed(manifest: _Manifest) -> bool:
    """Returns whether all that a manifest says is of the kind that `write` writes."""
    facts, dtypes, file, checksum, size, _ = manifest
    return (
        isinstance(facts, dict)
        and isinstance(dtypes, dict)
        and all(isinstance(dtype, str) for dtype in dtypes.values())
        and isinstance(file, str)
        and _ARRAYS.fullmatch(file) is not None
        and isinstance(checksum, str)
        and type(size) is int
    )


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    plain = [_plain(array) for array in arrays.values()]
    with path.open("wb") as file:
        np.savez(file, **{str(number): array for number, array in enumerate(plain)})


def _arrays(path: Path, dtypes: dict[str, str]) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                raise ValueError("it is compressed")
        with np.load(path, allow_pickle=False) as loaded:
            return {
                name: _with_dtype(loaded[str(number)], dtype)
                for number, (name, dtype) in enumerate(dtypes.items())
            }
    except Exception as error:
        # The checksum holds, so somebody made it so: with pickled objects, for one.
        raise DamagedSnapshotError(f"{path.name} is not arrays alone: {error}") from error


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _plain(array: np.ndarray) -> np.ndarray:
    """Returns `array` in a dtype of NumPy's own, the same bits."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.isbuiltin == 2 else array


def _with_dtype(array: np.ndarray, name: str) -> np.ndarray:
    return array if array.dtype.name == name else array.view(tf.as_dtype(name).as_numpy_dtype)
