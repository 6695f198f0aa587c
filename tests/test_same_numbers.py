"""Promise 1: the same model, data, order and seed give the bits that `model.fit` gives."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

from tests.helpers.comparisons import assert_same, assert_same_training
from tests.helpers.data import (
    BATCH,
    ROWS,
    Batches,
    batches_of,
    labels,
    memmap_of,
    numbers,
    rows_of,
    two_like_batches,
)
from tests.helpers.devices import strategy_for
from tests.helpers.models import (
    Twins,
    compiled,
    dense,
    dense_by_three,
    dense_by_two,
    dtype_policy,
    mlp,
    seeded,
    untrained,
    weights_of,
)
from tests.helpers.tables import each, without
from tests.helpers.ways import (
    WAYS,
    Give,
    Way,
    as_arrays,
    as_dataset,
    as_dataset_of_unknown_length,
    as_validation,
    dataset_of,
)
from trainer import CustomTrainer

layers = keras.layers
optimizers = keras.optimizers
Adam, SGD = optimizers.Adam, optimizers.SGD
Build = Callable[[], keras.Model]

X, Y = numbers(ROWS, 4), numbers(ROWS, 1, seed=1)
WEIGHTS = np.abs(numbers(ROWS, seed=2))
DENSE = (X, Y)


def fit_both(twins: Twins, give: Give, data: tuple = DENSE, **arguments: Any) -> None:
    """Fits twins under Keras and under the trainer, and asserts that they agree."""
    arguments = {"shuffle": False, "verbose": 0, **arguments}
    twins.theirs.fit(**give(data), **arguments)
    twins.trainer.fit(**give(data), **arguments)
    assert_same_training(twins.ours, twins.theirs)


def fit_both_on_arrays_then_dataset(
    build: Build, data: tuple, validate: bool = False, **arguments: Any
) -> None:
    """Fits twins on arrays and goes on with `tf.data`, and asserts each time that they agree."""
    twins = Twins(build)
    arguments = {"epochs": 2, "shuffle": False, "verbose": 0, **arguments}
    for give in (as_arrays, as_dataset):
        if validate:
            arguments |= as_validation(give(rows_of(data, 0, 20)))
        twins.theirs.fit(**give(data), **arguments)
        twins.trainer.fit(**give(data), **arguments)
        assert_same_training(twins.ours, twins.theirs, f"{give.__name__}: ")


# Optimizers


def one_layer(optimizer: Any = "sgd", features: int = 4) -> keras.Model:
    return compiled(keras.Sequential([keras.Input((features,)), layers.Dense(1)]), optimizer)


def of_matrices_and_others() -> keras.Optimizer:
    """Returns two optimizers, of which one has its learning rate from a schedule."""
    decaying, plain = Adam(optimizers.schedules.CosineDecay(0.1, 6)), SGD(0.05, momentum=0.9)
    return optimizers.MultiOptimizer(lambda v: decaying if len(v.shape) == 2 else plain)


OPTIMIZERS = {
    "sgd": lambda: SGD(0.05),
    "sgd momentum": lambda: SGD(0.05, momentum=0.9, nesterov=True),
    "adam clipnorm": lambda: Adam(0.01, clipnorm=0.05),
    "adam global_clipnorm": lambda: Adam(0.01, global_clipnorm=0.05),
    "adam clipvalue": lambda: Adam(0.01, clipvalue=0.02),
    "adamw of a schedule": lambda: optimizers.AdamW(
        optimizers.schedules.CosineDecay(0.1, 6), weight_decay=0.01
    ),
    "gradient accumulation": lambda: Adam(0.01, gradient_accumulation_steps=3),
    "ema": lambda: Adam(0.01, use_ema=True, ema_momentum=0.8),
    "ema overwriting": lambda: Adam(
        0.01, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3
    ),
    "several": of_matrices_and_others,
    "several, scaled": lambda: optimizers.LossScaleOptimizer(
        of_matrices_and_others(), 4.0, dynamic_growth_steps=2
    ),
}


DEFAULT_OPTIMIZERS = (
    *("adam global_clipnorm", "gradient accumulation", "ema overwriting", "several, scaled"),
)


@pytest.mark.parametrize("make_optimizer", **each(OPTIMIZERS, DEFAULT_OPTIMIZERS))
def test_optimizers(make_optimizer: Callable[[], keras.Optimizer]) -> None:
    fit_both(Twins(lambda: one_layer(make_optimizer())), as_arrays, epochs=2)


# Models

of_dense = pytest.mark.xdist_group("dense")  # where its steps are compiled already


def with_dropout(**settings: Any) -> keras.Model:
    return compiled(mlp(layers.Dropout(0.4)), "adam", **settings)


def with_batch_normalization() -> keras.Model:
    return compiled(mlp(layers.GaussianNoise(0.1), layers.BatchNormalization()))


class MeanSquarePenalty(keras.Layer):
    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
        return x


def with_added_losses() -> keras.Model:
    regularized = layers.Dense(
        3, kernel_regularizer="l2", bias_regularizer="l1", activity_regularizer="l2"
    )
    return compiled(mlp(MeanSquarePenalty(), regularized))


def two_by_two(named: bool) -> keras.Model:
    """Two inputs, two outputs, in a dict each or in a list each."""
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    both = layers.Concatenate()([layers.Dense(3)(a), b])
    p = layers.Dense(1, name="p")(both)
    q = layers.Dense(3, activation="softmax", name="q")(both)
    if named:
        return compiled(
            keras.Model({"a": a, "b": b}, {"p": p, "q": q}),
            loss={"p": "mse", "q": "sparse_categorical_crossentropy"},
            loss_weights={"p": 0.3, "q": 2.0},
            metrics={"p": ["mae", "mse"], "q": ["accuracy"]},
            weighted_metrics={"q": ["accuracy"]},
        )
    return compiled(
        keras.Model([a, b], [p, q]),
        loss=["mse", "sparse_categorical_crossentropy"],
        loss_weights=[0.3, 2.0],
        metrics=[["mae", "mse"], ["accuracy"]],
    )


IN_LISTS = ([X, numbers(ROWS, 4, seed=3)], [Y, labels(ROWS)])
IN_DICTS = (
    dict(zip("ab", IN_LISTS[0], strict=True)),
    dict(zip("pq", IN_LISTS[1], strict=True)),
    {"p": WEIGHTS, "q": np.flip(WEIGHTS)},
)


def with_embedding_mask() -> keras.Model:
    stack = [
        keras.Input((6,), dtype="int32"),
        layers.Embedding(5, 3, mask_zero=True),
        layers.LSTM(3, return_sequences=True),
        layers.Dense(1),
    ]
    return compiled(keras.Sequential(stack), weighted_metrics=["mse"])


def with_masking_layer() -> keras.Model:
    stack = [keras.Input((6, 2)), layers.Masking(), layers.Dense(1)]
    return compiled(keras.Sequential(stack))


def sequences_with_gaps() -> np.ndarray:
    sequences = numbers(ROWS, 6, 2)
    sequences[labels(ROWS, 6) == 0] = 0.0
    return sequences


def in_mixed_precision(policy: str, optimizer: Any = "adam") -> keras.Model:
    with dtype_policy(policy):
        return dense(optimizer)


def with_large_loss_scale() -> keras.Model:
    """Its loss scale overflows, is halved, and grows again within a few steps."""
    scaled = optimizers.LossScaleOptimizer(Adam(0.01), 2.0**20, dynamic_growth_steps=2)
    return in_mixed_precision("mixed_float16", scaled)


class Unbuilt(keras.Model):
    """Knows the shape of its weights only when it sees data."""

    def __init__(self):
        super().__init__()
        self.dropout = layers.Dropout(0.3)
        self.head = layers.Dense(1)

    def call(self, x, training=None):
        return self.head(self.dropout(x, training=training))


class OwnSteps(Unbuilt):
    """Steps and metrics in the way of Keras's guides."""

    def __init__(self):
        super().__init__()
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    @property
    def metrics(self):
        return [self.loss_mean, self.error]

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = tf.reduce_mean(tf.abs(y - y_pred) ** 3)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.loss_mean.update_state(loss)
        self.error.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        self.error.update_state(y, self(x, training=False))
        return {"error": self.error.result()}


