"""`tf.data` as a feed: the iterator is read inside the graph."""

from __future__ import annotations

import functools
import hashlib
import threading
import time
import warnings
from collections.abc import Hashable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.feeds.feed import Batch, Feed, Window
from trainer.feeds.iterators import Content, content_of, set_content, skip
from trainer.feeds.pipelines import (
    PREFETCHED,
    check_draws,
    check_shuffles,
    count_of_shuffles,
    parts_of,
    reads_files,
)
from trainer.peers import spans_processes

tree = keras.tree
_ANOTHER = (
    "The tf.data pipeline is another one than that of the snapshot: make it as it was, or give "
    "another directory."
)
_POLICIES = tf.data.experimental.AutoShardPolicy
_SHARE = 100  # of the time goes by until what an iterator holds is looked up again


class IteratorSource(NamedTuple):
    """A `tf.data` iterator, or one that `tf.distribute` made."""

    iterator: Any

    def look(self, step: tf.Tensor, wanted: tf.Tensor) -> tf.experimental.Optional:
        """Returns the next batch, or nothing if none is wanted or the data have ended."""
        return tf.cond(
            wanted,
            self.iterator.get_next_as_optional,
            lambda: tf.experimental.Optional.empty(self.iterator.element_spec),
        )

    def has_batch(self, seen: tf.experimental.Optional) -> tf.Tensor:
        """Returns whether there was a batch."""
        return seen.has_value()

    def batch(self, seen: tf.experimental.Optional) -> Batch:
        """Returns the batch."""
        return seen.get_value()

    def spec(self) -> Any:
        """Returns the `tf.TypeSpec` of a batch, open where the dataset leaves it open."""
        return self.iterator.element_spec

    def signature(self) -> Hashable:
        """Returns the kind of iterator and what it yields."""
        return type(self.iterator), *tree.flatten_with_path(self.iterator.element_spec)


class Base(NamedTuple):
    """A place in the data to start from.

    Attributes:
        data: what the iterator held, as `set_content` takes it.
        position: batches of the pass that were taken.
        passes: how many passes were before.
    """

    data: np.ndarray
    position: int
    passes: int


