"""Snapshots in a store that TensorFlow opens; `ram://` stands for those of the cloud."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.trainings import (
    Begins,
    break_off,
    fit,
    fit_on,
    trainer,
    undisturbed,
)
from trainer.callbacks import NaNGuard, Snapshots
from trainer.snapshots import files, writer
from trainer.snapshots.files import Contents
from trainer.snapshots.paths import RemotePath, path_of


@pytest.fixture
def store() -> str:
    """Returns a folder of its own in a store."""
    return f"ram://{uuid.uuid4().hex}/run"


PLACES = [2, 7, 14]  # after a step, after an epoch, after two


@pytest.mark.parametrize(
    "at",
    [pytest.param(n, marks=[] if n in PLACES else pytest.mark.exhaustive) for n in range(2, 21, 2)]
    + [7],
)
def test_a_training_resumes_from_a_store_to_the_same_bits(store, at, monkeypatch):
    monkeypatch.setattr(writer, "_SHARE", 0)
    break_off(trainer(), store, at)
    assert_same(fit_on(store), undisturbed())
    (latest, *_) = files.found_in(path_of(store))
    assert os.fspath(latest).startswith(f"{store}/snapshot-")


def test_a_file_url_is_a_path_of_this_machine(tmp_path):
    break_off(trainer(), f"file://{tmp_path}/run", 9)
    assert files.found_in(tmp_path / "run")
    assert_same(fit_on(tmp_path / "run"), undisturbed())


def test_by_hand(store):
    first, second = trainer(), trainer()
    fit(first)
    first.save_snapshot(f"{store}/saved")
    first.save_snapshot(f"{store}/saved")  # in place of the one before
    second.restore_snapshot(f"{store}/saved")
    assert_same(fit(second), fit(first))
    with pytest.raises(
        ValueError, match="is a folder of several: give one of them, such as ram://"
    ):
        second.restore_snapshot(store)
    with pytest.raises(ValueError, match=f"There is no folder {store}/nowhere"):
        second.restore_snapshot(f"{store}/nowhere")


@pytest.mark.parametrize("callback", [Snapshots, NaNGuard])
def test_a_scheme_that_nothing_opens_is_an_error_before_the_first_step(callback):
    made, begins = trainer(), Begins()
    with pytest.raises(ValueError, match="cannot be written to foo://bucket/run: .*'foo'"):
        fit(made, begins, callback("foo://bucket/run"))
    assert (begins.begun, made.step) == ([], 0)


def test_a_relative_path_stays_where_it_was_when_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saving = Snapshots("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    fit(trainer(), saving)
    assert files.found_in(tmp_path / "run")
    assert not any((tmp_path / "elsewhere").iterdir())


# A store without rename: whoever writes may be gone between any two of its files


class Gone(BaseException):
    """Ends whoever writes, who then can do no more."""


def writing_until(path: RemotePath, contents: Contents, changes: int) -> bool:
    """Writes a snapshot until so many changes of files are made; returns whether that was all."""
    count = 0

    def then_gone(change):
        def changed(*arguments, **named):
            nonlocal count
            if count == changes:
                raise Gone
            count += 1
            return change(*arguments, **named)

        return changed

    def copied_and_removed(old, new, overwrite):
        assert overwrite
        if tf.io.gfile.exists(new):
            tf.io.gfile.remove(new)
        tf.io.gfile.copy(old, new)
        tf.io.gfile.remove(old)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("copy", "remove", "makedirs", "rmtree"):
            patch.setattr(tf.io.gfile, name, then_gone(getattr(tf.io.gfile, name)))
        patch.setattr(tf.io.gfile, "rename", copied_and_removed)
        try:
            files.write(path, contents)
        except Gone:
            return False
    return True


@pytest.mark.parametrize("is_replaced", [False, True], ids=["a new one", "in place of another"])
def test_the_old_one_or_the_new_one_is_there_whenever_the_writer_is_gone(store, is_replaced):
    old, new = (Contents({"step": n}, {"a": np.full(3, n)}) for n in (1, 2))
    found = []
    for changes in range(100):
        directory = path_of(f"{store}/{changes}")
        path = directory / files.name_of(5, epoch=0)
        if is_replaced:
            files.write(path, old)
        is_done = writing_until(path, new, changes)
        there = [files.read(one).facts["step"] for one in files.found_in(directory)]
        assert there in ([[1], [2]] if is_replaced else [[], [2]])
        found += there
        files.remove_unfinished(directory)
        assert [files.read(one).facts["step"] for one in files.found_in(directory)] == there
        if is_done:
            break
    assert is_done
    assert changes > 3
    assert found[-1] == 2
    assert (1 in found) == is_replaced


def test_paths(tmp_path):
    path = path_of("gs://bucket/run/")
    assert (str(path), path.name, str(path.parent)) == ("gs://bucket/run", "run", "gs://bucket")
    assert str(path / "a") == "gs://bucket/run/a"
    assert path_of(path) == path
    assert path_of(tmp_path) == path_of(str(tmp_path)) == path_of(f"file://{tmp_path}") == tmp_path
    assert path_of("run") == Path.cwd() / "run"