class OwnLogs(Unbuilt):
    """Returns log keys that no metric has."""

    def train_step(self, data):
        return {**super().train_step(data), "steps": tf.identity(self.optimizer.iterations)}

    def test_step(self, data):
        return {"largest": tf.reduce_max(self(data[0]))}


class NestedLogs(OwnLogs):
    def train_step(self, data):
        logs = super().train_step(data)
        return {"parts": {"zero": 0 * logs["loss"], "double": 2 * logs["loss"]}, **logs}


class OwnLossAndMetrics(Unbuilt):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + 0.01 * tf.reduce_sum(tf.square(self.head.kernel)) * (2.0 if training else 1.0)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**logs, "mean": tf.reduce_mean(y_pred)}


class WithoutTrainingArguments(Unbuilt):
    def call(self, x):
        return self.head(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 3.0 * tf.reduce_mean(tf.square(y - y_pred))


MODELS = {
    "dropout": (with_dropout, DENSE),
    "batch normalization": (with_batch_normalization, DENSE),
    "add_loss and regularizers": (with_added_losses, DENSE),
    "two by two in lists": (lambda: two_by_two(named=False), IN_LISTS),
    "two by two in dicts, a sample_weight each": (lambda: two_by_two(named=True), IN_DICTS),
    "weighted_metrics": (lambda: dense(weighted_metrics=["mse"]), (*DENSE, WEIGHTS[:, None])),
    "embedding mask": (with_embedding_mask, (labels(ROWS, 6, classes=5), numbers(ROWS, 6, 1))),
    "masking layer": (with_masking_layer, (sequences_with_gaps(), numbers(ROWS, 6, 1))),
    "mixed_float16": (lambda: in_mixed_precision("mixed_float16"), DENSE),
    "mixed_float16, loss scale overflows": (with_large_loss_scale, DENSE),
    "mixed_bfloat16": (lambda: in_mixed_precision("mixed_bfloat16"), DENSE),
    "subclassed, unbuilt": (lambda: compiled(Unbuilt(), "adam"), DENSE),
    "train_step and test_step": (lambda: compiled(OwnSteps()), DENSE),
    "log keys of its own": (lambda: compiled(OwnLogs()), DENSE),
    "logs within logs": (lambda: compiled(NestedLogs(), run_eagerly=True), DENSE),
    "compute_loss and compute_metrics": (lambda: compiled(OwnLossAndMetrics()), DENSE),
    "without training arguments": (lambda: compiled(WithoutTrainingArguments()), DENSE),
    "steps_per_execution=3": (lambda: with_dropout(steps_per_execution=3), DENSE),
    "run_eagerly": (lambda: with_dropout(run_eagerly=True), DENSE),
}


SELDOM = (
    *("two by two in lists", "masking layer", "mixed_bfloat16", "without training arguments"),
    *("logs within logs", "log keys of its own", "mixed_float16", "weighted_metrics"),
    *("steps_per_execution=3", "two by two in dicts, a sample_weight each"),
)


@pytest.mark.parametrize(("build", "data"), **each(MODELS, without(MODELS, *SELDOM)))
def test_models(build: Build, data: tuple) -> None:
    fit_both_on_arrays_then_dataset(build, data, validate=True)


def test_the_loss_scale_that_overflows_grows_again() -> None:
    model = seeded(with_large_loss_scale)
    scales = []
    see = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: scales.append(float(model.optimizer.dynamic_scale))
    )
    CustomTrainer(model).fit(*DENSE, BATCH, epochs=3, shuffle=False, verbose=0, callbacks=[see])
    assert {-1.0, 1.0} <= set(np.sign(np.diff(scales))), scales


