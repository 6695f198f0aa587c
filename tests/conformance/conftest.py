"""Routes `fit`, `evaluate`, `predict` and the `*_on_batch` methods of Keras models to the trainer.

Keras's own tests, which are installed with it, then run through `CustomTrainer`.
"""

import functools

import keras
import pytest

from tests.helpers import gans, models
from trainer import CustomTrainer

ROUTED = ("fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch")


class Routes:
    """Sends the calls of each model to a trainer of its own, which lives as long as the test."""

    def __init__(self):
        self._trainers = {}
        self.calls = []

    def route(self, name):
        @functools.wraps(getattr(keras.Model, name))
        def routed(model, *args, **kwargs):
            self.calls.append(name)
            return getattr(self.trainer_of(model), name)(*args, **kwargs)

        return routed

    def trainer_of(self, model):
        if id(model) not in self._trainers:
            self._trainers[id(model)] = CustomTrainer(model)
        return self._trainers[id(model)]


@pytest.fixture(autouse=True)
def routes(monkeypatch):
    """The routes in force for one test; `routes.calls` names the methods that went through them."""
    routes = Routes()
    for name in ROUTED:
        owner = next(parent for parent in keras.Model.__mro__ if name in vars(parent))
        monkeypatch.setattr(owner, name, routes.route(name))
    return routes


@pytest.fixture(autouse=True)
def _leaves_no_model_for_other_tests():
    """Drops the models that other tests share.

    A test of Keras's, of `SwapEMAWeights` on two devices, starts TensorFlow anew in its process;
    to assign to a variable that was made before then changes nothing.
    """
    yield
    gans.made_and_values.cache_clear()
    models.twins_and_values.cache_clear()
