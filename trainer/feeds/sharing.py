"""Tensors of NumPy arrays by one copy, where `tf.convert_to_tensor` makes two.

It copies each array that it gets, so that nobody changes the tensor by changing the array, and once
more what is not aligned to its liking. Here NumPy copies, to memory that TensorFlow takes as it is.
"""

from __future__ import annotations

import collections
import contextlib
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

NUMBERS = "biuf"  # the kinds of dtypes that this is for
_ALIGNMENT = 64  # bytes


def tensor_of_copy(array: np.ndarray) -> tf.Tensor:
    """Returns `array` as a tensor, floats in `keras.config.floatx()`."""
    memory = _aligned(
        np.empty(_bytes(array.shape, _dtype(array)), np.uint8), array.shape, _dtype(array)
    )
    np.copyto(memory, array, casting="same_kind")
    return _shared(memory)


class Pool:
    """Memory that is used again once no tensor has it: new memory costs more than filling it.

    Args:
        most: bytes to keep for later; what was unused for longest is given back first.
    """

    def __init__(self, most: int = 2**26):
        self._most = most
        self._free: collections.deque[np.ndarray] = collections.deque()
        self._lent: set[_Loan] = set()
        self._returned: collections.deque[_Loan] = collections.deque()

    def take(self, size: int) -> np.ndarray:
        """Returns `size` bytes of anything."""
        self.collect()
        memory = self._kept(size)
        if memory is None:
            memory = np.empty(size, np.uint8)
        lease = _Lease(memory)
        # What is called is no Python: in such a callback of Python's own a Ctrl-C would get lost.
        self._lent.add(_Loan(lease, memory, self._returned.append))
        return np.asarray(lease)

    def collect(self) -> int:
        """Takes back what no tensor has any more; returns how many bytes are kept for later."""
        with contextlib.suppress(IndexError, RuntimeError):  # where another thread is at it
            while self._returned:
                loan = self._returned.popleft()
                self._lent.discard(loan)
                self._free.append(loan.memory)
            while sum(kept.size for kept in tuple(self._free)) > self._most:
                self._free.popleft()
        return sum(kept.size for kept in tuple(self._free))

    def _kept(self, size: int) -> np.ndarray | None:
        with contextlib.suppress(IndexError):  # other threads take some, too
            for _ in range(len(self._free)):
                memory = self._free.pop()
                if memory.size == size:
                    return memory
                self._free.appendleft(memory)
        return None


class _Lease:
    """The owner of borrowed memory, as long as there is an array that reads it."""

    def __init__(self, memory: np.ndarray):
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__


class _Loan(weakref.ref):
    """Knows what memory was borrowed, and tells when its lease is over."""

    __slots__ = ("memory",)

    def __new__(cls, lease: _Lease, memory: np.ndarray, over: Callable[[_Loan], None]) -> _Loan:
        """Returns a loan; `over` is called with it."""
        return super().__new__(cls, lease, over)

    def __init__(self, lease: _Lease, memory: np.ndarray, over: Callable[[_Loan], None]):
        super().__init__(lease, over)
        self.memory = memory


def tensor_of_rows(array: np.ndarray, rows: np.ndarray | range, pool: Pool) -> tf.Tensor:
    """Returns `rows` of `array`, numbers, as a tensor like `tensor_of_copy`'s.

    Rows of a range that lie behind the last one of the array are anything.
    """
    shape = (len(rows), *array.shape[1:])
    if isinstance(rows, range):
        there = array[rows.start : rows.stop]
        memory = _aligned(pool.take(_bytes(shape, _dtype(array))), shape, _dtype(array))
        np.copyto(memory[: len(there)], there, casting="same_kind")
        return _shared(memory)
    if not array.flags.c_contiguous:  # of such a one, `take` would copy all rows first
        return tensor_of_copy(array[rows])
    memory = _aligned(pool.take(_bytes(shape, array.dtype)), shape, array.dtype)
    np.take(array, rows, axis=0, out=memory, mode="clip")  # the others buffer what they write
    return _shared(memory) if _dtype(array) == array.dtype else tensor_of_copy(memory)


def _dtype(array: np.ndarray) -> np.dtype:
    if array.dtype.kind != "f":
        return array.dtype
    return np.dtype(tf.as_dtype(keras.config.floatx()).as_numpy_dtype)


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize + _ALIGNMENT


def _aligned(memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    start = -memory.ctypes.data % _ALIGNMENT
    stop = start + memory.size - _ALIGNMENT
    return memory[start:stop].view(dtype).reshape(shape)


def _shared(array: np.ndarray) -> tf.Tensor:
    return tf.convert_to_tensor(_Disguised(array))


class _Disguised:
    """An array that TensorFlow does not know for one, and so does not copy."""

    def __init__(self, array: np.ndarray):
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._array
