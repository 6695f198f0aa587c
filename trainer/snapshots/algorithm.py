"""What training changes of an algorithm, taken and put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.algorithm import Algorithm
from trainer.networks import Networks, build_optimizers, trained_networks
from trainer.progress import Progress
from trainer.random_operations import RandomOperations
from trainer.snapshots.files import Contents
from trainer.snapshots.variables import (
    OF_OPTIMIZER,
    differences,
    in_parts,
    parts,
    put_back,
    training_variables,
    values,
)

_OF_VARIABLES = "variables/"
_OF_REPLICAS = "variables of replicas/"  # those that each of them has a value of its own of
_OF_RANDOM = "random operations/"
_OF_COMPILED = (f"{OF_OPTIMIZER}/", f"{OF_OPTIMIZER} ")
_MADE_BY_STEPS = ("metrics/", "step/")


class AlgorithmState:
    """What training changes of an algorithm: its variables, its seed, and how far it came.

    Args:
        algorithm: the algorithm.
        progress: how far its training came.
        of_steps: returns the variables that its compiled steps read.
        random: what its steps draw by `tf.random`, by mode.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        progress: Progress,
        of_steps: Callable[[], Iterable[tf.Variable]] = tuple,
        random: Mapping[str, RandomOperations] = MappingProxyType({}),
    ):
        self._algorithm = algorithm
        self._progress = progress
        self._of_steps = of_steps
        self._random = random

    def taken(self) -> Contents:
        """Returns the state; what training changes later does not change it."""
        facts = {
            "seed": self._algorithm.seed,
            "progress": {"step": self._progress.step, "epoch": self._progress.epoch},
        }
        variables = self.variables()
        of_replicas = parts(variables, self._algorithm)
        found = {_OF_VARIABLES: values(variables), _OF_REPLICAS: of_replicas}
        found |= {f"{_OF_RANDOM}{mode}/": draws.state() for mode, draws in self._random.items()}
        arrays = {kind + name: a for kind, named in found.items() for name, a in named.items()}
        return Contents(facts, arrays)

    def alike(self) -> dict[str, np.ndarray]:
        """Returns the values of the variables that all replicas have alike."""
        variables = self.variables()
        apart = in_parts(variables)
        return values({name: v for name, v in variables.items() if name not in apart})

    def differences(self, contents: Contents) -> list[str]:
        """Returns a line for each variable that is not as in `contents`."""
        return differences(self.variables(), _under(_OF_VARIABLES, contents))

    def put_back(self, contents: Contents) -> None:
        """Sets all to `contents`, in which `differences` has found none."""
        self._put_back(self.variables(), contents)

    def put_back_at_rest(self, contents: Contents) -> None:
        """Sets to `contents` what is there before a step was taken.

        Raises:
            ValueError: `contents` are of another model or optimizer; nothing was changed.
        """
        there = _under(_OF_VARIABLES, contents)
        variables = self._made_for(there)
        both = {
            name
            for name in there.keys() | variables.keys()
            if not _may_be_missing(name, contents) or (name in there and name in variables)
        }
        variables = {name: variables[name] for name in variables if name in both}
        refuse(differences(variables, {name: there[name] for name in there if name in both}))
        self._put_back(variables, contents)

    def _made_for(self, there: dict[str, np.ndarray]) -> dict[str, Any]:
        """Returns the variables, those of optimizers that have values in `there` made for it."""
        variables = self.variables()
        missing = there.keys() - variables.keys()
        networks = [network for network, _ in trained_networks(self._algorithm.model)]
        for network in networks:
            if not network.built and any(name.startswith("model/") for name in missing):
                raise ValueError(
                    f"The model {network.name} is not built, so it has no variables to restore "
                    "yet: begin it with keras.Input(shape), or call model.build(shape) first."
                )
        if any(name.startswith(_OF_COMPILED) for name in missing):
            build_optimizers(self._algorithm.model)
            variables = self.variables()
        return variables

    def _put_back(self, variables: dict[str, Any], contents: Contents) -> None:
        arrays, of_replicas = _under(_OF_VARIABLES, contents), _under(_OF_REPLICAS, contents)
        put_back(variables, arrays, of_replicas, self._algorithm)
        for mode, draws in self._random.items():
            draws.restore(_under(f"{_OF_RANDOM}{mode}/", contents))
        facts = contents.facts
        self._progress.step = facts["progress"]["step"]
        self._progress.epoch = facts["progress"]["epoch"]
        self._algorithm.seed = facts["seed"]
        if isinstance(self._algorithm.model, Networks):
            self._algorithm.model.seed = facts["seed"]  # which is saved with it

    def variables(self) -> dict[str, Any]:
        """Returns the variables by name, those that exist by now."""
        return training_variables(self._algorithm, self._of_steps())


def _may_be_missing(name: str, contents: Contents) -> bool:
    """Returns whether a variable need not be there before a step is taken.

    Such are those of optimizers that a model or a trainer holds. They are made by the first step of
    a training that goes on, which then restores them.
    """
    is_compiled = name.startswith(("model/", *_OF_COMPILED))
    is_held = not is_compiled and "training" in contents.facts
    return is_held or name.startswith(_MADE_BY_STEPS)


def refuse(lines: list[str]) -> None:
    """Raises a `ValueError` that has all `lines`, if there are any."""
    if lines:
        raise ValueError(
            "The snapshot is of another training: " + "; ".join(lines) + ". Make the model, the "
            "optimizer, the metrics and the data as they were, or give another directory."
        )


def _under(kind: str, contents: Contents) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(kind): value
        for name, value in contents.arrays.items()
        if name.startswith(kind)
    }
