"""What looks like a mistake and is none trains as under `model.fit`, beside the mistakes."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import CustomTrainer, Networks

layers = keras.layers
X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
SPARSE = keras.losses.SparseCategoricalCrossentropy


class OwnError(Exception):
    pass


def raising(y, y_pred):
    raise OwnError("a bug in my loss")


class LeavesOut(SPARSE):
    def call(self, y_true, y_pred):
        known = y_true != 255
        losses = super().call(tf.where(known, y_true, tf.zeros_like(y_true)), y_pred)
        return losses * tf.cast(known, losses.dtype)


class FromOne(SPARSE):
    def call(self, y_true, y_pred):
        return super().call(y_true - 1, y_pred)


class FromOneInTheStep(keras.Model):
    def train_step(self, data):
        x, y = data
        return super().train_step((x, y - 1))


class FromOneInTheLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y - 1, y_pred, sample_weight)


class TwoOfThree(keras.Model):
    """A model whose `call` returns something else than the outputs that it was made with."""

    def call(self, x, training=None):
        return tf.concat([super().call(x), tf.zeros_like(x[:, :1])], axis=1)


class TrainerFromOneInTheStep(CustomTrainer):
    def train_step(self, data):
        x, y = data
        return super().train_step((x, y - 1))


class TrainerFromOneInTheLoss(CustomTrainer):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y - 1, y_pred, sample_weight, training)


class StopsAt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch >= 5

    def on_test_batch_end(self, batch, logs=None):
        self.model.stop_evaluating = batch >= 5


class AddsLog(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["val_f1"] = 1.0 - epoch / 10


class NamedLogs(keras.Model):
    def train_step(self, data):
        return types.MappingProxyType(super().train_step(data))


def dense(cls=keras.Model, loss=SPARSE, units=2, shape=(6,), **settings):
    inputs = keras.Input(shape)
    model = cls(inputs, layers.Dense(units)(inputs))
    loss = loss(from_logits=True) if isinstance(loss, type) else loss
    model.compile("sgd", loss, **settings)
    return model


class EvaluatesByKeywords(keras.Model):
    def evaluate(self, **arguments):
        return super().evaluate(**arguments)


def crossed_names():
    inputs = keras.Input((6,))
    outputs = {"p": layers.Dense(3, name="a")(inputs), "a": layers.Dense(2, name="p")(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {name: SPARSE(from_logits=True) for name in outputs})
    return model


def any_size():
    model = keras.Sequential([layers.Conv1D(2, 2), layers.GlobalMaxPooling1D(), layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def fixed_size():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()]
    )
    model.compile("sgd", "mse")
    return model


def two_inputs(loss="mse"):
    a, b = keras.Input((3,)), keras.Input((3,))
    model = keras.Model({"a": a, "b": b}, layers.Dense(1)(layers.Concatenate()([a, b])))
    model.compile("sgd", loss)
    return model


def with_output_val():
    inputs = keras.Input((6,))
    outputs = {"pi": layers.Dense(3, name="pi")(inputs), "val": layers.Dense(1, name="val")(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"pi": "mse", "val": "mse"})
    return model


def images():
    for size in (10, 12):
        yield np.ones((4, size, size, 3), "float32"), np.ones((4, 2), "float32")


def dataset(x=X, y=Y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(8)


def open_dataset():
    spec = (tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, 2)))
    return tf.data.Dataset.from_generator(images, output_signature=spec)


VOID = np.where(X[:, 1] > 0, Y, 255)
PARTS = {"a": X[:, :3], "b": X[:, 3:]}
LATE = np.append(Y[:-1], 7)  # a label outside the classes, in the last batch
VALIDATION = {"validation_data": (X, Y)}

# What makes a model, makes the arguments of `fit`, and the trainer's class where it is another one.
LEGAL = {
    "labels that a loss leaves out": (lambda: dense(loss=LeavesOut), lambda: (X, VOID)),
    "labels that a loss counts from 1": (lambda: dense(loss=FromOne), lambda: (dataset(y=Y + 1),)),
    "labels that a step counts from 1": (lambda: dense(FromOneInTheStep), lambda: (X, Y + 1)),
    "labels that compute_loss counts from 1": (
        lambda: dense(FromOneInTheLoss),
        lambda: (dataset(y=Y + 1),),
    ),
    "labels of a call of one's own": (lambda: dense(TwoOfThree), lambda: (X, Y + 1)),
    "labels that no step comes to": (
        dense,
        lambda: (X, LATE, {"steps_per_epoch": 2, "batch_size": 8, "epochs": 1}),
    ),
    "labels of validation that no step comes to": (
        dense,
        lambda: (X, Y, {"validation_data": (X, LATE), "validation_steps": 1, "batch_size": 8}),
    ),
    "labels of a validation that is not due": (
        dense,
        lambda: (X, Y, {"validation_data": (X, LATE), "validation_freq": 5}),
    ),
    "images of another size": (fixed_size, lambda: (open_dataset(),)),
    "rows of one number for Input((1,))": (
        lambda: dense(loss="mse", units=1, shape=(1,)),
        lambda: (X[:, 0], X[:, :1]),
    ),
    "a dict by the model's keys": (two_inputs, lambda: (PARTS, X[:, :1])),
    "an output named val": (with_output_val, lambda: (X, {"pi": X[:, :3], "val": X[:, :1]}, {})),
    "a metric named val_mae": (
        lambda: dense(
            loss="mse", units=1, metrics=[keras.metrics.MeanAbsoluteError(name="val_mae")]
        ),
        lambda: (X, X[:, :1]),
    ),
    "an infinite dataset that a callback stops": (
        dense,
        lambda: (dataset().repeat(), {"callbacks": [StopsAt()]}),
    ),
    "infinite validation data that a callback stops": (
        dense,
        lambda: (X, Y, {"validation_data": dataset().repeat(), "callbacks": [StopsAt()]}),
    ),
    "a monitor that a callback logs": (
        dense,
        lambda: (
            X,
            Y,
            {"callbacks": [AddsLog(), keras.callbacks.EarlyStopping("val_f1", mode="max")]},
        ),
    ),
    "outputs by names of other layers": (
        crossed_names,
        lambda: (X, {"p": Y % 2 + 1, "a": Y % 2}, {}),
    ),
    "a frequency of validations that there are not": (
        dense,
        lambda: (X, Y, {"validation_freq": 0}),
    ),
    "an evaluate by keywords": (
        lambda: dense(EvaluatesByKeywords),
        lambda: (X, Y, {"validation_data": (X, Y)}),
    ),
    "empty validation data": (dense, lambda: (X, Y, {"validation_data": dataset().take(0)})),
}


def trained(model, arguments, through):
    keras.utils.set_random_seed(0)
    model = model()
    *data, settings = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    fit = {"epochs": 2, "shuffle": False, "verbose": 0, **settings}
    return through(model).fit(*data, **fit).history, model.get_weights()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", LEGAL)
def test_what_is_legal_trains_as_under_keras(name):
    model, arguments = LEGAL[name]
    history, weights = trained(model, arguments(), lambda model: model)
    own_history, own_weights = trained(model, arguments(), CustomTrainer)
    assert own_history == history
    for own, expected in zip(own_weights, weights, strict=True):
        np.testing.assert_array_equal(own, expected)


@pytest.mark.parametrize("trainer", [TrainerFromOneInTheStep, TrainerFromOneInTheLoss])
def test_labels_are_left_to_a_trainer_that_changes_them(trainer):
    history, _ = trained(dense, (X, Y), lambda model: model)
    assert trained(dense, (X, Y + 1), trainer)[0] == history


def sizes():
    random = np.random.default_rng(0)
    for length in (5, 9, 7):
        yield random.normal(size=(16, length, 2)).astype("float32"), np.ones((16, 1), "float32")


@pytest.mark.parametrize("method", ["fit", "train_on_batch", "predict"])
def test_a_model_of_any_size_takes_another_one_in_each_call(method):
    def called(through):
        keras.utils.set_random_seed(0)
        trainer = through(any_size())
        if method == "fit":
            return [trainer.fit(x, y, shuffle=False, verbose=0).history for x, y in sizes()]
        if method == "train_on_batch":
            return [trainer.train_on_batch(x, y) for x, y in sizes()]
        return [trainer.predict(x, verbose=0).tolist() for x, _ in sizes()]

    assert called(CustomTrainer) == called(lambda model: model)


OWN_ERRORS = {
    "x that Keras widens": (
        lambda: dense(loss=raising, units=1, shape=(1,)),
        lambda: (X[:, 0], X[:, :1]),
    ),
    "x in a dict": (lambda: two_inputs(raising), lambda: (PARTS, X[:, :1])),
    "a single row of one number": (
        lambda: dense(loss=raising, units=1, shape=(1,)),
        lambda: (tf.data.Dataset.from_tensor_slices((X[:, :1], X[:, :1])),),
    ),
}


@pytest.mark.parametrize("name", OWN_ERRORS)
def test_an_error_of_ones_own_keeps_its_type_and_gets_no_advice(name):
    model, data = OWN_ERRORS[name]
    with pytest.raises(OwnError, match="^a bug in my loss") as caught:
        CustomTrainer(model()).fit(*data(), verbose=0)
    assert caught.value.args == ("a bug in my loss",)
    batch, place = caught.value.__notes__
    assert batch.startswith("The batch was x: float32")
    assert place == "(while training, epoch 0, step 0)"


class ForgetsItsLoss(keras.Sequential):
    def train_step(self, x):
        return {"loss": tf.convert_to_tensor(None)}


def test_a_step_that_needs_no_y_is_not_told_to_have_one():
    model = ForgetsItsLoss([keras.Input((6,)), layers.Dense(1)])
    model.compile("sgd")
    with pytest.raises(ValueError, match="None values not supported") as caught:
        CustomTrainer(model).fit(X, verbose=0)
    batch, place = caught.value.__notes__
    assert batch.startswith("The batch was x: float32")
    assert place == "(while training, epoch 0, step 0)"


def test_single_rows_are_told_by_a_note_to_keras_error():
    data = tf.data.Dataset.from_tensor_slices((np.ones((8, 5, 5, 1), "float32"), np.ones((8, 1))))
    inputs = keras.Input((5, 5, 1))
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(layers.Conv2D(1, 3)(inputs))))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Conv2D|functional") as caught:
        CustomTrainer(model).fit(data, verbose=0)
    assert any("single rows of shape (5, 5, 1)" in note for note in caught.value.__notes__)
    assert any("call dataset.batch(batch_size)" in note for note in caught.value.__notes__)


NO_TARGETS = (ValueError, AttributeError)  # the second by the next Keras


def test_targets_that_are_missing_are_told_by_a_note_to_keras_error():
    with pytest.raises(NO_TARGETS, match="None") as caught:
        CustomTrainer(dense()).fit(X, verbose=0)
    assert any("has no y: give y" in note for note in caught.value.__notes__)


VALIDATION_MISTAKES = {
    "x alone": (lambda: X, NO_TARGETS),
    "another width": (lambda: (X[:, :5], Y), ValueError),
    "labels outside the classes": (lambda: (X, Y + 1), ValueError),
    "labels of strings": (lambda: (X, np.where(Y > 0, "cat", "dog")), ValueError),
    "another width, dataset": (lambda: dataset(X[:, :5]), ValueError),
}


@pytest.mark.parametrize("name", VALIDATION_MISTAKES)
def test_validation_data_that_does_not_fit_is_told_before_the_first_step(name):
    data, kind = VALIDATION_MISTAKES[name]
    trainer = CustomTrainer(dense())
    before = trainer.model.get_weights()
    with pytest.raises(kind):
        trainer.fit(X, Y, epochs=2, validation_data=data(), verbose=0)
    assert trainer.step == 0
    for weight, weight_before in zip(trainer.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, weight_before)


class Monitors(keras.callbacks.Callback):
    """A callback with attributes of the names that Keras's have, and a meaning of its own."""

    monitor, mode = "own", "auto"


