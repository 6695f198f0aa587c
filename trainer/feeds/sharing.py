"""Tensors of NumPy arrays by one copy, where `tf.convert_to_tensor` makes two.

It copies each array that it gets, so that nobody changes the tensor by changing the array, and once
more what is not aligned to its liking. Here NumPy copies, to memory that TensorFlow takes as it is.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

NUMBERS = "biuf"  # the kinds of dtypes that this is for
_ALIGNMENT = 64  # bytes


def tensor_of_copy(array: np.ndarray) -> tf.Tensor:
    """Returns `array` as a tensor, floats in `keras.config.floatx()`."""
    memory = _aligned(array.shape, _dtype(array))
    np.copyto(memory, array, casting="same_kind")
    return _shared(memory)


def tensor_of_rows(array: np.ndarray, rows: np.ndarray) -> tf.Tensor:
    """Returns `rows` of `array`, numbers that it has, as a tensor like `tensor_of_copy`'s."""
    memory = _aligned((len(rows), *array.shape[1:]), array.dtype)
    np.take(array, rows, axis=0, out=memory, mode="clip")  # the others buffer what they write
    return _shared(memory) if _dtype(array) == array.dtype else tensor_of_copy(memory)


def _dtype(array: np.ndarray) -> np.dtype:
    if array.dtype.kind != "f":
        return array.dtype
    return np.dtype(tf.as_dtype(keras.config.floatx()).as_numpy_dtype)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _shared(array: np.ndarray) -> tf.Tensor:
    return tf.convert_to_tensor(_Disguised(array))


class _Disguised:
    """An array that TensorFlow does not know for one, and so does not copy."""

    def __init__(self, array: np.ndarray):
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._array