class DatasetFeed(Feed):
    """Batches of a `tf.data.Dataset` or a `tf.distribute.DistributedDataset`.

    Args:
        dataset: the dataset.
        strategy: splits a `tf.data.Dataset` among processes where its policy says so.

    A state has what the iterator held at some place not long ago, and how many batches were taken
    since: to look it up takes long where a shuffle has a large buffer, and not everywhere does
    TensorFlow know how often each shuffle of the pipeline was begun.

    Each iterator of a dataset makes its shuffles count on to their next order. Keras makes one more
    after the last batch of a pass, and so does this: the orders are those of `model.fit`.
    """

    is_in_graph = True
    _source: IteratorSource | None = None
    _next: Any = None  # the iterator of the next pass, where there is one before that starts
    _unread: tuple[tuple[int, None], ...] = ()  # iterators made since, and dropped

    def __init__(self, dataset: Any, strategy: tf.distribute.Strategy | None = None):
        self.dataset = by_policy(dataset, strategy)
        cardinality = self.dataset.cardinality
        # A method of a dataset, a number on a distributed one.
        count = int(cardinality() if callable(cardinality) else cardinality)
        self.steps = count if count >= 0 else None
        self.infinite = count == tf.data.INFINITE_CARDINALITY
        self.runs_forward = not isinstance(self.dataset, tf.data.Dataset)
        self._read = self.dataset if self.runs_forward else _prefetched(self.dataset)
        self._pipeline = dataset if isinstance(dataset, tf.data.Dataset) else None
        self._base: Base | None = None
        self._earlier: list[tuple[int, int | None]] = []  # passes before the first one here
        self._keeps_base = False
        self._look_again_at = 0.0
        self._counted: frozenset[bytes] = frozenset()
        self._first: tuple[np.ndarray, str] | None = None  # what an iterator held, and its follower

    def window(self, k: int) -> Window:  # noqa: D102
        if self._keeps_base:
            self._look_for_base()
        return Window(self._source, self.position, k)

    def close(self) -> None:  # noqa: D102
        self._read_from(None)

    def batch_spec(self) -> Any:  # noqa: D102
        return self.dataset.element_spec

    def state(self) -> dict[str, Any]:  # noqa: D102
        if not self.runs_forward and self._source is not None:
            self._keeps_base = True
            self._look_for_base()
        base = self._base and (self._base.data, self._base.position)
        return super().state() | {
            **{"parts": self._parts, "base": base, "first": self._first},
            "all passes": [*self._earlier, *self._passes()],
        }

    def without_iterators(self, state: dict[str, Any]) -> dict[str, Any]:  # noqa: D102
        return state | {"base": None, "first": None, "passes": state["all passes"]}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: D102
        passes = state["passes"]
        if state["base"] is not None:
            data, position = state["base"]
            self._earlier = state["all passes"][: -len(passes)]
            (epoch, taken), *passes = passes
            self.rewind(epoch)
            set_content(self._source.iterator, data)
            self.position = position
            self._base = Base(data, position, len(self._passes_before))
            self._skip(taken - position)
        for epoch, taken in passes:
            if taken is None:
                self._make_unread()
            else:
                self.seek(epoch, taken)
        self.exhausted = state["exhausted"]

    def check_repeatable(self) -> None:  # noqa: D102
        if self._pipeline is not None:
            check_draws(self._pipeline)
        if self.runs_forward:
            if self._pipeline is not None:
                check_shuffles(self._pipeline)
            return
        self.rewind(0)
        # A part behind a shuffle shows only once it is read, so this alone would not tell.
        content = self._content()
        if content is None:
            self.runs_forward = True
        else:
            self._first = content.data, self._follower(content.data)
            self._base, self._keeps_base = Base(content.data, 0, 0), True

    def check_restorable(self, state: dict[str, Any]) -> None:  # noqa: D102
        if state["parts"] != self._parts:
            raise ValueError(f"{_ANOTHER} Its parts were {state['parts']}, and are {self._parts}.")
        if state["first"] is None:
            return
        self.rewind(0)
        data, follower = state["first"]
        if self.runs_forward:  # it could be told of the snapshot's what it held, and not of this
            raise ValueError(_ANOTHER)
        try:
            if state["base"] is not None:
                set_content(self._source.iterator, state["base"][0])
            set_content(self._source.iterator, data)
            following = self._follower(data)
        except tf.errors.OpError as error:
            raise ValueError(_ANOTHER) from error
        if following != follower:
            warnings.warn(
                "The tf.data pipeline shuffles without a seed, so after the pass that goes on here "
                "the next ones come in another order than without the restart: give shuffle a "
                "seed, or call keras.utils.set_random_seed before the dataset is made.",
                stacklevel=2,
            )

    def finish_pass(self, goes_on: bool) -> None:  # noqa: D102
        if self.steps is None or not self.ended or not self._has_next_order:
            return
        if goes_on:
            self._next = self._next or iter(self._read)
        else:
            self._make_unread()

    def _make_unread(self) -> None:
        """Makes an iterator that nothing is read from."""
        iter(self._read)
        self._unread += ((self.pass_of, None),)

    def _start_pass(self, epoch: int) -> None:
        self._passes_before += self._unread
        self._unread = ()
        self._read_from(self._next or iter(self._read))
        self._next = None

    def _read_from(self, iterator: Any | None) -> None:
        """Reads from another iterator from here on."""
        dropped = [self._source]
        self._source = iterator and IteratorSource(iterator)
        # To end the threads of an iterator that has tuned itself takes up to a second.
        threading.Thread(target=dropped.clear).start()

    def _skip(self, batches: int) -> None:
        try:
            skip(self._source.iterator, tf.constant(batches, tf.int64))
        except tf.errors.OutOfRangeError:
            raise StopIteration from None
        self.position += batches

    def _passes_to_repeat(self) -> list[tuple[int, int]]:
        return self._passes()[0 if self._base is None else self._base.passes :]

    def _passes(self) -> list[tuple[int, int | None]]:
        """Returns the epoch and the batches taken of each pass since the state was restored."""
        current = [] if self.pass_of is None else [(self.pass_of, self.position)]
        return [*self._passes_before, *current, *self._unread]

    @functools.cached_property
    def _parts(self) -> list[str]:
        return [] if self._pipeline is None else parts_of(self._pipeline)

    @functools.cached_property
    def _has_next_order(self) -> bool:
        """Whether one more iterator may change what the next ones give."""
        is_known = isinstance(self.dataset, tf.data.Dataset)
        return not is_known or count_of_shuffles(self._parts) > 0

    def _look_for_base(self) -> None:
        """Makes the place where the feed is the base, if that is due and if it will do."""
        # At the begin of a later pass a shuffle that others read from has no iterator yet.
        is_inside = self.position > 0 or not self._passes_before
        if time.perf_counter() < self._look_again_at or self.ended or not is_inside:
            return
        content = self._content()
        if content is None:
            self.runs_forward, self._keeps_base = True, False
            return
        if content.has_failed:  # a restart is to read again
            return
        self._counted |= content.counted
        is_start = not self.position and not self._passes_before
        if is_start or len(content.counted) >= max(
            count_of_shuffles(self._parts), len(self._counted)
        ):
            self._base = Base(content.data, self.position, len(self._passes_before))

    def _content(self) -> Content | None:
        """Returns what the iterator holds; notes when to look it up again."""
        started = time.perf_counter()
        content = content_of(self._source.iterator)
        ended = time.perf_counter()
        self._look_again_at = ended + _SHARE * (ended - started)
        return content

    def _follower(self, data: np.ndarray) -> str:
        """Returns what tells the iterator after this one, which holds `data`, from others."""
        following = content_of(iter(self._read))
        set_content(self._source.iterator, data)  # the next one counts as not made
        return hashlib.sha256(following.data).hexdigest()