class SetsEachRate(keras.callbacks.LearningRateScheduler):
    def __init__(self):
        super().__init__(lambda epoch: 0.5)

    def on_epoch_begin(self, epoch, logs=None):
        for optimizer in self.model.optimizers.values():
            optimizer.learning_rate = self.schedule(epoch)

    def on_epoch_end(self, epoch, logs=None):
        logs["rate"] = float(self.model.optimizers["a"].learning_rate.numpy())


class TrainsBoth(CustomTrainer):
    """Two networks on the same data, with optimizers of the trainer's own where they have none."""

    def __init__(self, model, **settings):
        super().__init__(model, **settings)
        self.own = keras.metrics.Mean(name="own")
        self.others = {name: keras.optimizers.SGD() for name in model.networks}

    def train_step(self, data):
        x, y = data
        for name, network in self.model.networks.items():
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((network(x) - tf.cast(y, tf.float32)[:, None]) ** 2)
            optimizer = self.model.optimizers.get(name, self.others[name])
            self.minimize(loss, tape, network.trainable_weights, optimizer)
        self.own.update_state(loss)
        return {"own": self.own.result()}


def both():
    return Networks({name: dense(units=1, loss="mse") for name in "ab"}, seed=1)


def test_a_scheduler_with_hooks_of_its_own_sets_several_optimizers():
    optimizers = {name: keras.optimizers.SGD(0.0) for name in "ab"}
    trainer = TrainsBoth(both(), optimizer=optimizers)
    history = trainer.fit(X, Y, verbose=0, callbacks=[SetsEachRate(), Monitors()]).history
    assert history["rate"] == [0.5]
    with pytest.raises(ValueError, match="LearningRateScheduler is for one optimizer"):
        trainer.fit(X, Y, callbacks=[keras.callbacks.LearningRateScheduler(lambda epoch: 0.5)])


def test_networks_may_leave_their_optimizers_to_the_step():
    trainer = TrainsBoth(both())
    losses = trainer.fit(X, Y, epochs=3, verbose=0, callbacks=[Monitors()]).history["own"]
    assert losses[0] > losses[1] > losses[2]
    with pytest.raises(ValueError, match="The networks have no optimizers"):
        CustomTrainer(both()).fit(X, Y, verbose=0)
    stopping = keras.callbacks.EarlyStopping("own")
    with pytest.raises(ValueError, match="give mode='min' or mode='max'"):
        trainer.fit(X, Y, verbose=0, callbacks=[stopping])
