"""Outputs of many batches, as one."""

from __future__ import annotations

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
