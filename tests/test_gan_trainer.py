"""`GANTrainer` against the guide's loop by hand, saved and loaded, with every callback."""

from __future__ import annotations

import csv
import json
import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import gans, processes, tables
from tests.helpers.comparisons import assert_same
from tests.helpers.data import numbers
from tests.helpers.gans import ByHand, batches, fit, gan, images, parts_of, state_of, untrained
from tests.helpers.models import dtype_policy
from tests.helpers.tables import each, names_of
from trainer import CustomTrainer, GANTrainer, Networks
from trainer.callbacks import ForNetwork, SampleImages
from trainer.traced_shapes import keras_traces_batches
from trainer.watching import Watch

pytestmark = pytest.mark.xdist_group("gan")

STEPS = 3  # an epoch of `batches()`


def evaluate(trainer, *data):
    return trainer.evaluate(*(data or (batches(),)), verbose=0, return_dict=True)


def losses(history):
    return [
        {"d_loss": d_loss, "g_loss": g_loss}
        for d_loss, g_loss in zip(history["d_loss"], history["g_loss"], strict=True)
    ]


def without_noise():
    return gan(label_noise=0)


def rising(step):
    return 0.1 * tf.cast(step, tf.float32)


def with_rising_noise():
    return gan(label_noise=rising)


class EagerlyDrawn:
    """The noise and latent points that a GAN of seed 1 draws, one after the other."""

    def __init__(self, seed=1):
        self.seeds = keras.random.SeedGenerator(seed)

    def normal(self, rows):
        return keras.random.normal((rows, gans.LATENT), seed=self.seeds).numpy()

    def uniform(self, *shape):
        return keras.random.uniform(shape, seed=self.seeds).numpy()


# The step


def test_fit_is_the_guides_loop_bit_for_bit():
    trainer, hand = untrained(), ByHand()
    history = fit(trainer, epochs=2).history
    assert_same(losses(history), [hand.epoch(batches()), hand.epoch(batches())])
    assert_same(parts_of(trainer), hand.state())
    assert (trainer.step, trainer.epoch) == (2 * STEPS, 2)


def test_train_on_batch_is_the_guides_loop_bit_for_bit():
    trainer, hand = untrained(), ByHand(any_rows=False)
    for batch in batches():
        logs = trainer.train_on_batch(batch, return_dict=True)
        assert_same(losses({key: [value] for key, value in logs.items()}), [hand.epoch([batch])])
        assert logs["loss"] == np.float32(logs["d_loss"]) + np.float32(logs["g_loss"])
    assert_same(parts_of(trainer), hand.state())
    assert (trainer.step, trainer.epoch) == (STEPS, 0)


def test_groups_of_steps_train_as_single_ones():
    # Some versions of Keras trace a single step for the rows of a batch, which has other bits.
    trainer = gan(steps_per_execution=2)
    single = gan(steps_per_execution=3) if keras_traces_batches() else untrained()
    assert_same(fit(trainer, epochs=2).history, fit(single, epochs=2).history)
    assert_same(state_of(trainer), state_of(single))


@pytest.mark.exhaustive
def test_several_steps_of_the_discriminator_are_a_hand_written_loop():
    trainer, hand = gan(discriminator_steps=3), ByHand(steps=3)
    fit(trainer)
    hand.epoch(batches())
    assert_same(parts_of(trainer), hand.state())
    assert int(trainer.d_optimizer.iterations) == 3 * STEPS
    assert int(trainer.g_optimizer.iterations) == trainer.step == STEPS
    assert trainer.model.seed_generator.state.numpy()[1] == STEPS * (3 * 2 + 1)


@pytest.mark.exhaustive
def test_no_label_noise_draws_nothing():
    trainer = untrained(without_noise)
    fit(trainer)
    assert trainer.model.seed_generator.state.numpy()[1] == STEPS * 2
    noisy = untrained()
    fit(noisy)
    assert noisy.model.seed_generator.state.numpy()[1] == STEPS * 3


def test_the_losses_are_cross_entropies_of_logits():
    trainer = gan(networks=gans.linear_networks, label_noise=0, d_optimizer="sgd")
    matrix, bias = (w.astype("float64") for w in trainer.generator.get_weights())
    drawn, reals = EagerlyDrawn(), images(8)

    def logits(x):
        vector, offset = (w.astype("float64") for w in trainer.discriminator.get_weights())
        return x.reshape(len(x), -1) @ vector + offset

    of_fakes, of_reals = logits(drawn.normal(8) @ matrix + bias), logits(reals)
    d_loss = np.mean(np.log1p(np.exp(np.concatenate([-of_fakes, of_reals]))))
    logs = trainer.train_on_batch(reals, return_dict=True)
    g_loss = np.mean(np.log1p(np.exp(logits(drawn.normal(8) @ matrix + bias))))
    np.testing.assert_allclose([logs["d_loss"], logs["g_loss"]], [d_loss, g_loss], rtol=1e-5)
    assert logs["fake_accuracy"] == np.mean(of_fakes > 0)
    assert logs["real_accuracy"] == np.mean(of_reals < 0)


@pytest.mark.exhaustive
def test_label_noise_may_be_a_function_of_the_step():
    trainer, hand = untrained(with_rising_noise), ByHand()
    noises = [rising(step) for step in range(STEPS)]
    assert_same(losses(fit(trainer).history), [hand.epoch(batches(), noises)])
    assert_same(parts_of(trainer), hand.state())


def test_label_noise_may_be_a_schedule_of_the_generators_steps():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.2, 2, 0.05)
    trainer, hand = gan(label_noise=schedule, discriminator_steps=2), ByHand(steps=2)
    noises = [schedule(step) for step in range(STEPS)]
    assert float(noises[0]) == np.float32(0.2)
    hand.epoch(batches(), noises)
    fit(trainer)
    assert_same(parts_of(trainer), hand.state())


# Other GANs


class WGANGP(GANTrainer):
    """The Wasserstein GAN with gradient penalty (Gulrajani et al., 2017)."""

    def discriminator_loss(self, real_logits, fake_logits):
        return tf.reduce_mean(fake_logits) - tf.reduce_mean(real_logits)

    def generator_loss(self, fake_logits):
        return -tf.reduce_mean(fake_logits)

    def penalty(self, images, fakes, labels, training):
        share = keras.random.uniform((tf.shape(images)[0], 1, 1, 1), seed=self.seed_generator)
        between = images + share * (fakes - images)
        with tf.GradientTape() as tape:
            tape.watch(between)
            logits = self.discriminator(between, training=training)
        slopes = tape.gradient(logits, between)
        norms = tf.sqrt(tf.reduce_sum(slopes**2, axis=[1, 2, 3]))
        return 10.0 * tf.reduce_mean((norms - 1.0) ** 2)


def test_overridden_losses_and_penalty_make_a_wasserstein_gan():
    trainer = gan(
        WGANGP,
        networks=gans.linear_networks,
        d_optimizer=keras.optimizers.SGD(0.05),
        g_optimizer=keras.optimizers.SGD(0.02),
    )
    matrix, bias = (w.astype("float64") for w in trainer.generator.get_weights())
    vector, offset = (w.astype("float64") for w in trainer.discriminator.get_weights())
    vector, drawn, reals = vector[:, 0], EagerlyDrawn(), images(8).reshape(8, 64)

    fakes = drawn.normal(8) @ matrix + bias
    drawn.uniform(8, 1, 1, 1)
    norm = np.linalg.norm(vector)
    distance = fakes.mean(0) - reals.mean(0)
    d_loss = distance @ vector + 10 * (norm - 1) ** 2
    vector = vector - 0.05 * (distance + 20 * (norm - 1) * vector / norm)
    latent = drawn.normal(8)
    g_loss = -((latent @ matrix + bias) @ vector + offset).mean()
    matrix = matrix + 0.02 * np.outer(latent.mean(0), vector)
    bias = bias + 0.02 * vector

    logs = trainer.train_on_batch(images(8), return_dict=True)
    np.testing.assert_allclose([logs["d_loss"], logs["g_loss"]], [d_loss, g_loss], rtol=1e-5)
    close = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(trainer.generator.get_weights()[0], matrix, **close)
    np.testing.assert_allclose(trainer.generator.get_weights()[1], bias, **close)
    np.testing.assert_allclose(trainer.discriminator.get_weights()[0][:, 0], vector, **close)
    np.testing.assert_allclose(trainer.discriminator.get_weights()[1], offset, **close)


