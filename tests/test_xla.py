"""When XLA compiles the steps, and what becomes of those that it cannot compile."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import labels, numbers
from tests.helpers.models import compiled, mlp, seeded, weights_of
from tests.helpers.tables import each, names_of
from tests.helpers.ways import WAYS, as_validation
from trainer import CustomTrainer
from trainer.feeds import open_feed
from trainer.programs import Programs
from trainer.progress import Progress, ProgressInSteps
from trainer.xla import Choice, choose

pytestmark = pytest.mark.xdist_group("xla")  # it takes 100 MB of a process, once
layers = keras.layers
MANY = 10_000  # steps


def functional(*between: Callable, build: Callable = layers.Dense) -> keras.Model:
    inputs = keras.Input((4,))
    outputs = inputs
    for function in (build(3), *between, layers.Dense(1)):
        outputs = function(outputs)
    return keras.Model(inputs, outputs)


def nested(*inner: keras.Layer) -> keras.Model:
    inside = keras.Sequential([keras.Input((3,)), layers.Dense(3), *inner])
    return functional(layers.Dense(3), inside)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, x):
        return self.dense(x)


class OwnDense(layers.Dense):
    """A layer that may do anything."""


class OwnStack(keras.Sequential):
    """A stack that joins its layers its own way."""

    def call(self, x, training=None):
        return super().call(x + keras.random.normal(keras.ops.shape(x)), training=training)


class OwnFunctional(keras.Model):
    def call(self, x, training=None):
        return super().call(keras.ops.sin(x), training=training)


def own_functional() -> keras.Model:
    inputs = keras.Input((4,))
    return OwnFunctional(inputs, layers.Dense(1)(inputs))


def of_images() -> keras.Model:
    return keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(1)]
    )


def of_sequences() -> keras.Model:
    return keras.Sequential([keras.Input((5, 2)), layers.LSTM(2), layers.Dense(1)])


def of_two_inputs() -> keras.Model:
    inputs = [keras.Input((2,)), keras.Input((2,))]
    parts = [layers.Dense(3, activation="relu")(part) for part in inputs]
    return keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(parts)))


def not_built() -> keras.Model:
    return keras.Sequential([layers.Dense(1)])


FAST = {
    "dense": mlp,
    "dense and normalisation": lambda: mlp(layers.BatchNormalization(), layers.ReLU()),
    "functional": functional,
    "two inputs": of_two_inputs,
    "not built yet": not_built,
    "nested": nested,
    "nested twice": lambda: nested(keras.Sequential([keras.Input((3,)), layers.Dense(3)])),
    "images to dense layers": lambda: keras.Sequential(
        [keras.Input((6, 6)), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(1)]
    ),
}
SLOW = {
    "dropout": (lambda: mlp(layers.Dropout(0.5)), "Dropout"),
    "convolutions": (of_images, "Conv2D"),
    "recurrence": (of_sequences, "LSTM"),
    "keras.ops": (lambda: functional(keras.ops.square), "Square"),
    "an operator": (lambda: functional(lambda x: x * 2.0), "Multiply"),
    "a lambda": (lambda: mlp(layers.Lambda(lambda x: x)), "Lambda"),
    "a layer of one's own": (lambda: functional(build=OwnDense), "OwnDense"),
    "nested dropout": (lambda: nested(layers.Dropout(0.5)), "Dropout"),
    "a nested subclassed model": (lambda: functional(Subclassed()), "Subclassed"),
    "a subclassed model": (Subclassed, "Subclassed joins its layers by code that is not known"),
    "a stack with a call of its own": (
        lambda: OwnStack([keras.Input((4,)), layers.Dense(1)]),
        "OwnStack joins its layers by code that is not known",
    ),
    "a functional model with a call of its own": (
        own_functional,
        "OwnFunctional joins its layers by code that is not known",
    ),
    "no dense layers": (
        lambda: keras.Sequential([keras.Input((4,)), layers.BatchNormalization()]),
        "no dense layers",
    ),
}


@pytest.mark.parametrize("make", **each(FAST))
def test_long_training_of_dense_layers_is_compiled_in_groups(make):
    choice = choose("train", compiled(make()), "auto", MANY, None)
    assert choice == Choice(False, True, f"dense layers and {MANY} steps in all")


@pytest.mark.parametrize(("make", "told"), **each(SLOW))
def test_what_is_not_faster_under_xla_is_not_compiled(make, told):
    choice = choose("train", compiled(make()), "auto", MANY, None)
    assert (choice.steps, choice.groups) == (False, False)
    assert told in choice.why


@pytest.mark.parametrize(
    ("mode", "planned", "groups"),
    [
        *(("train", planned, planned >= 500) for planned in (1, 499, 500, 501)),
        *(("test", planned, planned >= 300) for planned in (1, 299, 300, 301)),
    ],
)
def test_few_steps_are_not_worth_compiling(mode, planned, groups):
    choice = choose(mode, compiled(mlp()), "auto", planned, None)
    assert (choice.steps, choice.groups) == (False, groups)
    assert str(planned) in choice.why


def test_an_open_number_of_steps_is_not_compiled():
    choice = choose("train", compiled(mlp()), "auto", None, None)
    assert (choice.steps, choice.groups) == (False, False)
    assert "an open number of steps" in choice.why


@pytest.mark.parametrize("obstacle", [None, "something else"])
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("planned", [1, MANY, None])
@pytest.mark.parametrize("make", [mlp, Subclassed, of_images])
def test_what_the_user_says_is_done(make, planned, asked, obstacle):
    model = compiled(make(), jit_compile=not asked)
    choice = choose("train", model, asked, planned, obstacle)
    assert choice == Choice(asked, asked, f"jit_compile is {asked}")
    model = compiled(make(), jit_compile=asked)
    choice = choice._replace(why=f"model.jit_compile is {asked}")
    assert choose("train", model, None, planned, obstacle) == choice


@pytest.mark.parametrize("asked", [True, False, "auto", None])
def test_eager_steps_are_never_compiled(asked):
    model = compiled(mlp(), run_eagerly=True)
    assert choose("train", model, asked, MANY, None) == Choice(False, False, "steps run eagerly")


def test_an_obstacle_is_told():
    choice = choose("train", compiled(mlp()), "auto", MANY, "batches come from afar")
    assert choice == Choice(False, False, "batches come from afar")


# What stands in the way


class OwnStep(CustomTrainer):
    def train_step(self, data):
        return super().train_step(data)


class OwnMetrics(CustomTrainer):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred, sample_weight)


class ModelWithStep(keras.Sequential):
    def train_step(self, data):
        return super().train_step(data)


class OwnLoss(CustomTrainer):
    def compute_loss(self, *args: Any, **keywords: Any):
        return 2.0 * super().compute_loss(*args, **keywords)


X, Y = numbers(50, 4), numbers(50, 1, seed=1)


def programs_of(trainer: CustomTrainer, asked: Any) -> Programs:
    return Programs(trainer, asked, ProgressInSteps(Progress))


def chosen(
    trainer: CustomTrainer, mode: str = "train", x: Any = X, asked: Any = "auto", **how: Any
) -> Choice:
    with contextlib.closing(open_feed(x, **how)) as feed:
        return programs_of(trainer, asked).choose_xla(mode, feed, MANY)


@pytest.mark.parametrize("mode", ["train", "test"])
def test_training_and_evaluation_on_arrays_are_compiled(mode):
    trainer = CustomTrainer(compiled(mlp()))
    assert chosen(trainer, mode, y=Y).groups
    assert chosen(trainer, mode, x=tf.constant(X), y=tf.constant(Y)).groups
    assert chosen(trainer, mode, y=Y, budget=0).groups
    assert chosen(OwnLoss(compiled(mlp())), mode, y=Y).groups


def test_prediction_is_compiled_only_where_that_is_asked_for():
    trainer = CustomTrainer(compiled(mlp()))
    assert choose("predict", trainer.model, "auto", MANY, None) == Choice(
        False, False, "predicting is not faster under XLA on a CPU"
    )
    for data in (X, X[:3], tf.data.Dataset.from_tensors((X,))):
        choice = chosen(trainer, "predict", x=data)
        assert choice.why == "predicting is not faster under XLA on a CPU"
    assert chosen(trainer, "predict", asked=True) == Choice(True, True, "jit_compile is True")


OTHER_DATA = {
    "tf.data": (
        lambda: {"x": tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)},
        "batches are not cut out of arrays",
    ),
    "generator": (lambda: {"x": iter([(X, Y)])}, "batches are not cut out of arrays"),
    "sparse": (
        lambda: {"x": tf.sparse.from_dense(X), "y": Y},
        "arrays of strings, ragged or sparse rows",
    ),
    "less than a batch": (
        lambda: {"x": X, "y": Y, "batch_size": 64},
        "50 rows are less than a batch of 64",
    ),
    "less than a batch, streamed": (
        lambda: {"x": X, "y": Y, "batch_size": 64, "budget": 0},
        "50 rows are less than a batch of 64",
    ),
}


@pytest.mark.parametrize(("give", "why"), **each(OTHER_DATA))
def test_only_what_is_cut_out_of_arrays_is_compiled(give, why):
    choice = chosen(CustomTrainer(compiled(mlp())), **give())
    assert choice == Choice(False, False, why)


def test_single_batches_are_not_compiled():
    programs = programs_of(CustomTrainer(compiled(mlp())), "auto")
    assert programs.choose_xla("train") == Choice(False, False, "a single batch")


def own_model() -> keras.Model:
    return compiled(ModelWithStep([keras.Input((4,)), layers.Dense(1)]))


OWN_METHODS = {
    "trainer's": (lambda: OwnStep(compiled(mlp())), "OwnStep.train_step"),
    "metrics": (lambda: OwnMetrics(compiled(mlp())), "OwnMetrics.compute_metrics"),
    "model's": (lambda: CustomTrainer(own_model()), "ModelWithStep.train_step"),
}


@pytest.mark.parametrize(("make", "method"), **each(OWN_METHODS))
def test_a_step_of_ones_own_is_compiled_only_where_that_is_asked_for(make, method):
    assert chosen(make(), y=Y) == Choice(False, False, f"{method} is not Keras's")
    assert chosen(make(), y=Y, asked=True) == Choice(True, True, "jit_compile is True")


def test_a_model_compiled_again_is_asked_again():
    model = compiled(mlp())
    trainer = CustomTrainer(model)
    programs = programs_of(trainer, True)
    with contextlib.closing(open_feed(X, Y)) as feed:
        assert programs.choose_xla("train", feed, MANY).steps
        model.compile("sgd", "mse", jit_compile=False)
        assert not programs.choose_xla("train", feed, MANY).steps


# What `fit` does with it


def test_a_model_compiled_before_is_not_compiled_by_xla_unasked():
    """What it was compiled with stands, on a CPU: promise 1."""
    trainer = CustomTrainer(compiled(mlp()))
    trainer.fit(X, Y, 1, 10, verbose=0)
    assert "no XLA, model.jit_compile is False" in trainer.explain()


@pytest.mark.parametrize("asked", [True, False])
def test_what_the_user_says_is_done_where_the_trainer_compiles_the_model(asked):
    trainer = CustomTrainer(mlp(), optimizer="sgd", loss="mse", jit_compile=asked)
    trainer.fit(X, Y, 1, 10, verbose=0)
    assert f"{'XLA' if asked else 'no XLA'}, jit_compile is {asked}." in trainer.explain()
    assert trainer.model.jit_compile is asked


def test_a_fit_decides_by_its_planned_steps():
    trainer = CustomTrainer(mlp(), optimizer="sgd", loss="mse")
    trainer.fit(X, Y, 10, 2, verbose=0)
    assert "no XLA, 10 steps in all, and compiling pays from 500 on" in trainer.explain()
    trainer.fit(X, Y, 10, 100, verbose=0)
    assert "; XLA, dense layers and 500 steps" in trainer.explain()


def test_an_evaluation_decides_by_its_own_steps():
    x, y = numbers(599, 4), numbers(599, 1, seed=1)  # the last batch is odd
    found = {}
    for jit_compile in (False, "auto"):
        trainer = CustomTrainer(
            seeded(mlp), optimizer="sgd", loss="mse", metrics=["mae"], jit_compile=jit_compile
        )
        few = trainer.evaluate(x[:598], y[:598], 2, verbose=0, return_dict=True)
        told = "compiling pays from 300 on" if jit_compile else "jit_compile is False"
        assert f"no XLA, {'299 steps in all, and ' * bool(jit_compile)}{told}" in trainer.explain()
        many = trainer.evaluate(x, y, 2, verbose=0, return_dict=True)
        told = "; XLA, dense layers and 300 steps" if jit_compile else "no XLA"
        assert told in trainer.explain()
        found[jit_compile] = few, many
    for compiled_by_xla, known in zip(found["auto"], found[False], strict=True):
        assert compiled_by_xla == {key: pytest.approx(known[key], rel=1e-5) for key in known}
    assert found["auto"][0] == found[False][0]


def test_a_fit_under_xla_has_the_numbers_of_one_without():
    runs = []
    for jit_compile in (False, True, "auto"):
        model = seeded(mlp)
        trainer = CustomTrainer(
            model, optimizer="sgd", loss="mse", metrics=["mae"], jit_compile=jit_compile, seed=1
        )
        history = trainer.fit(X, Y, 4, 40, verbose=0, validation_data=(X, Y)).history
        runs.append((history, model.get_weights()))
    (known, known_weights), *others = runs
    for history, weights in others:
        assert list(history) == list(known)
        for key in known:
            np.testing.assert_allclose(history[key], known[key], rtol=1e-3, atol=1e-5)
        for value, expected in zip(weights, known_weights, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5)


# What XLA cannot compile


class InNumpy(layers.Layer):
    """Adds what NumPy computes; XLA does not take that."""

    def call(self, x):
        told = tf.numpy_function(lambda rows: rows + 1, [x], x.dtype)
        return x + tf.stop_gradient(tf.ensure_shape(told, x.shape))


class InPython(layers.Layer):
    def call(self, x):
        return x + tf.ensure_shape(tf.py_function(lambda rows: 2 * rows, [x], x.dtype), x.shape)


NOT_COMPILED = {
    "numpy_function": (InNumpy, "PyFunc"),
    "py_function": (InPython, "EagerPyFunc"),
}


def not_compiled(layer: type[layers.Layer], jit_compile: bool) -> keras.Model:
    model = mlp(layer(), layers.Dropout(0.4))
    return compiled(model, "adam", jit_compile=jit_compile)


@contextlib.contextmanager
def told_once(*operations: str):
    """Asserts that there is one warning, for each of `operations` that XLA cannot compile."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    messages = [str(warning.message) for warning in caught if "XLA" in str(warning.message)]
    assert messages == [
        f"XLA cannot compile {operation}, so the steps run without XLA: give jit_compile=False to "
        "do without it from the start."
        for operation in operations
    ]


