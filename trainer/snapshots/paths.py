"""Paths of snapshots: on a disk of this machine, or in a store that TensorFlow can open."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

gfile = tf.io.gfile
_SCHEME = "://"
_LOCAL = "file://"


class RemotePath(os.PathLike):
    """A path in a store, such as `gs://bucket/run`, with the methods of `pathlib.Path` it needs.

    What TensorFlow raises comes as an `OSError`.

    Args:
        url: the path.
    """

    def __init__(self, url: str):
        self._url = url.rstrip("/")

    def __fspath__(self) -> str:
        return self._url

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"RemotePath({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._url == other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self._url}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        """The folder that the path is in."""
        return RemotePath(self._url.rpartition("/")[0])

    def exists(self) -> bool:  # noqa: D102
        with _os_errors(self):
            return gfile.exists(self._url)

    def is_dir(self) -> bool:  # noqa: D102
        with _os_errors(self):
            return gfile.isdir(self._url)

    def is_file(self) -> bool:  # noqa: D102
        return self.exists() and not self.is_dir()

    def iterdir(self) -> Iterator[RemotePath]:  # noqa: D102
        with _os_errors(self):
            names = {name.strip("/") for name in gfile.listdir(self._url)}
        return (self / name for name in sorted(names))

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:  # noqa: D102
        with _os_errors(self):
            gfile.makedirs(self._url)

    def size(self) -> int:
        """Returns the size of a file in bytes."""
        with _os_errors(self):
            return gfile.stat(self._url).length

    def unlink(self) -> None:  # noqa: D102
        with _os_errors(self):
            gfile.remove(self._url)

    def replace(self, target: RemotePath) -> None:  # noqa: D102
        with _os_errors(self):
            gfile.rename(self._url, os.fspath(target), overwrite=True)

    def remove_tree(self) -> None:
        """Removes the folder and all that is in it."""
        with _os_errors(self):
            gfile.rmtree(self._url)

    def copy_to(self, path: Path) -> None:
        """Copies the file to this machine."""
        with _os_errors(self):
            gfile.copy(self._url, os.fspath(path), overwrite=True)

    def copy_from(self, path: Path) -> None:
        """Copies a file of this machine here."""
        with _os_errors(self):
            if gfile.exists(self._url):
                gfile.remove(self._url)  # not every store overwrites a file
            gfile.copy(os.fspath(path), self._url)


AnyPath = Path | RemotePath


def path_of(place: str | os.PathLike) -> AnyPath:
    """Returns the path that a string or path-like object names."""
    text = os.fspath(place)
    if text.startswith(_LOCAL):
        text = text.removeprefix(_LOCAL)
    elif _SCHEME in text:
        return RemotePath(text)
    return Path(text).absolute()  # whatever the working directory becomes


def shown(path: AnyPath) -> str:
    """Returns a path as users name it: relative where it is in the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if isinstance(path, Path) and here in path.parents else path)


@contextlib.contextmanager
def written(path: AnyPath) -> Iterator[Path]:
    """Yields a path of this machine to write; what is written there lasts at `path` in the end."""
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / path.name
            yield local
            path.copy_from(local)
    else:
        yield path
        with path.open("r+b") as file:
            os.fsync(file.fileno())


@contextlib.contextmanager
def readable(path: AnyPath) -> Iterator[Path]:
    """Yields a path of this machine that has what `path` has."""
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / path.name
            path.copy_to(local)
            yield local
    else:
        yield path


def size_of(path: AnyPath) -> int:
    """Returns the size of a regular file in bytes.

    Raises:
        OSError: there is no such file, or it is a folder, a pipe, a device.
    """
    if isinstance(path, RemotePath):
        return path.size()
    if not path.is_file() and path.exists():
        raise OSError(None, "is no regular file")
    return path.stat().st_size


def remove_tree(path: AnyPath) -> None:
    """Removes a folder and all that is in it, where that can be done."""
    with contextlib.suppress(OSError):
        if isinstance(path, RemotePath):
            path.remove_tree()
        else:
            shutil.rmtree(path)


def flush_names(folder: AnyPath) -> None:
    """Makes the names in a folder last, where the system can."""
    if isinstance(folder, Path):
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


@contextlib.contextmanager
def _os_errors(path: RemotePath) -> Iterator[None]:
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(None, error.message, os.fspath(path)) from error
