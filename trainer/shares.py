"""Shares: the rows of a batch that one of several replicas sees, and those that it counts."""

from __future__ import annotations

import contextvars
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer.feeds import PartOfBatch

tree = keras.tree
_LOOKED_AT = 4096  # numbers of an array, or up to twice as many
_ODD = 2654435761  # a large number without small factors
Step = Callable[[Any], Any]


class Share(NamedTuple):
    """What of a batch is one replica's.

    Attributes:
        rows: how many rows are its own, the first ones of those that it sees. A replica that none
            are left for sees one of another's, as few layers can do without.
        of: how many rows all replicas have together.
        may_see_others: whether it may be one that none are left for.
    """

    rows: Any
    of: Any
    may_see_others: bool

    def own(self, seen: Any) -> Any:
        """Returns the replica's own of a structure made from the rows that it sees."""
        if not self.may_see_others:
            return seen
        return _each_array(self._own_of, seen)

    def _own_of(self, array: Any) -> Any:
        rows = tf.where(self.rows > 0, tf.cast(_leading(array), tf.int64), 0)
        found = _slice(array, 0, rows)
        if (mask := getattr(array, "_keras_mask", None)) is not None:
            found._keras_mask = self._own_of(mask)
        return found


_current: contextvars.ContextVar[Share | None] = contextvars.ContextVar("share", default=None)


def current_share() -> Share | None:
    """Returns the share of the replica whose step is under way; `None` where it is the only one."""
    return _current.get()


def on_share(step: Step, batch: Any, is_split: bool) -> tuple[Any, tf.Tensor]:
    """Runs `step` on this replica's share of `batch`; returns its outputs and the rows."""
    if is_split:
        share, seen = _given(batch)
    elif isinstance(batch, PartOfBatch):
        share, seen = _cut_out(*batch)
    else:
        share, seen = _cut_out(batch, 0, _rows_in(batch))
    before = _current.set(share)
    try:
        return step(seen), tf.convert_to_tensor(share.rows, tf.int32)
    finally:
        _current.reset(before)


def checksum(batch: Any) -> tf.Tensor:
    """Returns an int64 that tells whether two processes were given the same batch.

    Of a large array it is that of some thousand numbers all over it.
    """
    leaves = [leaf for leaf in tree.flatten(batch) if _has_rows(leaf)]
    return tf.add_n([_sum_of(_values_of(leaf)) for leaf in leaves])


