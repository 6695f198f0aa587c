"""What every feed has: a length, a position, and batches one after the other."""

from __future__ import annotations

import abc
from typing import Any, Protocol

import tensorflow as tf

Batch = Any  # a structure of tensors: x, (x, y) or (x, y, sample_weight)


class Source(Protocol):
    """The part of a feed that a compiled function takes as an argument and reads in its graph."""

    def take(self, step: tf.Tensor) -> Batch:
        """Returns batch `step` of the pass."""


class Feed(abc.ABC):
    """A source of batches that knows its length and its position.

    A *pass* goes once through the data. `rewind` starts one; its batches are numbered from 0.

    Attributes:
        steps: batches in a pass, or `None` where that is not known.
        infinite: whether a pass is known never to end.
        position: batches taken from the current pass.
        exhausted: whether the pass was found to have no further batch.
        source: what a compiled function reads batches from, or `None` if only Python can.
    """

    steps: int | None = None
    infinite: bool = False
    position: int = 0
    exhausted: bool = False
    source: Source | None = None
    _pass_of: int | None = None

    def rewind(self, epoch: int) -> None:
        """Starts a new pass; what the feed itself shuffles gets the order of `epoch`."""
        if self._pass_of == epoch and not self.position and not self.exhausted:
            return  # such a pass has just been started, and nothing was taken from it
        self.position = 0
        self.exhausted = False
        self._pass_of = epoch
        self._start_pass(epoch)

    @abc.abstractmethod
    def _start_pass(self, epoch: int) -> None:
        """Makes the first batch of a new pass the next one."""

    @abc.abstractmethod
    def batch_spec(self) -> Any:
        """Returns the `tf.TypeSpec` of a batch, open where the number of rows may vary."""

    def next(self) -> Batch:
        """Returns the next batch.

        Raises:
            StopIteration: the pass has ended.
        """
        if self.ended:
            raise StopIteration
        try:
            batch = self.source.take(tf.constant(self.position, tf.int64))
        except tf.errors.OutOfRangeError:
            raise StopIteration from None
        self.position += 1
        return batch

    def epoch_began(self) -> None:  # noqa: B027
        """Is called when an epoch begins."""

    def epoch_ended(self) -> None:  # noqa: B027
        """Is called when an epoch has ended."""

    def close(self) -> None:  # noqa: B027
        """Ends the threads and processes of the feed."""

    @property
    def ended(self) -> bool:
        """Whether the pass is known to have no further batch."""
        return self.exhausted or (self.steps is not None and self.position >= self.steps)
