"""Arrays of every library become NumPy arrays and tensors of the same values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

from tests.helpers.feeds import assert_equal
from tests.helpers.tables import each
from trainer.feeds.tensors import as_array, as_floatx, as_tensor, is_array, spec_of

FLOATS = ["float16", "float32", "float64"]
INTS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
BFLOAT16 = tf.bfloat16.as_numpy_dtype
FLOAT8 = tf.dtypes.experimental.float8_e4m3fn.as_numpy_dtype
DENSE = np.array([[0.0, 1.5, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, -3.25], [0.5, 0.0, 4.0]], "float32")


def jax_numpy():
    return pytest.importorskip("jax.numpy", reason="needs the extra `conformance`")


def bcoo(dense: np.ndarray) -> Any:
    sparse = pytest.importorskip("jax.experimental.sparse", reason="needs the extra `conformance`")
    return sparse.BCOO.fromdense(jax_numpy().asarray(dense))


def torch_tensor(values: Any, dtype: str, **how: Any) -> Any:
    torch = pytest.importorskip("torch", reason="needs the extra `conformance`")
    return torch.tensor(values, dtype=getattr(torch, dtype), **how)


class Wrapped:
    """Something of another library that NumPy can read."""

    def __init__(self, values: np.ndarray):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return self._values


def out_of_order(dense: np.ndarray) -> scipy.sparse.coo_matrix:
    """Returns a matrix whose entries come from the last to the first."""
    rows, columns = (part[::-1] for part in np.nonzero(dense))
    return scipy.sparse.coo_matrix((dense[rows, columns], (rows, columns)), dense.shape)


def with_a_zero_and_a_repeated_entry() -> scipy.sparse.coo_matrix:
    entries = [1.5, 0.0, 2.0, -3.0, -0.25, 0.5, 4.0]
    return scipy.sparse.coo_matrix(
        (np.array(entries, "float32"), ([0, 1, 2, 2, 2, 3, 3], [1, 1, 0, 2, 2, 0, 2])), DENSE.shape
    )


NUMBERS = np.arange(6).reshape(3, 2)
KINDS: dict[str, tuple[Callable[[], Any], np.ndarray]] = {
    "array of __array__": (lambda: Wrapped(NUMBERS), NUMBERS),
    "number": (lambda: np.float64(2), np.array(2.0)),
    "Keras variable": (lambda: keras.Variable(DENSE), DENSE),
    "tensor": (lambda: tf.constant(DENSE), DENSE),
    "variable": (lambda: tf.Variable(DENSE), DENSE),
    "sparse tensor": (lambda: tf.sparse.from_dense(DENSE), DENSE),
    "frame": (lambda: pd.DataFrame(DENSE), DENSE),
    "frame of integers": (
        lambda: pd.DataFrame({"b": [1, 2], "a": [3, 4]}),
        np.array([[1, 3], [2, 4]]),
    ),
    "frame of numbers": (
        lambda: pd.DataFrame({"a": [1, 2], "b": [0.5, 4]}),
        np.array([[1, 0.5], [2, 4]]),
    ),
    "series": (lambda: pd.Series([1.5, 2.5]), np.array([[1.5], [2.5]])),
    "series of integers": (lambda: pd.Series([7, 8], index=[4, 2]), np.array([[7], [8]])),
    "index": (lambda: pd.Index([7, 8]), np.array([[7], [8]])),
    "scipy csr": (lambda: scipy.sparse.csr_matrix(DENSE), DENSE),
    "scipy csr array": (lambda: scipy.sparse.csr_array(DENSE), DENSE),
    "scipy coo": (lambda: scipy.sparse.coo_matrix(DENSE), DENSE),
    "scipy lil": (lambda: scipy.sparse.lil_matrix(DENSE), DENSE),
    "scipy of integers": (
        lambda: scipy.sparse.csr_matrix(DENSE.astype("int64")),
        DENSE.astype("int64"),
    ),
    "JAX": (lambda: jax_numpy().asarray(DENSE), DENSE),
    "JAX integers": (lambda: jax_numpy().asarray([1, 2], "int32"), np.array([1, 2], "int32")),
    "JAX bfloat16": (lambda: jax_numpy().asarray([1.5], "bfloat16"), np.array([1.5], BFLOAT16)),
    "JAX BCOO": (lambda: bcoo(DENSE), DENSE),
    "torch": (lambda: torch_tensor(DENSE, "float32"), DENSE),
    "torch float64": (lambda: torch_tensor([1.5], "float64"), np.array([1.5])),
    "torch bfloat16": (lambda: torch_tensor([1.5], "bfloat16"), np.array([1.5], BFLOAT16)),
    "torch bfloat16 that requires grad": (
        lambda: torch_tensor([1.5, 2], "bfloat16", requires_grad=True),
        np.array([1.5, 2], BFLOAT16),
    ),
    "torch float8": (lambda: torch_tensor([1.5], "float8_e4m3fn"), np.array([1.5], FLOAT8)),
    "torch integers": (lambda: torch_tensor([[1, 2]], "int64"), np.array([[1, 2]])),
    "torch bool": (lambda: torch_tensor([True, False], "bool"), np.array([True, False])),
    "torch that requires grad": (
        lambda: torch_tensor([1.5, 2], "float32", requires_grad=True),
        np.array([1.5, 2], "float32"),
    ),
    "torch, a result": (
        lambda: 2 * torch_tensor([1.5, 2], "float32", requires_grad=True),
        np.array([3, 4], "float32"),
    ),
    "torch, transposed": (lambda: torch_tensor(DENSE.T, "float32").T, DENSE),
}

SPARSE_AND_UNTIDY = {
    "scipy csc": (lambda: scipy.sparse.csc_matrix(DENSE), DENSE),
    "scipy coo out of order": (lambda: out_of_order(DENSE), DENSE),
    "scipy coo, an entry twice": (with_a_zero_and_a_repeated_entry, DENSE),
}


@pytest.mark.parametrize(("make", "expected"), **each(KINDS))
def test_values_and_dtypes_stay(make, expected):
    assert is_array(make())
    assert_equal(as_array(make()), expected)
    assert_equal(as_tensor(make()), expected)


@pytest.mark.parametrize(("make", "expected"), **each(SPARSE_AND_UNTIDY))
def test_sparse_matrices_come_in_order_each_entry_once(make, expected):
    """As Keras's do, which go through CSR; else most operations on sparse tensors fail."""
    assert_equal(as_tensor(make()), expected)


