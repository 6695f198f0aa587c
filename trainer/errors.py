"""Errors in one sentence: what came, what was expected, how to mend it."""

from __future__ import annotations

import difflib
import re
from typing import Any, NoReturn

import keras
import tensorflow as tf

tree = keras.tree


class placed:  # noqa: N801
    """A context that adds one line to an exception: the place in the loop where it came up."""

    def __init__(self, place: str):
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            add_note(error, f"(while {self._place})")


def add_note(error: BaseException, note: str) -> None:
    """Adds a line to what `error` prints, also where Python has no notes yet (3.10)."""
    if note in getattr(error, "__notes__", ()):
        return
    if hasattr(error, "add_note"):
        error.add_note(note)
    elif error.args and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}", *error.args[1:])


def raise_clearer(error: Exception, inputs: list[keras.KerasTensor] | None, batch: Any) -> NoReturn:
    """Raises, for an error of a step, a `ValueError` that explains it, or else the error itself.

    Args:
        error: what TensorFlow or Keras raised.
        inputs: the model's inputs where the step passes it x, and they are known.
        batch: the batch or its spec, a structure of things with a shape and a dtype.
    """
    text = str(error)
    x = keras.utils.unpack_x_y_sample_weight(batch)[0]
    sentence = (
        _of_label(text)
        or _of_name(text)
        or _of_missing_loss(text)
        or _of_shape_at_run_time(text)
        or _of_range(text)
        or _of_rows(text)
        or (inputs and _of_inputs(x, inputs))
    )
    if not sentence:
        add_note(error, f"The batch was {_described(batch)}.")
        raise error
    raise ValueError(sentence) from error


def paired_inputs(x: Any, inputs: list[keras.KerasTensor]) -> list[tuple[str, Any, Any]] | None:
    """Returns (name, leaf of x, input of the model) for each input, `None` if they do not pair."""
    if isinstance(x, dict):
        if any(symbol.name not in x for symbol in inputs):
            return None
        return [(f"x[{symbol.name!r}]", x[symbol.name], symbol) for symbol in inputs]
    leaves = tree.flatten(x)
    if len(leaves) != len(inputs):
        return None
    names = ["x"] if len(leaves) == 1 else [f"x[{number}]" for number in range(len(leaves))]
    return list(zip(names, leaves, inputs, strict=True))


def _of_label(text: str) -> str | None:
    found = re.search(
        r"label value of\D*?(-?\d+)\D*?which is outside the valid range of \[0, (\d+)\)", text
    )
    return found and label_outside(int(found[1]), int(found[2]))


def label_outside(label: int, classes: int) -> str:
    """Returns the sentence for a label that is no class number."""
    return (
        f"y has the label {label}, but the model tells {classes} classes apart, so labels run from "
        f"0 to {classes - 1}: number them so, or give the output layer more units."
    )


def _of_name(text: str) -> str | None:
    found = re.search(r"Could not interpret (metric|loss|optimizer) identifier: (\S+)", text)
    if not found:
        return None
    kind, name = found[1], found[2]
    module = {"metric": "metrics", "loss": "losses", "optimizer": "optimizers"}[kind]
    known = [key for key in dir(getattr(keras, module)) if not key.startswith("_")]
    known += ["accuracy", "crossentropy"] if kind == "metric" else []
    near = difflib.get_close_matches(name, known, n=1)
    mend = f"did you mean {near[0]!r}?" if near else f"names are those in keras.{module}."
    return f"There is no {kind} {name!r}: {mend}"


def _of_missing_loss(text: str) -> str | None:
    if "No loss to compute" not in text:
        return None
    return (
        "The model is compiled without a loss and adds none by add_loss: give CustomTrainer a "
        "loss, such as loss='mse', or override compute_loss."
    )


def _of_shape_at_run_time(text: str) -> str | None:
    found = re.search(
        r"Shape of tensor .*?(\[[\d,]*\]) is not compatible with expected shape (\[[\d,?]*\])", text
    )
    if not found:
        return None
    came, expected = (
        tuple(None if size == "?" else int(size) for size in shape[1:-1].split(",") if size)
        for shape in found.groups()
    )
    return _misfit("x", came, expected)


def _of_rows(text: str) -> str | None:
    found = re.search(r"A batch has arrays of the shapes .*? have as many\.", text)
    return found and found[0]


def _of_range(text: str) -> str | None:
    number = r"[^-\d]*?(-?[\d.]+(?:e[+-]?\d+)?|-?inf|-?nan)"
    found = re.search(
        f"images run from{number}[^-\\d]*{number}[^-\\d]*makes{number}[^-\\d]*{number}", text
    )
    if not found:
        return None
    return out_of_range(*(float(value.rstrip(".")) for value in found.groups()))


def out_of_range(least: float, most: float, low: float, high: float) -> str:
    """Returns the sentence for images from `least` to `most` where `low` to `high` is expected."""
    return (
        f"The images' numbers run from {least:g} to {most:g}, but the generator's last activation "
        f"makes {low:g} to {high:g}: rescale the images to that range."
    )


def _of_inputs(x: Any, inputs: list[keras.KerasTensor]) -> str | None:
    pairs = paired_inputs(x, inputs)
    if pairs is None:
        names = ", ".join(symbol.name for symbol in inputs)
        return (
            f"x has {len(tree.flatten(x))} arrays, but the model has {len(inputs)} inputs "
            f"({names}): give one array for each, in a list or in a dict by these names."
        )
    for name, leaf, symbol in pairs:
        if not hasattr(leaf, "dtype"):
            continue
        if tf.as_dtype(leaf.dtype) == tf.string and symbol.dtype != "string":
            return (
                f"{name} holds strings, but the model takes {symbol.dtype}: turn them into "
                "numbers, with keras.layers.StringLookup for one."
            )
        came, expected = tuple(leaf.shape), tuple(symbol.shape)
        if not _fits(came, expected):
            return _misfit(name, came, expected)
    return None


def _misfit(name: str, came: tuple, expected: tuple) -> str:
    if _fits(came, expected[1:]):
        return (
            f"{name} comes in single rows of shape {came}, but the model takes batches of them, "
            f"{expected}: call dataset.batch(batch_size), or give a single row as x[None]."
        )
    if _fits(came[1:], expected[1:]):
        return (
            f"{name} has {came[0]} rows on each device, but the model takes {expected[0]}: let "
            "each batch, the last one too, have so many for each device, or make the model for any "
            "number of rows."
        )
    return (
        f"{name} has shape {came}, but the model takes {expected}: reshape the data, or the input "
        "of the model."
    )


def _fits(came: tuple, expected: tuple) -> bool:
    return len(came) == len(expected) and all(
        None in (here, there) or here == there for here, there in zip(came, expected, strict=True)
    )


def _described(batch: Any) -> str:
    parts = zip(
        ("x", "y", "sample_weight"), keras.utils.unpack_x_y_sample_weight(batch), strict=True
    )
    return "; ".join(
        f"{name}: " + ", ".join(_leaf_described(leaf) for leaf in tree.flatten(part))
        for name, part in parts
        if part is not None
    )


def _leaf_described(leaf: Any) -> str:
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{tf.as_dtype(leaf.dtype).name} {tuple(leaf.shape)}"
