"""What is asked of arguments before anything runs."""

from __future__ import annotations

import difflib
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.algorithm import overrides
from trainer.callbacks.for_network import needs_one_optimizer
from trainer.feeds import Feed
from trainer.networks import Networks, bound_form


def known_arguments(method: Callable) -> Callable:
    """Makes `method` answer an unknown argument with the nearest one that it takes."""
    names = [name for name in inspect.signature(method).parameters if name != "self"]

    @functools.wraps(method)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                mend = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(names)}."
                raise TypeError(f"{method.__name__} has no argument {name!r}: {mend}")
        return method(*args, **kwargs)

    return checked


def is_model(model: Any) -> None:
    """Raises TypeError unless `model` is a Keras model."""
    if not hasattr(model, "compute_loss") or not hasattr(model, "compile"):
        raise TypeError(
            f"model is of type {type(model).__name__}: expected a keras.Model, such as "
            "keras.Sequential([...]) or keras.Model(inputs, outputs)."
        )


def validation_frequency(frequency: int | Sequence[int]) -> None:
    """Raises ValueError unless `frequency` is a positive number or lists epochs."""
    if isinstance(frequency, int) and frequency > 0:
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