class OfImages(GANTrainer):
    """Its latent points are 2x2 images of numbers from 0 to 1."""

    def sample_latent(self, n):
        return keras.random.uniform((n, 2, 2), seed=self.seed_generator)


def test_latent_points_may_be_of_another_shape():
    def networks():
        made = keras.Sequential(
            [
                keras.Input((2, 2)),
                keras.layers.Flatten(),
                keras.layers.Dense(64),
                keras.layers.Reshape(gans.IMAGE),
            ]
        )
        return made, gans.linear_discriminator()

    trainer = gan(OfImages, networks=networks, latent_dim=4)
    points = EagerlyDrawn(5).uniform(3, 2, 2)
    assert_same(trainer.generate(3, seed=5), trainer.generator.predict(points, verbose=0))
    fit(trainer)
    assert trainer.model.seed_generator.state.numpy()[1] == 3 * STEPS


@pytest.mark.parametrize(
    "probabilities", **each({"logits": False, "probabilities": True}, ["probabilities"])
)
def test_accuracies_are_shares_of_the_rows(probabilities):
    loss = keras.losses.BinaryCrossentropy(from_logits=not probabilities)
    activation = "sigmoid" if probabilities else None
    trainer = gan(
        networks=lambda: (gans.linear_generator(), gans.linear_discriminator(activation)), loss=loss
    )
    result = evaluate(trainer)
    drawn, border, fakes_found = EagerlyDrawn(trainer.seed + 1), 0.5 * probabilities, 0
    for batch in batches():
        fakes = trainer.generator.predict(drawn.normal(len(batch)), verbose=0)
        fakes_found += np.sum(trainer.discriminator.predict(fakes, verbose=0) > border)
        drawn.uniform(2 * len(batch), 1)
        drawn.normal(len(batch))
    reals_found = np.sum(trainer.discriminator.predict(images(), verbose=0) < border)
    assert 0 < fakes_found < gans.ROWS
    assert 0 < reals_found < gans.ROWS
    assert result["fake_accuracy"] == np.float32(fakes_found) / np.float32(gans.ROWS)
    assert result["real_accuracy"] == np.float32(reals_found) / np.float32(gans.ROWS)


def test_a_loss_of_ones_own_gets_its_labels_and_logits():
    seen = []

    def loss(y_true, y_pred):
        seen.append((y_true.numpy(), y_pred.numpy()))
        return tf.reduce_mean((y_true - y_pred) ** 2)

    trainer = gan(loss=loss, label_noise=0, run_eagerly=True)
    logs = trainer.train_on_batch(images(8), return_dict=True)
    (d_labels, d_logits), (g_labels, g_logits) = seen
    np.testing.assert_array_equal(d_labels, np.repeat([[1.0], [0.0]], 8, axis=0))
    np.testing.assert_array_equal(g_labels, np.zeros((8, 1)))
    np.testing.assert_allclose(logs["d_loss"], np.mean((d_labels - d_logits) ** 2), rtol=1e-5)
    np.testing.assert_allclose(logs["g_loss"], np.mean(g_logits**2), rtol=1e-5)


class AuxiliaryClassifier(GANTrainer):
    """The auxiliary classifier GAN (Odena et al., 2017): the discriminator tells classes, too."""

    def discriminator_loss(self, real_logits, fake_logits, labels):
        loss = super().discriminator_loss(real_logits[0], fake_logits[0])
        return loss + self.of_classes(labels, real_logits) + self.of_classes(labels, fake_logits)

    def generator_loss(self, fake_logits, labels):
        return super().generator_loss(fake_logits[0]) + self.of_classes(labels, fake_logits)

    def of_classes(self, labels, logits):
        losses = keras.losses.sparse_categorical_crossentropy(labels, logits[1], from_logits=True)
        return tf.reduce_mean(losses)


def test_an_auxiliary_classifier_gan_has_the_losses_of_its_paper():
    def networks():
        return gans.conditional_generator(), classifying_discriminator()

    trainer = gan(AuxiliaryClassifier, networks=networks, label_noise=0)
    labels, drawn, reals = gans.image_labels(8), EagerlyDrawn(1 + trainer.seed), images(8)

    def outputs(x):
        logits, classes = (
            each.astype("float64") for each in trainer.discriminator.predict(x, verbose=0)
        )
        of_classes = np.log(np.exp(classes).sum(1)) - classes[np.arange(8), labels]
        return logits, of_classes.mean()

    logs = trainer.test_on_batch(reals, labels, return_dict=True)
    fakes = trainer.generator.predict([drawn.normal(8), labels], verbose=0)
    (of_fakes, fake_classes), (of_reals, real_classes) = outputs(fakes), outputs(reals)
    d_loss = np.mean(np.log1p(np.exp(np.concatenate([-of_fakes, of_reals]))))
    d_loss += fake_classes + real_classes
    of_fakes, fake_classes = outputs(
        trainer.generator.predict([drawn.normal(8), labels], verbose=0)
    )
    g_loss = np.mean(np.log1p(np.exp(of_fakes))) + fake_classes
    np.testing.assert_allclose([logs["d_loss"], logs["g_loss"]], [d_loss, g_loss], rtol=1e-5)
    assert logs["real_accuracy"] == np.mean(of_reals < 0)
    assert trainer.generate(2, labels=[0, 1]).shape == (2, *gans.IMAGE)


def linear_gan():
    return gan(networks=gans.linear_networks)


PLAIN_DATA = {
    "one-tuples": lambda x, y: (x,),
    "a dict": lambda x, y: {"image": x},
    "a dict with labels": lambda x, y: {"image": x, "label": y},
    "a dict of one key": lambda x, y: {"pixels": x},
}


@pytest.mark.parametrize("form", **tables.each(PLAIN_DATA, default=["a dict with labels"]))
def test_images_may_come_in_a_tuple_or_a_dict(form):
    plain, trainer = untrained(linear_gan), linear_gan()
    history = fit(plain).history
    data = batches(images(), gans.image_labels()).map(form)
    assert_same(fit(trainer, data).history, history)
    assert_same(state_of(trainer), state_of(plain))


LABELLED_DATA = {
    "a dict of arrays": {"images": images(), "labels": gans.image_labels()},
    "a dataset of dicts": tf.data.Dataset.from_tensor_slices(
        {"image": images(), "label": gans.image_labels(), "id": np.arange(gans.ROWS)}
    ).batch(gans.BATCH),
}


@pytest.mark.parametrize("data", **tables.each(LABELLED_DATA, default=["a dataset of dicts"]))
def test_labels_may_come_in_a_dict(data):
    plain, trainer = untrained(gans.conditional_gan), gans.conditional_gan()
    as_arrays = {"batch_size": gans.BATCH, "shuffle": False} if isinstance(data, dict) else {}
    fit(plain, batches(images(), gans.image_labels()))
    fit(trainer, data, **as_arrays)
    assert_same(state_of(trainer), state_of(plain))


def test_labels_may_be_of_two_kinds():
    def networks():
        return doubly_conditional_generator(), doubly_conditional_discriminator()

    digits, colours = gans.image_labels(), numbers(gans.ROWS, 2)
    states = []
    for labels in ((digits, colours), {"colour": colours, "digit": digits}):
        trainer = gan(networks=networks)
        trainer.train_on_batch(images(), labels)
        states.append(state_of(trainer))
    assert_same(*states)
    points, given = EagerlyDrawn(4).normal(3), (digits[:3], colours[:3])
    expected = trainer.generator.predict([points, *given], verbose=0)
    assert_same(trainer.generate(3, seed=4, labels=given), expected)
    with pytest.raises(ValueError, match="There are 2 labels for 3 images: give one for each"):
        trainer.generate(3, labels=(digits[:3], colours[:2]))
    with pytest.raises(ValueError, match="has 2 inputs for labels, but the data yield 1: yield"):
        trainer.train_on_batch(images(), digits)


