"""Error messages for attributes and names that there are not, with what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
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


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Returns a question with the entries of `known` that are like `name`, `None` without such.

    Upper and lower case are alike, and so are names with and without underscores: of entries that
    differ in no more than that, the first is named.
    """
    entries: dict[str, str] = {}
    for entry in known:
        entries.setdefault(_plain(entry), entry)
    near = [plain for plain in entries if plain.startswith(_plain(name))]
    for least in (0.85, 0.6):  # one letter off, else alike
        near = near or difflib.get_close_matches(_plain(name), entries, 5, least)
    if not near:
        return None
    *others, last = (repr(entries[plain]) for plain in near)
    return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


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
