"""What a trainer has beside its networks: saved with them by name, and restored."""

from __future__ import annotations

import copy
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import gans
from tests.helpers.comparisons import assert_same
from tests.helpers.gans import fit, gan, images, state_of
from trainer import GANTrainer
from trainer.callbacks import ForNetwork

pytestmark = pytest.mark.xdist_group("gan")


class Richer(GANTrainer):
    """Has an averaged generator, an encoder with its optimizer, a head, variables and a seed."""

    def __init__(self, generator, discriminator, **arguments):
        super().__init__(generator, discriminator, **arguments)
        self.average = keras.models.clone_model(generator)
        self.average.set_weights(generator.get_weights())
        self.encoder = keras.Sequential(
            [keras.Input(gans.IMAGE), keras.layers.Flatten(), keras.layers.Dense(gans.LATENT)]
        )
        self.encoder_optimizer = keras.optimizers.Adam(0.01)
        # Shares a layer with the discriminator, and has one that is its own.
        logits = discriminator.layers[-1].output
        self.head = keras.Model(discriminator.inputs, keras.layers.Dense(2)(logits))
        self.counts = {"steps": keras.Variable(0.0, trainable=False), "rows": tf.Variable(0)}
        self.noises = [keras.random.SeedGenerator(3)]
        self.drawn = keras.metrics.Mean(name="drawn")

    def train_step(self, data):
        logs = super().train_step(data)
        for mean, weight in zip(self.average.weights, self.generator.weights, strict=True):
            mean.assign(0.5 * mean + 0.5 * weight)
        latent = keras.random.normal((8, gans.LATENT), seed=self.noises[0])
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.encoder(self.generator(latent)) - latent) ** 2)
        self.minimize(loss, tape, self.encoder.trainable_weights, self.encoder_optimizer)
        self.head.layers[-1].kernel.assign_add(tf.ones_like(self.head.layers[-1].kernel))
        self.counts["steps"].assign_add(1.0)
        pictures, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        self.counts["rows"].assign_add(tf.shape(pictures)[0])
        return {**logs, "encoder_loss": loss}


def richer():
    return gan(Richer, networks=gans.linear_networks)


