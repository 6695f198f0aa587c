"""`Networks`: several networks and their optimizers as one model, with any trainer."""

from __future__ import annotations

import random
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import numbers
from tests.helpers.models import mlp, seeded, weights_of
from trainer import CustomTrainer, Networks
from trainer.callbacks import ForNetwork
from trainer.networks import trained_networks

NAMES = ("encoder", "decoder", "critic")
RATES = {"encoder": 0.1, "decoder": 0.2, "critic": 0.4}
ROWS = numbers(20, 4)


def three_networks():
    return {name: mlp(keras.layers.Dropout(0.5, seed=3), outputs=4) for name in NAMES}


def made(optimizer=None, **arguments):
    """Returns three networks, compiled; the same weights and seeds each time."""
    model = seeded(lambda: Networks(three_networks(), **{"seed": 1, **arguments}))
    model.compile(optimizer or sgd(), jit_compile=False)
    return model


def sgd(**settings):
    return {name: keras.optimizers.SGD(rate, **settings) for name, rate in RATES.items()}


class ThreeLosses(CustomTrainer):
    """Trains each network to make zeros, in the order of their names."""

    def train_step(self, data):
        total = 0.0
        for name in sorted(self.model.networks):
            network = self.model.networks[name]
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(network(data, training=True) ** 2)
            weights = network.trainable_weights
            self.minimize(loss, tape, weights, self.model.optimizers[name])
            total += loss
        self.track_loss(total, data)
        return self.metric_results()


def batches():
    return tf.data.Dataset.from_tensor_slices(ROWS).batch(8)


def fit(model, **arguments):
    return ThreeLosses(model).fit(batches(), verbose=0, **arguments)


def values_of(model):
    return list(weights_of(model).values())


@tf.function(reduce_retracing=True)
def slopes(network, batch):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(network(batch, training=True) ** 2)
    return tape.gradient(loss, network.trainable_weights)


def test_each_network_is_trained_by_its_optimizer_as_a_hand_written_loop_does():
    model = made()
    trainer = ThreeLosses(model)
    trainer.fit(batches(), epochs=2, verbose=0)
    by_hand = seeded(three_networks)
    for name, network in by_hand.items():
        for _ in range(2):
            for batch in batches():
                gradients = slopes(network, batch)
                for weight, slope in zip(network.trainable_weights, gradients, strict=True):
                    weight.assign_sub(RATES[name] * slope)
        for ours, theirs in zip(model.networks[name].variables, network.variables, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)
    assert (trainer.step, trainer.epoch) == (6, 2)
    assert (model.progress.step, model.progress.epoch) == (6, 2)


def test_the_weights_are_those_of_all_networks():
    model = made()
    networks = model.networks.values()
    assert list(model.networks) == list(NAMES)
    assert [id(w) for w in model.weights] == [id(w) for n in networks for w in n.weights]
    assert len(model.trainable_weights) == 3 * 4
    assert len(model.weights) == len({id(weight) for weight in model.weights})


def test_called_it_is_its_first_network():
    model = made()
    expected = model.networks["encoder"](ROWS, training=False)
    assert_same(model(ROWS, training=False), expected)
    assert_same(model.predict(ROWS, verbose=0), CustomTrainer(model).predict(ROWS, verbose=0))
    assert_same(model.predict(ROWS, verbose=0), model.networks["encoder"].predict(ROWS, verbose=0))
    assert model.inputs is model.networks["encoder"].inputs
    assert (model(ROWS, training=True).numpy() != expected.numpy()).any()


def test_networks_and_optimizers_are_attributes_by_name():
    model = made()
    for name in NAMES:
        assert getattr(model, name) is model.networks[name]
        assert getattr(model, f"{name}_optimizer") is model.optimizers[name]
    assert model.d_optimizer is model.optimizers["decoder"]
    assert model.enc_optimizer is model.optimizers["encoder"]
    with pytest.raises(AttributeError, match="no attribute 'encodr': did you mean 'encoder'"):
        model.encodr  # noqa: B018
    for name in ("x_optimizer", "_optimizer", "nothing"):
        assert not hasattr(model, name)
    untrained = Networks(three_networks(), seed=1)
    assert not hasattr(untrained, "encoder_optimizer")


def test_a_network_may_have_the_name_of_an_attribute_of_models():
    network = mlp()
    model = Networks({"layers": network, "name": mlp()}, seed=1)
    assert model.networks["layers"] is network
    assert len(model.layers) == 2
    assert model.name == "networks"


