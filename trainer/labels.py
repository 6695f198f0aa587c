"""Class numbers under sparse cross-entropy: checked where the number of classes is known.

Outside the classes TensorFlow raises an error about an operation, after part of the step has run,
or, on an accelerator, computes NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.errors import label_outside

tree = keras.tree


def check_labels(model: keras.Model, y: Any) -> None:
    """Checks all labels of targets given as arrays; those on disk are left for their step.

    Raises:
        ValueError: a label is no class number.
    """
    for labels, classes, ignored in _sparse_targets(model, y):
        is_integers = isinstance(labels, np.ndarray) and labels.dtype.kind in "iu"
        if not is_integers or isinstance(labels, np.memmap) or not labels.size:
            continue
        for label in (int(labels.min()), int(labels.max())):
            if not 0 <= label < classes and label != ignored:
                raise ValueError(label_outside(label, classes))


def guard_labels(model: keras.Model, batch: Any) -> Any:
    """Returns `batch`, in the graph to be had only if its labels are class numbers.

    A step that fails in its loss has by then changed moving averages: a model that has such
    weights gets its batch through this guard. Others lose nothing by failing in the loss.
    """
    if not model.non_trainable_weights:
        return batch
    _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    checks = []
    for labels, classes, ignored in _sparse_targets(model, y):
        if not isinstance(labels, tf.Tensor) or not labels.dtype.is_integer:
            continue
        wrong = (labels < 0) | (labels >= classes)
        wrong = wrong if ignored is None else wrong & (labels != ignored)
        worst = tf.reduce_max(tf.where(wrong, labels, tf.zeros_like(labels)))
        worst = tf.where(worst == 0, tf.reduce_min(labels), worst)
        told = ("label value of", worst, f"which is outside the valid range of [0, {classes})")
        checks.append(tf.debugging.Assert(~tf.reduce_any(wrong), told))
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tree.map_structure(lambda t: t if t is None else tf.identity(t), batch)


def _sparse_targets(model: keras.Model, y: Any) -> Iterator[tuple[Any, int, int | None]]:
    """Yields labels, number of classes and ignored label of each target of sparse cross-entropy."""
    outputs = getattr(model, "outputs", None)
    if y is None or not outputs:
        return
    losses = per_output(model, model.loss, len(outputs))
    targets = per_output(model, y, len(outputs))
    for loss, labels, output in zip(losses, targets, outputs, strict=True):
        if _is_sparse_crossentropy(loss) and output.shape[-1] is not None:
            yield labels, output.shape[-1], getattr(loss, "ignore_class", None)


def per_output(model: keras.Model, structure: Any, count: int) -> list[Any]:
    """Returns the part of `structure` for each output, `None` where it cannot be told."""
    if isinstance(structure, dict):
        return [structure.get(name) for name in getattr(model, "output_names", [None] * count)]
    leaves = tree.flatten(structure)
    return leaves if len(leaves) == count else [None] * count


def _is_sparse_crossentropy(loss: Any) -> bool:
    return (
        isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        or loss == "sparse_categorical_crossentropy"
        or loss is keras.losses.sparse_categorical_crossentropy
    )