@pytest.mark.parametrize("give", [as_arrays, as_dataset])
def test_random_numbers_of_tensorflow(give: Give) -> None:
    """They come from a generator that TensorFlow keeps for each operation of a graph."""
    noise = layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x)), output_shape=(5,))
    fit_both(Twins(lambda: compiled(mlp(noise))), give, epochs=2)


# Arguments of fit


def classifier(loss: str = "sparse_categorical_crossentropy") -> keras.Model:
    return compiled(mlp(outputs=3, activation="softmax"), "sgd", loss, metrics=["accuracy"])


CLASS_WEIGHTS = {
    "numbers": (classifier, labels(ROWS), {0: 0.5, 2: 3.0}),
    "a column of numbers": (classifier, labels(ROWS, 1), {1: 0.5, 2: 2.0}),
    "one-hot rows": (
        lambda: classifier("categorical_crossentropy"),
        keras.utils.to_categorical(labels(ROWS), 3),
        {1: 0.1, 2: 2.0},
    ),
}


@pytest.mark.parametrize(("build", "y", "class_weight"), **each(CLASS_WEIGHTS, ["one-hot rows"]))
def test_class_weight(build: Build, y: np.ndarray, class_weight: dict[int, float]) -> None:
    fit_both_on_arrays_then_dataset(build, (X, y), class_weight=class_weight)


ARGUMENTS = {
    "validation_split": {"validation_split": 0.3},
    "validation_split with sample_weight": {"validation_split": 0.3, "sample_weight": WEIGHTS},
    "validation_freq=2": {"validation_data": DENSE, "validation_freq": 2},
    "validation_freq=[1, 3]": {"validation_data": DENSE, "validation_freq": [1, 3]},
    "validation_steps=2": {"validation_data": DENSE, "validation_steps": 2},
    "validation_batch_size": {"validation_data": DENSE, "validation_batch_size": 7},
    "initial_epoch": {"initial_epoch": 2, "validation_data": DENSE},
    "initial_epoch at the end": {"initial_epoch": 3},
    "no epochs": {"epochs": 0},
    "fewer steps_per_epoch": {"steps_per_epoch": 3, "epochs": 4},
    "more steps_per_epoch": {"steps_per_epoch": 6},
    "steps_per_epoch without batch_size": {"steps_per_epoch": 3, "batch_size": None},
}

