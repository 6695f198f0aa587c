"""Plain values come back with their types and bits; what is more than data is refused."""

from __future__ import annotations

import collections
import json
import random
from typing import Any, NamedTuple

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
        | st.frozensets(KEYS)
        | st.lists(parts).map(collections.deque)
        | st.lists(parts, max_size=3).map(lambda some: collections.deque(some, maxlen=5))
        | st.dictionaries(KEYS, parts).map(collections.OrderedDict)
        | st.dictionaries(KEYS, st.integers()).map(collections.Counter)
        | st.dictionaries(KEYS, parts).map(lambda some: collections.defaultdict(list, some))
        | st.tuples(parts, parts).map(lambda pair: Pair(*pair))
    ),
)


class Pair(NamedTuple):
    one: Any
    two: Any


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
        if isinstance(value, collections.defaultdict):
            assert found.default_factory is value.default_factory
    elif isinstance(value, (list, tuple, collections.deque)):
        if isinstance(value, collections.deque):
            assert found.maxlen == value.maxlen
        assert len(found) == len(value)
        for part, expected in zip(found, value, strict=True):
            assert_alike(part, expected)
    else:
        assert repr(found) == repr(value) if not isinstance(value, (set, frozenset)) else True
        if isinstance(value, (set, frozenset)):
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


GENERATORS = {
    "numpy": lambda: np.random.default_rng(3),
    "a Mersenne twister": lambda: np.random.Generator(np.random.MT19937(3)),
    "of old": lambda: np.random.RandomState(3),
    "python": lambda: random.Random(3),
}


@pytest.mark.parametrize("make", **each(GENERATORS))
def test_a_generator_comes_back_where_it_was(make):
    generator = make()
    generator.random()
    found = there_and_back(generator)
    assert type(found) is type(generator)
    assert [found.random() for _ in range(3)] == [generator.random() for _ in range(3)]


CRAFTED = {
    "no named tuple": ("subprocess", "Popen", ("true",)),
    "a module that is not imported": ("this", "s", ()),
    "other fields": (__name__, "Pair", (1, 2, 3)),
    "a function": ("os", "system", ("true",)),
}


@pytest.mark.parametrize("what", CRAFTED.values(), ids=CRAFTED)
def test_a_named_tuple_is_of_a_class_that_is_there_and_is_one(what):
    arrays = {}
    code = {"named tuple": encoded(what, arrays, "value")}
    with pytest.raises(ValueError, match="there is no class"):
        decoded(code, arrays)


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
    "a default of one's own": collections.defaultdict(lambda: 1),
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
