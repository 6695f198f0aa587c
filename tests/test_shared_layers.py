"""Networks that share layers: the same ones after loading, or refused when made."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.helpers.comparisons import assert_same
from tests.helpers.data import numbers
from tests.helpers.tables import each
from trainer import Networks

ROWS = numbers(5, 3)


def on_input(*layers):
    """Returns a functional model of the layers, one after the other."""
    inputs = x = keras.Input((3,))
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def in_a_row(*layers):
    return keras.Sequential([keras.Input((3,)), *layers])


def dense(units=4):
    return keras.layers.Dense(units, activation="tanh")


def two_heads():
    images = keras.Input((3,))
    features = dense()(images)
    return [keras.Model(images, dense(units)(features)) for units in (1, 2)]


def called_twice():
    layer = dense()
    return [on_input(layer, dense(1)), on_input(layer, dense(2))]


def sequential():
    layer = dense()
    return [in_a_row(layer, dense(1)), in_a_row(layer, dense(2))]


def features_of_another():
    network = in_a_row(dense(), keras.layers.Dropout(0.5), dense(1))
    return [network, keras.Model(network.inputs, network.layers[1].output)]


def layer_called_within_itself():
    layer = dense(3)
    return [on_input(layer, layer, layer), on_input(layer, dense(1))]


def one_within_two_others():
    network = in_a_row(dense())
    return [network, on_input(network, dense(1)), on_input(network, dense(2))]


def model_within_two():
    network = on_input(dense())
    return [on_input(network, dense(1)), in_a_row(network, dense(2))]


def whole_after_its_part():
    network = on_input(dense())
    return [on_input(network, dense(1)), network]


@keras.saving.register_keras_serializable("tests")
class Headed(keras.Model):
    """A model of a class of one's own, of a part that is made elsewhere."""

    def __init__(self, part):
        super().__init__()
        self.part, self.head = part, dense(1)
        self(ROWS)

    def call(self, x):
        return self.head(self.part(x))

    def get_config(self):
        return {"part": keras.saving.serialize_keras_object(self.part)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["part"]))


def whole_of_a_class():
    network = on_input(dense())
    return [Headed(network), network]


SHARING = {
    function.__name__: function
    for function in (
        two_heads,
        called_twice,
        sequential,
        features_of_another,
        layer_called_within_itself,
        one_within_two_others,
        model_within_two,
        whole_after_its_part,
        whole_of_a_class,
    )
}


@pytest.mark.parametrize("build", **each(SHARING))
def test_networks_that_share_layers_are_saved_and_loaded(build, tmp_path):
    path, parts = tmp_path / "x.keras", build()
    model = Networks({f"n{number}": part for number, part in enumerate(parts)}, seed=1)
    for _ in range(2):  # the loaded one, too
        for seed, weight in enumerate(model.weights):
            weight.assign(numbers(*weight.shape, seed=seed))
        model.save(path)
        loaded = keras.models.load_model(path)
        assert list(loaded.networks) == list(model.networks)
        assert_same(loaded.get_weights(), model.get_weights())
        for weight in [*model.weights, *loaded.weights]:  # one layer is still one
            weight.assign_add(np.full(weight.shape, 0.25, "float32"))
        for ours, theirs in zip(loaded.networks.values(), model.networks.values(), strict=True):
            assert type(ours) is type(theirs)
            assert_same(ours(ROWS), theirs(ROWS))
        model = loaded


def test_a_configuration_alone_keeps_what_is_shared():
    model = Networks(dict(zip("ab", two_heads(), strict=True)), seed=1)
    twin = Networks.from_config(model.get_config())
    assert len(twin.weights) == len(model.weights) == 6
    assert twin.networks["a"].layers[1] is twin.networks["b"].layers[1]


def layer_of_a_class():
    layer = dense()
    return [in_a_row(layer), Headed(layer)]


def two_of_a_class():
    layer = dense()
    return [Headed(layer), Headed(layer)]


def deep_in_two_models():
    layer = dense()
    return [in_a_row(in_a_row(layer), dense(1)), in_a_row(in_a_row(layer), dense(2))]


@pytest.mark.parametrize("build", [layer_of_a_class, two_of_a_class, deep_in_two_models])
def test_layers_that_would_be_two_after_loading_are_refused(build):
    networks = dict(zip("ab", build(), strict=True))
    with pytest.raises(ValueError, match="a and b share the layer 'dense.*', but would not after"):
        Networks(networks)