ignore_short_epochs = pytest.mark.filterwarnings(
    "ignore:.*ran out of data", "ignore:steps_per_epoch="
)


@of_dense
@ignore_short_epochs
@pytest.mark.parametrize("arguments", **each(ARGUMENTS))
def test_arguments(arguments: dict[str, Any]) -> None:
    arguments = {"epochs": 3, "batch_size": BATCH, **arguments}
    fit_both(untrained(dense), lambda data: {"x": data[0], "y": data[1]}, **arguments)


@of_dense
@ignore_short_epochs
@pytest.mark.parametrize("steps", [2, 3, 6])
@pytest.mark.parametrize("way", ["tf.data", "infinite tf.data"])
def test_an_epoch_goes_on_in_the_same_pass(way: str, steps: int) -> None:
    fit_both(untrained(dense), WAYS[way].give, steps_per_epoch=steps, epochs=3)


@of_dense
@ignore_short_epochs
def test_no_epoch_is_empty_where_the_one_before_took_the_last_batch() -> None:
    """Without a known length, `model.fit` trains on nothing in the third epoch: its loss is 0."""
    twins = untrained(dense)
    arguments = {"steps_per_epoch": 2, "epochs": 3, "shuffle": False, "verbose": 0}
    twins.theirs.fit(**as_dataset(DENSE), **arguments)
    twins.trainer.fit(**as_dataset_of_unknown_length(DENSE), **arguments)
    assert_same_training(twins.ours, twins.theirs)


@of_dense
@hypothesis.settings(max_examples=10)
@hypothesis.given(
    build=st.sampled_from([dense, dense_by_two, dense_by_three]),
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 20),
    epochs=st.integers(1, 3),
    in_dataset=st.booleans(),
)
def test_any_cut_of_the_rows(build, rows, batch_size, epochs, in_dataset) -> None:
    def give(data: tuple) -> dict[str, Any]:
        x, y = rows_of(data, 0, rows)
        if in_dataset:
            return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)}
        return {"x": x, "y": y, "batch_size": batch_size}

    fit_both(untrained(build), give, epochs=epochs)


# Ways of giving data


@of_dense
@ignore_short_epochs
@pytest.mark.parametrize("way", **each(WAYS))
def test_ways(way: Way) -> None:
    twins, data = untrained(dense), (*DENSE, WEIGHTS)
    limits = {"epochs": 1 if way.lives_once else 2, "shuffle": False, "verbose": 0}
    if way.needs_steps:
        limits |= {"steps_per_epoch": 3, "validation_steps": 2}
    for runner in (twins.theirs, twins.trainer):
        held_out = as_validation(way.give(two_like_batches(data)))
        runner.fit(**way.give(data), **held_out, **limits)
    if way.ends_unannounced:
        twins.theirs.optimizer.iterations.assign(4 * limits["epochs"])
    assert_same_training(twins.ours, twins.theirs)

    limits = {"verbose": 0, "steps": 3 if way.needs_steps else None}
    evaluated = twins.trainer.evaluate(**way.give(data), **limits)
    assert_same(evaluated, twins.theirs.evaluate(**way.give(data), **limits), "evaluate")
    predicted = twins.trainer.predict(**way.give(data[:1]), **limits)
    assert_same(predicted, twins.theirs.predict(**way.give(data[:1]), **limits), "predict")


def slow_dataset() -> tf.data.Dataset:
    """Returns batches of which the last is known to be so only after a while."""

    def batches():
        yield from batches_of(DENSE)
        time.sleep(0.1)

    spec = (tf.TensorSpec((None, 4)), tf.TensorSpec((None, 1)))
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


@pytest.mark.parametrize(
    "steps_per_execution",
    [
        pytest.param(1, marks=pytest.mark.exhaustive),
        2,
        pytest.param(3, marks=pytest.mark.exhaustive),
    ],
)
def test_waiting_for_the_end_of_the_data_is_no_step(steps_per_execution: int) -> None:
    """`model.fit` counts a step more, in optimizer and dropout, if a thread is quick enough."""
    twins = untrained(with_dropout)
    twins.theirs.fit(dataset_of(DENSE), epochs=2, shuffle=False, verbose=0)
    twins.ours.steps_per_execution = steps_per_execution
    twins.trainer.fit(slow_dataset(), epochs=2, verbose=0)
    assert_same(weights_of(twins.ours), weights_of(twins.theirs))