def run_without_xla(layer: type, run: Callable[[CustomTrainer], Any], *operations: str) -> None:
    """Runs under XLA and without: with a warning, and to the same bits."""
    trainers, results = [], []
    for jit_compile in (True, False):
        trainer = CustomTrainer(seeded(lambda: not_compiled(layer, jit_compile)), seed=5)  # noqa: B023
        with told_once(*(operations if jit_compile else ())):
            results.append(run(trainer))
        trainers.append(trainer)
    assert_same(*results)
    assert_same(*(weights_of(trainer.model) for trainer in trainers))
    assert trainers[0].step == trainers[1].step


@pytest.mark.parametrize(("layer", "operation"), **each(NOT_COMPILED, ["py_function"]))
def test_what_xla_cannot_compile_runs_without_it_and_is_named_once(layer, operation):
    run_without_xla(layer, lambda trainer: trainer.fit(X, Y, 16, 3, verbose=0).history, operation)


def shuffled_dataset(data: tuple) -> dict[str, Any]:
    dataset = tf.data.Dataset.from_tensor_slices(data).shuffle(50, seed=3).batch(16)
    return {"x": dataset}


FALLING_BACK = {
    **{name: WAYS[name].give for name in ("arrays", "tf.data", "generator")},
    "streamed arrays": WAYS["arrays"].give,
    "tf.data, shuffled": shuffled_dataset,
}


