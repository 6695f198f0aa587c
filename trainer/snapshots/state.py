"""The whole state of a training, taken between two groups and put back in another process."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from trainer.algorithm import Algorithm
from trainer.loop import Place, Resumed, Run
from trainer.progress import Progress
from trainer.snapshots.callbacks import CallbackStates
from trainer.snapshots.files import Contents
from trainer.snapshots.plain import decoded, encoded
from trainer.snapshots.variables import differences, put_back, training_variables, values

_OF_VARIABLES = "variables/"


class TrainingState:
    """All that one `fit` changes; to be made before its hooks are called.

    Args:
        algorithm: whose variables are trained.
        run: the training.
        progress: how far it has come.
        callbacks: its callbacks.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        run: Run,
        progress: Progress,
        callbacks: Iterable[keras.callbacks.Callback],
    ):
        self._algorithm = algorithm
        self._run = run
        self._progress = progress
        self._callbacks = CallbackStates(callbacks)

    def taken(self, place: Place) -> Contents:
        """Returns the state at `place`; what training changes later does not change it."""
        feed, arrays = self._run.feed, {}
        facts = {
            "epoch": place.epoch,
            "step": place.step,
            "logs": encoded(place.logs, arrays, "logs"),
            "stop_training": self._algorithm.model.stop_training,
            "progress": {"step": self._progress.step, "epoch": self._progress.epoch},
            "feed": {"pass_of": feed.pass_of, "position": feed.position},
            "exhausted": feed.exhausted,
            "callbacks": self._callbacks.taken(arrays),
        }
        variables = values(training_variables(self._algorithm))
        arrays |= {_OF_VARIABLES + name: value for name, value in variables.items()}
        return Contents(facts, arrays)

    def resumed(self, contents: Contents) -> Resumed:
        """Returns the training to go on with, and cuts back the files that callbacks write.

        Raises:
            ValueError: the state is of another model, optimizer or metrics; nothing was changed.
        """
        facts, arrays = contents.facts, contents.arrays
        self._make_variables()
        there = {
            name.removeprefix(_OF_VARIABLES): value
            for name, value in arrays.items()
            if name.startswith(_OF_VARIABLES)
        }
        variables = training_variables(self._algorithm)
        if lines := differences(variables, there):
            raise ValueError(
                "The snapshot is of another training: " + "; ".join(lines) + ". Build the model, "
                "the optimizer and the metrics as they were, or give another directory."
            )
        self._callbacks.rewind_files(facts["callbacks"])

        def put_all_back() -> None:
            put_back(variables, there)
            self._callbacks.put_back(facts["callbacks"], arrays)
            self._algorithm.model.stop_training = facts["stop_training"]
            self._progress.step = facts["progress"]["step"]
            self._progress.epoch = facts["progress"]["epoch"]
            self._seek(facts["feed"]["pass_of"], facts["feed"]["position"], facts["exhausted"])

        place = Place(facts["epoch"], facts["step"], decoded(facts["logs"], arrays))
        return Resumed(place, put_all_back)

    def _make_variables(self) -> None:
        feed = self._run.feed
        feed.rewind(0)
        self._run.program.output_spec(feed)

    def _seek(self, pass_of: int | None, position: int, exhausted: bool) -> None:
        if pass_of is not None:
            self._run.feed.seek(pass_of, position)
            self._run.feed.exhausted = exhausted
