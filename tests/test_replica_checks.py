"""What several devices cannot do is refused before the first step, with a sentence that helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import labels, numbers
from tests.helpers.devices import strategy_for
from tests.helpers.replicas import mean_square
from tests.helpers.tables import each
from trainer import CustomTrainer

ROWS, BATCH = 20, 8
X, Y = numbers(ROWS, 4), labels(ROWS, 1, classes=2)
MeanSquaredError, Adam = keras.losses.MeanSquaredError, keras.optimizers.Adam


class HasOwnStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


class HasOwnLoss(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return mean_square(y, y_pred)


class CallsLoss(CustomTrainer):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.square = MeanSquaredError()

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        return self.square(y, y_pred)


class OfCorrelation(keras.metrics.Mean):
    def __init__(self):
        super().__init__()
        self.correlation = keras.metrics.PearsonCorrelation()


class Correlates(CustomTrainer):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.correlation = OfCorrelation()


class AppliesGradients(CustomTrainer):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = mean_square(tf.cast(y, tf.float32), self.model(x))
        weights = self.model.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


class LogsRoot(CustomTrainer):
    def compute_metrics(self, *args: Any, **kwargs: Any):
        logs = super().compute_metrics(*args, **kwargs)
        return {**logs, "root": tf.sqrt(logs["loss"])}


class PredictsMean(CustomTrainer):
    def predict_step(self, data):
        return tf.reduce_mean(super().predict_step(data))


def dense(kind: type[keras.Sequential] = keras.Sequential) -> keras.Model:
    return kind([keras.Input((4,)), keras.layers.Dense(1)])


def fit(made: CustomTrainer, **how: Any) -> None:
    made.fit(X, Y, batch_size=BATCH, verbose=0, **how)


def fit_with_ten_weights(made: CustomTrainer) -> None:
    rows = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
    made.fit(rows.map(lambda x, y: (x, y, tf.ones(10))), verbose=0)


class Case(NamedTuple):
    """What two devices cannot do.

    Attributes:
        sentence: is in the error, or in the warning.
        settings: of the trainer; a function is called under the strategy's scope.
        model: makes the model under the strategy's scope.
        kind: the class of the trainer.
        run: what is done with the trainer.
        outside: makes settings outside of the scope.
        error: the type of the error.
    """

    sentence: str
    settings: dict[str, Any] = {}  # noqa: RUF012
    model: Callable[[], keras.Model] = dense
    kind: type[CustomTrainer] = CustomTrainer
    run: Callable[[CustomTrainer], Any] = fit
    outside: Callable[[], dict[str, Any]] = dict
    error: type[Exception] = ValueError


def loss(value: Any) -> dict[str, Any]:
    return {"loss": value}


def optimizer(**settings: Any) -> dict[str, Any]:
    return {"optimizer": lambda: Adam(**settings)}


def several(of_matrices: keras.Optimizer, of_others: keras.Optimizer) -> keras.Optimizer:
    return keras.optimizers.MultiOptimizer(
        lambda variable: of_matrices if len(variable.shape) == 2 else of_others
    )


REFUSED = {
    "none": Case(
        "has the reduction 'none', which several devices cannot share: give it reduction=",
        loss(MeanSquaredError(reduction="none")),
    ),
    "weights": Case(
        "has the reduction 'mean_with_sample_weight', which several devices cannot",
        loss(MeanSquaredError(reduction="mean_with_sample_weight")),
    ),
    "several losses": Case(
        "it has to be known which loss, target and sample weight an output has",
        loss([MeanSquaredError(reduction="sum"), "mae"]),
    ),
    "loss of a batch": Case(
        "The loss dice is one of all rows of a batch together, which several", loss("dice")
    ),
    "loss of all rows": Case(
        "The loss circle is one of all rows of a batch together", loss(keras.losses.Circle())
    ),
    "loss weighed": Case(
        "The loss mean_square returns a single number for all rows, which several",
        loss(mean_square),
        run=lambda made: fit(made, sample_weight=Y[:, 0]),
    ),
    "no sum": Case(
        "keeps what is no sum, so several devices cannot share it",
        {"metrics": ["PearsonCorrelation"]},
    ),
    "no sum in it": Case("The metric pearson_correlation keeps what is no sum", kind=Correlates),
    "metric outside": Case(
        "but the metric outside was made outside of the scope of their strategy",
        outside=lambda: {"metrics": [keras.metrics.MeanAbsoluteError(name="outside")]},
    ),
    "accumulation": Case(
        "has gradient_accumulation_steps=2, which Keras cannot do on 2 devices",
        optimizer(gradient_accumulation_steps=2),
    ),
    "accumulation in one of several": Case(
        "The optimizer adam has gradient_accumulation_steps=2, which Keras cannot do on 2 devices",
        {"optimizer": lambda: several(Adam(gradient_accumulation_steps=2), Adam())},
    ),
    "overwriting": Case(
        "has ema_overwrite_frequency=3, which Keras cannot do on 2 devices",
        optimizer(use_ema=True, ema_overwrite_frequency=3),
    ),
    "scope": Case(
        "but the optimizer adam was made outside of the scope of their strategy",
        outside=lambda: {"optimizer": Adam()},
    ),
    "model outside": Case(
        "but the model was made outside of the scope of their strategy",
        outside=lambda: {"model": dense()},
    ),
    "own loss": Case(
        "HasOwnLoss has a compute_loss of its own, of which 2 devices cannot tell whether",
        model=lambda: dense(HasOwnLoss),
    ),
    "loss called": Case(
        "A step calls the loss mean_squared_error, whose result Keras divides", kind=CallsLoss
    ),
    "gradients applied": Case(
        "A step applies gradients by the optimizer adam", kind=AppliesGradients
    ),
    "log computed": Case("The log 'root' is computed from results of metrics", kind=LogsRoot),
    "rows": Case(
        "A batch has arrays of the shapes (None, 1) and (10,): several devices share its",
        run=fit_with_ten_weights,
        error=tf.errors.InvalidArgumentError,
    ),
    "number": Case(
        "The predict_step returns a single number for a batch, which several devices",
        kind=PredictsMean,
        run=lambda made: made.predict(X, verbose=0),
    ),
}


def made_for_two_devices(case: Case) -> CustomTrainer:
    strategy = strategy_for(2)
    keras.utils.clear_session(free_memory=False)
    settings = {"optimizer": Adam, "loss": "mse", **case.settings, **case.outside()}
    with strategy.scope():
        model = settings.pop("model", None) or case.model()
        make = settings["optimizer"]
        settings["optimizer"] = make if isinstance(make, keras.Optimizer) else make()
        return case.kind(model, **settings)


@pytest.mark.parametrize("case", **each(REFUSED))
def test_it_is_refused_before_the_first_step(case):
    made = None
    with pytest.raises(case.error) as raised:
        made = made_for_two_devices(case)
        before = made.model.get_weights()
        case.run(made)
    text = str(raised.value)  # of an error in the graph, the sentence is within
    assert case.sentence in (text.partition("\n")[0] if case.error is ValueError else text)
    if made is not None:
        assert all(map(np.array_equal, before, made.model.get_weights()))


def test_a_step_of_the_model_trains_with_a_warning():
    made = made_for_two_devices(Case("", model=lambda: dense(HasOwnStep)))
    sentence = "HasOwnStep has a train_step of its own, which each of 2 devices takes"
    with pytest.warns(UserWarning, match=sentence):
        fit(made)
