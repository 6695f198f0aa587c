"""`SampleImages`: when it draws, what, and that it leaves the training alone."""

from __future__ import annotations

import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import gans
from tests.helpers.comparisons import assert_same
from tests.helpers.data import numbers
from tests.helpers.gans import batches, fit, gan, images, state_of, untrained
from tests.helpers.models import mlp
from trainer import CustomTrainer
from trainer.callbacks import ForNetwork, SampleImages
from trainer.images import grid

pytestmark = pytest.mark.xdist_group("gan")


def files(folder):
    return sorted(os.listdir(folder)) if os.path.exists(folder) else []


def read(path):
    return tf.io.decode_png(tf.io.read_file(str(path))).numpy()


def step_files(*steps):
    return [f"step_{step:07d}.png" for step in steps]


class Asks(keras.callbacks.Callback):
    """Notes after which steps `sampling` says beforehand that it wants the batch."""

    def __init__(self, sampling):
        super().__init__()
        self.sampling = sampling
        self.wanted = []

    def set_trainer(self, trainer):
        self.trainer = trainer

    def on_train_batch_end(self, batch, logs=None):
        if self.sampling.wants_batch(batch):
            self.wanted.append(self.trainer.step)


UNEVEN = [images(24), images(8), images(32)]  # epochs of 3, 1 and 4 steps


@pytest.mark.parametrize(
    ("every", "due"),
    [(1, range(1, 9)), (2, [2, 4, 6, 8]), (3, [3, 6]), (4, [4, 8]), (5, [5]), (8, [8]), (9, [])],
)
def test_a_picture_is_due_every_so_many_steps_of_all_epochs(tmp_path, every, due):
    trainer = untrained()
    sampling = SampleImages(tmp_path, every=every, grid=(1, 2))
    asks = Asks(sampling)
    for data in UNEVEN:
        fit(trainer, callbacks=[asks, sampling], data=data, batch_size=gans.BATCH)
    assert files(tmp_path) == step_files(*due)
    assert asks.wanted == list(due)


def test_a_picture_is_due_after_each_epoch(tmp_path):
    trainer = untrained()
    sampling = SampleImages(tmp_path / "a", grid=(1, 2))
    asks = Asks(sampling)
    fit(trainer, callbacks=[asks, sampling], epochs=2)
    assert files(tmp_path / "a") == ["epoch_0001.png", "epoch_0002.png"]
    assert asks.wanted == []
    fit(trainer, callbacks=[sampling], epochs=3, initial_epoch=2)
    assert files(tmp_path / "a")[2:] == ["epoch_0003.png"]


@pytest.mark.parametrize("every", [2, 4])
def test_with_groups_of_steps_a_picture_follows_the_group_that_has_the_step(tmp_path, every):
    trainer = gan(steps_per_execution=2, networks=gans.linear_networks)
    fit(
        trainer,
        callbacks=[SampleImages(tmp_path, every=every, grid=(1, 2))],
        epochs=2,
        data=images(32),
        batch_size=8,
    )
    assert files(tmp_path) == step_files(*range(every, 9, every))


@pytest.mark.parametrize(
    ("every", "due"),
    [
        (2, [2, 5, 6, 8]),
        pytest.param(3, [3, 6, 9], marks=pytest.mark.exhaustive),
        pytest.param(4, [5, 8], marks=pytest.mark.exhaustive),
        pytest.param(1, [2, 3, 5, 6, 8, 9], marks=pytest.mark.exhaustive),
    ],
)
def test_with_groups_and_odd_epochs_a_picture_is_named_by_the_steps_trained(tmp_path, every, due):
    trainer = gan(steps_per_execution=2, networks=gans.linear_networks)
    fit(trainer, callbacks=[SampleImages(tmp_path, every=every, grid=(1, 2))], epochs=3)
    assert files(tmp_path) == step_files(*due)


def test_a_picture_is_a_grid_of_the_same_latent_points_each_time(tmp_path):
    trainer, made = untrained(), []
    sampling = SampleImages(tmp_path, grid=(2, 3), seed=5)
    noting = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: made.append(trainer.generate(6, seed=5))
    )
    fit(trainer, callbacks=[sampling, noting], epochs=2)
    for number, pictures in enumerate(made):
        pixels = read(tmp_path / f"epoch_{number + 1:04d}.png")
        assert pixels.shape == (16, 24, 1)
        np.testing.assert_array_equal(pixels, grid(pictures, 3, (-1.0, 1.0)))
    points = keras.random.normal((6, gans.LATENT), seed=keras.random.SeedGenerator(5))
    assert_same(made[-1], trainer.generator.predict(points, verbose=0))
    assert (made[0] != made[1]).any()


def test_a_seed_of_its_own_makes_other_pictures(tmp_path):
    fit(
        untrained(),
        callbacks=[
            *(SampleImages(tmp_path / str(seed), grid=(1, 2), seed=seed) for seed in (0, 1)),
            SampleImages(tmp_path / "again", grid=(1, 2)),
        ],
    )
    first, other, again = (read(tmp_path / name / "epoch_0001.png") for name in ("0", "1", "again"))
    assert (first != other).any()
    np.testing.assert_array_equal(first, again)


def test_black_and_white_may_be_given(tmp_path):
    trainer = untrained()
    fit(trainer, callbacks=[SampleImages(tmp_path, grid=(1, 2), value_range=(-0.5, 0.25))])
    expected = grid(trainer.generate(2, seed=0), 2, (-0.5, 0.25))
    np.testing.assert_array_equal(read(tmp_path / "epoch_0001.png"), expected)


