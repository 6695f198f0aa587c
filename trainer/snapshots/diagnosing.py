"""Where in a step numbers stop being finite."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.algorithm import Algorithm
from trainer.feeds import Batch
from trainer.networks import Networks, trained_networks


def diagnosis(algorithm: Algorithm, step: Callable[[Batch], Any], batch: Batch) -> list[str]:
    """Runs a training step eagerly, and returns a line for each place of interest.

    They are: rows of the batch, the first layer's output and the first gradient, coming from the
    loss, that are not finite; a weight that gets so by its update alone; an error of the step.

    Args:
        algorithm: whose step it is.
        step: runs it; it changes what a step changes.
        batch: its batch.
    """
    layers: list[str] = []
    gradients: list[list[str]] = []
    with contextlib.ExitStack() as stack:
        for layer in _layers(algorithm):
            stack.enter_context(_replaced(layer, "call", _noting_output(layers)))
        for network, optimizer in trained_networks(algorithm.model):
            noting = _noting_gradients(gradients, network.trainable_variables)
            stack.enter_context(_replaced(optimizer, "apply", noting))
        try:
            step(batch)
            failure = []
        except Exception as error:
            failure = [f"run eagerly, the step ends with {type(error).__name__}: {error}"]
    if not gradients and not failure:
        failure = _of_update(algorithm)
    lines = _of_batch(batch)
    if layers:
        lines.append(f"the first layer whose output is not finite is {layers[0]}")
    for names in gradients[:1]:
        lines.append(
            "the first variable, coming from the loss, whose gradient is not finite is "
            f"{names[-1]}, one of {len(names)}"
        )
    return lines + failure


def _of_update(algorithm: Algorithm) -> list[str]:
    for variable in algorithm.model.trainable_variables:
        if not is_finite(tf.convert_to_tensor(variable)):
            return [f"the gradients are finite, but the update makes {variable.path} not so"]
    return []


def _of_batch(batch: Batch) -> list[str]:
    lines = []
    for path, leaf in keras.tree.flatten_with_path(batch):
        rows = _rows_not_finite(leaf)
        if rows:
            name = "/".join(map(str, path)) or "x"
            lines.append(f"part {name} of the batch is not finite in {_few(rows)}")
    return lines


def _rows_not_finite(leaf: Any) -> list[int]:
    if not isinstance(leaf, tf.Tensor) or not leaf.dtype.is_floating or not leaf.shape.rank:
        return []
    finite = tf.reduce_all(tf.math.is_finite(tf.reshape(leaf, [tf.shape(leaf)[0], -1])), axis=1)
    return [int(row) for row in tf.where(~finite)[:, 0]]


def _few(rows: list[int]) -> str:
    if len(rows) == 1:
        return f"row {rows[0]}"
    more = " and others" if len(rows) > 5 else ""
    return f"rows {', '.join(map(str, rows[:5]))}{more}"


def _layers(algorithm: Algorithm) -> Iterator[keras.Layer]:
    """Yields the layers that a step may call, those inside others too, each once."""
    model = algorithm.model
    waiting = list(model.networks.values()) if isinstance(model, Networks) else [model]
    waiting += [value for value in vars(algorithm).values() if isinstance(value, keras.Layer)]
    seen = set()
    while waiting:
        layer = waiting.pop()
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            waiting.extend(_inside(layer))


def _inside(layer: keras.Layer) -> Iterator[keras.Layer]:
    waiting = list(vars(layer).values())
    while waiting:
        part = waiting.pop()
        if isinstance(part, keras.Layer):
            yield part
        elif isinstance(part, (list, tuple)):
            waiting.extend(part)
        elif isinstance(part, dict):
            waiting.extend(part.values())


@contextlib.contextmanager
def _replaced(owner: Any, name: str, wrap: Callable[[Any, Callable], Callable]) -> Iterator[None]:
    """Lets a method of one object be another one for a while."""
    original = getattr(owner, name)
    object.__setattr__(owner, name, wrap(owner, original))
    try:
        yield
    finally:
        object.__delattr__(owner, name)


def _noting_output(noted: list[str]) -> Callable[[keras.Layer, Callable], Callable]:
    def wrap(layer: keras.Layer, call: Callable) -> Callable:
        @functools.wraps(call)
        def noting(*arguments: Any, **keywords: Any) -> Any:
            outputs = call(*arguments, **keywords)
            if not noted and not all(map(is_finite, keras.tree.flatten(outputs))):
                noted.append(f"{layer.name} ({type(layer).__name__})")
            return outputs

        return noting

    return wrap


def _noting_gradients(
    noted: list[list[str]], of_network: list[keras.Variable]
) -> Callable[[keras.Optimizer, Callable], Callable]:
    def wrap(optimizer: keras.Optimizer, apply: Callable) -> Callable:
        @functools.wraps(apply)
        def noting(gradients: Any, trainable_variables: Any = None) -> Any:
            gradients = list(gradients)
            variables = trainable_variables or of_network
            pairs = zip(gradients, variables, strict=False)
            names = [variable.path for gradient, variable in pairs if not is_finite(gradient)]
            if names:
                noted.append(names)
            return apply(gradients, trainable_variables)

        return noting

    return wrap


def is_finite(value: Any) -> bool:
    """Returns whether all numbers of a tensor are finite; what is no tensor of floats counts so."""
    value = value.values if isinstance(value, tf.IndexedSlices) else value
    if not isinstance(value, tf.Tensor) or not value.dtype.is_floating:
        return True
    return bool(tf.reduce_all(tf.math.is_finite(value)))
