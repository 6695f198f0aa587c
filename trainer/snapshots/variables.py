"""The variables that training changes: what they are, their values, and values put back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.algorithm import Algorithm
from trainer.networks import trained_networks
from trainer.peers import Peers

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
                named[_free_name(f"{owner}/{_path(variable)}", named)] = variable
    for variable in of_steps:
        if id(variable) not in known:
            known.add(id(variable))
            named[_free_name(f"step/{_path(variable)}", named)] = variable
    return named


def values(variables: dict[str, Variable]) -> dict[str, np.ndarray]:
    """Returns the value of each variable, which no later change of the variable changes."""
    return {name: np.asarray(variable.numpy()) for name, variable in variables.items()}


def parts(variables: dict[str, Variable], peers: Peers) -> dict[str, np.ndarray]:
    """Returns what each replica holds of the variables that are summed up only when they are read.

    Returns:
        Arrays by name of variable, an axis of all replicas in front.
    """
    held = {name: _local_parts(v) for name, v in variables.items() if _is_in_parts(v)}
    if not held:
        return {}
    here = {name: np.stack([part.numpy() for part in own]) for name, own in held.items()}
    flat = np.concatenate([array.astype(np.float64).ravel() for array in here.values()])
    columns = np.split(
        peers.numbers_of_each(flat), np.cumsum([array.size for array in here.values()])[:-1], axis=1
    )
    return {
        name: column.reshape(-1, *array.shape[1:]).astype(array.dtype)
        for column, (name, array) in zip(columns, here.items(), strict=True)
    }


def put_back(
    variables: dict[str, Variable],
    arrays: dict[str, np.ndarray],
    in_parts: dict[str, np.ndarray],
    peers: Peers,
) -> None:
    """Gives each variable its value of `arrays`; `differences` has to have found nothing.

    Args:
        variables: the variables.
        arrays: what `values` returned.
        in_parts: what `parts` returned; it counts where there are as many replicas now.
        peers: the processes that have the replicas.
    """
    for name, variable in variables.items():
        own = _local_parts(variable) if _is_in_parts(variable) else ()
        if own and name in in_parts and len(in_parts[name]) == len(own) * peers.count:
            first = peers.number * len(own)
            for part, value in zip(own, in_parts[name][first:], strict=False):
                part.assign(value)
        else:
            variable.assign(arrays[name])


def on_this_process(variables: dict[str, Variable]) -> list[Variable]:
    """Returns what can be read and set without other processes: variables, or parts of them."""
    return [
        one
        for variable in variables.values()
        for one in (_local_parts(variable) if _is_in_parts(variable) else (variable,))
    ]


def _is_in_parts(variable: Variable) -> bool:
    """Returns whether each replica has a value of its own of `variable`."""
    held = _of_tensorflow(variable)
    return (
        isinstance(held, tf.distribute.DistributedValues)
        and held.synchronization is tf.VariableSynchronization.ON_READ
    )


def _local_parts(variable: Variable) -> tuple[tf.Variable, ...]:
    """Returns what the replicas of this process hold of a variable."""
    return tf.distribute.get_strategy().experimental_local_results(_of_tensorflow(variable))


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
        yield f"optimizer {next(names, '')}".rstrip(), optimizer.variables
    for metric in algorithm.metrics:
        yield "metrics", metric.variables
    for name, value in vars(algorithm).items():
        for part in keras.tree.flatten(value):
            yield name, list(_in(part))


def _in(value: Any) -> Iterator[Variable]:
    if isinstance(value, (keras.Variable, tf.Variable)):
        yield value
    elif isinstance(value, keras.random.SeedGenerator):
        yield value.state
    elif isinstance(value, (keras.Layer, keras.Optimizer, keras.metrics.Metric)):
        yield from value.variables


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
