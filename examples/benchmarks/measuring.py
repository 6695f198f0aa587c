"""Calls measured in turn, and what the measurements come to."""

import dataclasses
import functools
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import networks

# Makes ready what a call needs, which is not measured, and returns the call.
Prepare = Callable[[], Callable[[], Any]]


class Sides(NamedTuple):
    """What a row compares: each a function that makes ready and returns the call to measure."""

    keras: Prepare
    trainer: Prepare
    by_hand: dict[str, Prepare] = {}


class Measured(NamedTuple):
    """The measurements of each of the `Sides`, one a round."""

    keras: list[float]
    trainer: list[float]
    by_hand: dict[str, list[float]] = {}


def both(network, run, prepare=tuple):
    """Returns the `Sides` of one call that a model and a trainer have alike.

    Args:
        network: makes a model; it is called for each side, and compiled with the defaults.
        run: what to measure, a function of the model, or of the trainer, and what `prepare` made.
        prepare: makes, anew for each call and unmeasured, a tuple of what the call needs.
    """

    def side(subject):
        def ready():
            made = prepare()
            return lambda: run(subject, *made)

        return ready

    return Sides(side(networks.compiled(network())), side(networks.with_trainer(network())))


def always(function, *arguments, **keywords):
    """Returns a side that calls the same function each time and has nothing to make ready."""
    return lambda: functools.partial(function, *arguments, **keywords)


def seconds(call):
    """Returns how long a call took."""
    gc.collect()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternately(sides, rounds, measure=seconds, warm=True):
    """Measures calls in turn, in the same process.

    Every second round goes backwards, so that none always comes after the same other.

    Args:
        sides: by name, a function that makes ready and returns the call.
        rounds: how many measurements each gets.
        measure: returns the measurement of a call.
        warm: whether each is called once unmeasured first.

    Returns:
        The measurements by name, in the order of the rounds.
    """
    if warm:
        for prepare in sides.values():
            prepare()()
    measured = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(sides):
            measured[name].append(measure(sides[name]()))
    return measured


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        name: the row's name, or one that begins with it where a row has several lines.
        what: what was measured.
        measured: the measurements.
        unit: their unit.
        target: how many times the trainer's median Keras's has to be at least, if anything.
        limit: how many times the best loop's median the trainer's may be at most, if anything.
    """

    name: str
    what: str
    measured: Measured
    unit: str = "s"
    target: float | None = None
    limit: float | None = None

    @property
    def ratio(self):
        """Keras's median over the trainer's, `None` where Keras was not measured."""
        keras, trainer, _ = self.measured
        return statistics.median(keras) / statistics.median(trainer) if keras else None

    @property
    def best_by_hand(self):
        """Name of the loop by hand with the least median, `None` where there is none."""
        by_hand = self.measured.by_hand
        return min(by_hand, key=lambda name: statistics.median(by_hand[name]), default=None)

    @property
    def beside_hand(self):
        """The trainer's median over that of the best loop, `None` where there is none."""
        _, trainer, by_hand = self.measured
        if not by_hand:
            return None
        return statistics.median(trainer) / statistics.median(by_hand[self.best_by_hand])

    @property
    def reached(self):
        """Whether target and limit are both kept, to the two decimals that the table shows.

        `None` where there is neither.
        """
        if self.target is None and self.limit is None:
            return None
        fast = self.target is None or round(self.ratio, 2) >= self.target
        return fast and (self.limit is None or round(self.beside_hand, 2) <= self.limit)


@dataclasses.dataclass(frozen=True)
class Row:
    """A measurement to make.

    Attributes:
        name: what `--rows` calls it.
        what: what is measured.
        sides: returns the `Sides`; called when it is the row's turn.
        target: as in `Line`.
        limit: as in `Line`.
        unit: the unit of what `measure` returns.
        measure: returns the measurement of a call.
        warm: whether each side is called once unmeasured first.
        most_rounds: rounds at most, where more would tell nothing new.
    """

    name: str
    what: str
    sides: Callable[[], Sides]
    target: float | None = None
    limit: float | None = None
    unit: str = "s"
    measure: Callable[[Callable[[], Any]], float] = seconds
    warm: bool = True
    most_rounds: int | None = None

    def lines(self, rounds):
        """Measures, and yields the lines of the table."""
        keras, trainer, by_hand = self.sides()
        by_name = {"Keras": keras, "trainer": trainer, **by_hand}
        rounds = min(rounds, self.most_rounds or rounds)
        measured = alternately(by_name, rounds, self.measure, self.warm)
        keras, trainer = measured.pop("Keras"), measured.pop("trainer")
        yield Line(
            self.name,
            self.what,
            Measured(keras, trainer, measured),
            self.unit,
            self.target,
            self.limit,
        )
