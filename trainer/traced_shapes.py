"""Chooses the shapes to trace a step for, as the installed Keras does."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

Shapes = tuple[tuple[int | None, ...], ...]  # of the tensors of a batch


class TracedShapes:
    """The shapes that a step is traced for.

    A trace that knows the number of rows has other bits than one that leaves it open, and Keras
    weighs the losses of several outputs by a number that is known. Some versions of Keras trace the
    step inside of a function that leaves open what the data leave open. Others trace it by itself:
    for the shapes of the first batch, and then for shapes that are open where a batch differs.

    Args:
        knows_batches: whether the step knows the shapes of the batches, not only of the data.

    Attributes:
        knows_batches: the same.
        first: the shapes of the first batch of each structure.
    """

    def __init__(self, knows_batches: bool):
        self.knows_batches = knows_batches
        self.first: dict[str, Shapes] = {}

    def traced(self, batch_spec: Any) -> Any:
        """Returns the spec to trace a step for, to run it on batches of `batch_spec`."""
        if not self.knows_batches or not _is_dense(batch_spec):
            return batch_spec
        shapes, structure = _shapes_of(batch_spec), _structure_of(batch_spec)
        if not any(None in shape for shape in shapes):
            self.first.setdefault(structure, shapes)
        first = iter(self.first.get(structure, shapes))
        return tf.nest.map_structure(lambda leaf: leaf and _opened(leaf, next(first)), batch_spec)

    def vary(self, batch_spec: Any) -> bool:
        """Returns whether the shapes of batches of `batch_spec` are known only once they are there.

        Those of ragged and sparse batches are not asked for.
        """
        if not self.knows_batches or not _is_dense(batch_spec):
            return False
        return any(None in shape for shape in _shapes_of(batch_spec))


def exact_spec(batch: Any) -> Any:
    """Returns the spec of a batch, its rows included."""
    return tf.nest.map_structure(_exact, batch)


@functools.cache
def keras_traces_batches() -> bool:
    """Returns whether Keras takes a batch out of an iterator before it calls the compiled step."""
    iterator = _AskedIterator()
    model = keras.Model(name="asked")
    model.compile(run_eagerly=True)
    model.make_train_function()
    try:
        model.train_function(iterator)
    except (StopIteration, tf.errors.OutOfRangeError):
        return iterator.was_asked_for_optional
    return False


class _AskedIterator(tf.data.Iterator):
    """An iterator without a batch, which notes how it was asked for one."""

    was_asked_for_optional = False
    element_spec = tf.TensorSpec([None], tf.float32)
    _type_spec = None

    def __next__(self) -> Any:
        raise StopIteration

    def get_next(self) -> Any:
        raise StopIteration

    def get_next_as_optional(self) -> tf.experimental.Optional:
        self.was_asked_for_optional = True
        return tf.experimental.Optional.empty(self.element_spec)


def _leaves(batch: Any) -> list[Any]:
    return [leaf for leaf in tf.nest.flatten(batch) if leaf is not None]


def _shapes_of(batch_spec: Any) -> Shapes:
    return tuple(tuple(leaf.shape) for leaf in _leaves(batch_spec))


def _structure_of(batch_spec: Any) -> str:
    """Returns what two specs have in common that differ in their shapes alone."""
    kinds = tf.nest.map_structure(
        lambda leaf: leaf and f"{leaf.dtype.name} {leaf.shape.rank}", batch_spec
    )
    return repr(kinds)


def _is_dense(batch_spec: Any) -> bool:
    return all(
        isinstance(leaf, tf.TensorSpec) and leaf.shape.rank is not None
        for leaf in _leaves(batch_spec)
    )


def _opened(leaf: tf.TensorSpec, first: tuple[int | None, ...]) -> tf.TensorSpec:
    """Returns `leaf`, open where it differs from the first batch."""
    shape = [a if a == b else None for a, b in zip(leaf.shape, first, strict=True)]
    return tf.TensorSpec(shape, leaf.dtype)


def _exact(leaf: Any) -> tf.TypeSpec | None:
    if leaf is None:
        return None
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return tf.type_spec_from_value(leaf)
    return tf.TensorSpec(leaf.shape, leaf.dtype)
