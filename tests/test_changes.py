"""What a user changes while training goes on, or sets globally, reaches the step or is refused."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.tables import names_of
from trainer import CustomTrainer

layers = keras.layers
X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
Y = X[:, :1]


def dense(cls=keras.Sequential, **settings):
    keras.utils.set_random_seed(0)
    model = cls([keras.Input((6,)), layers.Dense(4), layers.Dense(1)])
    model.compile("sgd", "mse", **settings)
    return model


def batches():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)


def fit(trainer, **settings):
    settings = {"epochs": 3, "batch_size": 8, "shuffle": False, "verbose": 0, **settings}
    return trainer.fit(X, Y, **settings).history


class Freezes(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.layers[0].trainable and batch == 2:
            self.model.layers[0].trainable = False
            self.model.make_train_function(force=True)
            self.frozen = self.model.layers[0].kernel.numpy()


def test_make_train_function_forced_in_mid_epoch_reaches_the_next_batch():
    def frozen_by(through):
        model, callback = dense(), Freezes()
        history = fit(through(model), callbacks=[callback])
        np.testing.assert_array_equal(model.layers[0].kernel, callback.frozen)
        return history, model.get_weights()

    history, weights = frozen_by(lambda model: model)
    own_history, own_weights = frozen_by(CustomTrainer)
    assert own_history == history
    for own, expected in zip(own_weights, weights, strict=True):
        np.testing.assert_array_equal(own, expected)


def test_a_train_function_set_to_none_is_made_again():
    def frozen_by(through):
        model = dense()
        runner = through(model)
        fit(runner)
        model.layers[0].trainable = False
        model.train_function = None
        kernel = model.layers[0].kernel.numpy()
        history = fit(runner)
        np.testing.assert_array_equal(model.layers[0].kernel, kernel)
        return history

    assert frozen_by(CustomTrainer) == frozen_by(lambda model: model)


class Compiles(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            self.model.compile(keras.optimizers.SGD(0.0), "mae")


def test_compile_in_a_hook_reaches_the_next_batch():
    model = dense()
    trainer = CustomTrainer(model)
    losses = fit(trainer, callbacks=[Compiles()])["loss"]
    assert losses[1] == losses[2]  # with the other optimizer nothing moves
    np.testing.assert_allclose(losses[2], np.abs(model(X) - Y).mean(), rtol=1e-5)


class CountsCalls(CustomTrainer):
    def train_step(self, data):
        if not tf.inside_function():
            self.eager += 1
        return super().train_step(data)


def test_functions_that_run_eagerly_run_the_step_so():
    trainer = CountsCalls(dense())
    trainer.eager = 0
    expected = fit(CustomTrainer(dense()))
    tf.config.run_functions_eagerly(True)
    try:
        history = fit(trainer)
    finally:
        tf.config.run_functions_eagerly(False)
    assert trainer.eager == 15
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-6)
    fit(trainer)
    assert trainer.eager == 15


class EvaluatesTwice(keras.Sequential):
    def evaluate(self, *args, **kwargs):
        logs = super().evaluate(*args, **kwargs)
        return {**logs, "twice": 2 * logs["loss"]}


class TrainerEvaluatesTwice(CustomTrainer):
    def evaluate(self, *args, **kwargs):
        logs = super().evaluate(*args, **kwargs)
        return {**logs, "twice": 2 * logs["loss"]}


def test_an_evaluate_of_ones_own_validates():
    validation = {"validation_data": (X, Y), "validation_batch_size": 16}
    expected = fit(dense(EvaluatesTwice), **validation)
    assert expected["val_twice"] == [2 * loss for loss in expected["val_loss"]]
    assert fit(CustomTrainer(dense(EvaluatesTwice)), **validation) == expected
    assert fit(TrainerEvaluatesTwice(dense()), **validation) == expected


class CompilesItself(keras.Sequential):
    def make_train_function(self, force=False):
        self.train_function = tf.function(lambda iterator: self.train_step(next(iterator)))


def test_a_model_that_compiles_its_steps_is_refused():
    model = dense(CompilesItself)
    with pytest.raises(ValueError, match="overrides make_train_function.*override train_step"):
        fit(CustomTrainer(model))
    assert CustomTrainer(model).evaluate(X, Y, verbose=0) == model.evaluate(X, Y, verbose=0)


class Reads(CustomTrainer):
    """A trainer that logs what its step reads of it, and how often it was traced."""

    weights = None
    traces = 0

    def train_step(self, data):
        self.traces += 1
        scale = self.weights["scale"] if self.weights else 1.0
        return {**super().train_step(data), "scale": scale * tf.ones(())}


class Scales(keras.callbacks.Callback):
    def set_trainer(self, trainer):
        self.trainer = trainer

    def on_epoch_begin(self, epoch, logs=None):
        self.trainer.weights["scale"] = float(epoch // 2)


@pytest.mark.parametrize("eager", [False, True], ids=["compiled", "eager"])
def test_an_attribute_that_the_step_reads_reaches_it(eager):
    trainer = Reads(dense(run_eagerly=eager))
    assert fit(trainer)["scale"] == [1.0, 1.0, 1.0]
    trainer.weights = {"scale": 5.0}
    assert fit(trainer)["scale"] == [5.0, 5.0, 5.0]
    assert fit(trainer, epochs=4, callbacks=[Scales()])["scale"] == [0.0, 0.0, 1.0, 1.0]


def test_an_attribute_that_the_step_sets_or_does_not_read_costs_no_trace():
    trainer = Reads(dense())
    trainer.other = 0
    fit(trainer)
    traces = trainer.traces
    trainer.other = 1
    fit(trainer)
    assert trainer.traces == traces > 0


class Wanders(Scales):
    def on_train_batch_begin(self, batch, logs=None):
        self.trainer.weights = {"scale": float(batch)}


def test_an_attribute_that_changes_often_is_told_once():
    trainer = Reads(dense())
    trainer.weights = {"scale": 0.0}
    with pytest.warns(UserWarning, match="weights of the trainer changed 5 times.*tf.Variable"):
        history = fit(trainer, epochs=2, callbacks=[Wanders()])
    assert history["scale"] == [4.0, 4.0]


class ReadsValue(CustomTrainer):
    value = None
    traces = 0

    def train_step(self, data):
        self.traces += 1
        return {**super().train_step(data), "value": None if self.value is None else 1.0}


@pytest.mark.parametrize(
    "make",
    [
        lambda: float("nan"),
        lambda: {f"{letter}" for letter in "edcba"},
        lambda: {"of": [1, 2.5, ("x", None)]},
        lambda: np.arange(3),
    ],
    ids=["nan", "set", "dict", "array"],
)
def test_an_attribute_that_is_set_to_the_same_costs_no_trace(make):
    trainer = ReadsValue(dense())
    trainer.value = make()
    fit(trainer)
    trainer.value = make()
    traces = trainer.traces
    fit(trainer)
    assert trainer.traces == traces


def test_what_is_set_on_a_copy_hides_no_change_of_the_original():
    trainer = ReadsValue(dense())
    fit(trainer, epochs=1)
    copied = copy.copy(trainer)
    for number in range(5):
        trainer.other = number
    fit(trainer, epochs=1)
    trainer.value = 2.0
    copied.value = 3.0
    traces = trainer.traces
    fit(trainer, epochs=1)
    assert trainer.traces > traces


def test_of_large_containers_the_identity_counts():
    trainer = ReadsValue(dense())
    trainer.value = [1]
    trainer.value.append(trainer.value)
    fit(trainer)
    trainer.value = list(range(10_000))
    fit(trainer)
    traces = trainer.traces
    trainer.value.append(1)
    fit(trainer)
    assert trainer.traces == traces
    trainer.value = [*trainer.value]
    fit(trainer)
    assert trainer.traces > traces


class Sums(keras.metrics.Metric):
    """Returns its variable as its result."""

    def __init__(self):
        super().__init__(name="sums")
        self.sums = self.add_weight(name="sums", initializer="zeros")

    def update_state(self, y, y_pred, sample_weight=None):
        self.sums.assign_add(tf.reduce_sum(y_pred))

    def result(self):
        return self.sums


def test_a_result_that_is_a_variable_is_that_of_the_epoch():
    # Keras reads it once the validation has changed it.
    alone = fit(CustomTrainer(dense(metrics=[Sums()])))["sums"]
    for callbacks in (
        [],
        [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)],
    ):
        trainer = CustomTrainer(dense(metrics=[Sums()]))
        history = fit(trainer, validation_data=(X, Y), callbacks=callbacks)
        assert history["sums"] == alone


class LossWithoutTraining(CustomTrainer):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return super().compute_loss(x, y, y_pred, sample_weight)


def test_compute_loss_may_be_overridden_without_training():
    assert fit(LossWithoutTraining(dense())) == fit(CustomTrainer(dense()))


class LogsNone(CustomTrainer):
    def train_step(self, data):
        return {**super().train_step(data), "nothing": None}


@pytest.mark.parametrize("give", [lambda: (X, Y), lambda: (batches(),)], ids=["arrays", "tf.data"])
def test_a_log_may_be_none(give):
    model = keras.Sequential([keras.Input((6,)), layers.BatchNormalization(), layers.Dense(1)])
    model.compile("sgd", "mse")
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs["nothing"])
    )
    for callbacks in ([], [callback]):
        history = LogsNone(model).fit(*give(), epochs=2, verbose=0, callbacks=callbacks).history
        assert history["nothing"] == [None, None]
    assert seen
    assert seen == [None] * len(seen)


class WarmsUp(CustomTrainer):
    def train_step(self, data):
        warm_up = tf.minimum(1.0, self.step / 10)
        logs = {"step_now": self.step, "epoch_now": self.epoch, "warm_up": warm_up}
        return {**super().train_step(data), **logs}

    def test_step(self, data):
        return {**super().test_step(data), "step_now": self.step}


WAYS = {
    "compiled": {},
    "eager": {"run_eagerly": True},
    "three at once": {"steps_per_execution": 3},
    "XLA": {"jit_compile": True},
}


class EachStep(keras.callbacks.Callback):
    batch_hooks = "log"

    def on_train_begin(self, logs=None):
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(logs["step_now"])


@pytest.mark.parametrize("way", names_of(WAYS, default=["compiled", "three at once"]))
def test_step_and_epoch_are_tensors_in_a_step(way):
    trainer = WarmsUp(dense(**WAYS[way]))
    each = EachStep()
    history = fit(trainer, callbacks=[each], validation_data=(X, Y))
    assert history["step_now"] == [4.0, 9.0, 14.0]
    assert history["epoch_now"] == [0.0, 1.0, 2.0]
    np.testing.assert_allclose(history["warm_up"], [0.4, 0.9, 1.0], rtol=1e-6)
    assert history["val_step_now"] == [5.0, 10.0, 15.0]
    if way != "three at once":
        assert each.steps == list(range(15))
    assert (trainer.step, trainer.epoch) == (15, 3)
    trainer.train_on_batch(X, Y)
    assert fit(trainer, epochs=1)["step_now"] == [20.0]


class ReturnsLoss(CustomTrainer):
    """The simplest step of one's own."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self.model(x, training=True))
        self.minimize(loss, tape)
        return {"loss": loss}

    def test_step(self, data):
        x, y = data
        return {"loss": self.compute_loss(x, y, self.model(x, training=False))}