def _prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns `dataset` with its next batches made ahead.

    It is kept with `dataset`: TensorFlow prepares a pipeline when it is first read, which takes as
    long as some hundred small steps where it holds arrays.
    """
    if not hasattr(dataset, PREFETCHED):
        setattr(dataset, PREFETCHED, dataset.prefetch(tf.data.AUTOTUNE))
    return getattr(dataset, PREFETCHED)


def by_policy(dataset: Any, strategy: tf.distribute.Strategy | None) -> Any:
    """Returns `dataset`, split among processes where the policy that its options name says so.

    By `FILE`, `HINT` and `OFF` TensorFlow gives each process batches of its own, and by `AUTO`, the
    default, where it splits files. By `DATA`, and by `AUTO` without files, each process reads all
    batches, and replicas take their rows of them: the batches are those of one device.

    Args:
        dataset: a dataset; one that `tf.distribute` made is taken as it is.
        strategy: the strategy, or `None`.
    """
    if (
        not isinstance(dataset, tf.data.Dataset)
        or strategy is None
        or not spans_processes(strategy)
    ):
        return dataset
    policy = dataset.options().experimental_distribute.auto_shard_policy
    if policy == _POLICIES.DATA or (policy == _POLICIES.AUTO and not reads_files(dataset)):
        return dataset
    return strategy.experimental_distribute_dataset(dataset)


def weigh_classes(dataset: tf.data.Dataset, class_weight: dict[int, float]) -> tf.data.Dataset:
    """Returns `dataset` with the weight of each row's class as its sample weight.

    Args:
        dataset: yields `(x, y)`, `y` class numbers of shape `(n,)` or `(n, 1)` or one-hot rows.
        class_weight: weight by class number; classes without one weigh 1.

    Raises:
        ValueError: the dataset has sample weights already, no target or several, or one of unknown
            rank.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)
    if sample_weight is not None:
        raise ValueError(
            "class_weight was given for a dataset that yields sample weights: give one of them."
        )
    if y is None or tree.is_nested(y):
        raise ValueError("class_weight is for a single target; the dataset yields none or several.")
    if y.shape.rank is None:
        raise ValueError(
            "class_weight needs targets of known rank: class numbers or one-hot rows; call "
            "set_shape on them in the dataset."
        )
    size = max(class_weight, default=0) + 1
    weights = tf.constant([class_weight.get(n, 1.0) for n in range(size)], keras.config.floatx())

    def weigh(*batch: Any) -> tuple:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        classes = _class_numbers(y)
        has_weight = (classes >= 0) & (classes < size)
        weight = tf.gather(weights, tf.where(has_weight, classes, 0))
        return x, y, tf.where(has_weight, weight, tf.ones_like(weight))

    return dataset.map(weigh).prefetch(tf.data.AUTOTUNE)


def _class_numbers(y: tf.Tensor) -> tf.Tensor:
    if y.shape.rank > 1:
        y = tf.cond(
            tf.shape(y)[-1] > 1,
            lambda: tf.argmax(y, axis=-1),
            lambda: tf.cast(tf.round(y[..., 0]), tf.int64),
        )
    return tf.cast(tf.round(y), tf.int32)
