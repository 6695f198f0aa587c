"""The whole state of a training, taken between two groups and put back in another process."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Any

import keras
import tensorflow as tf

from trainer.algorithm import Algorithm
from trainer.feeds import Feed, restore_together
from trainer.groups import Run
from trainer.held import Draws, is_same
from trainer.loop import Place, Resumed
from trainer.progress import Progress
from trainer.random_operations import RandomOperations
from trainer.snapshots.algorithm import AlgorithmState, refuse
from trainer.snapshots.callbacks import CallbackStates
from trainer.snapshots.facts import checked_feed
from trainer.snapshots.files import Contents
from trainer.snapshots.plain import decoded, encoded, refusing_crafted


class TrainingState:
    """All that one `fit` changes; to be made before its hooks are called.

    Args:
        algorithm: whose variables are trained.
        run: the training.
        validation: the evaluation after an epoch, if there is one.
        progress: how far training came.
        random: what steps draw by `tf.random`, by mode.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        run: Run,
        validation: Run | None,
        progress: Progress,
        random: Mapping[str, RandomOperations],
    ):
        self._run = run
        self._model = algorithm.model
        self._tells = algorithm.is_chief
        self._step = algorithm.train_step
        self._holder = algorithm
        self._algorithm = AlgorithmState(
            *(algorithm, progress, lambda: run.program.variables), random
        )
        self._random = random
        self._callbacks = CallbackStates(run.hooks.callbacks)
        self._feeds = {"data": run.feed}
        self._shapes = {"data": run.program.shapes}
        if validation is not None:
            self._feeds["validation data"] = validation.feed
            self._shapes["validation data"] = validation.program.shapes
        self._described = {name: _described(feed) for name, feed in self._feeds.items()}
        self._described["data"]["steps an epoch"] = run.steps

    def check_repeatable(self) -> None:
        """Checks that another process can go on from what `taken` returns.

        Steps draw from here on from states that it can have; or a warning comes before the first.

        Raises:
            ValueError: the batches cannot be had again; the message says why.
        """
        for feed in self._feeds.values():
            feed.check_repeatable()
        for draws in self._random.values():
            draws.are_kept = True

    def taken(self, place: Place) -> Contents:
        """Returns the state at `place`; what training changes later does not change it."""
        facts, arrays, _ = self._algorithm.taken()
        training = {
            "epoch": place.epoch,
            "step": place.step,
            "logs": encoded(place.logs, arrays, "logs"),
            "stop_training": self._model.stop_training,
            "described": self._described,
            "feeds": {
                name: encoded(feed.state(), arrays, name) for name, feed in self._feeds.items()
            },
            "first shapes": {name: shapes.first for name, shapes in self._shapes.items()},
            "callbacks": self._callbacks.taken(arrays),
            "generators": encoded(self._draws().state(), arrays, "generators"),
        }
        return Contents({**facts, "training": training}, arrays)

    def resumed(self, contents: Contents) -> Resumed:
        """Returns the training to go on with, and cuts back the files that callbacks write.

        Raises:
            ValueError: the state is of another model, optimizer, metrics or data; nothing was
                changed.
        """
        training, arrays = contents.facts["training"], contents.arrays
        with refusing_crafted():
            feeds = {
                name: (feed, checked_feed(decoded(training["feeds"][name], arrays)))
                for name, feed in self._feeds.items()
                if name in training["feeds"]
            }
            if not contents.is_own:
                feeds = {name: (f, f.without_iterators(s)) for name, (f, s) in feeds.items()}
            generators = decoded(training["generators"], arrays)
            logs = decoded(training["logs"], arrays)
            self._draws().check(generators)
            shapes = {
                name: {key: tuple(map(tuple, value)) for key, value in first.items()}
                for name, first in training["first shapes"].items()
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
                if self._tells:
                    _tell_of_running_forward(name, feed, state)
                self._shapes[name].first = shapes.get(name, {})
            self._restore_data(feeds.values(), generators)

        return Resumed(Place(training["epoch"], training["step"], logs), put_back)

    def _restore_data(
        self, feeds: Collection[tuple[Feed, dict[str, Any]]], generators: dict[str, Any]
    ) -> None:
        """Restores data, and random generators, which data that are fetched again may draw from."""
        draws = self._draws()
        before = draws.state()
        restore_together(feeds)
        if any(feed.runs_forward for feed, _ in feeds):
            # What data have drawn from when they were fetched again is where it was.
            after = draws.state()
            generators = {
                path: state
                for path, state in generators.items()
                if path in after and is_same(before[path], after[path])
            }
        draws.set_state(generators)
        for feed, state in feeds:
            feed.restore_draws(state)

    def _draws(self) -> Draws:
        return Draws(dict(vars(self._holder)))

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


def _described(feed: Feed) -> dict[str, Any]:
    """Returns what can be told of data before they are read, as JSON gives it back."""
    leaves = keras.tree.flatten_with_path(feed.batch_spec()) if feed.is_in_graph else []
    return {
        "batches a pass": feed.steps,
        "rows": feed.rows,
        "batch size": feed.batch_size,
        "shuffle": feed.shuffle,
        "a batch": [f"{'/'.join(map(str, path))} {spec}" for path, spec in leaves],
    }


def _tell_of_running_forward(name: str, feed: Feed, state: dict[str, Any]) -> None:
    """Says what it costs that a feed cannot be set to a position."""
    batches = sum(position or 0 for _, position in state["passes"])
    if feed.runs_forward and batches:
        print(
            f"The {name} cannot be set back: its first {batches} batches are fetched again.",
            flush=True,
        )
