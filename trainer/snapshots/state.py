"""The whole state of a training, taken between two groups and put back in another process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.algorithm import Algorithm
from trainer.compiling import compile_mark
from trainer.feeds import Feed
from trainer.loop import Place, Resumed, Run
from trainer.networks import Networks, build_optimizers, trained_networks
from trainer.progress import Progress
from trainer.snapshots.callbacks import CallbackStates
from trainer.snapshots.files import Contents
from trainer.snapshots.plain import decoded, encoded
from trainer.snapshots.variables import copies, differences, put_back, training_variables, values

_OF_VARIABLES = "variables/"
_MADE_BY_STEPS = ("metrics/", "step/")


class AlgorithmState:
    """What training changes of an algorithm: its variables, its seed, and how far it came.

    Args:
        algorithm: the algorithm.
        progress: how far its training came.
        of_steps: returns the variables that its compiled steps read.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        progress: Progress,
        of_steps: Callable[[], Iterable[tf.Variable]] = tuple,
    ):
        self._algorithm = algorithm
        self._progress = progress
        self._of_steps = of_steps
        self._read_for: Any = None
        self._names: list[str] = []
        self._read: Callable[[], list[tf.Tensor]] | None = None

    def taken(self) -> Contents:
        """Returns the state; what training changes later does not change it."""
        facts = {
            "seed": self._algorithm.seed,
            "progress": {"step": self._progress.step, "epoch": self._progress.epoch},
        }
        return Contents(facts, {_OF_VARIABLES + name: value for name, value in self._values()})

    def _values(self) -> Iterable[tuple[str, Any]]:
        """Returns the values by name; from the second time on by a compiled function."""
        model = self._algorithm.model
        mark = (compile_mark(model), len(model.variables))
        if self._read_for is None or self._read_for != mark:
            self._read_for, self._read = mark, None
            return values(self.variables()).items()
        if self._read is None:
            variables = self.variables()
            self._names = list(variables)
            read = tf.function(functools.partial(copies, variables.values()), autograph=False)
            self._read = read.get_concrete_function()
        return zip(self._names, self._read(), strict=True)

    def differences(self, contents: Contents) -> list[str]:
        """Returns a line for each variable that is not as in `contents`."""
        return differences(self.variables(), _values_in(contents))

    def put_back(self, contents: Contents) -> None:
        """Sets all to `contents`, in which `differences` has found none."""
        self._put_back(self.variables(), contents)

    def put_back_at_rest(self, contents: Contents) -> None:
        """Sets to `contents` what is there before a step was taken.

        Raises:
            ValueError: `contents` are of another model or optimizer; nothing was changed.
        """
        for network, _ in trained_networks(self._algorithm.model):
            if not network.built:
                raise ValueError(
                    f"The model {network.name} is not built, so it has no variables to restore "
                    "yet: begin it with keras.Input(shape), or call model.build(shape) first."
                )
        build_optimizers(self._algorithm.model)
        there = _values_in(contents)
        variables = self.variables()
        both = {
            name
            for name in there.keys() | variables.keys()
            if not name.startswith(_MADE_BY_STEPS) or (name in there and name in variables)
        }
        variables = {name: variables[name] for name in variables if name in both}
        refuse(differences(variables, {name: there[name] for name in there if name in both}))
        self._put_back(variables, contents)

    def _put_back(self, variables: dict[str, Any], contents: Contents) -> None:
        put_back(variables, _values_in(contents))
        facts = contents.facts
        self._progress.step = facts["progress"]["step"]
        self._progress.epoch = facts["progress"]["epoch"]
        self._algorithm.seed = facts["seed"]
        if isinstance(self._algorithm.model, Networks):
            self._algorithm.model.seed = facts["seed"]  # which is saved with it

    def variables(self) -> dict[str, Any]:
        """Returns the variables by name, those that exist by now."""
        return training_variables(self._algorithm, self._of_steps())