class ShowsItsBatch(keras.Sequential):
    """Its step keeps the structure of the batch that it was given."""

    def train_step(self, data):
        self.given = keras.tree.map_structure(lambda part: None if part is None else 1, data)
        return {"loss": tf.constant(0.0)}


BATCHES = {
    "x": {"x": X},
    "x in a dict": {"x": {"a": X}},
    "x in a list": {"x": [X]},
    "two x in a list": {"x": [X, X]},
    "x and y": {"x": X, "y": Y},
    "x and y in lists": {"x": [X], "y": [Y]},
    "x and y in dicts": {"x": {"a": X}, "y": {"b": Y}},
    "x, y and weights": {"x": X, "y": Y, "sample_weight": WEIGHTS},
    "x of tf.data": {"x": dataset_of(X)},
    "x, y and weights of tf.data": {"x": dataset_of((X, Y, WEIGHTS))},
    "x of PyDataset": {"x": Batches((X,))},
}


@pytest.mark.parametrize("given", **each(BATCHES))
def test_what_a_step_is_given(given: dict[str, Any]) -> None:
    stack = [keras.Input((4,)), layers.Dense(1)]
    twins = Twins(lambda: compiled(ShowsItsBatch(stack), metrics=None, run_eagerly=True))
    twins.theirs.fit(**given, shuffle=False, verbose=0)
    twins.trainer.fit(**given, shuffle=False, verbose=0)
    assert_same(twins.ours.given, twins.theirs.given)


# Kinds of arrays


def for_a_row_of_targets() -> keras.Model:
    return one_layer()


def two_columns() -> keras.Model:
    return one_layer(features=2)


def three_columns() -> keras.Model:
    return one_layer(features=3)


def named_columns() -> keras.Model:
    a, b = keras.Input((1,), name="a"), keras.Input((1,), name="b")
    return compiled(keras.Model({"a": a, "b": b}, layers.Dense(1)(layers.Add()([a, b]))))