def _sum_of(values: tf.Tensor) -> tf.Tensor:
    flat = tf.reshape(values, [-1])
    looked_at = flat[:: tf.maximum(tf.size(flat) // _LOOKED_AT, 1)]
    numbers = tf.reshape(_as_integers(looked_at), [-1])
    # Each place counts for something else, lest numbers change theirs unseen.
    places = tf.range(1, tf.size(numbers, tf.int64) + 1)
    return tf.reduce_sum(numbers * (places * _ODD))


def _values_of(array: Any) -> tf.Tensor:
    if isinstance(array, tf.SparseTensor):
        return array.values
    return array.flat_values if isinstance(array, tf.RaggedTensor) else array


def _as_integers(values: tf.Tensor) -> tf.Tensor:
    """Returns what tells values of any dtype from others, int64."""
    if values.dtype == tf.string:
        return tf.strings.to_hash_bucket_fast(values, 2**40)
    if values.dtype.is_floating or values.dtype.is_complex:
        # Of a wide number the low half tells little: of small whole ones it is 0.
        values = tf.bitcast(values, {1: tf.int8, 2: tf.int16}.get(values.dtype.size, tf.int32))
    return tf.cast(values, tf.int64)


def _cut_out(rows_read: Any, first: Any, of: Any) -> tuple[Share, Any]:
    """Returns this replica's share of a batch of `of` rows, read from `first` on; and its rows."""
    context = tf.distribute.get_replica_context()
    number, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    begin, end = of * number // replicas - first, of * (number + 1) // replicas - first
    _check_rows(rows_read)
    rows = end - begin
    may_see_others = not isinstance(of, int) or of < replicas
    if may_see_others:
        begin = tf.where(rows > 0, begin, 0)
        end = begin + tf.maximum(rows, 1)
    seen = _each_array(lambda array: _slice(array, begin, end), rows_read)
    return Share(rows, of, may_see_others), seen


def _check_rows(batch: Any) -> None:
    """Raises for an array of `batch` that has another number of rows than the others.

    Raises:
        ValueError: it has.
        tf.errors.InvalidArgumentError: it has, as only running tells.
    """
    leaves = [leaf for leaf in tree.flatten(batch) if _has_rows(leaf)]
    leaves.sort(key=lambda leaf: leaf.shape[0] is not None)  # the open ones first
    for leaf, other in itertools.pairwise(leaves):
        sentence = (
            f"A batch has arrays of the shapes {leaf.shape} and {other.shape}: "
            "several devices share its rows, so let each array have as many."
        )
        sizes = leaf.shape[0], other.shape[0]
        if None not in sizes and sizes[0] != sizes[1]:
            raise ValueError(sentence)
        if sizes[0] is None and sizes[1] is not None:
            tf.debugging.assert_equal(_leading(leaf), sizes[1], sentence)


def _given(batch: Any) -> tuple[Share, Any]:
    """Returns this replica's share where the batch is that already, and at least one row."""
    rows = tf.convert_to_tensor(_rows_in(batch), tf.int32)
    context = tf.distribute.get_replica_context()
    of = context.all_reduce(tf.distribute.ReduceOp.SUM, rows)
    missing = tf.maximum(1 - rows, 0)
    return Share(rows, of, True), _each_array(lambda array: _with_zeros(array, missing), batch)


def _rows_in(batch: Any) -> Any:
    """Returns how many rows a batch has, a Python number where its shape tells."""
    rows = _leading(first_of(batch))
    return tf.cast(rows, tf.int32) if tf.is_tensor(rows) else rows


def _leading(array: Any) -> Any:
    """Returns the length of the first axis, a Python number where the shape tells."""
    known = array.shape[0]
    if known is not None:
        return known
    return array.nrows() if isinstance(array, tf.RaggedTensor) else tf.shape(array)[0]


def first_of(batch: Any) -> Any:
    """Returns the first array of a batch that has rows."""
    return next(leaf for leaf in tree.flatten(batch) if _has_rows(leaf))


def _has_rows(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and tf.TensorShape(leaf.shape).rank != 0


def _each_array(function: Callable[[Any], Any], batch: Any) -> Any:
    return tree.map_structure(lambda leaf: function(leaf) if _has_rows(leaf) else leaf, batch)


def _slice(array: Any, begin: Any, end: Any) -> Any:
    if not isinstance(array, tf.SparseTensor):
        return array[begin:end]
    begin, end = tf.cast(begin, tf.int64), tf.cast(end, tf.int64)
    others = array.dense_shape[1:]
    start = tf.concat([[begin], tf.zeros_like(others)], 0)
    return tf.sparse.slice(array, start, tf.concat([[end - begin], others], 0))


def _with_zeros(array: Any, rows: tf.Tensor) -> Any:
    """Returns `array` with so many rows of zeros behind it."""
    if isinstance(array, tf.SparseTensor):
        shape = tf.tensor_scatter_nd_add(array.dense_shape, [[0]], [tf.cast(rows, tf.int64)])
        return tf.SparseTensor(array.indices, array.values, shape)
    if isinstance(array, tf.RaggedTensor):
        splits = tf.concat([array.row_splits, tf.repeat(array.row_splits[-1], rows)], 0)
        return tf.RaggedTensor.from_row_splits(array.values, splits)
    added = tf.zeros(tf.concat([[rows], tf.shape(array)[1:]], 0), array.dtype)
    return tf.ensure_shape(tf.concat([array, added], 0), [None, *array.shape[1:]])
