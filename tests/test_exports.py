"""Promise 1 for all that Keras exports: each optimizer, callback, loss, metric and layer.

What there is to try is read from Keras's modules, so that a new Keras shows here what it brings.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from tests.helpers import exports
from tests.helpers.comparisons import assert_same, assert_same_training
from tests.helpers.data import numbers
from tests.helpers.exports import exported, pairs_of, use_of
from tests.helpers.models import Twins, compiled, mlp, seeded, weights_of
from tests.helpers.tables import each, names_of
from trainer import CustomTrainer

layers = keras.layers
schedules = keras.optimizers.schedules
X, Y = numbers(exports.ROWS, 4), numbers(exports.ROWS, 1, seed=1)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit_both(
    build: Callable[[], keras.Model],
    x: Any = X,
    y: Any = Y,
    callbacks: Callable[[keras.Model], Any] = lambda _: None,
    **arguments: Any,
) -> None:
    """Fits twins, three steps an epoch, under Keras and the trainer; asserts that they agree."""
    twins = Twins(build)
    arguments = {"batch_size": 4, "shuffle": False, "verbose": 0, **arguments}
    for runner, model in ((twins.theirs, twins.theirs), (twins.trainer, twins.ours)):
        keras.utils.clear_session(free_memory=False)  # which counts names
        keras.utils.set_random_seed(3)  # some layers draw from Python's generator when traced
        runner.fit(x, y, callbacks=callbacks(model), **arguments)
    assert_same_training(twins.ours, twins.theirs)
    assert np.isfinite(twins.theirs.history.history["loss"]).all()


def tried(
    module: Any, left_out: dict[str, str], default: list[str] | None = None, **kinds: bool
) -> list[Any]:
    """Returns the names to try of those that `module` exports; all but `default` are exhaustive."""
    return names_of([n for n in exported(module, **kinds) if n not in left_out], default)


# Optimizers


def with_optimizer(name: str) -> keras.Model:
    make = exports.OPTIMIZERS.get(name) or getattr(keras.optimizers, name)
    return compiled(mlp(), make())


@pytest.mark.parametrize("name", tried(keras.optimizers, exports.NO_OPTIMIZERS, default=["Muon"]))
def test_optimizers(name):
    fit_both(lambda: with_optimizer(name))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", tried(keras.optimizers, exports.NO_OPTIMIZERS))
def test_a_snapshot_of_an_optimizer_made_by_a_step_is_restored_without_one(name):
    trained = CustomTrainer(seeded(lambda: with_optimizer(name)))
    trained.fit(iter([(X, Y)]), steps_per_epoch=1, verbose=0)
    trained.save_snapshot("snapshot")
    restored = CustomTrainer(seeded(lambda: with_optimizer(name)))
    restored.restore_snapshot("snapshot")
    assert_same(weights_of(restored.model), weights_of(trained.model))


def with_schedule(name: str) -> keras.Model:
    make = exports.SCHEDULES.get(name) or getattr(schedules, name)
    return compiled(mlp(), keras.optimizers.SGD(make()))


@pytest.mark.parametrize("name", tried(schedules, exports.NO_SCHEDULES, default=[]))
def test_schedules(name):
    fit_both(lambda: with_schedule(name))


# Callbacks


def with_averages() -> keras.Model:
    return compiled(mlp(), keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5))


@pytest.mark.parametrize("name", tried(keras.callbacks, {}, default=[]))
def test_callbacks(name, tmp_path_factory, monkeypatch):
    if name in exports.LIBRARIES:
        pytest.importorskip(exports.LIBRARIES[name], reason="needs the extra `conformance`")
    make = exports.CALLBACKS.get(name) or (lambda _: getattr(keras.callbacks, name)())

    def callbacks(model: keras.Model) -> Any:
        monkeypatch.chdir(tmp_path_factory.mktemp(name))
        return make(model)

    fit_both(with_averages, callbacks=callbacks, epochs=3, validation_data=(X, Y))


# Losses and metrics


def comparing(name: str, loss: Any, **settings: Any) -> keras.Model:
    """Returns a model whose outputs are what the loss or metric of that name compares."""
    _, _, outputs, activation = pairs_of(name)
    shape = outputs if isinstance(outputs, tuple) else (outputs,)
    stack = [
        keras.Input((4,)),
        layers.Dense(int(np.prod(shape))),
        layers.Reshape(shape),
        layers.Activation(activation),
    ]
    return compiled(keras.Sequential(stack), loss=loss, **settings)


def with_loss(name: str) -> keras.Model:
    loss = getattr(keras.losses, name)
    make = exports.LOSSES.get(name) or (loss if isinstance(loss, type) else lambda: loss)
    return comparing(name, make(), metrics=None)


@pytest.mark.parametrize(
    "name", tried(keras.losses, exports.NO_LOSSES, default=["Circle"], functions=True)
)
def test_losses(name):
    fit_both(lambda: with_loss(name), y=pairs_of(name).y)


def with_metrics(*names: str) -> keras.Model:
    """Returns a model with several metrics that compare the same."""
    is_of_classes = pairs_of(names[0]) is exports.CLASSES
    loss = "sparse_categorical_crossentropy" if is_of_classes else "mse"
    return comparing(names[0], loss, metrics=[made_metric(name) for name in names])


def made_metric(name: str) -> Any:
    metric = getattr(keras.metrics, name)
    make = exports.METRICS.get(name) or (metric if isinstance(metric, type) else lambda: metric)
    return make()


def metrics_together() -> dict[str, list[str]]:
    """Returns the names of metrics that one model can have, by names of these groups."""
    groups = defaultdict(list)
    for name in exported(keras.metrics, functions=True):
        if name not in exports.NO_METRICS:
            kind = "classes" if isinstance(getattr(keras.metrics, name), type) else "functions"
            groups[f"{kind} that compare {pairs_of(name).what}"].append(name)
    return groups


@pytest.mark.parametrize("names", **each(metrics_together(), default=[]))
def test_metrics(names):
    y = pairs_of(names[0]).y
    fit_both(lambda: with_metrics(*names), y=y, validation_data=(X, y))


# Layers


def with_layers(*names: str) -> keras.Model:
    """Returns a model in which several layers have the same inputs, and each an output."""
    inputs = keras.tree.map_structure(input_for, use_of(names[0]).x)
    outputs = []
    for name in names:
        make, _, call = use_of(name)
        found = keras.tree.flatten(call(make(), inputs))
        flat = [layers.Flatten()(keras.ops.cast(output, "float32")) for output in found]
        joined = layers.Concatenate()(flat) if len(flat) > 1 else flat[0]
        outputs.append(layers.Dense(1, name=f"of_{name}")(joined))
    return compiled(keras.Model(inputs, outputs), metrics=None)


def input_for(array: Any) -> keras.KerasTensor:
    return keras.Input(array.shape[1:], dtype=getattr(array.dtype, "name", array.dtype))


def layers_together(most: int = 6) -> dict[str, list[str]]:
    """Returns the names of layers that one model can have, by these names joined."""
    by_inputs = defaultdict(list)
    for name in exported(keras.layers):
        if name not in exports.NO_LAYERS:
            inputs = tuple(map(id, keras.tree.flatten(use_of(name).x)))
            by_inputs[name if name in exports.ALONE else inputs].append(name)
    groups = [
        names[n : n + most] for names in by_inputs.values() for n in range(0, len(names), most)
    ]
    return {", ".join(names): names for names in groups}


@pytest.mark.parametrize("names", **each(layers_together(), default=["TextVectorization"]))
def test_layers(names, monkeypatch):
    if "JaxLayer" in names:
        pytest.importorskip("jax", reason="needs the extra `conformance`")
    drawn = []
    is_drawn = not exports.DRAWN_WHEN_TRACED.keys().isdisjoint(names)
    if is_drawn:
        monkeypatch.setattr(random, "choice", lambda options: drawn.append(1) or options[0])
    fit_both(lambda: with_layers(*names), use_of(names[0]).x, [Y] * len(names))
    assert bool(drawn) == is_drawn


# What is left out


LEFT_OUT = {
    f"{module.__name__.rpartition('.')[2]}.{name}": (module, name, build)
    for module, names, build in (
        (keras.optimizers, exports.NO_OPTIMIZERS, with_optimizer),
        (schedules, exports.NO_SCHEDULES, with_schedule),
        (keras.losses, exports.NO_LOSSES, with_loss),
        (keras.metrics, exports.NO_METRICS, with_metrics),
        (keras.layers, exports.NO_LAYERS, with_layers),
    )
    for name in names
}


@pytest.mark.parametrize(("module", "name", "build"), list(LEFT_OUT.values()), ids=list(LEFT_OUT))
def test_what_is_left_out_is_exported_and_does_not_train_under_keras(module, name, build):
    assert name in exported(module)
    x = use_of(name).x if module is keras.layers else X
    with pytest.raises(Exception):  # noqa: B017, PT011
        build(name).fit(x, Y, verbose=0)
