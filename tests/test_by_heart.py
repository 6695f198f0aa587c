"""What people try on a trainer by heart: copies, names of `keras.Model`, tab completion."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainer as package
from tests.helpers.data import numbers
from tests.helpers.models import compiled, dense, mlp, seeded, untrained
from trainer import CustomTrainer, GANTrainer, Networks
from trainer.callbacks import ForNetwork, NaNGuard, ProgressBar, SampleImages, Snapshots

X, Y = numbers(20, 4), numbers(20, 1, seed=1)


class Counts(CustomTrainer):
    """Has a metric, a seed generator and a number of its own."""

    def __init__(self, model, **arguments):
        super().__init__(model, **arguments)
        self.rows = keras.metrics.Sum(name="rows")
        self.seeds_of_noise = keras.random.SeedGenerator(5)
        self.factor = 2.0

    def train_step(self, data):
        x, y = data
        noise = keras.random.normal(tf.shape(x), seed=self.seeds_of_noise)
        self.rows.update_state(tf.shape(x)[0])
        return super().train_step((x + self.factor * noise, y))


class Copies(keras.callbacks.Callback):
    def set_trainer(self, trainer):
        self.trainer = trainer

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.copy = copy.deepcopy(self.trainer)


def with_dropout():
    return compiled(mlp(keras.layers.Dropout(0.5)), keras.optimizers.Adam(0.01))


def gan():
    generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="tanh")])
    discriminator = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    return GANTrainer(generator, discriminator, latent_dim=3, seed=3)


def plain_copy(trainer):
    return copy.deepcopy(trainer)


def from_pickle(trainer):
    return pickle.loads(pickle.dumps(trainer))


both_ways = pytest.mark.parametrize(
    "make_copy", [plain_copy, pytest.param(from_pickle, marks=pytest.mark.exhaustive)]
)


def fit(trainer, epochs=2, **arguments):
    return trainer.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, **arguments)


@both_ways
def test_a_copy_trains_on_like_the_trainer_that_it_is_of(make_copy):
    ours = Counts(seeded(with_dropout), seed=4)
    fit(ours)
    copied = make_copy(ours)
    assert (type(copied), copied.step, copied.epoch, copied.seed) == (Counts, 6, 2, 4)
    assert copied.model is not ours.model
    expected = fit(ours).history
    assert expected["rows"] == [20.0, 20.0]
    assert fit(copied).history == expected
    for weight, other in zip(ours.model.get_weights(), copied.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    assert (ours.step, copied.step) == (12, 12)


@pytest.mark.exhaustive
@pytest.mark.parametrize("make_copy", [plain_copy, from_pickle])
def test_a_copy_of_a_gan_trains_on_like_it(make_copy):
    ours = gan()
    ours.fit(np.tanh(X), batch_size=8, verbose=0)
    copied = make_copy(ours)
    assert copied.step == 3
    assert copied.generator is copied.model.networks["generator"]
    runs = [each.fit(np.tanh(X), batch_size=8, verbose=0).history for each in (ours, copied)]
    assert runs[0] == runs[1]
    assert copied.step == copied.model.progress.step == 6
    np.testing.assert_array_equal(ours.generate(2), copied.generate(2))


def test_a_copy_keeps_the_settings():
    model = dense()
    copied = copy.deepcopy(CustomTrainer(model, run_eagerly=True, steps_per_execution=3))
    assert (copied.model.run_eagerly, copied.model.steps_per_execution) == (True, 3)


@pytest.mark.exhaustive
def test_a_copy_made_while_fit_runs_is_that_of_the_moment():
    copies = Copies()
    ours = CustomTrainer(seeded(with_dropout), seed=1)
    weights = fit(ours, callbacks=[copies]) and ours.model.get_weights()
    assert copies.copy.step == 3
    fit(copies.copy, epochs=1)
    for weight, other in zip(weights, copies.copy.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


@pytest.mark.parametrize("make_copy", [plain_copy, from_pickle])
def test_a_part_of_the_model_as_attribute_is_an_error_in_a_copy(make_copy):
    ours = CustomTrainer(dense())
    ours.parts = {"first": ours.model.layers[0]}
    with pytest.raises(TypeError, match="attribute 'parts' is a part of its model.*copy the model"):
        make_copy(ours)


def test_a_trainer_on_several_devices_is_not_copied():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        ours = CustomTrainer(dense())
    with pytest.raises(TypeError, match="on several devices cannot be copied or pickled"):
        copy.deepcopy(ours)


@pytest.mark.parametrize(
    "name",
    ["save", "summary", "compile", "metrics_names", "load_weights", "layers", "weights"],
)
def test_a_name_of_the_models_is_said_to_be_there(name):
    ours = untrained(dense).trainer
    assert not hasattr(ours, name)
    with pytest.raises(AttributeError, match=f"no attribute '{name}': .* trainer.model.{name}"):
        getattr(ours, name)


def test_history_is_said_to_be_what_fit_returns():
    with pytest.raises(AttributeError, match="'history': fit returns it, and trainer.model.hist"):
        untrained(dense).trainer.history  # noqa: B018


def test_an_unknown_name_is_plainly_unknown():
    with pytest.raises(AttributeError, match="^'CustomTrainer' object has no attribute 'sumary'$"):
        untrained(dense).trainer.sumary  # noqa: B018


def test_a_property_keeps_its_own_error():
    class Property(CustomTrainer):
        @property
        def weights(self):
            return self.model.encoder.weights

    with pytest.raises(AttributeError, match="'encoder'"):
        Property(dense()).weights  # noqa: B018


def test_a_subclass_that_forgets_super_is_told():
    class Forgets(CustomTrainer):
        def __init__(self, model):
            self.alpha = 1

    ours = Forgets(dense())
    assert repr(ours) == "<Forgets without a model>"
    with pytest.raises(AttributeError, match=r"call super\(\).__init__\(model, ...\) first"):
        fit(ours)


def test_a_step_that_calls_the_trainer_is_shown_the_model():
    class CallsItself(CustomTrainer):
        def train_step(self, data):
            return {"loss": tf.reduce_mean(self(data[0], training=True))}

    with pytest.raises(TypeError, match=r"not callable, its model is: self.model\(x, training"):
        fit(CallsItself(dense()))


def test_a_step_that_gives_the_tape_first_is_told():
    class TapeFirst(CustomTrainer):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self.model(x))
            self.minimize(tape, loss)

    with pytest.raises(TypeError, match=r"the tape first: call minimize\(loss, tape\)"):
        fit(TapeFirst(dense()))


def test_a_subclass_may_be_callable():
    class Callable(CustomTrainer):
        def __call__(self, x):
            return self.model(x)

    ours = Callable(dense())
    np.testing.assert_array_equal(ours(X), ours.model(X))


def test_repr_names_model_steps_and_epochs():
    ours = Counts(mlp(), optimizer="sgd", loss="mse")
    fit(ours)
    assert repr(ours) == f"<Counts model={ours.model.name}, step=6, epoch=2>"
    assert repr(gan()) == "<GANTrainer model=networks, step=0, epoch=0>"


@pytest.mark.parametrize(
    ("callback", "shown"),
    [
        (Snapshots("runs", every_steps=5), "Snapshots('runs', every_steps=5)"),
        (NaNGuard("failures"), "NaNGuard('failures')"),
        (SampleImages("s", grid=(2, 3), labels=[1] * 6), None),
        (ForNetwork("generator", NaNGuard("f")), "ForNetwork('generator', NaNGuard('f'))"),
        (ProgressBar(), "ProgressBar()"),
    ],
)
def test_repr_of_a_callback_is_the_call_that_makes_it(callback, shown):
    shown = shown or "SampleImages('s', grid=(2, 3), labels=[1, 1, 1, 1, 1, 1])"
    assert repr(callback) == shown


def test_tab_completion_has_the_public_names_alone():
    names = {name for name in dir(gan()) if not name.startswith("_")}
    assert {"fit", "generate", "model", "d_loss", "minimize", "is_chief"} <= names
    assert not names & {"peers", "peers_at_start", "known_inputs", "own_metrics", "seeds"}
    public = [name for name in dir(package) if not name.startswith("_")]
    assert public == sorted(package.__all__)


def test_the_package_has_a_version():
    assert [int(part) for part in package.__version__.split(".")] >= [0, 1, 0]


@pytest.mark.parametrize("make", [CustomTrainer, lambda m, seed: Networks({"a": m}, seed=seed)])
@pytest.mark.parametrize(
    ("seed", "kind"), [(1.5, TypeError), (2.0, TypeError), ("a", TypeError), (-1, ValueError)]
)
def test_a_seed_that_is_none_is_an_error_at_once(make, seed, kind):
    with pytest.raises(kind, match="seed is .*expected a whole number of 0 or more"):
        make(mlp(), seed=seed)


@pytest.mark.parametrize("seed", [0, np.int64(3), np.array(3), np.uint32(2**32 - 1)])
def test_a_seed_may_be_of_any_kind_of_whole_number(seed):
    assert CustomTrainer(mlp(), seed=seed).seed == int(seed)
