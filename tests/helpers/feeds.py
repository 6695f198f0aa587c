"""Passes through a feed as plain values, to compare with what NumPy's own indexing gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.feeds import Batch, Feed


def one_pass(feed: Feed, epoch: int = 0) -> list[Batch]:
    """Returns the batches of a new pass."""
    feed.rewind(epoch)
    return rest_of(feed)


def rest_of(feed: Feed) -> list[Batch]:
    """Returns the batches that are left of the pass."""
    return list(iter_rest_of(feed))


def iter_rest_of(feed: Feed):
    """Yields the batches that are left of the pass."""
    while True:
        try:
            yield feed.next()
        except StopIteration:
            return


def take(feed: Feed, count: int) -> list[Batch]:
    """Returns the next batches."""
    return [feed.next() for _ in range(count)]


def assert_equal(data: Any, expected: Any) -> None:
    """Asserts that a structure of tensors is one of NumPy arrays, nested lists for ragged tensors.

    In structure, values, dtypes and shapes; values of sparse tensors must come in order, and once.
    """
    if isinstance(data, dict):
        assert isinstance(expected, dict)
        assert list(data) == list(expected)
        for key in data:
            assert_equal(data[key], expected[key])
    elif isinstance(data, (list, tuple)):
        assert type(data) is type(expected)
        assert len(data) == len(expected)
        for part, known in zip(data, expected, strict=True):
            assert_equal(part, known)
    elif data is None:
        assert expected is None
    elif isinstance(data, tf.RaggedTensor):
        assert data.to_list() == expected
    else:
        dense = np.asarray(tf.sparse.to_dense(data) if isinstance(data, tf.SparseTensor) else data)
        np.testing.assert_array_equal(dense, expected)
        assert tf.as_dtype(data.dtype) == tf.as_dtype(expected.dtype)
        assert tuple(data.shape) == expected.shape


def in_batches(data: Any, batch_size: int, order: Any = None) -> list[Any]:
    """Returns the rows of a structure of arrays, in batches, by NumPy's indexing alone."""
    rows = len(next(leaf for leaf in keras.tree.flatten(data) if leaf is not None))
    order = np.arange(rows) if order is None else order
    parts = [order[start : start + batch_size] for start in range(0, rows, batch_size)]
    return [
        keras.tree.map_structure(lambda a, part=part: None if a is None else a[part], data)
        for part in parts
    ]


def threads_since(before: set[threading.Thread]) -> list[threading.Thread]:
    """Returns the threads that there were not before."""
    return [thread for thread in threading.enumerate() if thread not in before]


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Returns whether `condition` holds before so many seconds are over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True
