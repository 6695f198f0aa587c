"""Plain values come back with their types and bits; what is more than data is refused."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tests.helpers.tables import each
from trainer.snapshots.plain import NotPlainError, decoded, encoded

KEYS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ARRAYS = arrays_of.arrays(arrays_of.scalar_dtypes(), arrays_of.array_shapes(min_dims=0, max_side=3))
LEAVES = KEYS | st.binary() | ARRAYS | ARRAYS.map(lambda array: array.ravel()[0])
VALUES = st.recursive(
    LEAVES,
    lambda parts: (
        st.lists(parts)
        | st.lists(parts).map(tuple)
        | st.dictionaries(KEYS | st.tuples(KEYS), parts)
        | st.sets(KEYS)
    ),
)


def there_and_back(value):
    arrays = {}
    code = json.loads(json.dumps(encoded(value, arrays, "value")))
    return decoded(code, arrays)


def assert_alike(found, value):
    assert type(found) is type(value)
    if isinstance(value, (np.ndarray, np.generic)):
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert found.tobytes() == value.tobytes()
    elif isinstance(value, dict):
        assert_alike(list(found.items()), list(value.items()))
    elif isinstance(value, (list, tuple)):
        assert len(found) == len(value)
        for part, expected in zip(found, value, strict=True):
            assert_alike(part, expected)
    else:
        assert repr(found) == repr(value) if not isinstance(value, set) else True
        if isinstance(value, set):
            assert sorted(map(repr, found)) == sorted(map(repr, value))


@given(VALUES)
@example({float("nan"), float("nan")})
@example({float("nan"): 1, float("nan"): 2})
def test_a_value_comes_back(value):
    assert_alike(there_and_back(value), value)


def test_a_tensor_comes_back_as_one():
    found = there_and_back({"a": [tf.constant([1.5, 2.5], tf.bfloat16)]})["a"][0]
    assert isinstance(found, tf.Tensor)
    assert (found.dtype, found.numpy().tolist()) == (tf.bfloat16, [1.5, 2.5])


def test_arrays_are_copied():
    array, arrays = np.zeros(3), {}
    code = encoded([array], arrays, "value")
    array[:] = 1
    found = decoded(code, arrays)[0]
    found[:] = 2
    assert decoded(code, arrays)[0].tolist() == [0, 0, 0]
    assert list(arrays) == ["value/0"]


class OwnList(list):
    """A list that may do anything."""


REFUSED = {
    "function": len,
    "object": object(),
    "a class": dict,
    "a layer": keras.layers.Dense(1),
    "a variable": keras.Variable(1.0),
    "an array of objects": np.array([object()]),
    "a list of one's own": OwnList(),
    "inside a dict": {"a": (1, [len])},
    "as a key": {len: 1},
}


@pytest.mark.parametrize("value", **each(REFUSED))
def test_what_is_more_than_data_is_refused(value):
    with pytest.raises(NotPlainError, match="^value"):
        encoded(value, {}, "value")


def test_ragged_and_sparse_tensors_come_back_as_such():
    ragged = tf.ragged.constant([[[1.0], [2.0, 3.0]], [], [[4.0]]])
    sparse = tf.sparse.from_dense([[0, 1], [2, 0]])
    arrays = {}
    code = json.loads(json.dumps(encoded((ragged, sparse), arrays, "batch")))
    found = decoded(code, arrays)
    assert found[0].to_list() == ragged.to_list()
    assert isinstance(found[1], tf.SparseTensor)
    assert tf.sparse.to_dense(found[1]).numpy().tolist() == [[0, 1], [2, 0]]
