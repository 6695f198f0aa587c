"""The tests of this folder do run through the trainer."""

import keras
import numpy as np
import pytest

from tests.conformance.conftest import ROUTED
from trainer import loop


@pytest.mark.parametrize("name", ROUTED)
def test_a_call_of_the_model_ends_up_in_the_trainer(name, routes):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = [np.ones((8, 4))] if "predict" in name else [np.ones((8, 4)), np.ones(8)]
    getattr(model, name)(*data)
    assert routes.calls == [name]
    assert routes.trainer_of(model).model is model


def test_it_is_the_trainers_loop_that_runs(monkeypatch):
    def no_loop(*args, **kwargs):
        raise NotImplementedError("the loop of the trainer")

    monkeypatch.setattr(loop, "train", no_loop)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(NotImplementedError, match="the loop of the trainer"):
        model.fit(np.ones((8, 4)), np.ones(8))
