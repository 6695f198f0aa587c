"""Notes on errors: where they came up, what came, and how to mend it."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainer.hints import did_you_mean

tree = keras.tree
_KERAS = Path(keras.__file__).parent
# Parts of what TensorFlow and Keras say of shapes that do not fit.
_OF_SHAPES = (
    "Invalid input shape",
    "is incompatible with the layer",
    "Matrix size-incompatible",
    "Dimensions must be equal",
    "Negative dimension size",
)
_SHORT_NAMES = {"metric": ["accuracy", "crossentropy", "mse", "mae"], "loss": ["mse", "mae"]}


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
    elif len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{note}",)
    else:
        warnings.warn(f"{type(error).__name__}: {note}", stacklevel=2)


def explain(error: Exception, inputs: Any, batch: Any) -> None:
    """Adds to an error of a step what its batch was, and how to mend what is certain.

    Args:
        error: the error.
        inputs: the model's inputs, a structure of `keras.KerasTensor`, where the step passes it x
            and they are known, else `None`.
        batch: the batch or its spec, a structure of things with a shape and a dtype.
    """
    text = str(error)
    x = keras.utils.unpack_x_y_sample_weight(batch)[0]
    for hint in (
        _hint_for_label(text),
        _hint_for_name(text),
        _hint_for_missing_loss(error),
        _hint_for_missing_y(error, batch),
        _hint_for_classes(text),
        _hint_for_range(text),
        _hint_for_strings(text, batch),
        _hint_for_single_rows(text, x, inputs),
    ):
        if hint:
            add_note(error, hint)
    add_note(error, f"The batch was {_described(batch)}.")


def _came_up_in(error: Exception, *parts: str) -> bool:
    """Returns whether `error` passed through a folder or file of Keras named so."""
    frames = traceback.walk_tb(error.__traceback__)
    places = (Path(frame.f_code.co_filename) for frame, _ in frames)
    return any(p.is_relative_to(_KERAS) and not {*parts}.isdisjoint(p.parts) for p in places)


def _hint_for_label(text: str) -> str | None:
    found = re.search(
        r"label value of\D*?(-?\d+)\D*?which is outside the valid range of \[0, (\d+)\)", text
    )
    return found and label_outside(int(found[1]), int(found[2]))


def label_outside(label: int, classes: int) -> str:
    """Returns the sentence for a label that is no class number."""
    return (
        f"Sparse cross-entropy got the label {label}, but the output has {classes} classes: number "
        f"labels from 0 to {classes - 1}, or give the output layer more units."
    )


def explain_identifier(error: Exception) -> None:
    """Adds to an error of `compile` what was probably meant by a name that there is not."""
    if hint := _hint_for_name(str(error)):
        add_note(error, hint)


def _hint_for_name(text: str) -> str | None:
    found = re.search(
        r"Could not interpret (metric|loss|optimizer) identifier: (\S+)(?: '\S*?(\w+)'>)?", text
    )
    if not found:
        return None
    kind, name = found[1], found[2]
    if found[3]:
        return f"The {kind} is a class: expected an object of it, such as {found[3]}()."
    module = {"metric": "metrics", "loss": "losses", "optimizer": "optimizers"}[kind]
    known = [key for key in dir(getattr(keras, module)) if not key.startswith("_")]
    known = [*_SHORT_NAMES.get(kind, []), *sorted(known, key=lambda key: not key.islower())]
    mend = did_you_mean(name, known) or f"names are those in keras.{module}."
    return f"There is no {kind} {name!r}: {mend}"


def _hint_for_missing_loss(error: Exception) -> str | None:
    if "No loss to compute" not in str(error) or not _came_up_in(error, "trainers"):
        return None
    return (
        "The model is compiled without a loss and adds none by add_loss: give CustomTrainer a "
        "loss, such as loss='mse', or override compute_loss."
    )


def _hint_for_missing_y(error: Exception, batch: Any) -> str | None:
    of_none = "None values not supported" in str(error) or "'NoneType'" in str(error)
    if not of_none or not _came_up_in(error, "losses", "compile_utils.py"):
        return None
    if keras.utils.unpack_x_y_sample_weight(batch)[1] is not None:
        return None
    return "The batch has no y: give y, or data that yield (x, y), where the loss takes targets."


def _hint_for_classes(text: str) -> str | None:
    """Returns a hint where class numbers meet a loss of one-hot rows, or the other way round."""
    found = re.search(r"target\.shape=\((.*?)\), output\.shape=\((.*?)\)", text)
    if not found:
        return None
    y, outputs = (re.findall(r"None|\d+", sizes) for sizes in found.groups())
    several = outputs[-1:] not in ([], ["1"], ["None"])
    if "`target.ndim - 1`" in text and several and y == outputs:
        return (
            "y has a number for each class, as one-hot rows have, but a sparse loss takes class "
            "numbers: give y.argmax(-1), or use CategoricalCrossentropy."
        )
    if "must have the same" in text and several and y in (outputs[:-1], [*outputs[:-1], "1"]):
        return (
            f"y has one number where the output has {outputs[-1]}: for class numbers, use "
            "SparseCategoricalCrossentropy."
        )
    return None


def _hint_for_range(text: str) -> str | None:
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


def _hint_for_strings(text: str, batch: Any) -> str | None:
    if "Cast string to" not in text:
        return None
    for name, part in _parts(batch):
        for path, leaf in tree.flatten_with_path(part):
            if getattr(leaf, "dtype", None) == tf.string:
                place = "".join(f"[{key!r}]" for key in path)
                return (
                    f"{name}{place} holds strings: turn them into numbers, with "
                    "keras.layers.StringLookup for one."
                )
    return None


def _hint_for_single_rows(text: str, x: Any, inputs: Any) -> str | None:
    leaves, symbols = tree.flatten(x), tree.flatten(inputs)
    if (
        inputs is None
        or len(leaves) != len(symbols)
        or not any(part in text for part in _OF_SHAPES)
    ):
        return None
    for leaf, symbol in zip(leaves, symbols, strict=True):
        came = tf.TensorShape(getattr(leaf, "shape", None))
        expected = tf.TensorShape(symbol.shape)
        if came.rank is None or came.rank != len(expected) - 1 or came.rank == 0:
            continue
        if came[0] is None and expected[1] is None:  # rows that lack an axis, as likely
            continue
        # To a batch of numbers, of shape (rows,), Keras adds an axis of one.
        is_widened = expected[-1] == 1 and not (came.rank > 1 and came.is_fully_defined())
        if came.is_compatible_with(expected[1:]) and not is_widened:
            return (
                f"x comes in single rows of shape {came}, but the model takes batches of them, "
                f"{expected}: call dataset.batch(batch_size), or give a single row as x[None]."
            )
    return None


def _described(batch: Any) -> str:
    return "; ".join(
        f"{name}: " + ", ".join(_leaf_described(leaf) for leaf in tree.flatten(part))
        for name, part in _parts(batch)
        if part is not None
    )


def _parts(batch: Any) -> Iterator[tuple[str, Any]]:
    parts = keras.utils.unpack_x_y_sample_weight(batch)
    return zip(("x", "y", "sample_weight"), parts, strict=True)


def _leaf_described(leaf: Any) -> str:
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{tf.as_dtype(leaf.dtype).name} {tf.TensorShape(leaf.shape)}"