class TrainingState:
    """All that one `fit` changes; to be made before its hooks are called.

    Args:
        algorithm: whose variables are trained.
        run: the training.
        validation: the evaluation after an epoch, if there is one.
        progress: how far training came.
    """

    def __init__(self, algorithm: Algorithm, run: Run, validation: Run | None, progress: Progress):
        self._run = run
        self._model = algorithm.model
        self._step = algorithm.train_step
        self._algorithm = AlgorithmState(algorithm, progress, lambda: run.program.variables)
        self._callbacks = CallbackStates(run.hooks.callbacks)
        self._feeds = {"data": run.feed}
        if validation is not None:
            self._feeds["validation data"] = validation.feed
        self._described = {name: _described(feed) for name, feed in self._feeds.items()}
        self._described["data"]["steps an epoch"] = run.steps

    def check_repeatable(self) -> None:
        """Checks that another process can go on from what `taken` returns.

        Raises:
            ValueError: the batches cannot be had again; the message says why.
        """
        for feed in self._feeds.values():
            feed.check_repeatable()

    def taken(self, place: Place) -> Contents:
        """Returns the state at `place`; what training changes later does not change it."""
        facts, arrays = self._algorithm.taken()
        training = {
            "epoch": place.epoch,
            "step": place.step,
            "logs": encoded(place.logs, arrays, "logs"),
            "stop_training": self._model.stop_training,
            "described": self._described,
            "feeds": {
                name: encoded(feed.state(), arrays, name) for name, feed in self._feeds.items()
            },
            "callbacks": self._callbacks.taken(arrays),
        }
        return Contents({**facts, "training": training}, arrays)

    def resumed(self, contents: Contents) -> Resumed:
        """Returns the training to go on with, and cuts back the files that callbacks write.

        Raises:
            ValueError: the state is of another model, optimizer, metrics or data; nothing was
                changed.
        """
        training, arrays = contents.facts["training"], contents.arrays
        feeds = {
            name: (feed, decoded(training["feeds"][name], arrays))
            for name, feed in self._feeds.items()
            if name in training["feeds"]
        }
        self._make_variables()
        refuse([*self._other_data(training["described"]), *self._algorithm.differences(contents)])
        for feed, state in feeds.values():
            feed.check_restorable(state)
        self._callbacks.rewind_files(training["callbacks"])

        def put_back() -> None:
            self._algorithm.put_back(contents)
            self._callbacks.put_back(training["callbacks"], arrays)
            self._model.stop_training = training["stop_training"]
            for name, (feed, state) in feeds.items():
                _tell_of_running_forward(name, feed, state)
                feed.restore(state)

        logs = decoded(training["logs"], arrays)
        return Resumed(Place(training["epoch"], training["step"], logs), put_back)

    def _make_variables(self) -> None:
        feed = self._run.feed
        feed.rewind(0)
        if self._run.program.output_spec(feed) is None:
            # A step that runs eagerly need not be one that can be traced.
            with contextlib.suppress(Exception):
                tf.function(self._step).get_concrete_function(feed.batch_spec())

    def _other_data(self, described: dict[str, dict[str, Any]]) -> list[str]:
        """Returns a line for each way in which the data are others than those described."""
        return [
            f"the {name} had {there[what]} for {what}, and have {here.get(what)}"
            for name, here in self._described.items()
            if (there := described.get(name))
            for what in there
            if there[what] != here.get(what)
        ]


def refuse(lines: list[str]) -> None:
    """Raises a `ValueError` that has all `lines`, if there are any."""
    if lines:
        raise ValueError(
            "The snapshot is of another training: " + "; ".join(lines) + ". Make the model, the "
            "optimizer, the metrics and the data as they were, or give another directory."
        )


def _values_in(contents: Contents) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(_OF_VARIABLES): value
        for name, value in contents.arrays.items()
        if name.startswith(_OF_VARIABLES)
    }


def _described(feed: Feed) -> dict[str, Any]:
    """Returns what can be told of data before they are read, as JSON gives it back."""
    leaves = keras.tree.flatten_with_path(feed.batch_spec()) if feed.is_in_graph else []
    return {
        "batches a pass": feed.steps,
        "rows": feed.rows,
        "batch size": feed.batch_size,
        "shuffle": feed.shuffle,
        "parts of the pipeline": feed.parts,
        "a batch": [f"{'/'.join(map(str, path))} {spec}" for path, spec in leaves],
    }


def _tell_of_running_forward(name: str, feed: Feed, state: dict[str, Any]) -> None:
    """Says what it costs that a feed cannot be set to a position."""
    batches = sum(position for _, position in state["passes"])
    if feed.runs_forward and batches:
        print(
            f"The {name} cannot be set back: its first {batches} batches are fetched again.",
            flush=True,
        )