class AlsoCounts(ReturnsLoss):
    def __init__(self, model):
        super().__init__(model)
        self.steps_seen = keras.metrics.Sum(name="steps_seen")

    def train_step(self, data):
        logs = super().train_step(data)
        self.steps_seen.update_state(1)
        last = tf.reduce_max(data[1])
        return {**logs, "steps_seen": self.steps_seen.result(), "last": last}


@pytest.mark.parametrize("metrics", [None, ["mae"]])
@pytest.mark.parametrize("trainer", [ReturnsLoss, AlsoCounts])
def test_a_step_that_returns_its_loss_logs_the_mean_over_the_rows(trainer, metrics):
    settings = {"batch_size": 16, "validation_data": (X[:20], Y[:20])}  # the last batch has 8 rows
    expected = fit(CustomTrainer(dense()), **settings)
    history = fit(trainer(dense(metrics=metrics)), **settings)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(history["val_loss"], expected["val_loss"], rtol=1e-6)
    if trainer is AlsoCounts:
        assert history["steps_seen"] == [3.0, 3.0, 3.0]
        assert history["last"] == [Y[32:].max()] * 3  # as Keras logs it


class ModelReturnsLoss(keras.Sequential):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return {"loss": loss, "own": loss}


def test_a_models_own_step_logs_what_keras_logs():
    assert fit(CustomTrainer(dense(ModelReturnsLoss))) == fit(dense(ModelReturnsLoss))


class NamesItsMean(CustomTrainer):
    """The step of Keras's guide to variational autoencoders: a mean under another key."""

    def __init__(self, model):
        super().__init__(model)
        self.total = keras.metrics.Mean(name="total")

    def train_step(self, data):
        super().train_step(data)
        self.total.update_state(tf.reduce_mean(data[1]))
        return {"loss": self.total.result(), "root": tf.sqrt(tf.abs(self.total.result()))}


def test_results_of_metrics_under_other_keys_stay_as_they_are():
    history = fit(NamesItsMean(dense()))
    np.testing.assert_allclose(history["loss"], [Y.mean()] * 3, rtol=1e-5)
    np.testing.assert_allclose(history["root"], [np.sqrt(abs(Y.mean()))] * 3, rtol=1e-5)
