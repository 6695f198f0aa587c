"""What a trainer answers to names of a `keras.Model` that people try on it by heart."""

from __future__ import annotations

from typing import Any

NOT_INITIALIZED = "call super().__init__(model, ...) first in its __init__."

# Public for the package's own modules; no user needs them.
INNER = frozenset(
    {
        "epoch_logs",
        "finalize_weights",
        "known_inputs",
        "own_metrics",
        "peers",
        "peers_at_start",
        "seeds",
    }
)


def missing_attribute(trainer: Any, name: str) -> AttributeError:
    """Returns the error for an attribute that `trainer` does not have; it says where that is."""
    kind = type(trainer).__name__
    text = f"{kind!r} object has no attribute {name!r}"
    model = vars(trainer).get("model")
    if name.startswith("__"):
        pass
    elif model is None:
        text += f": {NOT_INITIALIZED}"
    elif name == "history":
        text += ": fit returns it, and trainer.model.history is that of the last fit."
    elif not name.startswith("_") and name in dir(model):
        text += f": it is the model's, trainer.model.{name}."
    return AttributeError(text, name=name, obj=trainer)


def not_callable(trainer: Any) -> TypeError:
    """Returns the error for a trainer that is called like a model."""
    kind = type(trainer).__name__
    return TypeError(
        f"{kind!r} object is not callable, its model is: self.model(x, training=True) in a step, "
        "trainer.model(x) or trainer.predict(x) elsewhere."
    )


def described(trainer: Any) -> str:
    """Returns the `repr` of a trainer, like that of a `keras.Model`."""
    kind, model = type(trainer).__name__, vars(trainer).get("model")
    if model is None:
        return f"<{kind} without a model>"
    return f"<{kind} model={model.name}, step={trainer.step}, epoch={trainer.epoch}>"
