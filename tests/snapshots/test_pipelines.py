"""Pipelines of `tf.data` and generators, gone on with, refused or told of."""

from __future__ import annotations

import itertools
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import Batches, numbers
from tests.helpers.tables import each
from tests.helpers.trainings import (
    BATCH,
    EPOCHS,
    ROWS,
    STEPS,
    TOTAL,
    Begins,
    Slow,
    Waits,
    X,
    Y,
    break_off,
    fit,
    fit_on,
    latest_in,
    names_in,
    network,
    rows,
    trainer,
)
from tests.helpers.ways import doubled_in_python, with_noise
from trainer import CustomTrainer, program
from trainer.callbacks import Snapshots
from trainer.snapshots import files


def as_they_are(x, y):
    return x * 1, y


OTHER_PIPELINES = {
    "no shuffle": lambda: rows().map(as_they_are).batch(BATCH),
    "a step more": lambda: (
        rows().map(as_they_are).shuffle(20, seed=3).map(as_they_are).batch(BATCH)
    ),
    "another step": lambda: rows().enumerate().map(lambda n, row: row).shuffle(20, seed=3).batch(8),
}


@pytest.mark.parametrize("other", **each(OTHER_PIPELINES, ("another step",)))
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


@pytest.mark.parametrize("ahead", [{}, {"num_parallel_calls": 4}], ids=["in turn", "at once"])
def test_what_could_not_be_read_is_read_again_after_a_restart(tmp_path, ahead):
    def lines() -> tf.data.Dataset:
        names = tf.data.Dataset.from_tensor_slices([str(tmp_path / f"{n}") for n in range(ROWS)])

        def read(name):
            row = tf.ensure_shape(tf.io.parse_tensor(tf.io.read_file(name), tf.float32), [4])
            return row, tf.cast(row[0] > 0, tf.int32)

        return names.map(read, **ahead).batch(BATCH)

    for number, row in enumerate(X):
        (tmp_path / f"{number}").write_bytes(tf.io.serialize_tensor(row).numpy())
    expected = fit(trainer(), x=lines())
    (tmp_path / "30").rename(tmp_path / "away")
    saving = Snapshots(tmp_path / "snapshots", every_steps=1)
    with pytest.raises(tf.errors.NotFoundError):
        fit(trainer(), saving, Waits(saving), Slow(0.05), x=lines())
    (tmp_path / "away").rename(tmp_path / "30")
    assert files.step_of(latest_in(tmp_path / "snapshots")) > 0
    assert_same(fit(trainer(), Snapshots(tmp_path / "snapshots"), x=lines()), expected)


class ShuffledInHooks(Batches):
    """Draws the order of each epoch from the generator that anybody may use, as tutorials do."""

    def __init__(self):
        super().__init__((X, Y), BATCH)
        self.order = np.arange(ROWS)
        np.random.seed(1)

    def __getitem__(self, number):
        rows = self.order[number * BATCH : (number + 1) * BATCH]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        np.random.shuffle(self.order)


@pytest.mark.parametrize("at", [9, 16])
def test_an_order_that_is_drawn_in_hooks_goes_on(tmp_path, at):
    expected = fit(trainer(), x=ShuffledInHooks())
    break_off(trainer(), tmp_path, at, x=ShuffledInHooks())
    assert_same(fit(trainer(), Snapshots(tmp_path), x=ShuffledInHooks()), expected)


def test_a_pipeline_that_now_calls_python_is_refused(tmp_path):
    break_off(trainer(), tmp_path, 12, x=rows().map(as_they_are).batch(BATCH))
    made = trainer()
    with pytest.raises(ValueError, match="pipeline"):
        fit(made, Snapshots(tmp_path), x=rows().map(doubled_in_python).batch(BATCH))
    assert made.step == 0


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
    "that calls Python": lambda: rows().shuffle(20, seed=3).map(doubled_in_python),
}


ENDLESS = ("without end", "shuffled over the ends")


CASES = {
    **{f"{name}, groups": (name, []) for name in PIPELINES},
    **{f"{name}, single steps": (name, [Slow(0)]) for name in ("arrays", "shuffled")},
}


DEFAULT = (*("arrays, groups", "shuffled, groups", "cached, groups", "that calls Python, groups"),)


@pytest.mark.parametrize(("name", "slow"), **each(CASES, DEFAULT))
def test_a_snapshot_never_changes_the_training(tmp_path, monkeypatch, name, slow):
    monkeypatch.setattr(program, "STEPS_ALONE", 0)

    def data() -> dict[str, Any]:
        if PIPELINES[name] is None:
            return {}
        steps = {"steps_per_epoch": STEPS} if name in ENDLESS else {}
        return {"x": PIPELINES[name]().batch(BATCH), **steps}

    expected = fit(trainer(), *slow, **data())
    saving = Snapshots(tmp_path, every_steps=5, keep=99)
    callbacks = [*slow, saving, Waits(saving)]
    assert_same(fit(trainer(), *callbacks, **data()), expected)
    for path in files.found_in(tmp_path):
        if files.step_of(path) > 10:
            shutil.rmtree(path)
    assert files.step_of(latest_in(tmp_path)) == 10
    assert_same(fit(trainer(), *callbacks, **data()), expected, at="after a restart")
