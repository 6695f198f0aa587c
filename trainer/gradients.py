"""Gradients on replicas: weighed, and added up before they are clipped or looked at for NaN."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.replacing import replaced
from trainer.shares import current_share

_MERGING = ("Unique", "UniqueV2")
_RESHAPING = ("Cast", "Identity", "Reshape")
_CLIPS = ("clipnorm", "global_clipnorm", "clipvalue")
_is_weighed = contextvars.ContextVar("is_weighed", default=False)


@contextlib.contextmanager
def refusing_to_apply(optimizers: Iterable[keras.Optimizer]) -> Iterator[None]:
    """Refuses calls of optimizers with gradients that `apply_on_replicas` has not weighed.

    Args:
        optimizers: the optimizers.
    """
    with replaced(optimizers, "apply", _apply_if_weighed):
        yield


def _apply_if_weighed(
    optimizer: keras.Optimizer, apply: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    if current_share() and not _is_weighed.get():
        raise ValueError(
            f"A step applies gradients by the optimizer {optimizer.name}, which adds them up over "
            "devices whatever rows they are of: call self.minimize(loss, tape, variables, "
            "optimizer), or self.apply_gradients(gradients, variables, optimizer)."
        )
    return apply(*args, **kwargs)


def apply_on_replicas(
    optimizer: keras.Optimizer, gradients: list[Any], variables: list[keras.Variable]
) -> None:
    """Applies gradients of which each replica has its part, to be called on each of them.

    Keras clips the parts, and sees of one whether they are finite, before they are added up; here
    that is done to the sum, as on one device.

    Args:
        optimizer: adds up the gradients that it is given on all replicas.
        gradients: the parts of this replica; `None` for a variable without one.
        variables: the variables.
    """
    before = _is_weighed.set(True)
    try:
        _apply_sums(optimizer, list(map(_dense_if_merged, gradients)), variables)
    finally:
        _is_weighed.reset(before)


def weighed(gradients: Iterable[Any]) -> list[Any]:
    """Returns this replica's part of gradients of the mean over its rows, to be added up."""
    share = current_share()
    weight = share.rows / share.of
    return [
        None if g is None else _map(lambda values: values * tf.cast(weight, values.dtype), g)
        for g in gradients
    ]


def _apply_sums(
    optimizer: keras.Optimizer, gradients: list[Any], variables: list[keras.Variable]
) -> None:
    is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    inner = optimizer.inner_optimizer if is_scaled else optimizer
    with contextlib.ExitStack() as stack:
        for single, numbers in _shares(inner, variables):
            name, limit = _clip_of(single)
            own = [number for number in numbers if gradients[number] is not None]
            if not own or not (name or is_scaled):
                continue
            sums = _Sums([gradients[number] for number in own])
            most = optimizer.scale_loss(tf.constant(limit)) if name and is_scaled else limit
            parts = sums.clipped(name, most)
            parts = sums.marked(parts) if is_scaled else parts
            for number, part in zip(own, parts, strict=True):
                gradients[number] = part
            if name:
                stack.enter_context(_without(single, name, limit))
        optimizer.apply_gradients(zip(gradients, variables, strict=True))


def _shares(
    optimizer: keras.Optimizer, variables: list[keras.Variable]
) -> list[tuple[keras.Optimizer, Iterable[int]]]:
    """Returns who changes which of the variables: each of several optimizers, or the only one."""
    if not hasattr(optimizer, "optimizers"):
        return [(optimizer, range(len(variables)))]
    shares: list[tuple[keras.Optimizer, Iterable[int]]] = []

    def note(single: keras.Optimizer, *arguments: Any) -> None:
        *_, numbers, _ = arguments
        shares.append((single, numbers))

    with replaced(optimizer.optimizers, "apply", note), keras.StatelessScope():
        optimizer.apply(list(range(len(variables))), variables)  # numbers for gradients
    return shares


def _clip_of(optimizer: keras.Optimizer) -> tuple[str | None, float | None]:
    """Returns the name and the value of the attribute by which an optimizer clips, if it does."""
    clips = ((name, getattr(optimizer, name, None)) for name in _CLIPS)
    return next(((name, limit) for name, limit in clips if limit), (None, None))