class MeanOfRows(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = layers.Dense(1)
        self.head.build((None, 3))

    def call(self, x):
        return self.head(tf.reduce_mean(x, axis=1))


class TimesSparse(keras.Model):
    def __init__(self):
        super().__init__()
        self.kernel = self.add_weight(shape=(4, 1), initializer="glorot_uniform")

    def call(self, x):
        return tf.sparse.sparse_dense_matmul(x, self.kernel)


def on_ragged() -> keras.Model:
    return compiled(MeanOfRows())


def on_sparse() -> keras.Model:
    return compiled(TimesSparse())


def ragged() -> tf.RaggedTensor:
    lengths = 1 + labels(ROWS)
    return tf.RaggedTensor.from_row_lengths(numbers(int(lengths.sum()), 3), lengths)


SPARSE = np.where(labels(ROWS, 4) == 0, X, 0).astype("float32")
FRAME = pd.DataFrame(X[:, :2], columns=["a", "b"])
SERIES = pd.Series(Y[:, 0])
KINDS = {
    "float64": (one_layer, lambda _: (X.astype("float64"), Y.astype("float64"))),
    "int64": (one_layer, lambda _: (labels(ROWS, 4), labels(ROWS, 1))),
    "uint8": (one_layer, lambda _: (labels(ROWS, 4).astype("uint8"), Y)),
    "bool": (one_layer, lambda _: (X > 0, Y > 0)),
    "a row of targets": (for_a_row_of_targets, lambda _: (X, Y[:, 0])),
    "frame and series": (two_columns, lambda _: (FRAME, SERIES, pd.Series(WEIGHTS))),
    "frame of two types": (three_columns, lambda _: (FRAME.assign(c=labels(ROWS)), SERIES)),
    "dict of series": (named_columns, lambda _: (dict(FRAME), SERIES)),
    "dict of arrays": (named_columns, lambda _: ({"b": X[:, :1], "a": X[:, 1:2]}, Y)),
    "ragged": (on_ragged, lambda _: (ragged(), Y)),
    "tf.SparseTensor": (on_sparse, lambda _: (tf.sparse.from_dense(SPARSE), Y)),
    "scipy csr": (on_sparse, lambda _: (scipy.sparse.csr_matrix(SPARSE), Y)),
    "scipy coo": (on_sparse, lambda _: (scipy.sparse.coo_matrix(SPARSE), Y)),
    "memmap": (one_layer, lambda folder: (memmap_of(X, folder), Y)),
    "part of a memmap": (one_layer, lambda folder: (memmap_of(X, folder)[10:], Y[10:])),
}


SELDOM_KINDS = (
    *("float64", "int64", "uint8", "bool", "dict of arrays", "dict of series", "scipy coo"),
    "memmap",
)


@pytest.mark.parametrize(("build", "make"), **each(KINDS, without(KINDS, *SELDOM_KINDS)))
def test_kinds_of_arrays(build: Build, make: Callable[[Any], tuple], tmp_path) -> None:
    twins, data = untrained(build), make(tmp_path)
    fit_both(twins, as_arrays, data)
    predicted = twins.trainer.predict(data[0], BATCH, verbose=0)
    assert_same(predicted, twins.theirs.predict(data[0], BATCH, verbose=0), "predict")


@of_dense
@pytest.mark.parametrize("give", [as_arrays, as_dataset])
def test_random_numbers_of_others_stay_where_keras_leaves_them(give: Give) -> None:
    def numbers_after_fit(runner_of: Callable[[keras.Model], Any], model: keras.Model) -> tuple:
        keras.utils.set_random_seed(3)
        runner_of(model).fit(**give(DENSE), shuffle=False, verbose=0)
        return random.random(), np.random.random(), tf.random.uniform(()).numpy()

    twins = untrained(dense)
    theirs = numbers_after_fit(lambda model: model, twins.theirs)
    assert_same(numbers_after_fit(CustomTrainer, twins.ours), theirs)


# What evaluate, predict and the calls on one batch return


CALLS = {
    "loss alone": (lambda: dense(metrics=None), DENSE),
    "loss and metrics": (lambda: dense(weighted_metrics=["mse"]), (*DENSE, WEIGHTS)),
    "lists": (lambda: two_by_two(named=False), IN_LISTS),
    "dicts": (lambda: two_by_two(named=True), IN_DICTS),
    "steps of the model": (lambda: compiled(OwnSteps()), DENSE),
    "log keys of the model": (lambda: compiled(NestedLogs()), DENSE),
    "run_eagerly": (lambda: dense(run_eagerly=True), DENSE),
}


@pytest.mark.parametrize(
    ("build", "data"),
    **each(CALLS, ("loss and metrics", "dicts", "log keys of the model")),
)
def test_what_calls_return(build: Build, data: tuple) -> None:
    def results(runner: Any) -> dict[str, Any]:
        whole, batch = as_arrays(data), rows_of(data, 0, 5)
        return {
            "train_on_batch": runner.train_on_batch(*batch),
            "train_on_batch as dict": runner.train_on_batch(*batch, return_dict=True),
            "test_on_batch": runner.test_on_batch(*batch),
            "test_on_batch as dict": runner.test_on_batch(*batch, return_dict=True),
            "predict_on_batch": runner.predict_on_batch(batch[0]),
            "evaluate": runner.evaluate(**whole, verbose=0),
            "evaluate two steps": runner.evaluate(**whole, verbose=0, steps=2, return_dict=True),
            "predict": runner.predict(data[0], BATCH, verbose=0),
            "predict two steps": runner.predict(data[0], BATCH, verbose=0, steps=2),
        }

    twins = Twins(build)
    theirs = results(twins.theirs)
    assert_same(results(twins.trainer), theirs)
    assert_same(weights_of(twins.ours), weights_of(twins.theirs))


def test_train_on_batch_with_class_weight() -> None:
    batch = (X[:5], labels(5))
    twins = untrained(classifier)
    for weight in ({0: 3.0}, {1: 0.5, 2: 2.0}):
        ours = twins.trainer.train_on_batch(*batch, class_weight=weight)
        assert_same(ours, twins.theirs.train_on_batch(*batch, class_weight=weight))
    assert_same(weights_of(twins.ours), weights_of(twins.theirs))


class VaryingWidth(keras.Model):
    """Its output is as wide as the largest number in the batch."""

    def call(self, x):
        width = tf.cast(tf.reduce_max(x), tf.int32)
        return tf.ones((tf.shape(x)[0], width, 2))


class Scalar(keras.Model):
    def call(self, x):
        return tf.reduce_sum(x)


class RaggedOutput(keras.Model):
    def call(self, x):
        return tf.RaggedTensor.from_tensor(x, lengths=tf.cast(x[:, 0], tf.int64) + 1)


# Where outputs differ in more than rows, Keras itself cannot join the steps of a group.
@pytest.mark.parametrize(
    ("model", "steps_per_execution"),
    [(VaryingWidth, 1), (Scalar, 1), (RaggedOutput, 1), (RaggedOutput, 3)],
)
def test_predict_of_outputs_that_differ_in_shape(model, steps_per_execution: int) -> None:
    x = 1 + labels(ROWS, 4).astype("float32")
    x[:BATCH] = 1  # the first batch is the narrow one
    twins = Twins(lambda: compiled(model(), steps_per_execution=steps_per_execution))
    predicted = twins.trainer.predict(x, BATCH, verbose=0)
    assert_same(predicted, twins.theirs.predict(x, BATCH, verbose=0))


# tf.distribute


def test_a_mirrored_strategy_of_one_device() -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])

    def build() -> keras.Model:
        with strategy.scope():
            return with_dropout()

    fit_both_on_arrays_then_dataset(build, DENSE, validate=True)


