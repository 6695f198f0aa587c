"""Copies of a trainer, by `copy` or `pickle`: of its model and attributes; steps are made anew."""

from __future__ import annotations

from typing import Any

import keras

from trainer.algorithm import Algorithm

_SETTINGS = ("run_eagerly", "jit_compile", "steps_per_execution")


def packed(algorithm: Algorithm, attributes: dict[str, Any]) -> dict[str, Any]:
    """Returns what a copy of `algorithm` with these attributes is made of.

    Raises:
        TypeError: an attribute is a part of the model, or the model is on several devices.
    """
    model = algorithm.model
    if model.distribute_strategy.num_replicas_in_sync > 1:
        raise TypeError(
            f"A {type(algorithm).__name__} on several devices cannot be copied or pickled: copy "
            "the model under strategy.scope(), and make a new trainer of it."
        )
    for name, value in attributes.items():
        _check_part(model, name, value)
    # Keras can copy what a seed generator is made of, and its state, but not the object.
    generators = {
        name: value.get_config()
        for name, value in attributes.items()
        if isinstance(value, keras.random.SeedGenerator)
    }
    return {
        "attributes": {**attributes, **dict.fromkeys(generators)},
        "generators": generators,
        "seeds": [state.numpy() for state in algorithm.seeds()],
        "settings": {name: getattr(model, name) for name in _SETTINGS},
    }


def unpack(algorithm: Algorithm, content: dict[str, Any]) -> None:
    """Makes `algorithm`, which is empty, a copy of what was packed."""
    vars(algorithm).update(content["attributes"])
    for name, config in content["generators"].items():
        setattr(algorithm, name, keras.random.SeedGenerator.from_config(config))
    for state, value in zip(algorithm.seeds(), content["seeds"], strict=True):
        state.assign(value)
    for name, value in content["settings"].items():
        setattr(algorithm.model, name, value)


def _check_part(model: keras.Model, name: str, value: Any) -> None:
    """Raises TypeError if the attribute `name` has variables of `model`, which a copy would not."""
    if value is model:
        return
    variables = [*model.variables, *getattr(model.optimizer, "variables", ())]
    of_model = {id(variable) for variable in variables}
    kinds = (keras.Layer, keras.Optimizer, keras.metrics.Metric)
    for part in keras.tree.flatten(value):
        own = part.variables if isinstance(part, kinds) else [part]
        if any(id(variable) in of_model for variable in own):
            raise TypeError(
                f"The trainer's attribute {name!r} is a part of its model, and in a copy it would "
                "be a second one: copy the model, and make a new trainer of it."
            )