@pytest.mark.parametrize("name", names_of(FALLING_BACK, ("streamed arrays",)))
def test_no_batch_is_lost_where_the_steps_fall_back(name):
    def fit(trainer: CustomTrainer) -> Any:
        trainer.array_budget = 0 if name == "streamed arrays" else None
        epochs = 1 if name == "generator" else 2
        give = FALLING_BACK[name]
        return trainer.fit(**give((X, Y)), epochs=epochs, shuffle=False, verbose=0).history

    run_without_xla(InNumpy, fit, "PyFunc")


def test_single_batches_fall_back():
    def train(trainer: CustomTrainer) -> list:
        return [trainer.train_on_batch(X[:n], Y[:n], return_dict=True) for n in (16, 16, 7)]

    run_without_xla(InNumpy, train, "PyFunc")


def test_evaluations_and_predictions_fall_back_by_themselves():
    def run(trainer: CustomTrainer) -> tuple:
        evaluated = [trainer.evaluate(X, Y, 16, verbose=0) for _ in range(2)]
        return evaluated, [trainer.predict(X, 16, verbose=0) for _ in range(2)]

    run_without_xla(InNumpy, run, "PyFunc", "PyFunc")


def test_a_validation_falls_back_too():
    def fit(trainer: CustomTrainer) -> dict:
        data = {**WAYS["arrays"].give((X, Y)), **as_validation(WAYS["arrays"].give((X, Y)))}
        return trainer.fit(**data, epochs=2, verbose=0).history

    run_without_xla(InNumpy, fit, "PyFunc", "PyFunc")


@pytest.mark.exhaustive
def test_a_call_after_the_fall_back_says_nothing_more():
    trainer = CustomTrainer(seeded(lambda: not_compiled(InNumpy, True)))
    with told_once("PyFunc"):
        trainer.fit(X, Y, 16, verbose=0)
        trainer.fit(X, Y, 10, 2, verbose=0)
        trainer.fit(tf.data.Dataset.from_tensor_slices((X, Y)).batch(16), verbose=0)
        trainer.train_on_batch(X, Y)


def test_an_error_of_the_step_under_xla_is_no_fall_back():
    model = compiled(mlp(outputs=3), "sgd", "sparse_categorical_crossentropy", metrics=None)
    trainer = CustomTrainer(model, jit_compile=True)
    with told_once(), pytest.raises(ValueError, match="shape"):
        trainer.fit(X[:, :3], labels(50), verbose=0)