@pytest.mark.exhaustive
def test_a_mirrored_strategy_of_two_devices() -> None:
    strategy = strategy_for(2)  # of which TensorFlow takes one in a process
    data = (*DENSE, WEIGHTS)

    def build() -> keras.Model:
        with strategy.scope():
            layer = layers.Dense(1, kernel_regularizer="l2")
            return compiled(keras.Sequential([keras.Input((4,)), layer]))

    def results(runner: Any, model: keras.Model) -> dict[str, Any]:
        found = {}
        for give in (as_arrays, as_dataset):
            given = {**give(data), **as_validation(give(data))}
            history = runner.fit(**given, shuffle=False, verbose=0).history
            found |= {f"{give.__name__}: {key}": logged for key, logged in history.items()}
            found |= {f"{give.__name__}: {key}": w for key, w in weights_of(model).items()}
        found["evaluate"] = runner.evaluate(**as_arrays(data), verbose=0)
        return found | {"predict": runner.predict(**as_arrays(data[:1]), verbose=0)}

    twins = Twins(build)
    theirs, ours = results(twins.theirs, twins.theirs), results(twins.trainer, twins.ours)
    assert list(ours) == list(theirs)
    for key, expected in theirs.items():
        np.testing.assert_allclose(ours[key], expected, rtol=1e-5, atol=1e-6, err_msg=key)


# Hand-written loops


