"""What every feed has: a length, a position, and batches one after the other."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

_started = itertools.count()  # passes of all feeds
Batch = Any  # a structure of tensors: x, (x, y) or (x, y, sample_weight)


class PartOfBatch(NamedTuple):
    """The rows that one of several processes reads of a batch.

    Attributes:
        rows: the rows, laid out as a batch; there is at least one, which may be another's.
        first: the number of the first of them in the batch.
        of: how many rows the batch has.
    """

    rows: Batch
    first: Any
    of: Any


def rows_at_hand(batch: Batch | PartOfBatch) -> Batch:
    """Returns the rows of a batch that were read, laid out as a batch."""
    return batch.rows if isinstance(batch, PartOfBatch) else batch


class Source(Protocol):
    """The part of a feed that a compiled function takes as an argument and reads in its graph."""

    def look(self, step: tf.Tensor, wanted: tf.Tensor) -> Any:
        """Returns what `has_batch` and `batch` ask of batch `step`, if that is `wanted`.

        Args:
            step: int64 scalar, counted from the first batch of the source; one after the other.
            wanted: bool scalar, whether to look at all.
        """

    def has_batch(self, seen: Any) -> tf.Tensor:
        """Returns whether `look` saw a batch that is wanted, a bool scalar."""

    def batch(self, seen: Any) -> Batch | PartOfBatch:
        """Returns the batch that `look` saw, or what this process reads of it."""

    def spec(self) -> Any:
        """Returns the `tf.TypeSpec` of a batch."""

    def signature(self) -> Hashable | None:
        """Returns what is alike for sources that a function need not be traced anew for.

        `None` where sources of the same feed may differ in it each time.
        """


class Window(NamedTuple):
    """A source and the next batches in it.

    Attributes:
        source: the source.
        first: the number of the next batch in the source.
        steps: how many batches to take from it.
    """

    source: Source
    first: int
    steps: int


class Feed(abc.ABC):
    """A source of batches that knows its length and its position.

    A *pass* goes once through the data. `rewind` starts one; its batches are numbered from 0.

    Attributes:
        steps: batches in a pass, or `None` where that is not known.
        rows: rows in a pass, or `None` where that is not known.
        infinite: whether a pass is known never to end.
        position: batches taken from the current pass.
        exhausted: whether the pass was found to have no further batch.
        pass_of: the epoch that the pass was started for, `None` before the first one.
        seed: seed of the order, where the feed itself shuffles, else `None`.
        shuffle: whether and how the feed itself shuffles.
        batch_size: rows a batch, where the feed cuts the batches, else `None`.
        runs_forward: whether it comes to a position only by fetching all that was fetched before.
        full_steps: batches of a pass, the first ones, that `full_window` gives.
        is_in_graph: whether a compiled function reads the batches; otherwise only Python can.
    """

    steps: int | None = None
    rows: int | None = None
    infinite: bool = False
    position: int = 0
    exhausted: bool = False
    is_in_graph: bool = False
    full_steps: int = 0
    pass_of: int | None = None
    seed: int | None = None
    shuffle: bool | str = False
    batch_size: int | None = None
    runs_forward: bool = False
    _passes_before: tuple[tuple[int, int], ...] = ()  # the epoch and the batches taken of each
    _starts: tuple[int, ...] = ()  # of each pass, its number among those of all feeds

    def rewind(self, epoch: int) -> None:
        """Starts a new pass; what the feed itself shuffles gets the order of `epoch`."""
        if self._serves(epoch):
            self.pass_of = epoch
            return
        if self.pass_of is not None:
            self._passes_before += ((self.pass_of, self.position),)
        self.position = 0
        self.exhausted = False
        self.pass_of = epoch
        self._starts += (next(_started),)
        self._start_pass(epoch)

    def _serves(self, epoch: int) -> bool:
        """Returns whether a pass was started, and nothing was taken from it, that `epoch` can have.

        Without a seed the feed does not shuffle, and all passes are alike to it.
        """
        is_new = self.pass_of is not None and not self.position and not self.exhausted
        return is_new and (self.seed is None or self.pass_of == epoch)

    def seek(self, epoch: int, position: int) -> None:
        """Starts a new pass, as `rewind` does, as if `position` batches of it had been taken.

        Where batches are not numbered they are fetched for that, and dropped.

        Raises:
            StopIteration: the pass has fewer batches.
        """
        self.rewind(epoch)
        if self.steps is not None and position > self.steps:
            raise StopIteration
        self._skip(position)

    def _skip(self, batches: int) -> None:
        """Goes past the first batches of the pass that has just been started."""
        for _ in range(batches):
            self.next()

    def state(self) -> dict[str, Any]:
        """Returns where the feed is: what `restore` takes, plain values and arrays."""
        passes = self._passes_to_repeat()
        starts = list(self._starts[-len(passes) :])
        return {
            **{"passes": passes, "starts": starts},
            **{"exhausted": self.exhausted, "seed": self.seed},
        }

    def _passes_to_repeat(self) -> list[tuple[int, int]]:
        """Returns the epoch and the batches taken of each pass that `restore` has to go through."""
        passes = [] if self.pass_of is None else [(self.pass_of, self.position)]
        return [*self._passes_before, *passes] if self.runs_forward else passes

    def restore(self, state: dict[str, Any]) -> None:
        """Sets the feed to where another one of the same data was when it told its `state`.

        Raises:
            StopIteration: the data have fewer batches.
        """
        if state["seed"] != self.seed:
            self.seed, self.pass_of = state["seed"], None
        for epoch, position in state["passes"]:
            self.seek(epoch, position)
        self.exhausted = state["exhausted"]

    def restore_draws(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Sets the random generators that the data draw from to where `state` has them."""

    def without_iterators(self, state: dict[str, Any]) -> dict[str, Any]:
        """Returns a state without what is not to be trusted where somebody else has written it."""
        return state

    def restoring(self, state: dict[str, Any]) -> list[tuple[int, Callable[[], Any]]]:
        """Returns the calls that restore `state`, in order, each with the number of its pass."""
        return [(min(state.get("starts", [0]), default=0), lambda: self.restore(state))]

    def check_repeatable(self) -> None:  # noqa: B027
        """Checks, before anything was taken, that another process can go on with the batches.

        Raises:
            ValueError: the batches follow from what cannot be set back; the message names it.
        """

    def check_restorable(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Checks, before anything was taken, that `restore` can take `state`.

        Raises:
            ValueError: it is of other data.
        """

    @abc.abstractmethod
    def _start_pass(self, epoch: int) -> None:
        """Makes the first batch of a new pass the next one."""

    @abc.abstractmethod
    def batch_spec(self) -> Any:
        """Returns the `tf.TypeSpec` of a batch, open where the number of rows may vary."""

    def window(self, k: int) -> Window:
        """Returns a source that has the next batches, up to `k`; where `is_in_graph`."""
        raise NotImplementedError

    def full_window(self, k: int) -> Window | None:
        """Returns a source whose next batches, up to `k`, have as many rows each, a number known.

        That is what XLA needs to compile a loop over them. `None` where there is no such source.
        """
        return None

    def next(self) -> Batch:
        """Returns the next batch, all its rows.

        Raises:
            StopIteration: the pass has ended.
        """
        if self.ended:
            raise StopIteration
        source, first, _ = self._whole_window()
        seen = source.look(tf.constant(first, tf.int64), tf.constant(True))
        if not source.has_batch(seen):
            raise StopIteration
        self.position += 1
        return source.batch(seen)

    def _whole_window(self) -> Window:
        """Returns a source that has the next batch with all its rows."""
        return self.window(1)

    def epoch_began(self) -> None:  # noqa: B027
        """Is called when an epoch begins."""

    def finish_pass(self, goes_on: bool) -> None:  # noqa: B027
        """Is called when a run asks for no further batch, as the epoch or the pass is over.

        Args:
            goes_on: whether the run's next epoch takes up the data where this one ended.
        """

    def epoch_ended(self) -> None:  # noqa: B027
        """Is called when an epoch has ended."""

    def close(self) -> None:  # noqa: B027
        """Ends the threads and processes of the feed."""

    @property
    def ended(self) -> bool:
        """Whether the pass is known to have no further batch."""
        return self.exhausted or (self.steps is not None and self.position >= self.steps)


def restore_together(states: Iterable[tuple[Feed, dict[str, Any]]]) -> None:
    """Restores feeds, what they fetch again in the order in which it was fetched.

    They may draw from the same random generator.

    Args:
        states: each feed, and what its `state` was.
    """
    calls = [call for feed, state in states for call in feed.restoring(state)]
    for _, call in sorted(calls, key=lambda call: call[0]):
        call()