@pytest.mark.exhaustive
def test_labels_may_be_one_hot():
    def networks():
        latent, label = keras.Input((gans.LATENT,)), keras.Input((gans.CLASSES,))
        image, other = keras.Input(gans.IMAGE), keras.Input((gans.CLASSES,))
        x = keras.layers.Dense(64)(keras.layers.Concatenate()([latent, label]))
        y = keras.layers.Concatenate()([keras.layers.Flatten()(image), other])
        made = keras.Model([latent, label], keras.layers.Reshape(gans.IMAGE)(x))
        return made, keras.Model([image, other], keras.layers.Dense(1)(y))

    trainer, labels = gan(networks=networks), np.eye(gans.CLASSES, dtype="float32")
    fit(trainer, images(), y=labels[gans.image_labels()])
    expected = trainer.generator.predict([EagerlyDrawn(4).normal(3), labels], verbose=0)
    assert_same(trainer.generate(3, seed=4, labels=labels), expected)


def test_latent_dim_may_be_a_shape(tmp_path):
    def networks():
        made = keras.Sequential(
            [keras.Input((2, 4)), keras.layers.Flatten(), *gans.linear_generator().layers]
        )
        return made, gans.linear_discriminator()

    trainer = gan(networks=networks, latent_dim=(2, 4))
    fit(trainer)
    points = keras.random.normal((3, 2, 4), seed=keras.random.SeedGenerator(5))
    made = trainer.generate(3, seed=5)
    assert_same(made, trainer.generator.predict(points, verbose=0))
    trainer.model.save(tmp_path / "x.keras")
    loaded = GANTrainer.from_model(keras.models.load_model(tmp_path / "x.keras"))
    assert loaded.latent_dim == trainer.latent_dim == (2, 4)
    assert_same(loaded.generate(3, seed=5), made)


@pytest.mark.exhaustive
@pytest.mark.parametrize("shape", [(5,), (4, 4, 2, 3)], ids=str)
def test_images_may_be_of_any_rank(shape):
    def networks():
        size = int(np.prod(shape))
        made = keras.Sequential(
            [
                keras.Input((gans.LATENT,)),
                keras.layers.Dense(size),
                keras.layers.Reshape(shape),
            ]
        )
        return made, keras.Sequential(
            [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(1)]
        )

    trainer = gan(networks=networks)
    trainer.train_on_batch(numbers(8, *shape))
    assert trainer.generate(3).shape == (3, *shape)


@pytest.mark.exhaustive
def test_pictures_of_what_is_none_are_told_before_training(tmp_path):
    networks = [
        keras.Sequential([keras.Input((size,)), keras.layers.Dense(units)])
        for size, units in ((gans.LATENT, 5), (5, 1))
    ]
    trainer = gan(networks=lambda: networks)
    with pytest.raises(ValueError, match=r"needs images of shape .*but the generator makes \(5,\)"):
        fit(trainer, numbers(8, 5), callbacks=[SampleImages(tmp_path)])
    assert trainer.step == 0


def test_labels_of_a_kind_that_networks_do_not_take_are_told_before_training():
    trainer = untrained(gans.conditional_gan)
    before = state_of(trainer)
    names = np.array(["zero", "one", "two"])[gans.image_labels()]
    with pytest.raises(ValueError, match="The labels are strings, but the generator takes int32"):
        fit(trainer, batches(images(), names))
    assert_same(state_of(trainer), before)


def test_images_of_another_shape_in_a_dict_are_told_before_training():
    trainer = untrained(linear_gan)
    before = state_of(trainer)
    with pytest.raises(
        ValueError, match=r"Images have the shape \((None|8), 4, 8, 1\), but the generator makes"
    ):
        fit(trainer, batches(images()[:, :4], gans.image_labels()).map(PLAIN_DATA["a dict"]))
    assert_same(state_of(trainer), before)


def test_a_dict_without_images_is_told():
    trainer = untrained(linear_gan)
    before = state_of(trainer)
    with pytest.raises(ValueError, match="data are images|x has 2 arrays"):
        fit(trainer, {"a": images(), "b": images()})
    assert_same(state_of(trainer), before)


def product(labels, logits):
    return labels * logits


BINARY = keras.losses.BinaryCrossentropy
MISMATCHED = {
    "sigmoid": ("sigmoid", BINARY(from_logits=True), "ends in a sigmoid, so it makes probab"),
    "softmax": ("softmax", BINARY(from_logits=True), "ends in a softmax, so it makes probab"),
    "logits": (None, BINARY(), "ends without an activation, so it makes logits, but the loss"),
    "logits by name": (None, "binary_crossentropy", "ends without an activation, so it makes lo"),
}
MATCHED = {
    "logits": (None, BINARY(from_logits=True)),
    "probabilities": ("sigmoid", BINARY()),
    "probabilities by name": ("sigmoid", "binary_crossentropy"),
    "least squares of logits": (None, "mse"),
    "least squares of probabilities": ("sigmoid", "mse"),
    "hinge": ("tanh", "hinge"),
    "a loss of one's own": ("sigmoid", product),
}


@pytest.mark.parametrize("case", MISMATCHED)
def test_outputs_that_the_loss_does_not_take_are_told_once_when_made(case):
    activation, loss, sentence = MISMATCHED[case]
    networks = gans.linear_generator(), gans.linear_discriminator(activation)
    with pytest.warns(UserWarning, match=sentence) as told:
        GANTrainer(*networks, gans.LATENT, loss=loss)
    assert [warning.filename for warning in told] == [__file__]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("case", MATCHED)
def test_outputs_that_the_loss_takes_are_trained_silently(case):
    activation, loss = MATCHED[case]
    networks = gans.linear_generator(), gans.linear_discriminator(activation)
    GANTrainer(*networks, gans.LATENT, loss=loss)


@pytest.mark.filterwarnings("error::UserWarning")
def test_losses_of_ones_own_take_any_outputs():
    WGANGP(gans.linear_generator(), gans.linear_discriminator("sigmoid"), gans.LATENT)


# Evaluating, predicting, generating


def test_evaluate_changes_nothing_and_gives_the_same_numbers_twice():
    trainer = untrained()
    fit(trainer)
    before = state_of(trainer)
    first = evaluate(trainer)
    assert_same(evaluate(trainer), first)
    assert_same(state_of(trainer), before)


def test_evaluate_is_the_losses_by_hand():
    trainer = untrained()
    fit(trainer)
    loss, drawn = keras.losses.BinaryCrossentropy(from_logits=True), EagerlyDrawn(trainer.seed + 1)
    totals = np.zeros(2)
    for batch in batches():
        rows = len(batch)
        fakes = trainer.generator(drawn.normal(rows), training=False)
        labels = np.repeat([[1.0], [0.0]], rows, axis=0) + 0.05 * drawn.uniform(2 * rows, 1)
        both = tf.concat([fakes, batch], axis=0)
        d_loss = loss(labels, trainer.discriminator(both, training=False))
        fakes = trainer.generator(drawn.normal(rows), training=False)
        g_loss = loss(tf.zeros((rows, 1)), trainer.discriminator(fakes, training=False))
        totals += [rows * float(d_loss), rows * float(g_loss)]
    result = evaluate(trainer)
    expected = totals / gans.ROWS
    np.testing.assert_allclose([result["d_loss"], result["g_loss"]], expected, rtol=1e-5)
    np.testing.assert_allclose(result["loss"], expected.sum(), rtol=1e-5)


def test_training_goes_on_after_evaluate_and_generate_as_without_them():
    trainer = untrained()
    fit(trainer, epochs=2)
    without = state_of(trainer)
    trainer = untrained()
    fit(trainer, validation_data=batches())
    evaluate(trainer)
    trainer.test_on_batch(images(8))
    trainer.generate(3)
    trainer.generate(3, seed=4)
    trainer.predict(gans.latent_points(3), verbose=0)
    fit(trainer, epochs=2, initial_epoch=1)
    assert_same(state_of(trainer), without)


def test_validation_is_evaluate():
    trainer = untrained()
    history = fit(trainer, validation_data=batches()).history
    result = evaluate(trainer)
    assert_same({key: history[f"val_{key}"][0] for key in result}, result)


def test_generate_repeats_with_a_seed_and_differs_without():
    trainer = untrained()
    first = trainer.generate(3, seed=4)
    assert_same(trainer.generate(3, seed=4), first)
    assert_same(first, trainer.generator.predict(EagerlyDrawn(4).normal(3), verbose=0))
    unseeded = [trainer.generate(3) for _ in range(3)]
    for one, other in [(0, 1), (1, 2), (0, 2)]:
        assert (unseeded[one] != unseeded[other]).any()