def test_summary_counts_every_network():
    model, lines = made(), []
    model.summary(print_fn=lambda line: lines.append(line))
    parameters = sum(network.count_params() for network in model.networks.values())
    assert model.count_params() == parameters == 3 * (25 + 24)
    assert f"Trainable params: {parameters}" in "\n".join(lines)
    for network in model.networks.values():
        assert network.name in "\n".join(lines)


def test_its_config_makes_the_same_model():
    model = made(name="three")
    config = model.get_config()
    twin = Networks.from_config(config)
    assert twin.get_config() == config
    assert (twin.name, twin.seed, list(twin.networks)) == ("three", 1, list(NAMES))
    twin.set_weights(model.get_weights())
    for name in NAMES:
        ours = model.networks[name].predict(ROWS, verbose=0)
        assert_same(twin.networks[name].predict(ROWS, verbose=0), ours)
    assert twin.optimizers == {}
    assert twin.optimizer is None


def test_a_file_keeps_weights_seeds_optimizers_and_progress(tmp_path):
    model = made(sgd(momentum=0.5))
    fit(model)
    model.save(tmp_path / "x.keras")
    loaded = keras.models.load_model(tmp_path / "x.keras")
    assert list(loaded.optimizers) == list(NAMES)
    assert_same(values_of(loaded), values_of(model))
    assert (loaded.progress.step, loaded.progress.epoch) == (3, 1)
    assert loaded.jit_compile is False
    assert_same(fit(loaded).history, fit(model).history)
    assert_same(values_of(loaded), values_of(model))


def test_the_seeds_of_dropout_are_saved_and_loaded(tmp_path):
    model = made()
    fit(model)
    model.save_weights(tmp_path / "x.weights.h5")
    new = made()

    def draws(which):
        layer = which.networks["critic"].layers[1]
        assert isinstance(layer, keras.layers.Dropout)
        return layer.seed_generator.state.numpy()

    assert draws(new).tolist() == [3, 0]
    new.load_weights(tmp_path / "x.weights.h5")
    assert draws(new).tolist() == draws(model).tolist() == [3, 3]
    ours, theirs = (each.networks["critic"](ROWS, training=True) for each in (new, model))
    assert_same(ours, theirs)


def test_a_network_without_an_optimizer_is_not_trained():
    model = made({"encoder": "sgd", "critic": "adam"})
    assert list(model.optimizers) == ["encoder", "critic"]
    assert [network for network, _ in trained_networks(model)] == [
        model.networks["encoder"],
        model.networks["critic"],
    ]
    assert {id(v) for each in model.optimizers.values() for v in each.variables} == {
        id(v) for v in model.optimizer.variables
    }


def test_with_one_optimizer_it_is_the_models_and_callbacks_need_no_binding():
    one = keras.optimizers.SGD(0.5)

    class TrainsOne(CustomTrainer):
        def train_step(self, data):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self.model(data, training=True) ** 2)
            self.track_loss(loss, data)
            self.minimize(loss, tape, self.model.networks["encoder"].trainable_weights)
            return self.metric_results()

    model = made({"encoder": one})
    others = model.networks["decoder"].get_weights() + model.networks["critic"].get_weights()
    assert model.optimizer is one
    plateau = keras.callbacks.ReduceLROnPlateau(
        "loss", mode="min", patience=1, factor=0.5, min_delta=1e3
    )
    TrainsOne(model).fit(batches(), epochs=3, verbose=0, callbacks=[plateau])
    assert one.learning_rate.numpy() == 0.125
    assert int(one.iterations) == 9
    assert_same(
        model.networks["decoder"].get_weights() + model.networks["critic"].get_weights(), others
    )


def test_averaged_weights_are_put_in_place_in_each_network_after_fit():
    optimizers = {
        "encoder": keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
        "decoder": keras.optimizers.SGD(0.2),
        "critic": keras.optimizers.SGD(0.4, use_ema=True, ema_momentum=0.75),
    }
    momentum = {"encoder": 0.5, "decoder": 0.0, "critic": 0.75}
    model, averages = made(optimizers), {}

    def average(batch, logs):
        for name, network in model.networks.items():
            now = [weight.numpy() for weight in network.trainable_weights]
            if batch == 0:
                averages[name] = now
            m = momentum[name]
            pairs = zip(averages[name], now, strict=True)
            averages[name] = [m * old + (1 - m) * new for old, new in pairs]

    fit(model, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=average)])
    for name, network in model.networks.items():
        for ours, theirs in zip(network.trainable_weights, averages[name], strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-7)


def test_optimizers_are_built_for_their_networks_alone():
    model = made(sgd(momentum=0.5))
    for name, network in model.networks.items():
        moments = model.optimizers[name].variables[2:]  # after the iterations and the rate
        assert [m.shape for m in moments] == [w.shape for w in network.trainable_weights]
    assert model.optimizer.optimizers == list(model.optimizers.values())


