"""Compiling a model, and noticing that it was compiled again."""

from __future__ import annotations

import weakref
from typing import Any

import keras

from trainer.errors import explain_identifier

_marks_of_trainers: weakref.WeakSet = weakref.WeakSet()


def compile_model(model: keras.Model, arguments: dict[str, Any], settings: dict[str, Any]) -> None:
    """Compiles `model` with `arguments`, or only applies `settings` where there are none.

    A model that is compiled keeps its optimizer, loss and loss weights where none are given.

    Args:
        model: the model.
        arguments: arguments of `model.compile` by name; `None` stands for one that is not given.
        settings: the same for those arguments of it that are attributes of a model, too.
    """
    arguments, settings = _given(arguments), _given(settings)
    if not arguments:
        for name, value in settings.items():
            # None is how the property is told to work "auto" out.
            setattr(model, name, None if value == "auto" else value)
        return
    if model.compiled:
        kept = {"optimizer": model.optimizer}
        if "loss" not in arguments:
            kept |= {"loss": model.loss}
            kept |= _given({"loss_weights": model.get_compile_config().get("loss_weights")})
        arguments = {**kept, **arguments}
    try:
        with model.distribute_strategy.scope():
            model.compile(**arguments, **settings)
    except Exception as error:
        explain_identifier(error)
        raise
    if model.compiled:  # also where a class has a `compile` of its own
        _marks_of_trainers.add(compile_mark(model))


def compile_mark(model: keras.Model) -> Any:
    """Returns an object that is another one after each compile, `None` before the first."""
    if not model.compiled:
        return None
    # `compile` makes a new loss tracker, the first metric, each time. To ask for the metrics goes
    # through all layers, which is for a version of Keras that has no attribute of this name.
    return vars(model).get("_loss_tracker") or keras.Model.metrics.fget(model)[0]


def is_compiled_by_trainer(model: keras.Model) -> bool:
    """Returns whether `compile_model` compiled `model` last."""
    return model.compiled and compile_mark(model) in _marks_of_trainers


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
