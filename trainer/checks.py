"""What is asked of arguments before anything runs."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import keras
import numpy as np
import tensorflow as tf

from trainer.algorithm import Algorithm, has_own_step, overrides
from trainer.callbacks.for_network import needs_one_optimizer
from trainer.feeds import Feed, as_array
from trainer.networks import Networks, bound_form
from trainer.watching import Mode

_OF_NUMBERS = "biufc"  # kinds of NumPy
_OF_STRINGS = ("object", "str", "category", "<U", "|S")  # in names of NumPy, TensorFlow, pandas


def is_model(model: Any) -> None:
    """Raises TypeError unless `model` is a Keras model."""
    if not hasattr(model, "compute_loss") or not hasattr(model, "compile"):
        raise TypeError(
            f"model is of type {type(model).__name__}: expected a keras.Model, such as "
            "keras.Sequential([...]) or keras.Model(inputs, outputs)."
        )
    if isinstance(model, type):
        raise TypeError(
            f"model is the class {model.__name__}: expected an object of it, such as "
            f"{model.__name__}(...)."
        )


def whole_number(name: str, value: SupportsIndex) -> int:
    """Returns the argument `name` as a Python number; raises TypeError if it is no whole number."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} is {value!r}, of type {type(value).__name__}: expected a whole number, an int."
        ) from None


def batch_size(name: str, value: SupportsIndex | None) -> int | None:
    """Returns the argument `name` as a number of rows, `None` for the default, as is 0 in Keras.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is below 0.
    """
    if not value:
        return None
    number = whole_number(name, value)
    if number < 0:
        raise ValueError(f"{name} is {number}: expected a number of rows, 1 or more.")
    return number


def steps(name: str, value: SupportsIndex | None) -> int | None:
    """Returns the argument `name` as a number of steps, `None` for all, as is below 1 in Keras.

    Raises:
        TypeError: it is no whole number.
    """
    number = whole_number(name, value) if value else 0
    return number if number > 0 else None


def class_weight(weights: Any) -> None:
    """Raises ValueError unless `weights` gives a weight for a class number, or is `None`."""
    if weights is not None and not hasattr(weights, "get"):
        raise ValueError(
            f"class_weight is {weights!r}: expected a dict of weights by class number, such as "
            "{0: 1.0, 1: 2.5}."
        )


def no_strings(algorithm: Algorithm, mode: Mode, y: Any) -> None:
    """Raises ValueError if targets are strings where the step and the losses are Keras's own.

    Args:
        algorithm: the algorithm.
        mode: whose step takes the targets.
        y: targets, arrays or something else.
    """
    example = next(filter(None, map(_first_string, keras.tree.flatten(y))), None)
    if example is None:
        return
    model, step = algorithm.model, f"{mode}_step"
    own = has_own_step(algorithm, mode) or overrides(model, step)
    own = own or overrides(model, "compute_loss")
    own = own or type(algorithm).compute_loss is not Algorithm.compute_loss
    losses = keras.tree.flatten(getattr(model, "loss", None))
    if not own and all(map(_is_of_keras, losses)):
        raise ValueError(
            f"y holds strings, such as {example!r}, but the loss takes numbers: number the "
            "classes, by numpy.unique(y, return_inverse=True)[1] or keras.layers.StringLookup."
        )


def _is_of_keras(loss: Any) -> bool:
    module = getattr(loss, "__module__", None) or ""
    return isinstance(loss, str) or module.partition(".")[0] == "keras"


def _first_string(target: Any) -> str | bytes | None:
    """Returns the first value of an array of strings, `None` where `target` is none."""
    dtype = getattr(target, "dtype", "")
    if getattr(dtype, "kind", "O") in _OF_NUMBERS or isinstance(target, tf.RaggedTensor):
        return None
    if not any(name in str(dtype) for name in _OF_STRINGS):
        return None
    first = next(iter(np.asarray(as_array(target)).ravel()[:1].tolist()), None)
    return first if isinstance(first, (str, bytes)) else None