def test_a_hand_written_loop() -> None:
    def build() -> keras.Model:
        return mlp(layers.Dropout(0.4), layers.BatchNormalization())

    model, optimizer, loss_of = seeded(build), Adam(0.01), keras.losses.Huber()
    mean = keras.metrics.Mean()

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_of(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        mean.update_state(loss, sample_weight=tf.shape(x)[0])

    losses = []
    for _ in range(2):
        mean.reset_state()
        for batch in dataset_of(DENSE):
            step(*batch)
        losses.append(float(mean.result()))

    ours = seeded(build)
    trainer = CustomTrainer(ours, optimizer=Adam(0.01), loss=keras.losses.Huber())
    ours.jit_compile = False
    history = trainer.fit(*DENSE, BATCH, epochs=2, shuffle=False, verbose=0)
    assert_same(history.history, {"loss": losses})
    assert_same_values(ours, model)
    assert_same_values(ours.optimizer, optimizer)


def assert_same_values(ours: Any, theirs: Any) -> None:
    """Asserts that the variables of two models or optimizers have the same bits."""
    assert_same([v.numpy() for v in ours.variables], [v.numpy() for v in theirs.variables])


class Distiller(CustomTrainer):
    """Trains the model to match targets and a teacher's outputs."""

    def __init__(self, student: keras.Model, teacher: keras.Model, **compiled_with: Any):
        super().__init__(student, **compiled_with)
        self.teacher = teacher
        self.gap = keras.metrics.Mean(name="gap")

    def train_step(self, data):
        x, y = data
        taught = self.teacher(x, training=False)
        with tf.GradientTape() as tape:
            y_pred = self.model(x, training=True)
            gap = tf.reduce_mean(tf.square(taught - y_pred))
            loss = self.compute_loss(x, y, y_pred) + 0.5 * gap
        self.track_loss(loss, x)
        self.minimize(loss, tape)
        self.gap.update_state(gap)
        return self.compute_metrics(x, y, y_pred)


def teacher_and_student() -> tuple[keras.Model, keras.Model]:
    return mlp(), mlp(layers.Dropout(0.2))


def test_distillation_by_subclass_is_a_hand_written_loop() -> None:
    teacher, model = seeded(teacher_and_student)
    optimizer, loss_of = Adam(0.01), keras.losses.MeanSquaredError()
    loss_mean, gap_mean = keras.metrics.Mean(), keras.metrics.Mean()

    @tf.function
    def step(x, y):
        taught = teacher(x, training=False)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            gap = tf.reduce_mean(tf.square(taught - y_pred))
            loss = loss_of(y, y_pred) + 0.5 * gap
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        loss_mean.update_state(loss, sample_weight=tf.shape(x)[0])
        gap_mean.update_state(gap)

    expected = {"gap": [], "loss": []}
    for _ in range(2):
        loss_mean.reset_state()
        gap_mean.reset_state()
        for batch in dataset_of(DENSE):
            step(*batch)
        expected["gap"].append(float(gap_mean.result()))
        expected["loss"].append(float(loss_mean.result()))

    our_teacher, ours = seeded(teacher_and_student)
    trainer = Distiller(ours, our_teacher, optimizer=Adam(0.01), loss="mse", jit_compile=False)
    history = trainer.fit(*DENSE, BATCH, epochs=2, shuffle=False, verbose=0)
    assert_same(history.history, expected)
    assert_same_values(ours, model)
    assert_same_values(our_teacher, seeded(teacher_and_student)[0])


class CoderPair(CustomTrainer):
    """Trains the model to encode, and a decoder with a loss and an optimizer of its own."""

    def __init__(self, encoder: keras.Model, decoder: keras.Model):
        super().__init__(encoder, jit_compile=False)
        self.decoder = decoder
        self.encoder_optimizer, self.decoder_optimizer = scaled_adam(), scaled_adam()

    def train_step(self, data):
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape(persistent=True) as tape:
            encoder_loss, decoder_loss = coder_losses(self.model, self.decoder, x)
        encoder, decoder = self.model.trainable_variables, self.decoder.trainable_variables
        self.minimize(encoder_loss, tape, encoder, self.encoder_optimizer)
        self.minimize(decoder_loss, tape, decoder, self.decoder_optimizer)
        return {"encoder": encoder_loss, "decoder": decoder_loss}


def scaled_adam() -> keras.Optimizer:
    return optimizers.LossScaleOptimizer(Adam(0.01), 2.0**16, dynamic_growth_steps=2)


def coder_losses(encoder: keras.Model, decoder: keras.Model, x: tf.Tensor) -> tuple:
    error = x - tf.cast(decoder(encoder(x, training=True), training=True), x.dtype)
    return tf.reduce_mean(tf.square(error)), tf.reduce_mean(tf.abs(error))


def encoder_and_decoder() -> keras.Model:
    with dtype_policy("mixed_float16"):
        decoder = keras.Sequential([keras.Input((2,)), layers.Dense(4)])
        return keras.Sequential([mlp(outputs=2), decoder])


def test_two_networks_in_mixed_precision_are_a_hand_written_loop() -> None:
    encoder, decoder = seeded(encoder_and_decoder).layers
    encoder_optimizer, decoder_optimizer = scaled_adam(), scaled_adam()

    @tf.function
    def step(x):
        with tf.GradientTape(persistent=True) as tape:
            encoder_loss, decoder_loss = coder_losses(encoder, decoder, x)
            scaled_encoder_loss = encoder_optimizer.scale_loss(encoder_loss)
            scaled_decoder_loss = decoder_optimizer.scale_loss(decoder_loss)
        for loss, network, optimizer in (
            (scaled_encoder_loss, encoder, encoder_optimizer),
            (scaled_decoder_loss, decoder, decoder_optimizer),
        ):
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return encoder_loss, decoder_loss

    expected = {"decoder": [], "encoder": []}
    for _ in range(2):
        means = {name: keras.metrics.Mean() for name in expected}
        for (x,) in dataset_of((X,)):
            for name, loss in zip(("encoder", "decoder"), step(x), strict=True):
                means[name].update_state(loss, sample_weight=len(x))
        for name, mean in means.items():
            expected[name].append(float(mean.result()))

    our_encoder, our_decoder = seeded(encoder_and_decoder).layers
    trainer = CoderPair(our_encoder, our_decoder)
    history = trainer.fit(X, batch_size=BATCH, epochs=2, shuffle=False, verbose=0)
    assert_same(history.history, expected)
    assert_same_values(our_encoder, encoder)
    assert_same_values(our_decoder, decoder)
    assert_same_values(trainer.encoder_optimizer, encoder_optimizer)
    assert_same_values(trainer.decoder_optimizer, decoder_optimizer)


@pytest.mark.parametrize("rows", **each({"odd last batch": 40, "even": 48}, ["even"]))
def test_the_shapes_of_an_earlier_fit_change_no_number(rows: int) -> None:
    twins = untrained(lambda: compiled(mlp(layers.BatchNormalization()), optimizers.SGD(0.01)))
    x, y = numbers(rows, 4), numbers(rows, 1, seed=1)
    for batch_size in (16, 2, 8):
        how = {"batch_size": batch_size, "shuffle": False, "verbose": 0}
        theirs = twins.theirs.fit(x, y, **how).history
        assert_same(twins.trainer.fit(x, y, **how).history, theirs)
