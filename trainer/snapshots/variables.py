"""The variables that training changes: what they are, their values, and values put back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.algorithm import Algorithm
from trainer.held import GENERATORS, held_by
from trainer.networks import trained_networks

OF_OPTIMIZER = "optimizer"
Variable = Any  # keras.Variable or tf.Variable


def training_variables(
    algorithm: Algorithm, of_steps: Iterable[tf.Variable] = ()
) -> dict[str, Variable]:
    """Returns the variables of an algorithm by name: whose they are, and their path there.

    The names are the same in another process that builds the same things, also where Keras counts
    its automatic names on from others.

    Args:
        algorithm: has a model, optimizers, metrics, and attributes that have variables.
        of_steps: what the compiled steps read; those that belong to nothing known are included.
    """
    named, known = {}, set()
    for owner, variables in _owned(algorithm):
        for variable in variables:
            if id(_of_tensorflow(variable)) not in known:
                known.add(id(_of_tensorflow(variable)))
                known.update(map(id, _local_parts(variable, algorithm)))  # which a step reads
                named[_free_name(f"{owner}/{_path(variable)}", named)] = variable
    for variable in of_steps:
        if id(variable) not in known:
            known.add(id(variable))
            named[_free_name(f"step/{_path(variable)}", named)] = variable
    return named


def values(variables: dict[str, Variable]) -> dict[str, np.ndarray]:
    """Returns the value of each variable, which no later change of the variable changes."""
    return {name: np.asarray(variable.numpy()) for name, variable in variables.items()}


def parts(variables: dict[str, Variable], algorithm: Algorithm) -> dict[str, np.ndarray]:
    """Returns what each replica holds of the variables that replicas have values of their own of.

    Returns:
        Arrays by name of variable, an axis of all replicas in front.
    """
    held = {name: _local_parts(v, algorithm) for name, v in in_parts(variables).items()}
    if not held:
        return {}
    here = {name: np.stack([part.numpy() for part in own]) for name, own in held.items()}
    flat = np.concatenate([array.astype(np.float64).ravel() for array in here.values()])
    ends = np.cumsum([array.size for array in here.values()])
    columns = np.split(algorithm.peers.numbers_of_each(flat), ends[:-1], axis=1)
    return {
        name: column.reshape(-1, *array.shape[1:]).astype(array.dtype)
        for column, (name, array) in zip(columns, here.items(), strict=True)
    }


def put_back(
    variables: dict[str, Variable],
    arrays: dict[str, np.ndarray],
    of_replicas: dict[str, np.ndarray],
    algorithm: Algorithm,
) -> None:
    """Gives each variable its value of `arrays`; `differences` has to have found nothing.

    Args:
        variables: the variables.
        arrays: what `values` returned.
        of_replicas: what `parts` returned; it counts where there are as many replicas now.
        algorithm: has the variables.
    """
    peers = algorithm.peers
    apart = in_parts(variables)
    for name, variable in variables.items():
        own = _local_parts(variable, algorithm) if name in apart else ()
        if own and name in of_replicas and len(of_replicas[name]) == len(own) * peers.count:
            first = peers.number * len(own)
            for part, value in zip(own, of_replicas[name][first:], strict=False):
                part.assign(value)
        else:
            variable.assign(arrays[name])


def on_this_process(variables: dict[str, Variable], algorithm: Algorithm) -> list[Variable]:
    """Returns what can be read and set without other processes: variables, or parts of them."""
    apart = in_parts(variables)
    return [
        one
        for name, variable in variables.items()
        for one in (_local_parts(variable, algorithm) if name in apart else (variable,))
    ]


def in_parts(variables: dict[str, Variable]) -> dict[str, Variable]:
    """Returns the variables that replicas have values of their own of.

    These are the sums of metrics, which are added up when they are read, and what a layer assigns
    for itself, such as the averages of batch normalization.
    """
    return {
        name: variable
        for name, variable in variables.items()
        if isinstance(held := _of_tensorflow(variable), tf.distribute.DistributedValues)
        and (
            held.synchronization is tf.VariableSynchronization.ON_READ
            or (held.aggregation is tf.VariableAggregation.NONE and _is_of_layer(name, held))
        )
    }


def _is_of_layer(name: str, variable: tf.Variable) -> bool:
    """Returns whether it is a layer that assigns `variable`, and no optimizer."""
    return not variable.trainable and not name.startswith(OF_OPTIMIZER)


def _local_parts(variable: Variable, algorithm: Algorithm) -> tuple[tf.Variable, ...]:
    """Returns what the replicas of this process hold of a variable."""
    strategy = algorithm.model.distribute_strategy
    return strategy.experimental_local_results(_of_tensorflow(variable))


def differences(variables: dict[str, Variable], arrays: dict[str, np.ndarray]) -> list[str]:
    """Returns a line for each way in which `arrays` are not values of `variables`."""
    lines = [
        f"the snapshot has {name}, {_described(arrays[name])}, which is not there now"
        for name in arrays.keys() - variables.keys()
    ]
    for name, variable in variables.items():
        here = _described(variable)
        if name not in arrays:
            lines.append(f"{name}, {here}, is not in the snapshot")
        elif (there := _described(arrays[name])) != here:
            lines.append(f"{name} is {here}, and was {there}")
    return sorted(lines)


def _owned(algorithm: Algorithm) -> Iterator[tuple[str, list[Variable]]]:
    """Yields who has variables, and these; some have several owners."""
    model = algorithm.model
    yield "model", model.variables
    names = iter(getattr(model, "optimizers", ()))  # of the networks, where there are several
    for _, optimizer in trained_networks(model):
        yield f"{OF_OPTIMIZER} {next(names, '')}".rstrip(), optimizer.variables
    for metric in algorithm.metrics:
        yield "metrics", metric.variables
    seen = {id(algorithm)}
    for name, value in vars(algorithm).items():
        for path, variable in held_by(value, name, seen):
            if not isinstance(variable, GENERATORS):
                yield path, [variable]


def _of_tensorflow(variable: Variable) -> tf.Variable:
    return variable.value if isinstance(variable, keras.Variable) else variable


def _path(variable: Variable) -> str:
    """Returns the path of `variable`, without the numbers that make automatic names unique."""
    path = variable.path if isinstance(variable, keras.Variable) else variable.name
    return re.sub(r"_\d+(?=[_/]|$)", "", path.removesuffix(":0"))


def _free_name(name: str, taken: dict[str, Any]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"


def _described(value: Variable | np.ndarray) -> str:
    dtype = getattr(value.dtype, "name", value.dtype)  # Keras's are strings already
    return f"{dtype} of shape {tuple(value.shape)}"
