"""Outputs of many batches, as one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

tree = keras.tree


def concatenated(batches: list[Any]) -> Any:
    """Returns the outputs of all `batches` behind one another.

    Args:
        batches: the outputs of each batch, a structure of tensors.

    Returns:
        The same structure of NumPy arrays; `tf.RaggedTensor` where batches differ in more than
        rows or are ragged themselves, `tf.SparseTensor` where they are sparse.
    """
    flat = [tree.flatten(batch) for batch in batches]
    joined = [_join(list(parts)) for parts in zip(*flat, strict=True)]
    return tree.pack_sequence_as(batches[0], joined)


def collected(parts: Iterator[Any], rows: int | None) -> Any | None:
    """Returns the outputs in `parts` behind one another, as `concatenated` does.

    Args:
        parts: the outputs of each batch, or of several behind one another.
        rows: how many rows there will be at most, `None` where that is open. Where it is known, and
            outputs have rows, they are written to one array as they come, and are not held twice.

    Returns:
        As `concatenated`; `None` if there was no part.
    """
    first = next(parts, None)
    if first is None:
        return None
    leaves = tree.flatten(first)
    if rows is None or not all(isinstance(leaf, tf.Tensor) and leaf.shape.rank for leaf in leaves):
        return concatenated([first, *parts])
    arrays = [np.empty((rows, *leaf.shape[1:]), leaf.dtype.as_numpy_dtype) for leaf in leaves]
    filled = 0
    for part in itertools.chain([first], parts):
        leaves = tree.flatten(part)
        count = len(leaves[0])
        places = [array[filled : filled + count] for array in arrays]
        if any(place.shape != leaf.shape for place, leaf in zip(places, leaves, strict=True)):
            before = tree.pack_sequence_as(first, [array[:filled] for array in arrays])
            return concatenated([before, part, *parts])
        for place, leaf in zip(places, leaves, strict=True):
            place[...] = leaf.numpy()
        filled += count
    return tree.pack_sequence_as(first, [array[:filled] for array in arrays])


def joined(batches: list[Any]) -> Any:
    """Returns the outputs of all `batches` behind one another, as a structure of tensors."""
    if len(batches) == 1:
        return batches[0]
    return tree.map_structure(
        lambda part: tf.constant(part) if isinstance(part, np.ndarray) else part,
        concatenated(batches),
    )


def _join(parts: list[Any]) -> Any:
    if isinstance(parts[0], (tf.SparseTensor, tf.RaggedTensor)):
        return parts[0] if len(parts) == 1 else _concat(parts)
    arrays = [part.numpy() if isinstance(part, tf.Tensor) else np.asarray(part) for part in parts]
    if not arrays[0].ndim:
        return np.stack(arrays) if len(arrays) > 1 else arrays[0]
    if len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    return _ragged(arrays)


def _concat(parts: list[Any]) -> Any:
    if isinstance(parts[0], tf.SparseTensor):
        return tf.sparse.concat(axis=0, sp_inputs=parts)
    return tf.concat(parts, axis=0) if parts[0].shape.rank else tf.stack(parts)


def _ragged(arrays: list[np.ndarray]) -> tf.RaggedTensor:
    shapes = list(zip(*(array.shape[1:] for array in arrays), strict=True))
    varying = max(axis for axis, sizes in enumerate(shapes) if len(set(sizes)) > 1)
    inner = arrays[0].shape[varying + 2 :]
    ragged = tf.ragged.constant(
        [array.tolist() for array in arrays], arrays[0].dtype, inner_shape=inner
    )
    return ragged.merge_dims(0, 1)