def test_a_seed_follows_from_the_state_of_random_and_draws_nothing_of_it():
    network = mlp()
    random.seed(5)
    one, other = Networks({"a": network}), Networks({"a": network})
    assert one.seed == other.seed
    drawn = random.random()
    random.seed(5)
    assert random.random() == drawn
    assert Networks({"a": network}).seed != one.seed


def unbuilt():
    return keras.Sequential([keras.layers.Dense(1)])


def shared():
    one = keras.optimizers.SGD()
    return {"encoder": one, "critic": one}


BAD = {
    "no networks": (lambda m: Networks({}), "networks must be a dict of keras models by name"),
    "a list": (lambda m: Networks([mlp()]), "networks must be a dict of keras models by name"),
    "no model": (
        lambda m: Networks({"a": "b"}),
        "The network 'a' is of type str: expected a keras.Model.",
    ),
    "not built": (
        lambda m: Networks({"a": mlp(), "b": unbuilt()}),
        "The network 'b' has no weights yet: begin it with keras.Input(shape), or call it on a",
    ),
    "unknown name": (
        lambda m: m.compile({"encodr": "sgd"}),
        "There is an optimizer for 'encodr', but the networks are encoder, decoder, critic.",
    ),
    "one for all": (
        lambda m: m.compile("adam"),
        "Several networks need an optimizer each, by name: give optimizer={'encoder': "
        "keras.optimizers.Adam(), 'decoder': keras.optimizers.Adam(), 'critic': "
        "keras.optimizers.Adam()}, not 'adam'.",
    ),
    "missing": (
        lambda m: m.compile({"encoder": None}),
        "The optimizer of 'encoder' is missing: give one, such as keras.optimizers.Adam().",
    ),
    "shared": (
        lambda m: m.compile(shared()),
        "encoder and critic share one optimizer, which keeps its moments for the weights of one",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_and_changes_nothing(case):
    provoke, sentence = BAD[case]
    model = made()
    before, optimizers = weights_of(model), dict(model.optimizers)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        provoke(model)
    assert model.optimizers == optimizers
    assert_same(weights_of(model), before)


def test_setting_one_optimizer_is_told_to_set_each():
    model = made()
    with pytest.raises(AttributeError, match=r"optimizer for each network: set them by model.comp"):
        model.optimizer = keras.optimizers.SGD()
    assert list(model.optimizers) == list(NAMES)


def test_what_several_optimizers_do_not_have_in_common_is_told():
    optimizer = made().optimizer
    assert not hasattr(optimizer, "learning_rate")
    for touch in (lambda: optimizer.use_ema, lambda: setattr(optimizer, "use_ema", True)):
        with pytest.raises(AttributeError, match="each of encoder, decoder, critic, so which use_"):
            touch()


def test_the_steps_of_several_optimizers_are_those_of_the_first():
    model = made()
    assert model.optimizer.iterations is model.optimizers[NAMES[0]].iterations


def test_networks_without_optimizers_are_told_before_training():
    trainer = ThreeLosses(Networks(three_networks(), seed=1))
    with pytest.raises(KeyError, match="'critic' has no optimizer: give CustomTrainer optimizer="):
        trainer.fit(batches(), verbose=0)


def test_a_trainer_takes_no_other_seed_than_its_networks():
    assert ThreeLosses(made(seed=4)).seed == 4
    with pytest.raises(ValueError, match=r"seed is 7, but the model is Networks\(..., seed=4\)"):
        ThreeLosses(made(seed=4), seed=7)


def test_a_rate_of_a_network_without_optimizer_is_told_before_training():
    model = made(dict.fromkeys(NAMES[1:], "sgd"))
    plateau = ForNetwork(NAMES[0], keras.callbacks.ReduceLROnPlateau(monitor="loss"))
    with pytest.raises(ValueError, match="ReduceLROnPlateau is for an optimizer, but the network"):
        ThreeLosses(model).fit(batches(), verbose=0, callbacks=[plateau])


def test_a_file_of_other_random_seeds_is_told(tmp_path):
    path = tmp_path / "x.weights.h5"
    made().save_weights(path)
    networks = three_networks()
    first = networks[NAMES[0]]
    networks[NAMES[0]] = keras.Sequential([*first.layers, keras.layers.Dropout(0.5)])
    networks[NAMES[0]].build(first.input_shape)
    other = Networks(networks, seed=1)
    other.compile(sgd())
    with pytest.raises(ValueError, match=r"seeds of \d+ places that draw, but the model has"):
        other.load_weights(path)