@pytest.mark.parametrize(("make", "expected"), **each(KINDS))
def test_floats_become_floatx(make, expected):
    is_float = tf.as_dtype(expected.dtype).is_floating
    known = expected.astype("float32") if is_float else expected
    assert_equal(as_floatx(as_array(make())), known)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, "bool", "complex64", BFLOAT16, FLOAT8])
def test_numpy_arrays(dtype):
    array = np.array([[0, 1], [1, 0]], dtype)
    assert as_array(array) is array
    tensor = as_tensor(array)
    assert isinstance(tensor, tf.Tensor)
    assert_equal(tensor, array)
    is_float = tf.as_dtype(dtype).is_floating
    assert_equal(as_floatx(array), array.astype("float32") if is_float else array)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16", "int32", "bool"])
@pytest.mark.parametrize("kind", ["dense", "ragged", "sparse"])
def test_floats_of_tensors_become_floatx(kind, dtype):
    given = tf.cast(DENSE != 0, dtype)
    expected = (DENSE != 0).astype(dtype if dtype in ("int32", "bool") else "float32")
    if kind == "ragged":
        array = as_floatx(tf.RaggedTensor.from_tensor(given))
        assert isinstance(array, tf.RaggedTensor)
        assert_equal(array.to_tensor(), expected)
    elif kind == "sparse":
        indices = tf.constant(np.argwhere(DENSE))
        array = as_floatx(tf.SparseTensor(indices, tf.gather_nd(given, indices), DENSE.shape))
        assert isinstance(array, tf.SparseTensor)
        dense = tf.scatter_nd(array.indices, array.values, array.dense_shape)
        assert_equal(dense, expected)
    else:
        assert_equal(as_floatx(given), expected)


@pytest.mark.parametrize("floatx", FLOATS)
def test_floatx_is_what_keras_is_set_to(floatx):
    keras.config.set_floatx(floatx)
    try:
        for kind in (DENSE, DENSE.astype("float64"), tf.constant(DENSE)):
            assert_equal(as_floatx(kind), DENSE.astype(floatx))
        assert_equal(as_floatx(np.array([1, 2.5], object)), np.array([1, 2.5], floatx))
    finally:
        keras.config.set_floatx("float32")


def test_arrays_of_floatx_are_not_copied():
    assert as_floatx(DENSE) is DENSE
    numbers = np.arange(3)
    assert as_floatx(numbers) is numbers