def test_generate_makes_more_than_a_batch():
    trainer = untrained()
    made = trainer.generate(130, seed=4)
    points = EagerlyDrawn(4).normal(130)
    np.testing.assert_allclose(made, trainer.generator(points).numpy(), rtol=1e-4, atol=1e-6)


def test_predict_is_the_generators():
    trainer, points = untrained(), gans.latent_points(11)
    ours = trainer.predict(points, batch_size=4, verbose=0)
    assert_same(ours, trainer.generator.predict(points, batch_size=4, verbose=0))
    assert_same(trainer.predict_on_batch(points), trainer.generator.predict_on_batch(points))


def test_a_conditional_gan_trains_as_a_hand_written_loop():
    trainer = untrained(gans.conditional_gan)
    history = fit(trainer, batches(images(), gans.image_labels())).history
    hand = gans.conditional_gan()  # whose networks and optimizers a loop of its own trains
    seeds, loss = keras.random.SeedGenerator(1), keras.losses.BinaryCrossentropy(from_logits=True)
    total = 0.0
    for reals, labels in batches(images(), gans.image_labels()):
        rows = len(reals)
        fakes = hand.generator([keras.random.normal((rows, gans.LATENT), seed=seeds), labels])
        both, both_labels = tf.concat([fakes, reals], 0), tf.concat([labels, labels], 0)
        targets = np.repeat([[1.0], [0.0]], rows, axis=0).astype("float32")
        targets += 0.05 * keras.random.uniform((2 * rows, 1), seed=seeds)
        with tf.GradientTape() as tape:
            d_loss = loss(targets, hand.discriminator([both, both_labels]))
        weights = hand.discriminator.trainable_weights
        hand.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
        latent = keras.random.normal((rows, gans.LATENT), seed=seeds)
        with tf.GradientTape() as tape:
            logits = hand.discriminator([hand.generator([latent, labels]), labels])
            g_loss = loss(tf.zeros((rows, 1)), logits)
        weights = hand.generator.trainable_weights
        hand.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
        total += rows * float(d_loss)
    np.testing.assert_allclose(history["d_loss"], [total / gans.ROWS], rtol=1e-5)
    for ours, theirs in zip(parts_of(trainer)[:2], parts_of(hand)[:2], strict=True):
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-5)


def test_a_conditional_gan_generates_and_evaluates():
    trainer, labels = untrained(gans.conditional_gan), gans.image_labels()
    fit(trainer, images(), y=labels, batch_size=gans.BATCH)
    points = EagerlyDrawn(4).normal(3)
    for given in ([0, 1, 2], np.array([2, 2, 0])):
        expected = trainer.generator.predict([points, np.asarray(given)], verbose=0)
        assert_same(trainer.generate(3, seed=4, labels=given), expected)
    before = state_of(trainer)
    first = evaluate(trainer, images(), labels)
    assert_same(evaluate(trainer, images(), labels), first)
    assert_same(state_of(trainer), before)
    assert evaluate(trainer, images(), (labels + 1) % 3)["d_loss"] != first["d_loss"]


# Restart


def resume_gan(saved, end):
    """Trains a saved GAN for another epoch; writes its state, prints the history and the names."""
    trainer = GANTrainer.from_model(keras.models.load_model(saved), latent_dim=gans.LATENT)
    assert (trainer.step, trainer.epoch) == (3, 1)
    history = fit(
        trainer, images(), batch_size=gans.BATCH, epochs=2, initial_epoch=trainer.epoch
    ).history
    np.savez(end, *state_of(trainer))
    names = [network.name for network in trainer.model.networks.values()]
    print(json.dumps({"history": history, "networks": names}))


def test_a_loaded_gan_resumes_in_another_process_bit_for_bit(tmp_path):
    saved, end = str(tmp_path / "x.keras"), str(tmp_path / "end.npz")
    trainer = untrained()

    def save_first(epoch, logs):
        if epoch == 0:
            trainer.model.save(saved)

    saving = keras.callbacks.LambdaCallback(on_epoch_end=save_first)
    arguments = {"batch_size": gans.BATCH, "epochs": 2, "callbacks": [saving]}
    history = fit(trainer, images(), **arguments).history
    resumed = json.loads(processes.run(resume_gan, saved, end).splitlines()[-1])
    assert_same(resumed["history"], {key: values[1:] for key, values in history.items()})
    assert resumed["networks"] == [trainer.generator.name, trainer.discriminator.name]
    with np.load(end) as arrays:
        assert_same([arrays[f"arr_{number}"] for number in range(len(arrays))], state_of(trainer))


def test_weights_saved_and_loaded_into_a_new_gan_go_on_bit_for_bit(tmp_path):
    trainer, path = untrained(), tmp_path / "x.weights.h5"
    fit(trainer, images(), batch_size=gans.BATCH)
    trainer.model.save_weights(path)
    new = gan(networks=lambda: (gans.generator(), gans.discriminator()))
    new.model.load_weights(path)
    assert_same(state_of(new), state_of(trainer))
    histories = [
        fit(each, images(), batch_size=gans.BATCH, epochs=2, initial_epoch=1).history
        for each in (new, trainer)
    ]
    assert_same(*histories)
    assert_same(state_of(new), state_of(trainer))


def test_a_loaded_gan_has_its_settings_and_learning_rates(tmp_path):
    trainer = gan(steps_per_execution=2, g_optimizer=keras.optimizers.RMSprop(1e-3))
    trainer.g_optimizer.learning_rate = 1e-5
    trainer.model.save(tmp_path / "x.keras")
    loaded = GANTrainer.from_model(
        keras.models.load_model(tmp_path / "x.keras"), latent_dim=gans.LATENT
    )
    assert (loaded.model.steps_per_execution, loaded.model.jit_compile) == (2, False)
    assert isinstance(loaded.g_optimizer, keras.optimizers.RMSprop)
    assert isinstance(loaded.d_optimizer, keras.optimizers.Adam)
    assert loaded.g_optimizer.learning_rate.numpy() == np.float32(1e-5)
    assert loaded.d_optimizer.learning_rate.numpy() == np.float32(3e-4)
    assert loaded.seed == 1


def test_a_conditional_gan_is_saved_and_loaded(tmp_path):
    trainer = untrained(gans.conditional_gan)
    fit(trainer, images(), y=gans.image_labels())
    trainer.model.save(tmp_path / "x.keras")
    loaded = GANTrainer.from_model(
        keras.models.load_model(tmp_path / "x.keras"), latent_dim=gans.LATENT
    )
    assert_same(state_of(loaded), state_of(trainer))
    made = [each.generate(3, seed=4, labels=[0, 1, 2]) for each in (loaded, trainer)]
    assert_same(*made)


# Callbacks