def validation_frequency(frequency: int | Sequence[int]) -> None:
    """Raises ValueError unless `frequency` is a number other than 0 or lists epochs."""
    if isinstance(frequency, int) and frequency:
        return
    if isinstance(frequency, (list, tuple, set)):
        return
    raise ValueError(
        "Expected `validation_freq` to be a list or int. "
        f"Received: validation_freq={frequency} of the type {type(frequency)}."
    )


def enough_data(feed: Feed, argument: str, steps: int | None, epochs: int = 1) -> None:
    """Checks that a feed has batches; warns where an epoch never ends or is shorter than `steps`.

    Args:
        feed: the feed.
        argument: the name of the argument that `steps` came as.
        steps: steps an epoch, `None` for as many as there are.
        epochs: how many epochs there will be.

    Raises:
        ValueError: the feed is empty, and no validation data.
    """
    if feed.steps == 0 and argument != "validation_steps":
        raise ValueError("The dataset is empty: expected at least one batch.")
    if steps is None:
        if feed.infinite:
            warnings.warn(
                f"The dataset is infinite, so it ends only where a callback stops it: give "
                f"{argument}, how many batches to take.",
                stacklevel=6,
            )
        return
    if feed.steps is None or epochs * steps <= feed.steps or feed.steps % steps == 0:
        return
    short = feed.steps if steps > feed.steps else feed.steps % steps
    warnings.warn(
        f"{argument}={steps}, but a pass through the data has {feed.steps} batches, so epochs end "
        f"early, after {short} steps: give {argument}={feed.steps}, or a dataset with .repeat().",
        stacklevel=6,
    )


def seed_of_networks(seed: int | None, model: Networks) -> None:
    """Raises ValueError if a trainer is given another seed than its model saves."""
    if seed is not None and seed != model.seed:
        raise ValueError(
            f"seed is {seed}, but the model is Networks(..., seed={model.seed}), which saves its "
            "seed: give it to Networks alone."
        )


def bound(callbacks: Any, model: keras.Model) -> None:
    """Raises ValueError if a callback needs one optimizer where `model` has several."""
    if not isinstance(model, Networks) or len(model.optimizers) < 2:
        return
    for callback in getattr(callbacks, "callbacks", None) or keras.tree.flatten(callbacks):
        if needs_one_optimizer(callback):
            kind = type(callback).__name__
            network = next(iter(model.optimizers))
            raise ValueError(
                f"{kind} is for one optimizer, but the model has one for each of "
                f"{', '.join(model.optimizers)}: say for which network, such as "
                f"{bound_form(network, f'keras.callbacks.{kind}(...)')}."
            )


def compiles_no_steps(model: keras.Model, mode: str) -> None:
    """Raises ValueError if `model` has its own way to compile steps, which would not be used."""
    name = f"make_{mode}_function"
    if overrides(model, name):
        raise ValueError(
            f"{type(model).__name__} overrides {name}, but CustomTrainer compiles the steps "
            f"itself: override {mode}_step, or call model.fit."
        )


def logs(logs: Any, step: str) -> dict[str, Any]:
    """Returns what a step returned.

    Raises:
        TypeError: it is no dict.
    """
    if isinstance(logs, Mapping):
        return logs
    raise TypeError(
        f"{step} returned {type(logs).__name__}: expected a dict of scalars by log key, such as "
        "{'loss': loss}."
    )


def outside_functions(method: str, kind: type[Exception]) -> None:
    """Raises an error of `kind`, as Keras does for `method`, while a `tf.function` is traced."""
    if tf.inside_function() and not tf.executing_eagerly():  # as in `tf.init_scope`
        raise kind(
            f"{method} was called inside a tf.function, which traces Python once and runs no loop "
            f"of Python's: call {method} outside of it."
        )