def added(trainer):
    """Returns the values of what `Richer` adds."""
    of_models = [trainer.average, trainer.encoder, trainer.encoder_optimizer, trainer.head]
    variables = [variable for part in of_models for variable in part.variables]
    variables += [*trainer.counts.values(), trainer.noises[0].state]
    return [np.asarray(variable.numpy()) for variable in variables]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A GAN that has trained for an epoch, the file of its checkpoint and its snapshot."""
    trainer, folder = richer(), tmp_path_factory.mktemp("saved")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        checkpoint = keras.callbacks.ModelCheckpoint(folder / "x.keras")
        fit(trainer, images(), batch_size=gans.BATCH, callbacks=[checkpoint])
    trainer.save_snapshot(folder / "snapshot")
    return trainer, folder


@pytest.fixture
def saved(trained):
    """The same GAN as it was after that epoch, and the file."""
    trainer, folder = trained
    trainer.restore_snapshot(folder / "snapshot")
    return trainer, folder / "x.keras"


def go_on(trainer):
    return fit(trainer, images(), batch_size=gans.BATCH, epochs=2, initial_epoch=1).history


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_subclass_resumes_from_a_file_with_all_that_it_adds(saved):
    trainer, path = saved
    loaded = Richer.from_model(keras.models.load_model(path))
    # The optimizer makes moments in the first step; what it has before is restored before.
    assert int(loaded.encoder_optimizer.iterations) == int(trainer.g_optimizer.iterations) == 3
    assert len(loaded.encoder_optimizer.variables) == 2
    assert loaded.model.attached_names() == trainer.model.attached_names()
    assert_same(go_on(loaded), go_on(trainer))
    assert_same(state_of(loaded), state_of(trainer))
    assert_same(added(loaded), added(trainer))
    assert trainer.counts["steps"].numpy() == 6
    assert trainer.counts["rows"].numpy() == 2 * gans.ROWS


def test_what_is_saved_before_it_is_used_again_is_kept(saved, tmp_path):
    trainer, path = saved
    keras.models.load_model(path).save(tmp_path / "y.keras")
    Richer.from_model(keras.models.load_model(tmp_path / "y.keras")).model.save(
        tmp_path / "z.keras"
    )
    loaded = Richer.from_model(keras.models.load_model(tmp_path / "z.keras"))
    loaded.encoder_optimizer.build(loaded.encoder.trainable_weights)
    assert_same(added(loaded), added(trainer))


def test_added_models_are_attributes_of_the_loaded_model(saved):
    trainer, path = saved
    model, x = keras.models.load_model(path), gans.latent_points(3)
    assert_same(model.average(x), trainer.average(x))
    assert model.average is model.average
    assert not hasattr(model, "head")  # which is of the discriminator's layers, too
    assert not hasattr(model, "counts")


def test_weights_are_loaded_into_a_subclass(saved, tmp_path):
    trainer, _ = saved
    trainer.model.save_weights(tmp_path / "x.weights.h5")
    new = richer()
    new.model.load_weights(tmp_path / "x.weights.h5")
    new.encoder_optimizer.build(new.encoder.trainable_weights)
    assert_same(state_of(new), state_of(trainer))
    assert_same(added(new), added(trainer))


def test_snapshots_keep_what_a_subclass_adds(saved, tmp_path):
    trainer, _ = saved
    trainer.save_snapshot(tmp_path / "snapshot")
    before = added(trainer)
    go_on(trainer)
    trainer.restore_snapshot(tmp_path / "snapshot")
    assert_same(added(trainer), before)


def test_the_best_weights_are_restored_in_added_models_too(saved):
    (trainer, _), seen = saved, []
    stopping = keras.callbacks.EarlyStopping(
        "g_loss", patience=1, min_delta=1e3, restore_best_weights=True
    )
    noting = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(trainer.average.get_weights())
    )
    fit(trainer, images(), batch_size=gans.BATCH, epochs=5, callbacks=[noting, stopping])
    assert len(seen) == 2
    assert_same(trainer.average.get_weights(), seen[0])


def test_a_trainer_of_a_live_model_takes_what_it_has():
    trainer = richer()
    trainer.average.set_weights([weight + 1 for weight in trainer.average.get_weights()])
    before = trainer.average.get_weights()
    other = Richer.from_model(trainer.model)
    assert other.average is not trainer.average
    assert other.model.average is other.average
    assert_same(other.average.get_weights(), before)


def test_a_file_of_two_networks_alone_is_loaded_with_a_warning(tmp_path):
    plain = gan(networks=gans.linear_networks)
    fit(plain)
    plain.model.save(tmp_path / "x.keras")
    model = keras.models.load_model(tmp_path / "x.keras")
    names = "average, counts, encoder, encoder_optimizer, head, noises"
    with pytest.warns(UserWarning, match=f"The file has no values of {names}, which the trainer"):
        loaded = Richer.from_model(model)
    assert_same(loaded.average.get_weights(), plain.generator.get_weights())


def test_a_plain_trainer_keeps_what_a_subclass_added(saved, tmp_path):
    trainer, path = saved
    plain = GANTrainer.from_model(keras.models.load_model(path))
    plain.model.save(tmp_path / "y.keras")
    again = Richer.from_model(keras.models.load_model(tmp_path / "y.keras"))
    assert_same(again.average.get_weights(), trainer.average.get_weights())


class Other(GANTrainer):
    """Has a variable of the name of a model of `Richer`."""

    def __init__(self, generator, discriminator, **arguments):
        super().__init__(generator, discriminator, **arguments)
        self.average = keras.Variable([1.0])


def test_values_of_another_shape_are_told(saved):
    with pytest.raises(ValueError, match=r"shapes \[\(8, 64\), \(64,\)\] for 'average', which has"):
        Other.from_model(keras.models.load_model(saved[1]))


def test_a_rate_that_is_set_after_loading_is_kept(saved):
    loaded = Richer.from_model(keras.models.load_model(saved[1]))
    loaded.encoder_optimizer.learning_rate = 0.5
    loaded.encoder_optimizer.build(loaded.encoder.trainable_weights)
    assert loaded.encoder_optimizer.learning_rate.numpy() == 0.5


class Helper:
    def __init__(self, weight):
        self.weight = weight


def test_variables_out_of_reach_are_told_once_when_saving(tmp_path):
    trainer = gan(networks=gans.linear_networks)
    trainer.of_networks = Helper(trainer.generator.layers[0])
    trainer.helper = Helper([keras.Variable(1.0)])
    with pytest.warns(UserWarning, match="The variables in the trainer's helper are not saved"):
        trainer.model.save(tmp_path / "x.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer.model.save(tmp_path / "x.keras")


def test_what_is_replaced_or_deleted_is_not_saved():
    trainer = gan(networks=gans.linear_networks)
    trainer.scale = keras.Variable(1.0)
    assert trainer.model.attached_names() == {"scale"}
    trainer.scale = 2.0
    assert trainer.model.attached_names() == set()
    trainer.scale = keras.Variable(1.0)
    assert trainer.model.scale is trainer.scale
    del trainer.scale
    assert trainer.model.attached_names() == set()


def test_an_optimizer_that_scales_its_loss_gets_all_its_values(tmp_path):
    weights, path = [keras.Variable([1.0, 2.0])], tmp_path / "x.weights.h5"
    trainer, other = (gan(networks=gans.linear_networks) for _ in range(2))
    for each in (trainer, other):
        each.own_optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.5))
    trainer.own_optimizer.apply([np.float32([8.0, 16.0])], weights)
    trainer.own_optimizer.learning_rate = 0.25
    trainer.model.save_weights(path)
    for _ in range(2):  # saved again before it has all its variables
        other.model.load_weights(path)
        other.model.save_weights(path)
    other.own_optimizer.build(weights)
    variables = (each.own_optimizer.variables for each in (other, trainer))
    assert_same(*([variable.numpy() for variable in own] for own in variables))


def test_a_checkpoint_may_be_of_an_added_model(saved, tmp_path):
    trainer, _ = saved
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "average.keras")
    fit(trainer, callbacks=[ForNetwork("average", checkpoint)])
    loaded = keras.models.load_model(tmp_path / "average.keras")
    assert_same(loaded.get_weights(), trainer.average.get_weights())
    with pytest.raises(ValueError, match="The model has no network 'counts'"):
        fit(trainer, callbacks=[ForNetwork("counts", checkpoint)])


def two_names_of_one(names):
    """Returns a GAN that has one variable in a list, which is filled later, and by itself."""
    trainer = gan(networks=gans.linear_networks)
    variable = keras.Variable(1.0)
    for name in names:
        setattr(trainer, name, [] if name == "all" else variable)
    trainer.all.append(variable)
    return trainer


def test_a_variable_of_two_names_is_saved_once(tmp_path):
    trainer, other = two_names_of_one(["all", "one"]), two_names_of_one(["one", "all"])
    trainer.one.assign(2.0)
    trainer.model.save_weights(tmp_path / "x.weights.h5")
    other.model.load_weights(tmp_path / "x.weights.h5")
    assert other.one.numpy() == 2
    assert trainer.model.attached_names() == {"all"}


class Early(GANTrainer):
    """Sets its attribute before the trainer is made."""

    def __init__(self, generator, discriminator, **arguments):
        self.scale = keras.Variable(0.0)
        super().__init__(generator, discriminator, **arguments)


def test_attributes_set_before_the_trainer_is_made_are_saved(tmp_path):
    trainer = gan(Early, networks=gans.linear_networks)
    trainer.scale.assign(3.0)
    trainer.model.save(tmp_path / "x.keras")
    assert Early.from_model(keras.models.load_model(tmp_path / "x.keras")).scale.numpy() == 3


def test_a_copy_of_the_model_has_what_is_added(saved):
    trainer, _ = saved
    assert_same(copy.deepcopy(trainer.model).average.get_weights(), trainer.average.get_weights())