WORDS = np.array([["a", "bc"], ["", "ä"]])
TEXTS = {
    "str": WORDS,
    "bytes": np.char.encode(WORDS, "utf-8"),
    "object": WORDS.astype(object),
    "frame": pd.DataFrame(WORDS),
    "frame of objects": pd.DataFrame(WORDS, dtype=object),
    "tensor": tf.constant(WORDS),
}


@pytest.mark.parametrize("text", **each(TEXTS))
def test_strings(text):
    for tensor in (as_tensor(text), tf.convert_to_tensor(as_floatx(as_array(text)))):
        assert tensor.dtype == tf.string
        assert [[part.decode() for part in row] for row in tensor.numpy()] == WORDS.tolist()


def test_a_column_of_strings():
    series = pd.Series(["a", "bc"])
    assert as_tensor(series).numpy().tolist() == [[b"a"], [b"bc"]]


OBJECTS = {
    "numbers": (np.array([1, 2.5, True], object), [1, 2.5, 1]),
    "frame of floats and booleans": (
        pd.DataFrame({"a": [0.5, 2], "b": [True, False]}),
        [[0.5, 1], [2, 0]],
    ),
}


@pytest.mark.parametrize(("given", "expected"), **each(OBJECTS))
def test_objects_that_are_numbers(given, expected):
    assert_equal(as_floatx(as_array(given)), np.array(expected, "float32"))


def test_ragged_tensors_stay():
    ragged = tf.ragged.constant([[1.0], [], [2.0, 3.0]], dtype="float64")
    assert as_array(ragged) is ragged
    assert as_tensor(ragged) is ragged


def test_none_stays():
    assert is_array(None)
    for convert in (as_array, as_floatx, as_tensor, spec_of):
        assert convert(None) is None


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    hnp.arrays(
        st.sampled_from([*FLOATS, *INTS, "bool"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_any_numpy_array(array):
    assert_equal(as_tensor(array), array)
    assert_equal(as_floatx(array), array.astype("float32") if array.dtype.kind == "f" else array)


NO_ARRAYS = {
    "list": [1, 2],
    "number": 3,
    "text": "three",
    "generator": (number for number in range(3)),
    "tf.data": tf.data.Dataset.range(3),
    "PyDataset": keras.utils.PyDataset(),
    "function": len,
}


@pytest.mark.parametrize("value", **each(NO_ARRAYS))
def test_no_arrays(value):
    assert not is_array(value)


# spec_of

RAGGED = tf.ragged.constant([[1, 2], [], [3]])
DEEP = tf.ragged.constant([[[[1, 2]], []], [[[3, 4], [5, 6]]], [], [[]]], inner_shape=(2,))
SHORT_SPLITS = tf.RaggedTensor.from_row_splits([1.0, 2.0], tf.constant([0, 2, 2], tf.int32))
SPECS = {
    "vector": (tf.zeros(3), tf.TensorSpec((None,), "float32")),
    "matrix": (tf.zeros((3, 4), "int64"), tf.TensorSpec((None, 4), "int64")),
    "no rows": (tf.zeros((0, 2)), tf.TensorSpec((None, 2), "float32")),
    "strings": (tf.constant(["a"]), tf.TensorSpec((None,), "string")),
    "scalar": (tf.constant(1.0), tf.TensorSpec((), "float32")),
    "sparse": (tf.sparse.from_dense(DENSE), tf.SparseTensorSpec((None, 3), "float32")),
    "ragged": (RAGGED, tf.RaggedTensorSpec((None, None), "int32", 1, "int64")),
    "ragged twice, then even": (DEEP, tf.RaggedTensorSpec((None, None, None, 2), "int32", 2)),
    "ragged of int32 splits": (
        SHORT_SPLITS,
        tf.RaggedTensorSpec((None, None), "float32", 1, "int32"),
    ),
    "ragged of even rows": (
        tf.RaggedTensor.from_uniform_row_length(tf.range(6), 2),
        tf.RaggedTensorSpec((None, 2), "int32", 1, "int64"),
    ),
}


@pytest.mark.parametrize(("tensor", "spec"), **each(SPECS))
def test_spec_of(tensor, spec):
    assert spec_of(tensor) == spec


@pytest.mark.parametrize(("tensor", "spec"), **each(SPECS))
def test_a_function_of_that_spec_takes_any_number_of_rows(tensor, spec):
    function = tf.function(lambda value: value, input_signature=[spec_of(tensor)])
    function(tensor)
    if not isinstance(tensor, tf.SparseTensor) and tensor.shape.rank:
        function(tensor[:1])