class _Sums:
    """Sums of gradients over replicas. A sparse one stays in parts, as Keras takes it for clipping.

    Args:
        gradients: the parts of this replica.
    """

    def __init__(self, gradients: list[tf.Tensor | tf.IndexedSlices]):
        context = tf.distribute.get_replica_context()
        add_up = functools.partial(context.all_reduce, tf.distribute.ReduceOp.SUM)
        self._replicas = context.num_replicas_in_sync
        dense, sparse = {}, {}
        for number, gradient in enumerate(gradients):
            (sparse if isinstance(gradient, tf.IndexedSlices) else dense)[number] = gradient
        sums = dict(zip(dense, add_up([*dense.values()]), strict=True)) if dense else {}
        squares = {number: _square_of(total) for number, total in sums.items()}
        if sparse:
            parts = [_square_of(part.values) for part in sparse.values()]
            squares |= zip(sparse, add_up(parts), strict=True)
        self._gradients = [{**sums, **sparse}[number] for number in range(len(gradients))]
        self._squares = [squares[number] for number in range(len(gradients))]

    def clipped(self, name: str | None, limit: Any) -> Iterator[tf.Tensor | tf.IndexedSlices]:
        """Yields what each replica gives of each gradient, clipped as an optimizer's `name` says.

        Args:
            name: an attribute of optimizers; with `None` nothing is clipped.
            limit: its value.
        """
        norm = tf.sqrt(tf.add_n(self._squares)) if name == "global_clipnorm" else None
        for gradient, square in zip(self._gradients, self._squares, strict=True):
            share = 1.0 if isinstance(gradient, tf.IndexedSlices) else 1 / self._replicas
            if name == "clipvalue":
                gradient = _map(lambda values: tf.clip_by_value(values, -limit, limit), gradient)
            elif name == "clipnorm":
                share = share * limit / tf.maximum(tf.sqrt(square), limit)
            elif name == "global_clipnorm":
                share = share * limit / tf.maximum(norm, limit) + 0 * norm
                gradient = tf.convert_to_tensor(gradient)  # as Keras does
            yield _map(functools.partial(tf.multiply, share), gradient)

    def marked(self, parts: Iterable[Any]) -> Iterator[tf.Tensor | tf.IndexedSlices]:
        """Yields parts of the gradients, with NaN in each of which another replica's overflowed."""
        for part, square in zip(parts, self._squares, strict=True):
            yield _map(functools.partial(tf.add, 0 * square), part)


def _dense_if_merged(gradient: Any) -> Any:
    """Returns a sparse gradient dense if it has each index once, which all replicas have not.

    An optimizer that squares gradients would square the parts. Where a single replica has an index
    several times, as one of `Embedding` may, Keras squares parts on one device, too.
    """
    if not isinstance(gradient, tf.IndexedSlices) or not tf.is_symbolic_tensor(gradient.indices):
        return gradient
    operation = gradient.indices.op
    while operation.type in _RESHAPING and operation.inputs:
        operation = operation.inputs[0].op
    return tf.convert_to_tensor(gradient) if operation.type in _MERGING else gradient


def _square_of(values: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.square(values))


def _map(
    function: Callable[[tf.Tensor], tf.Tensor], gradient: tf.Tensor | tf.IndexedSlices
) -> tf.Tensor | tf.IndexedSlices:
    if not isinstance(gradient, tf.IndexedSlices):
        return function(gradient)
    return tf.IndexedSlices(function(gradient.values), gradient.indices, gradient.dense_shape)


@contextlib.contextmanager
def _without(optimizer: keras.Optimizer, name: str, limit: float) -> Iterator[None]:
    """Takes the clipping by `name` from an optimizer, which other replicas may have done already.

    Args:
        optimizer: the optimizer.
        name: the attribute.
        limit: what it is to be again afterwards.
    """
    setattr(optimizer, name, None)
    try:
        yield
    finally:
        setattr(optimizer, name, limit)
