"""Arrays of any library, as NumPy arrays or TensorFlow tensors."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

Array = Any  # numpy.ndarray, tf.Tensor, tf.RaggedTensor or tf.SparseTensor


def is_array(value: Any) -> bool:
    """Returns whether `as_array` takes `value`."""
    return value is None or _is_composite(value) or _is_sparse(value) or hasattr(value, "__array__")


def as_array(value: Any) -> Array | None:
    """Returns one leaf of a batch or of a data set as an array that TensorFlow takes.

    Args:
        value: a NumPy array, a TensorFlow, JAX or torch tensor, a pandas frame or series, a SciPy
            or JAX sparse matrix, anything with `__array__`, or `None`.

    Returns:
        The array, its dtype unchanged; a series of n values has shape `(n, 1)`, as in Keras.
    """
    if value is None or isinstance(value, (np.ndarray, tf.Tensor)) or _is_composite(value):
        return value
    if _is_sparse(value):
        return _sparse_tensor(value)
    if hasattr(value, "detach"):
        return _from_torch(value.detach().cpu())
    if _library(value) == "pandas":
        array = value.to_numpy()
        return array[:, None] if array.ndim == 1 else array
    return np.asarray(value)


def as_floatx(array: Array | None) -> Array | None:
    """Returns `array` with floating-point values in `keras.config.floatx()`, others unchanged."""
    if array is None:
        return None
    if isinstance(array, np.ndarray) and array.dtype == object:
        return _from_objects(array)
    if isinstance(array, np.ndarray):
        return array.astype(keras.config.floatx(), copy=False) if _is_float(array) else array
    return tf.cast(array, keras.config.floatx()) if array.dtype.is_floating else array


def as_tensor(value: Any) -> Array | None:
    """Returns one leaf of a batch as a tensor of the same dtype, `None` as `None`."""
    array = as_array(value)
    return tf.convert_to_tensor(array) if isinstance(array, np.ndarray) else array


def are_strings(array: np.ndarray) -> bool:
    """Returns whether an array of objects holds nothing else than strings."""
    return all(isinstance(value, str) for value in array.flat)


def as_numbers(array: np.ndarray, name: str = "The array", columns: Any = None) -> np.ndarray:
    """Returns the numbers that an array of objects holds.

    Args:
        array: the objects, of a frame whose columns have several dtypes for one.
        name: what a message calls it.
        columns: the names of its columns, if it has some.

    Raises:
        ValueError: it holds something else; the message names the place.
    """
    try:
        numbers = array.astype(keras.config.floatx())
    except (TypeError, ValueError) as error:
        raise ValueError(_no_number(array, name, columns)) from error
    if np.any(np.equal(array, None)):  # which NumPy takes for NaN
        raise ValueError(_no_number(array, name, columns))
    return numbers


def byte_size(structure: Any) -> int:
    """Returns the bytes of the dense arrays in `structure`; others count nothing."""
    return sum(
        math.prod(array.shape) * array.dtype.size
        if isinstance(array, tf.Tensor)
        else getattr(array, "nbytes", 0)
        for array in keras.tree.flatten(structure)
    )


def spec_of(tensor: Array | None) -> tf.TypeSpec | None:
    """Returns the spec of an array or tensor with the number of rows left open."""
    if tensor is None:
        return None
    shape = [None, *tensor.shape[1:]] if tf.TensorShape(tensor.shape).rank else []
    if isinstance(tensor, tf.RaggedTensor):
        spec = tf.type_spec_from_value(tensor)
        return tf.RaggedTensorSpec(shape, tensor.dtype, spec.ragged_rank, spec.row_splits_dtype)
    kind = tf.SparseTensorSpec if isinstance(tensor, tf.SparseTensor) else tf.TensorSpec
    return kind(shape, tensor.dtype)


def _from_torch(tensor: Any) -> np.ndarray:
    name = str(tensor.dtype).removeprefix("torch.")
    if hasattr(np, name):
        return tensor.numpy()
    return tensor.float().numpy().astype(tf.as_dtype(name).as_numpy_dtype)  # of 16 or 8 bits


def _from_objects(array: np.ndarray) -> Array:
    if are_strings(array):
        return tf.convert_to_tensor(array, dtype=tf.string)
    return as_numbers(array)


def _is_float(array: np.ndarray) -> bool:
    # bfloat16 and most floats of 8 bits are no kind of float to NumPy.
    return array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float"))


def _library(value: Any) -> str:
    return type(value).__module__.partition(".")[0]


def _is_composite(value: Any) -> bool:
    return isinstance(value, (tf.RaggedTensor, tf.SparseTensor))


def _is_sparse(value: Any) -> bool:
    module = type(value).__module__
    return hasattr(value, "tocoo") or module.startswith("jax.experimental.sparse")


def _sparse_tensor(value: Any) -> tf.SparseTensor:
    if hasattr(value, "tocoo"):
        rows = value.tocsr(copy=True)  # TensorFlow wants entries in the order of rows, each once
        rows.sum_duplicates()
        coo = rows.tocoo()
        indices = np.stack([coo.row, coo.col], axis=1).astype(np.int64)
        return tf.SparseTensor(indices, coo.data, coo.shape)
    indices = np.asarray(value.indices, dtype=np.int64)
    return tf.SparseTensor(indices, np.asarray(value.data), value.shape)


def _no_number(array: np.ndarray, name: str, columns: Any) -> str:
    """Returns the sentence for the first of the objects that is no number."""
    found = ((index, value) for index, value in np.ndenumerate(array) if not _is_number(value))
    index, value = next(found, ((), "something"))
    place = f"{name}[{', '.join(map(str, index))}]"
    if columns is not None and len(index) == 2:
        place = f"Row {index[0]} of the column {columns[index[1]]!r} of {name}"
    mend = "turn what the model is to see into numbers, and leave out the rest"
    if isinstance(value, str):
        mend = "turn strings into numbers, with keras.layers.StringLookup for one"
    elif value is None or type(value).__name__ in ("NAType", "NaTType"):  # the last two of pandas
        mend = "fill in what is missing, or leave out the row"
    return f"{place} is {value!r}, which is no number: {mend}."


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
