"""What a loop in the graph keeps of its steps' outputs."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

tree = keras.tree


class Ran(NamedTuple):
    """What a call ran.

    Attributes:
        steps: how many steps.
        outputs: the outputs of the last step; of a prediction, a list of those of all steps, each
            entry of one step or of several whose rows are behind one another.
        each: the outputs of each step, arrays with an axis of `steps` in front; `None` where they
            were not asked for.
    """

    steps: int
    outputs: Any
    each: Any = None

    def followed_by(self, ran: Ran) -> Ran:
        """Returns what this call and the next one ran."""
        behind = isinstance(self.outputs, list)
        return Ran(self.steps + ran.steps, self.outputs + ran.outputs if behind else ran.outputs)


class Collector(abc.ABC):
    """Carries something of the outputs through a `tf.while_loop`.

    Attributes:
        most: steps that the loop may have, `None` for any number.
    """

    most: int | None = None

    @abc.abstractmethod
    def start(self, spec: Any) -> Any:
        """Returns what the loop starts with, for steps with outputs of `spec`."""

    @abc.abstractmethod
    def add(self, collected: Any, outputs: Any) -> Any:
        """Returns what the loop carries on after a step with `outputs`."""

    def end(self, collected: Any, spec: Any) -> Any:
        """Returns what the compiled function returns after the loop, given what `start` was."""
        return collected

    def ran(self, steps: int, ended: Any) -> Ran:
        """Returns what a call of `steps` steps ran, from what the function returned."""
        return Ran(steps, ended)


class LastOutputs(Collector):
    """Carries the outputs of the last step.

    Args:
        merged: returns what becomes of them, in the graph, on all replicas.
    """

    def __init__(self, merged: Callable[[Any], Any]):
        self._merged = merged

    def start(self, spec: Any) -> Any:  # noqa: D102
        return [_zeros(leaf) for leaf in _leaves(spec)]

    def add(self, collected: Any, outputs: Any) -> Any:  # noqa: D102
        return _leaves(outputs)

    def end(self, collected: Any, spec: Any) -> Any:  # noqa: D102
        return self._merged(_packed(spec, collected))


class LastResults(Collector):
    """Carries nothing: what the last step returned is told by `results`, after the loop.

    TensorFlow then leaves out of the steps what only their outputs need.

    Args:
        results: returns it, in the graph.
    """

    def __init__(self, results: Callable[[], Any]):
        self._results = results

    def start(self, spec: Any) -> Any:  # noqa: D102
        return ()

    def add(self, collected: Any, outputs: Any) -> Any:  # noqa: D102
        return ()

    def end(self, collected: Any, spec: Any) -> Any:  # noqa: D102
        return self._results()


class EachOutputs(Collector):
    """Carries the outputs of each step.

    Args:
        most: steps that a loop may have. XLA needs such a bound; without one shapes may be open.
    """

    def __init__(self, most: int | None = None):
        self.most = most

    def start(self, spec: Any) -> Any:  # noqa: D102
        return tf.constant(0), [
            _array(leaf.dtype, leaf.shape, size=self.most) for leaf in _leaves(spec)
        ]

    def add(self, collected: Any, outputs: Any) -> Any:  # noqa: D102
        step, arrays = collected
        values = zip(arrays, _leaves(outputs), strict=True)
        return step + 1, [array.write(step, value) for array, value in values]

    def end(self, collected: Any, spec: Any) -> Any:  # noqa: D102
        return _packed(spec, [array.stack() for array in collected[1]])

    def ran(self, steps: int, ended: Any) -> Ran:  # noqa: D102
        each = tree.map_structure(
            lambda stack: np.full(steps, None) if stack is None else stack.numpy()[:steps], ended
        )
        return Ran(steps, tree.map_structure(lambda values: values[-1], each), each)


class Rows(EachOutputs):
    """Carries the outputs of all steps, to put them behind one another."""

    def start(self, spec: Any) -> Any:  # noqa: D102
        return tf.constant(0), [
            _array(leaf.dtype, [None, *leaf.shape[1:]], size=None) for leaf in _leaves(spec)
        ]

    def end(self, collected: Any, spec: Any) -> Any:  # noqa: D102
        return _packed(spec, [array.concat() for array in collected[1]])

    def ran(self, steps: int, ended: Any) -> Ran:  # noqa: D102
        return Ran(steps, ended)

    @staticmethod
    def takes(spec: Any) -> bool:
        """Returns whether steps with outputs of `spec` have rows that fit behind one another."""
        return all(
            isinstance(leaf, (tf.Tensor, tf.TensorSpec))
            and leaf.shape.rank
            and leaf.shape[1:].is_fully_defined()
            for leaf in tree.flatten(spec)
        )


EACH = EachOutputs()
EACH_BOUNDED = EachOutputs(most=1024)
ROWS = Rows()


def tensors_of(outputs: Any) -> list[tf.Tensor]:
    """Returns all tensors that outputs consist of; a log may be `None`, too."""
    return [leaf for leaf in tf.nest.flatten(outputs, expand_composites=True) if tf.is_tensor(leaf)]


def stacked(outputs: list[Any]) -> Any:
    """Returns the structures of tensors in `outputs` as one of arrays with an axis in front."""
    return tree.map_structure(lambda *values: np.stack([np.asarray(v) for v in values]), *outputs)


def _leaves(structure: Any) -> list[Any]:
    """Returns the leaves but `None`, which a loop cannot carry."""
    return [leaf for leaf in tree.flatten(structure) if leaf is not None]


def _packed(spec: Any, leaves: list[Any]) -> Any:
    """Returns `leaves` in the structure of `spec`, with `None` where that has it."""
    rest = iter(leaves)
    return tree.map_structure(lambda leaf: leaf if leaf is None else next(rest), spec)


def _array(dtype: tf.DType, shape: Any, size: int | None) -> tf.TensorArray:
    return tf.TensorArray(
        dtype, size or 0, dynamic_size=size is None, infer_shape=False, element_shape=shape
    )


def _zeros(spec: tf.TensorSpec) -> tf.Tensor:
    sizes = [] if spec.shape.rank is None else [size or 0 for size in spec.shape]
    zeros = tf.zeros(sizes, spec.dtype)
    if spec.shape.is_fully_defined():
        return zeros
    return tf.compat.v1.placeholder_with_default(zeros, spec.shape)