def test_a_generator_of_unknown_range_makes_black_of_0_and_white_of_1(tmp_path):
    trainer = gan(networks=gans.linear_networks)
    fit(trainer, callbacks=[SampleImages(tmp_path, grid=(1, 2))])
    assert trainer.value_range is None
    expected = grid(trainer.generate(2, seed=0), 2, (0.0, 1.0))
    np.testing.assert_array_equal(read(tmp_path / "epoch_0001.png"), expected)


@pytest.mark.parametrize("every", [1, 2, "epoch"])
def test_pictures_never_change_the_training(tmp_path, every):
    trainer = untrained()
    history = fit(trainer, epochs=2).history
    without = state_of(trainer)
    trainer = untrained()
    sampling = SampleImages(tmp_path / "a", every, (1, 2), tensorboard=tmp_path / "b")
    assert_same(fit(trainer, callbacks=[sampling], epochs=2).history, history)
    assert_same(state_of(trainer), without)
    assert files(tmp_path / "a")


def test_labels_say_what_the_pictures_show(tmp_path):
    trainer = untrained(gans.conditional_gan)
    sampling = SampleImages(tmp_path, grid=(2, 2), labels=[0, 1, 2, 0], value_range=(-1.0, 1.0))
    fit(trainer, callbacks=[sampling], data=batches(images(), gans.image_labels()))
    expected = grid(trainer.generate(4, seed=0, labels=[0, 1, 2, 0]), 2, (-1.0, 1.0))
    np.testing.assert_array_equal(read(tmp_path / "epoch_0001.png"), expected)
    other = grid(trainer.generate(4, seed=0, labels=[1, 1, 1, 1]), 2, (-1.0, 1.0))
    assert (other != expected).any()


@pytest.mark.parametrize(("every", "steps"), [("epoch", [1, 2]), (2, [2, 4, 6])])
def test_tensorboard_gets_the_same_pictures(tmp_path, every, steps):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    sampling = SampleImages(tmp_path / "files", every, (1, 2), tensorboard=tmp_path / "board")
    fit(untrained(), callbacks=[sampling], epochs=2)
    events = accumulator(str(tmp_path / "board"))
    events.Reload()
    images_of = events.Tensors("samples")
    assert [event.step for event in images_of] == steps
    for event, name in zip(images_of, files(tmp_path / "files"), strict=True):
        _, _, png = tf.make_ndarray(event.tensor_proto)  # width, height, picture
        shown = tf.io.decode_png(png, channels=1)
        np.testing.assert_array_equal(shown, read(tmp_path / "files" / name))


def test_a_fit_after_another_goes_on_with_tensorboard(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    trainer = untrained()
    sampling = SampleImages(tmp_path / "files", grid=(1, 2), tensorboard=tmp_path / "board")
    fit(trainer, callbacks=[sampling])
    fit(trainer, callbacks=[sampling], epochs=2, initial_epoch=1)
    steps = []
    for name in files(tmp_path / "board"):
        events = accumulator(str(tmp_path / "board" / name))
        events.Reload()
        steps += [event.step for event in events.Tensors("samples")]
    assert sorted(steps) == [1, 2]


def test_bound_to_a_network_it_draws_the_same(tmp_path):
    sampling = SampleImages(tmp_path, every=2, grid=(1, 2))
    fit(untrained(), callbacks=[ForNetwork("generator", sampling)], epochs=2)
    assert files(tmp_path) == step_files(2, 4, 6)


class Makes(CustomTrainer):
    """A trainer of a plain model, with a method `generate` of its own."""

    def generate(self, n, seed=None):
        return np.full((n, 2, 2, 3), seed / 10, "float32")


def plain_model():
    model = mlp()
    model.compile("sgd", "mse", jit_compile=False)
    return model


def test_any_trainer_that_generates_will_do(tmp_path):
    Makes(plain_model()).fit(
        numbers(8, 4),
        numbers(8, 1),
        verbose=0,
        callbacks=[SampleImages(tmp_path, 1, (1, 2), seed=4)],
    )
    pixels = read(tmp_path / "step_0000001.png")
    np.testing.assert_array_equal(pixels, np.full((2, 4, 3), 102))


def test_a_trainer_that_does_not_generate_is_told_before_any_weight_changes(tmp_path):
    model = plain_model()
    before = model.get_weights()
    sentence = (
        "SampleImages needs a trainer with a method generate(n, seed), but CustomTrainer has none: "
        "add one that returns images."
    )
    with pytest.raises(TypeError, match=re.escape(sentence)):
        CustomTrainer(model).fit(
            numbers(8, 4), numbers(8, 1), verbose=0, callbacks=[SampleImages(tmp_path)]
        )
    assert_same(model.get_weights(), before)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"every": 0}, "every is 0: expected 'epoch' or a number of steps."),
        ({"every": -3}, "every is -3: expected 'epoch' or a number of steps."),
        ({"every": 1.5}, "every is 1.5: expected 'epoch' or a number of steps."),
        ({"every": "step"}, "every is 'step': expected 'epoch' or a number of steps."),
        (
            {"grid": (2, 3), "labels": [0, 1]},
            "There are 2 labels for 2 by 3 images: give one for each.",
        ),
    ],
)
def test_an_argument_that_does_not_fit_is_told(arguments, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        SampleImages("samples", **arguments)
