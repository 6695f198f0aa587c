"""Class numbers under sparse cross-entropy: checked where the number of classes is certain.

Outside the classes TensorFlow raises an error on a CPU, and computes NaN on an accelerator or under
XLA.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from trainer.errors import label_outside

tree = keras.tree


def check_labels(model: keras.Model, y: Any) -> None:
    """Checks the labels of targets given as arrays, for a step and a model that are Keras's own.

    Arrays on disk are not read for it.

    Raises:
        ValueError: a label is no class number.
    """
    for labels, classes, ignored in _sparse_targets(model, y):
        are_numbers = isinstance(labels, np.ndarray) and labels.dtype.kind in "iuf"
        if not are_numbers or isinstance(labels, np.memmap) or not labels.size:
            continue
        for label in filter(np.isfinite, (labels.min(), labels.max())):
            label = int(label)  # as Keras casts them
            if not 0 <= label < classes and label != ignored:
                raise ValueError(label_outside(label, classes))


def _sparse_targets(model: keras.Model, y: Any) -> Iterator[tuple[Any, int, int | None]]:
    """Yields labels, number of classes and ignored label of each target of sparse cross-entropy."""
    outputs = getattr(model, "outputs", None)
    if y is None or not outputs:
        return
    losses = per_output(model, model.loss, len(outputs))
    targets = per_output(model, y, len(outputs))
    for loss, labels, output in zip(losses, targets, outputs, strict=True):
        if _is_sparse_crossentropy(loss) and output.shape[-1] is not None:
            yield labels, output.shape[-1], ignored_class(loss)


def ignored_class(loss: Any) -> int | None:
    """Returns the class number that does not count for a loss, `None` where all do."""
    if hasattr(loss, "ignore_class"):
        return loss.ignore_class
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):  # of the next Keras
        return loss.get_config().get("ignore_class")
    return None


def per_output(model: keras.Model, structure: Any, count: int) -> list[Any]:
    """Returns the part of `structure` for each output, `None` where it cannot be told."""
    if isinstance(structure, dict):
        names = getattr(model, "output_names", [None] * count)
        outputs = getattr(model, "output", None)
        if isinstance(outputs, dict) and sorted(outputs) != names:  # named like other layers
            return [None] * count
        return [structure.get(name) for name in names]
    leaves = tree.flatten(structure)
    return leaves if len(leaves) == count else [None] * count


def _is_sparse_crossentropy(loss: Any) -> bool:
    """Returns whether a loss is Keras's own, which counts classes from 0 on the last axis."""
    with contextlib.suppress(ValueError):  # a name that there is not: the step will say it
        loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    if loss is keras.losses.sparse_categorical_crossentropy:
        return True
    of_keras = keras.losses.SparseCategoricalCrossentropy
    return type(loss) is of_keras and loss.get_config().get("axis", -1) == -1