class Snapshots(keras.callbacks.Callback):
    """Keeps the weights after each epoch."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


def test_model_checkpoint_saves_the_whole_gan(tmp_path):
    trainer = untrained()
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}-{g_loss:.6f}.keras")
    history = fit(trainer, epochs=2, callbacks=[checkpoint]).history
    assert sorted(os.listdir(tmp_path)) == [
        f"{epoch + 1}-{history['g_loss'][epoch]:.6f}.keras" for epoch in range(2)
    ]
    model = keras.models.load_model(tmp_path / sorted(os.listdir(tmp_path))[-1])
    loaded = GANTrainer.from_model(model, latent_dim=gans.LATENT)
    assert_same(state_of(loaded), state_of(trainer))


def test_model_checkpoint_saves_the_best_weights(tmp_path):
    path, snapshots = tmp_path / "best.weights.h5", Snapshots()
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, monitor="g_loss", save_best_only=True, save_weights_only=True
    )
    trainer = untrained()
    history = fit(trainer, epochs=3, callbacks=[checkpoint, snapshots]).history["g_loss"]
    assert checkpoint.best == min(history)
    new = gan()
    new.model.load_weights(path)
    assert_same(new.model.get_weights(), snapshots.weights[int(np.argmin(history))])


def test_early_stopping_restores_the_best_weights_of_both_networks():
    snapshots = Snapshots()
    stopping = keras.callbacks.EarlyStopping(
        monitor="val_g_loss", patience=2, restore_best_weights=True, min_delta=1e3
    )
    trainer = untrained()
    history = fit(
        trainer, epochs=9, validation_data=batches(), callbacks=[snapshots, stopping]
    ).history
    assert len(history["val_g_loss"]) == 3
    assert stopping.best == history["val_g_loss"][0]
    assert_same(trainer.model.get_weights(), snapshots.weights[0])


def test_early_stopping_on_an_accuracy_waits_for_more():
    stopping = keras.callbacks.EarlyStopping(monitor="fake_accuracy", patience=9)
    history = fit(untrained(), epochs=4, callbacks=[stopping]).history["fake_accuracy"]
    assert min(history) < max(history)
    assert stopping.best == max(history)


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder))
    read.Reload()
    return {
        tag: [float(tf.make_ndarray(event.tensor_proto)) for event in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
        if tag.startswith("epoch_")
    }


def test_tensorboard_has_both_losses(tmp_path):
    callback = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)
    history = fit(untrained(), epochs=2, validation_data=batches(), callbacks=[callback]).history
    training, validation = events(tmp_path / "train"), events(tmp_path / "validation")
    for key in ("d_loss", "g_loss", "loss", "real_accuracy", "fake_accuracy"):
        assert training[f"epoch_{key}"] == history[key]
        assert validation[f"epoch_{key}"] == history[f"val_{key}"]


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"),
    reason="TensorBoard logs several learning rates since Keras knows several optimizers",
)
@pytest.mark.exhaustive
def test_tensorboard_has_both_learning_rates(tmp_path):
    trainer = gan(
        d_optimizer=keras.optimizers.Adam(0.25, name="d"),
        g_optimizer=keras.optimizers.Adam(0.5, name="g"),
        networks=gans.linear_networks,
    )
    fit(trainer, callbacks=[keras.callbacks.TensorBoard(tmp_path)])
    training = events(tmp_path / "train")
    assert training["epoch_learning_rate_d"] == [0.25]
    assert training["epoch_learning_rate_g"] == [0.5]


@pytest.mark.exhaustive
def test_csv_logger_writes_every_log_key(tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    history = fit(untrained(), epochs=2, validation_data=batches(), callbacks=[logger]).history
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("epoch") for row in rows] == ["0", "1"]
    assert {key: [float(row[key]) for row in rows] for key in rows[0]} == history


class BreaksAt(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.left = step

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise RuntimeError("the power went out")


@pytest.mark.exhaustive
def test_backup_and_restore_ends_as_the_uninterrupted_run(tmp_path):
    trainer = untrained()
    history = fit(trainer, epochs=4).history
    whole = state_of(trainer)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(RuntimeError, match="the power went out"):
        fit(untrained(), epochs=4, callbacks=[backup, BreaksAt(2 * STEPS + 2)])
    trainer = gan()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    rest = fit(trainer, epochs=4, callbacks=[backup])
    assert rest.epoch == [2, 3]
    assert_same(rest.history, {key: values[2:] for key, values in history.items()})
    assert_same(state_of(trainer), whole)


def test_terminate_on_nan_stops_at_the_step_that_has_it():
    trainer, data = gan(networks=gans.linear_networks), images(40)
    data[2 * gans.BATCH] = np.nan
    seen = []
    noting = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs)
    )
    history = fit(
        trainer, batches(data), epochs=3, callbacks=[noting, keras.callbacks.TerminateOnNaN()]
    )
    assert trainer.step == len(seen) == 3
    assert [np.isnan(logs["loss"]) for logs in seen] == [False, False, True]
    assert history.epoch == [0]


@pytest.mark.exhaustive
def test_lambda_callback_sees_the_losses_of_each_step():
    hand, seen = ByHand(), []
    noting = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs) if batch == 0 else None
    )
    fit(untrained(), callbacks=[noting])
    first = hand.epoch(batches().take(1))
    assert_same({key: seen[0][key] for key in first}, first)


@pytest.mark.parametrize(
    ("network", "rate", "other"),
    [("generator", 4e-4, "discriminator"), ("discriminator", 3e-4, "generator")],
)
def test_a_plateau_moves_the_rate_of_its_network_alone(network, rate, other):
    trainer, rate = untrained(), np.float32(rate)
    before = trainer.model.optimizers[other].learning_rate.numpy()
    plateau = keras.callbacks.ReduceLROnPlateau(
        monitor="g_loss", patience=1, factor=0.5, min_delta=1e3
    )
    history = fit(trainer, epochs=3, callbacks=[ForNetwork(network, plateau)]).history
    assert trainer.model.optimizers[network].learning_rate.numpy() == rate / 4
    assert trainer.model.optimizers[other].learning_rate.numpy() == before
    assert_same(np.float32(history[f"{network}_learning_rate"]), np.float32([rate, rate, rate / 2]))


def test_a_schedule_moves_the_rate_of_its_network_alone():
    trainer = untrained()
    halving = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    fit(trainer, epochs=2, callbacks=[ForNetwork("discriminator", halving)])
    assert trainer.d_optimizer.learning_rate.numpy() == np.float32(3e-4) / 4
    assert trainer.g_optimizer.learning_rate.numpy() == np.float32(4e-4)


UNBOUND = {
    "LearningRateScheduler": lambda: keras.callbacks.LearningRateScheduler(lambda epoch: 1.0),
    "ReduceLROnPlateau": lambda: keras.callbacks.ReduceLROnPlateau("g_loss"),
    "SwapEMAWeights": lambda: keras.callbacks.SwapEMAWeights(),
}


@pytest.mark.parametrize("name", UNBOUND)
@pytest.mark.parametrize("as_list", [False, True], ids=["callbacks", "CallbackList"])
def test_an_unbound_callback_for_one_optimizer_is_told_how_to_bind_it(name, as_list):
    trainer = untrained()
    before = state_of(trainer)
    callbacks = [keras.callbacks.History(), UNBOUND[name]()]
    sentence = (
        f"{name} is for one optimizer, but the model has one for each of generator, discriminator: "
        "say for which network, such as trainer.callbacks.ForNetwork('generator', "
        f"keras.callbacks.{name}(...))."
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        fit(trainer, callbacks=keras.callbacks.CallbackList(callbacks) if as_list else callbacks)
    assert_same(state_of(trainer), before)


@pytest.mark.parametrize("sets", [False, True], ids=["reads", "sets"])
def test_a_callback_that_looks_for_one_learning_rate_is_told_of_both(sets):
    class LooksForRate(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            if sets:
                self.model.optimizer.learning_rate = 0.1
            else:
                self.params["rate"] = self.model.optimizer.learning_rate

    trainer = untrained()
    before = state_of(trainer)
    sentence = (
        "The model has an optimizer for each of generator, discriminator, so which learning_rate "
        "is meant? Take model.optimizers['generator'], or bind a callback to one network: "
        "trainer.callbacks.ForNetwork('generator', callback)."
    )
    with pytest.raises(AttributeError, match=re.escape(sentence)):
        fit(trainer, callbacks=[LooksForRate()])
    assert_same(state_of(trainer), before)


# ForNetwork


def watched(callback):
    """Returns how the callback takes part in the batches of each mode."""
    watches = {mode: Watch([callback], mode) for mode in ("train", "test", "predict")}
    return {
        mode: (watcher.kind, watcher.begins, watcher.ends)
        for mode, watch in watches.items()
        for watcher in watch.watchers
    }


def test_for_network_watches_only_the_hooks_of_its_callback():
    callbacks = keras.callbacks
    for inner in (
        callbacks.ReduceLROnPlateau(),
        callbacks.Callback(),
        callbacks.TerminateOnNaN(),
        callbacks.ModelCheckpoint("x.keras"),
        callbacks.ModelCheckpoint("x.keras", save_freq=3),
        callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: None),
        SampleImages("samples", every=1),
    ):
        assert watched(ForNetwork("generator", inner)) == watched(inner)
    assert watched(ForNetwork("generator", callbacks.ReduceLROnPlateau())) == {}
    stops = ForNetwork("generator", callbacks.TerminateOnNaN())
    assert watched(stops) == {"train": ("show", False, True)}


def test_for_network_calls_every_hook_of_its_callback():
    seen = {}

    class Notes(keras.callbacks.Callback):
        pass

    for bound in (False, True):
        calls = seen.setdefault(bound, [])
        for hook in [name for name in dir(keras.callbacks.Callback) if name.startswith("on_")]:
            if hook not in ("on_batch_begin", "on_batch_end"):
                noting = lambda *given, hook=hook, calls=calls, **logs: calls.append(hook)  # noqa: E731
                setattr(Notes, hook, noting)
        trainer = untrained()
        callbacks = [ForNetwork("generator", Notes()) if bound else Notes()]
        fit(trainer, validation_data=batches(), callbacks=callbacks)
        trainer.predict(gans.latent_points(3), verbose=0, callbacks=callbacks)
    assert seen[True] == seen[False]
    assert {"on_train_batch_end", "on_test_end", "on_predict_batch_begin"} <= set(seen[True])


@pytest.mark.parametrize(
    ("name", "mend"),
    [("generater", "did you mean 'generator'?"), ("zzz", "they are generator, discriminator.")],
)
def test_for_network_tells_of_a_network_that_is_not_there(name, mend):
    trainer = untrained()
    before = state_of(trainer)
    sentence = f"The model has no network {name!r}: {mend}"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        fit(trainer, callbacks=[ForNetwork(name, keras.callbacks.ReduceLROnPlateau("g_loss"))])
    assert_same(state_of(trainer), before)


def test_for_network_needs_a_model_of_several_networks():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    callback = ForNetwork("generator", keras.callbacks.ReduceLROnPlateau("loss"))
    sentence = (
        "ForNetwork('generator', ...) needs a model of several networks, trainer.Networks, but "
        "this is a Sequential: give the callback itself."
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        CustomTrainer(model, optimizer="sgd", loss="mse").fit(
            numbers(8, 4), numbers(8, 1), verbose=0, callbacks=[callback]
        )


def test_early_stopping_for_a_network_stops_all_and_restores_it_alone():
    snapshots, trainer = Snapshots(), untrained()
    stopping = keras.callbacks.EarlyStopping(
        "g_loss", patience=1, restore_best_weights=True, min_delta=1e3
    )
    history = fit(trainer, epochs=9, callbacks=[snapshots, ForNetwork("generator", stopping)])
    assert history.epoch == [0, 1]
    count = len(trainer.generator.weights)
    first, last = snapshots.weights
    assert_same(trainer.generator.get_weights(), first[:count])
    assert_same(trainer.discriminator.get_weights(), last[count:])


def test_a_checkpoint_for_a_network_writes_it_alone(tmp_path):
    trainer, path = untrained(), tmp_path / "generator.keras"
    fit(trainer, callbacks=[ForNetwork("generator", keras.callbacks.ModelCheckpoint(path))])
    loaded, points = keras.models.load_model(path), gans.latent_points(3)
    assert not isinstance(loaded, Networks)
    assert_same(loaded.get_weights(), trainer.generator.get_weights())
    assert_same(loaded.predict(points, verbose=0), trainer.generator.predict(points, verbose=0))


@pytest.mark.exhaustive
def test_swap_ema_weights_for_a_network_swaps_it_alone():
    trainer = gan(
        g_optimizer=keras.optimizers.SGD(0.1, use_ema=True), networks=gans.linear_networks
    )
    swapping = ForNetwork("generator", keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    averages = [weight.numpy() for weight in trainer.generator.trainable_weights]
    seen = []

    def average(batch, logs):
        now = [weight.numpy() for weight in trainer.generator.trainable_weights]
        new = [0.99 * old + 0.01 * each for old, each in zip(averages, now, strict=True)]
        averages[:] = now if batch == 0 else new

    averaging = keras.callbacks.LambdaCallback(on_train_batch_end=average)
    after = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(trainer.generator.get_weights())
    )
    fit(trainer, callbacks=[averaging, swapping, after])
    for ours, theirs in zip(seen[0], averages, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


# Bad input

WIDE = (16, 16, 1)


def given(**arguments):
    """A function of a GAN that makes another one of its networks and `arguments`."""

    def make(trainer):
        networks = {"generator": trainer.generator, "discriminator": trainer.discriminator}
        return GANTrainer(**{**networks, "latent_dim": gans.LATENT, **arguments})

    return make


def generator_of_dict():
    """Returns a network of latent points and labels, by name, to images."""
    network = gans.conditional_generator()
    return keras.Model(dict(zip(("z", "digit"), network.inputs, strict=True)), network.output)


def generator_of_two():
    """Returns a network of latent points to images twice."""
    latent = keras.Input((gans.LATENT,))
    made = gans.linear_generator()(latent)
    return keras.Model(latent, [made, made])


def classifying_discriminator():
    """Returns a network of images to a logit and to the logits of their classes."""
    image = keras.Input(gans.IMAGE)
    x = keras.layers.Flatten()(image)
    return keras.Model(image, [keras.layers.Dense(1)(x), keras.layers.Dense(gans.CLASSES)(x)])


def doubly_conditional_generator():
    """Returns a network of latent points, a label and the numbers of another one to images."""
    latent, label = keras.Input((gans.LATENT,)), keras.Input((), dtype="int32", name="digit")
    colour = keras.Input((2,), name="colour")
    x = [latent, keras.layers.Embedding(gans.CLASSES, 4)(label), colour]
    x = keras.layers.Dense(64, activation="tanh")(keras.layers.Concatenate()(x))
    return keras.Model([latent, label, colour], keras.layers.Reshape(gans.IMAGE)(x))


def doubly_conditional_discriminator():
    """Returns a network of images and the same two labels to a logit."""
    image, label = keras.Input(gans.IMAGE), keras.Input((), dtype="int32", name="digit")
    colour = keras.Input((2,), name="colour")
    x = keras.layers.Flatten()(image)
    x = [x, keras.layers.Embedding(gans.CLASSES, 4)(label), colour]
    return keras.Model([image, label, colour], keras.layers.Dense(1)(keras.layers.Concatenate()(x)))


def shared_optimizer(trainer):
    one = keras.optimizers.Adam()
    return given(d_optimizer=one, g_optimizer=one)(trainer)


BAD = {
    "discriminator of another shape": (
        lambda t: given(discriminator=gans.discriminator(shape=WIDE))(t),
        ValueError,
        r"The generator makes images of shape \(None, 8, 8, 1\), but the discriminator takes "
        r"\(None, 16, 16, 1\): give both the same shape of image",
    ),
    "discriminator of other channels": (  # which Keras lets pass where it has one
        lambda t: given(generator=gans.generator(channels=3))(t),
        ValueError,
        r"makes images of shape \(None, 8, 8, 3\), but the discriminator takes \(None, 8, 8, 1\)",
    ),
    "latent_dim": (
        given(latent_dim=9),
        ValueError,
        r"latent_dim is 9, so the generator gets latent points of shape \(None, 9\), but it takes "
        r"\(None, 8\): give the latent_dim that it begins with",
    ),
    "latent_dim of 0": (given(latent_dim=0), ValueError, "latent_dim is 0: expected a whole numb"),
    "no generator": (given(generator="gen"), TypeError, "generator is of type str: expected a ke"),
    "labels in one network": (
        lambda t: given(discriminator=gans.conditional_discriminator())(t),
        ValueError,
        "The discriminator takes labels, but the generator takes none: give both an input for them",
    ),
    "missing optimizer": (
        given(g_optimizer=None),
        ValueError,
        "The optimizer of 'generator' is missing: give one, such as keras.optimizers.Adam()",
    ),
    "shared optimizer": (
        shared_optimizer,
        ValueError,
        "generator and discriminator share one optimizer, which keeps its moments for the weights "
        "of one network: give each its own",
    ),
    "no latent points": (given(latent_dim=()), ValueError, r"latent_dim is \(\): expected a whole"),
    "latent points of another shape": (
        given(latent_dim=(2, 4)),
        ValueError,
        r"latent_dim is \(2, 4\), so the generator gets latent points of shape \(None, 2, 4\), but "
        r"it takes \(None, 8\): give the latent_dim that it begins with, latent_dim=8. A generator",
    ),
    "swapped": (
        lambda t: GANTrainer(t.discriminator, t.generator, gans.LATENT),
        ValueError,
        r"The networks are swapped: GANTrainer\(generator, discriminator, ...\) takes the gen",
    ),
    "one network": (
        lambda t: given(discriminator=t.generator)(t),
        ValueError,
        "generator and discriminator are the same network: give two",
    ),
    "one optimizer": (
        given(optimizer="adam"),
        TypeError,
        "GANTrainer has no argument 'optimizer': give d_optimizer and g_optimizer, one for each",
    ),
    "metrics": (
        given(metrics=["mae"]),
        TypeError,
        "no argument 'metrics': make a metric an attribu",
    ),
    "misspelt": (given(lable_noise=0), TypeError, "'lable_noise': did you mean 'label_noise'?"),
    "several outputs": (
        lambda t: given(discriminator=classifying_discriminator())(t),
        ValueError,
        "The discriminator has 2 outputs, but the losses of GANTrainer are of one: override",
    ),
    "several images": (
        lambda t: given(generator=generator_of_two())(t),
        ValueError,
        "The generator has 2 outputs: give one that has a single one, the images",
    ),
    "other labels": (
        lambda t: GANTrainer(doubly_conditional_generator(), gans.conditional_discriminator(), 8),
        ValueError,
        "The generator has 2 inputs for labels, but the discriminator has 1: give both as many",
    ),
    "inputs by name": (
        lambda t: given(generator=generator_of_dict())(t),
        ValueError,
        r"The generator takes its inputs as a dict of .*: make it of a list, as keras.Model\(\[lat",
    ),
    "label noise": (
        given(label_noise=-1),
        ValueError,
        "label_noise is -1: expected a number from 0 up, or a function of the step",
    ),
    "discriminator steps": (
        given(discriminator_steps=0),
        ValueError,
        "discriminator_steps is 0: expected a whole number from 1 up",
    ),
    "images to tanh": (
        lambda t: fit(t, images(low=0, high=255)),
        ValueError,
        r"images' numbers run from 0.\d+ to 254.\d+, but the generator's last activation makes -1 "
        "to 1: rescale the images to that range",
    ),
    "images below tanh": (
        lambda t: fit(t, batches(images(low=-5, high=1))),
        tf.errors.InvalidArgumentError,
        r"images' numbers run from -4.\d+ to 0.\d+, but the generator's last activation makes -1",
    ),
    "images of bytes": (
        lambda t: t.train_on_batch((images(8, 0, 255)).astype("uint8")),
        tf.errors.InvalidArgumentError,
        "images' numbers run from 0 to 254, but the generator's last activation makes -1 to 1",
    ),
    "labels": (
        lambda t: fit(t, batches(images(), gans.image_labels())),
        ValueError,
        "The data yield labels, but the generator and the discriminator take none: yield images "
        "alone, as by dataset.map",
    ),
    "weights": (
        lambda t: t.train_on_batch(images(8), sample_weight=np.ones(8, "float32")),
        ValueError,
        r"A GAN's data are images, or \(images, labels\): yield nothing else",
    ),
    "weights of rows": (
        lambda t: fit(t, images(), y=np.zeros(len(images())), sample_weight=np.ones(len(images()))),
        ValueError,
        r"A GAN's data are images, or \(images, labels\): yield nothing else",
    ),
    "labels to generate": (
        lambda t: t.generate(3, labels=[0, 1, 2]),
        ValueError,
        "The generator takes no labels: leave them out, or give it an input more",
    ),
    "plain model": (
        lambda t: GANTrainer.from_model(t.generator, latent_dim=8),
        TypeError,
        "model is no GAN's: expected what keras.models.load_model returns for a file that",
    ),
    "other networks": (
        lambda t: GANTrainer.from_model(Networks({"a": t.generator}), latent_dim=8),
        TypeError,
        "model is no GAN's",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_before_any_weight_changes(case):
    provoke, kind, message = BAD[case]
    trainer = untrained()
    before = trainer.model.get_weights()
    with pytest.raises(kind, match=message):
        provoke(trainer)
    assert_same(trainer.model.get_weights(), before)
    fit(trainer)


MISSHAPEN = {
    "rank": (
        images()[..., 0],
        r"Images have the shape \((None|\d+), 8, 8\), .* makes \(None, 8, 8, 1\): reshape",
    ),
    "size": (
        images()[:, :4],
        r"Images have the shape \((None|\d+), 4, 8, 1\), but the generator makes \(None, 8, 8, 1\)",
    ),
    "no batches": (
        tf.data.Dataset.from_tensor_slices(images()),
        r"Images come one by one, in the shape \(8, 8, 1\), .* call dataset.batch\(batch_size\)",
    ),
}


@pytest.mark.parametrize("case", MISSHAPEN)
def test_images_of_another_shape_are_told_before_any_weight_changes(case):
    trainer = gan()
    before = state_of(trainer)
    with pytest.raises(ValueError, match=MISSHAPEN[case][1]):
        fit(trainer, MISSHAPEN[case][0])
    assert_same(state_of(trainer), before)


@pytest.mark.parametrize("case", names_of(MISSHAPEN, default=["size"]))
def test_images_of_another_shape_are_told_also_after_training(case):
    trainer = untrained()
    fit(trainer)
    expected = r"is not compatible with expected shape \[\?,8,8,1\]"
    with pytest.raises(tf.errors.InvalidArgumentError, match=expected):
        fit(trainer, MISSHAPEN[case][0])


def test_a_refused_batch_draws_and_counts_nothing():
    trainer = untrained()
    before = state_of(trainer)
    with pytest.raises(ValueError, match="images' numbers run from"):
        fit(trainer, images(low=0, high=255))
    assert_same(state_of(trainer), before)


@pytest.mark.parametrize("way", ["fit", "train_on_batch"])
def test_a_refused_batch_leaves_the_moving_averages_of_the_generator(way):
    def networks():
        made = keras.Sequential(
            [
                keras.Input((gans.LATENT,)),
                keras.layers.Dense(64),
                keras.layers.BatchNormalization(),
                keras.layers.Reshape(gans.IMAGE),
                keras.layers.Activation("tanh"),
            ]
        )
        return made, gans.linear_discriminator()

    trainer, bytes_ = gan(networks=networks), images(16, 0, 255)
    before = trainer.model.get_weights()
    kind = ValueError if way == "fit" else tf.errors.InvalidArgumentError
    with pytest.raises(kind, match="images' numbers run from"):
        if way == "fit":
            fit(trainer, bytes_, batch_size=8)
        else:
            trainer.train_on_batch(bytes_)
    assert_same(trainer.model.get_weights(), before)


def test_images_that_are_not_numbers_are_told():
    with pytest.raises(ValueError, match="images' numbers run from nan to nan"):
        fit(untrained(), np.full_like(images(), np.nan))


def test_from_model_takes_settings(tmp_path):
    untrained().model.save(tmp_path / "x.keras")
    model = keras.models.load_model(tmp_path / "x.keras")
    loaded = GANTrainer.from_model(
        model, latent_dim=gans.LATENT, run_eagerly=True, steps_per_execution=2
    )
    assert (loaded.model.run_eagerly, loaded.model.steps_per_execution) == (True, 2)


def test_images_of_bytes_do_not_suit_a_sigmoid_generator():
    trainer = gan(networks=lambda: (gans.generator("sigmoid"), gans.discriminator()))
    before = trainer.model.get_weights()
    with pytest.raises(
        ValueError, match="run from 0.* to 254.*last activation makes 0 to 1: resca"
    ):
        fit(trainer, images(low=0, high=255))
    assert_same(trainer.model.get_weights(), before)
    fit(trainer, images(low=0, high=1))


def test_what_a_conditional_gan_lacks_is_told_before_any_weight_changes():
    trainer = untrained(gans.conditional_gan)
    before = trainer.model.get_weights()
    with pytest.raises(
        ValueError, match=r"take labels, but the data yield none: yield \(images, l"
    ):
        fit(trainer, images())
    with pytest.raises(
        ValueError, match=r"The generator takes labels: give generate\(n, labels=.."
    ):
        trainer.generate(3)
    assert_same(trainer.model.get_weights(), before)


def test_a_model_without_its_optimizers_is_told_before_any_weight_changes(tmp_path):
    trainer = untrained()
    trainer.model.save(tmp_path / "x.keras")
    model = keras.models.load_model(tmp_path / "x.keras", compile=False)
    with pytest.raises(ValueError, match="comes without its optimizers: load it with compile=True"):
        GANTrainer.from_model(model, latent_dim=gans.LATENT)
    assert_same(model.get_weights(), trainer.model.get_weights())


# Other ways to run


def test_run_eagerly_is_the_compiled_run():
    eager, compiled = gan(run_eagerly=True), untrained()
    ours, theirs = fit(eager, batches()).history, fit(compiled, batches()).history
    for key in theirs:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-5)
    for our, their in zip(state_of(eager), state_of(compiled), strict=True):
        np.testing.assert_allclose(our, their, rtol=1e-5, atol=1e-5)


def networks_without_dropout():
    return gans.generator(), gans.discriminator(dropout=0.0)


def mixed_networks():
    with dtype_policy("mixed_float16"):
        return networks_without_dropout()


@pytest.mark.exhaustive
def test_mixed_precision_scales_the_loss_of_both_networks():
    trainer, single = gan(networks=mixed_networks), gan(networks=networks_without_dropout)
    optimizers = trainer.model.optimizers.values()
    assert {type(optimizer) for optimizer in optimizers} == {keras.optimizers.LossScaleOptimizer}
    history, expected = fit(trainer, epochs=2).history, fit(single, epochs=2).history
    for optimizer in optimizers:  # which leave out a step and halve the scale where it overflows
        skipped = 2 * STEPS - int(optimizer.inner_optimizer.iterations)
        assert skipped in (0, 1)
        assert float(optimizer.dynamic_scale.numpy()) == 2.0 ** (15 - skipped)
    for key in ("d_loss", "g_loss"):
        np.testing.assert_allclose(history[key], expected[key], rtol=1e-2)
    weights = zip(trainer.model.trainable_weights, single.model.trainable_weights, strict=True)
    for ours, theirs in weights:
        assert ours.dtype == "float32"
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-3)


@pytest.mark.exhaustive
def test_a_gan_of_mixed_precision_is_saved_and_loaded(tmp_path):
    trainer = gan(networks=mixed_networks)
    fit(trainer)
    trainer.model.save(tmp_path / "x.keras")
    loaded = GANTrainer.from_model(
        keras.models.load_model(tmp_path / "x.keras"), latent_dim=gans.LATENT
    )
    assert_same(state_of(loaded), state_of(trainer))
    assert_same(fit(loaded).history, fit(trainer).history)
    assert_same(state_of(loaded), state_of(trainer))


def wasserstein():
    return gan(WGANGP)


@pytest.mark.exhaustive
def test_validation_of_a_gan_with_a_penalty_changes_no_training():
    states = []
    for more in ({}, {"validation_data": batches()}):
        trainer = untrained(wasserstein)  # its discriminator has Dropout and BatchNormalization
        fit(trainer, epochs=2, **more)
        states.append(state_of(trainer))
    assert_same(*states)


@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy", keras.losses.mean_squared_error])
def test_a_loss_by_name_is_the_mean_over_the_rows(loss):
    networks = gans.generator(), gans.linear_discriminator("sigmoid")
    trainer = GANTrainer(*networks, latent_dim=gans.LATENT, loss=loss, label_noise=0, seed=1)
    x = images(8)
    logits = [numbers(8, 1, seed=seed) ** 2 / 20 for seed in (1, 2)]
    real, fake = map(tf.constant, logits)
    function = keras.losses.get(loss)
    ones, zeros = tf.ones((8, 1)), tf.zeros((8, 1))
    expected = tf.reduce_mean(tf.concat([function(ones, fake), function(zeros, real)], axis=0))
    assert_close(trainer.discriminator_loss(real, fake), expected)
    assert_close(trainer.generator_loss(fake), tf.reduce_mean(function(zeros, fake)))
    logs = trainer.train_on_batch(x, return_dict=True)
    assert logs["loss"] == pytest.approx(logs["d_loss"] + logs["g_loss"], rel=1e-6)
    # Outputs are probabilities here, so one half parts reals from fakes.
    trainer.reset_metrics()
    trainer.track_logits(real, fake)
    assert float(trainer.real_accuracy.result()) == np.mean(logits[0] < 0.5)
    assert float(trainer.fake_accuracy.result()) == np.mean(logits[1] > 0.5)


def assert_close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-6)


def test_arrays_out_of_range_are_told_under_xla_too():
    trainer = gan(jit_compile=True)
    before = state_of(trainer)
    with pytest.raises(ValueError, match="images' numbers run from 0.* to 2.*, but the generator"):
        trainer.fit(images(low=0, high=255), verbose=0)
    assert_same(state_of(trainer), before)


def test_a_loaded_gan_finds_its_arguments_again(tmp_path):
    loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.25)
    trainer = gan(loss=loss, label_noise=0.125, discriminator_steps=3)
    trainer.model.save(tmp_path / "x.keras")
    loaded = GANTrainer.from_model(keras.models.load_model(tmp_path / "x.keras"))
    assert (loaded.latent_dim, loaded.label_noise, loaded.discriminator_steps) == (8, 0.125, 3)
    assert loaded.loss.get_config() == loss.get_config()
    changed = GANTrainer.from_model(loaded.model, label_noise=0)
    assert (changed.label_noise, changed.discriminator_steps) == (0, 3)


def test_a_function_as_noise_has_to_be_given_again(tmp_path):
    trainer = with_rising_noise()
    with pytest.raises(ValueError, match="label_noise was a function, which is not saved"):
        GANTrainer.from_model(trainer.model)
    assert GANTrainer.from_model(trainer.model, label_noise=rising).label_noise is rising


@pytest.mark.parametrize("name", ["seed", "d_optimizer", "g_optimizer"])
def test_what_comes_with_a_model_is_not_taken_twice(name):
    with pytest.raises(TypeError, match=f"{name} was given, but it comes with the model"):
        GANTrainer.from_model(gan().model, **{name: 1})


def test_settings_of_a_loaded_gan_are_saved_again(tmp_path):
    loaded = GANTrainer.from_model(gan().model, steps_per_execution=2, run_eagerly=True)
    loaded.model.save(tmp_path / "x.keras")
    model = keras.models.load_model(tmp_path / "x.keras")
    assert (model.steps_per_execution, model.run_eagerly) == (2, True)


class Enlarging(GANTrainer):
    """Trains on images of any size."""

    def train_step(self, data):
        pictures, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return super().train_step(tf.image.resize(pictures, gans.IMAGE[:2]))


def test_a_step_of_ones_own_may_take_images_of_another_shape():
    logs = gan(Enlarging).train_on_batch(images(4)[:, :5, :6], return_dict=True)
    assert logs.keys() >= {"d_loss", "g_loss"}


class Rescaling(GANTrainer):
    """Trains on pixels from 0 to 255."""

    def train_step(self, data):
        pixels, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return super().train_step(pixels / 127.5 - 1)


def test_a_step_of_ones_own_may_take_images_of_another_range():
    fit(gan(Rescaling), images(low=0, high=255), batch_size=8)


class CountsTraces(keras.layers.Layer):
    """Counts how often Python runs it."""

    traces = 0

    def call(self, x):
        self.traces += 1
        return x


def test_generating_other_numbers_of_images_traces_little():
    counts = CountsTraces()
    counting = keras.Sequential([keras.Input((gans.LATENT,)), counts, gans.linear_generator()])
    trainer = gan(networks=lambda: (counting, gans.linear_discriminator()))
    before = counts.traces
    for n in (1, 2, 3, 5, 64, 65, 130, 7):
        assert trainer.generate(n).shape == (n, *gans.IMAGE)
    # One for a single row, one for any number, one for full batches.
    assert counts.traces - before <= 3


def test_pictures_of_a_conditional_gan_ask_for_labels_before_training(tmp_path):
    trainer = gans.conditional_gan()
    data = batches(images(), gans.image_labels())
    with pytest.raises(ValueError, match="SampleImages needs labels="):
        fit(trainer, data, callbacks=[SampleImages(tmp_path)])
    assert trainer.step == 0


def test_a_metric_whose_name_does_not_tell_asks_for_a_mode_before_training():
    trainer = untrained()
    trainer.distance = keras.metrics.Mean(name="distance")
    with pytest.raises(ValueError, match="EarlyStopping monitors 'distance'.* give mode='min'"):
        fit(trainer, callbacks=[keras.callbacks.EarlyStopping(monitor="distance")])
    del trainer.distance
