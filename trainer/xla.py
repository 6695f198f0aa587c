"""Whether XLA compiles the steps: decided from model and planned work, never by the clock."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import keras
import tensorflow as tf

from trainer.algorithm import calls_as_built
from trainer.watching import Mode

layers = keras.layers

# On a CPU, XLA runs the steps of dense layers up to twice as fast as the graph. It loses with
# convolutions and recurrence, and with dropout, for which it also draws other numbers.
_FAST_LAYERS = (
    layers.Activation,
    layers.Add,
    layers.Average,
    layers.BatchNormalization,
    layers.Concatenate,
    layers.Dense,
    layers.ELU,
    layers.Flatten,
    layers.InputLayer,
    layers.LayerNormalization,
    layers.LeakyReLU,
    layers.Multiply,
    layers.Normalization,
    layers.ReLU,
    layers.Rescaling,
    layers.Reshape,
    layers.Softmax,
    layers.Subtract,
)
# Compiling takes as long as `model.fit` takes for so many small steps of training, and as long as
# is won in so many of evaluation.
_STEPS_THAT_PAY = {"train": 500, "test": 300}


class Choice(NamedTuple):
    """What XLA compiles, and why.

    Attributes:
        steps: whether it compiles each step.
        groups: whether it compiles steps together, where their batches are cut out in the graph.
        why: the reason, for people.
    """

    steps: bool
    groups: bool
    why: str


def choose(
    mode: Mode,
    model: keras.Model,
    asked: bool | str | None,
    planned: int | None,
    obstacle: str | None,
) -> Choice:
    """Returns what XLA compiles for `model`.

    Args:
        mode: `"train"`, `"test"` or `"predict"`.
        model: the model, compiled.
        asked: what the user gave as `jit_compile`; `None` for what the model has. On a CPU that is
            `False` for a model compiled without a word of it, too: Keras keeps no `"auto"`.
        planned: steps that the whole call will have, `None` where that is open.
        obstacle: why, on a CPU, steps would not gain, `None` where only the model decides it.
    """
    if model.run_eagerly or tf.config.functions_run_eagerly():
        return Choice(False, False, "steps run eagerly")
    if asked != "auto":
        whose = "model.jit_compile" if asked is None else "jit_compile"
        asked = model.jit_compile if asked is None else asked
        if asked and not _reaches(model.distribute_strategy):
            warnings.warn(
                "XLA compiles no step of several devices, so the steps run without it: give "
                "jit_compile=False.",
                stacklevel=2,
            )
            return Choice(False, False, "several replicas")
        return Choice(asked, asked, f"{whose} is {asked}")
    if model.jit_compile:
        return Choice(
            True, True, "jit_compile='auto' is True for this model and device, as in Keras"
        )
    obstacle = _obstacle_to(mode, model) or obstacle or _obstacle_in(model)
    if obstacle:
        return Choice(False, False, obstacle)
    least = _STEPS_THAT_PAY[mode]
    if planned is None or planned < least:
        told = "an open number of" if planned is None else planned
        return Choice(False, False, f"{told} steps in all, and compiling pays from {least} on")
    return Choice(False, True, f"dense layers and {planned} steps in all")


def cannot_compile(error: tf.errors.OpError) -> bool:
    """Returns whether `error` says that XLA cannot compile a function; nothing of it ran, then."""
    return "tf2xla conversion failed" in str(error)


def warn_of_fallback(error: tf.errors.OpError) -> None:
    """Warns that the graph runs what XLA cannot compile, and names the operation."""
    found = re.search(r"_JIT: (\w+) \(", str(error)) or re.search(r"{{node (\S+)}}", str(error))
    operation = found[1] if found else "an operation of the step"
    warnings.warn(
        f"XLA cannot compile {operation}, so the steps run without XLA: give jit_compile=False to "
        "do without it from the start.",
        stacklevel=2,
    )


def _reaches(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether XLA can compile a step on the replicas: on one device, or a GPU a process.

    TensorFlow ends others with an error, and its memory may be in disorder then.
    """
    if strategy.num_replicas_in_sync == 1:
        return True
    return _has_gpu() and len(strategy.extended.worker_devices) == 1


def _has_gpu() -> bool:
    return bool(tf.config.list_logical_devices("GPU"))


def _obstacle_to(mode: Mode, model: keras.Model) -> str:
    """Returns why XLA would make no steps of `mode` faster, `""` where it depends on them."""
    if _has_gpu():
        return "Keras leaves XLA off for this model"
    if model.distribute_strategy.num_replicas_in_sync > 1:
        return "several replicas"
    if mode not in _STEPS_THAT_PAY:
        return "predicting is not faster under XLA on a CPU"
    return ""


def _obstacle_in(model: keras.Model) -> str:
    """Returns why XLA would not make the steps of `model` faster, `""` where it would."""
    inner = list(_layers(model))
    if not inner:
        return f"{type(model).__name__} joins its layers by code that is not known"
    for layer in inner:
        if type(layer) not in _FAST_LAYERS:
            return f"{type(layer).__name__} is not faster under XLA on a CPU, or not known to be"
    if not any(isinstance(layer, layers.Dense) for layer in inner):
        return "no dense layers"
    return ""


def _layers(model: keras.Model) -> Iterator[keras.Operation]:
    """Yields the layers of `model`, those of nested models too; nothing where code joins them."""
    if not calls_as_built(model):
        return
    for layer in getattr(model, "operations", None) or model.layers:
        if isinstance(layer, keras.Model):
            inner = list(_layers(layer))
            yield from inner or [layer]
        else:
            yield layer
