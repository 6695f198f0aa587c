"""`tf.data` as a feed: the iterator is read inside the graph."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer.feeds.feed import Batch, Feed, Window

tree = keras.tree
_PREFETCHED = "_prefetched_for_trainer"


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


class _IteratorFeed(Feed):
    """A feed with an iterator that graphs read."""

    is_in_graph = True
    _source: IteratorSource | None = None

    def window(self, k: int) -> Window:  # noqa: D102
        return Window(self._source, self.position, k)

    def close(self) -> None:  # noqa: D102
        self._read_from(None)

    def _read_from(self, iterator: Any | None) -> None:
        """Reads from another iterator from here on."""
        dropped = [self._source]
        self._source = iterator and IteratorSource(iterator)
        # To end the threads of an iterator that has tuned itself takes up to a second.
        threading.Thread(target=dropped.clear).start()


class DatasetFeed(_IteratorFeed):
    """Batches of a `tf.data.Dataset` or a `tf.distribute.DistributedDataset`."""

    def __init__(self, dataset: Any):
        cardinality = dataset.cardinality
        # A method of a dataset, a number on a distributed one.
        count = int(cardinality() if callable(cardinality) else cardinality)
        self.dataset = dataset
        self._read = _prefetched(dataset) if isinstance(dataset, tf.data.Dataset) else dataset
        self.steps = count if count >= 0 else None
        self.infinite = count == tf.data.INFINITE_CARDINALITY

    def _start_pass(self, epoch: int) -> None:
        self._read_from(iter(self._read))

    def batch_spec(self) -> Any:  # noqa: D102
        return self.dataset.element_spec


class ReplicatedFeed(_IteratorFeed):
    """Batches of another feed, each split among the replicas of a strategy."""

    def __init__(self, feed: Feed, strategy: tf.distribute.Strategy):
        self._feed = feed
        self._strategy = strategy
        self.steps = feed.steps
        self.infinite = feed.infinite

    def _start_pass(self, epoch: int) -> None:
        self._feed.rewind(epoch)
        replicated = self._strategy.experimental_distribute_dataset(self._dataset())
        self._read_from(iter(replicated))

    def batch_spec(self) -> Any:  # noqa: D102
        return self._feed.batch_spec()

    def epoch_began(self) -> None:  # noqa: D102
        self._feed.epoch_began()

    def epoch_ended(self) -> None:  # noqa: D102
        self._feed.epoch_ended()

    def close(self) -> None:  # noqa: D102
        super().close()
        self._feed.close()

    def _dataset(self) -> tf.data.Dataset:
        if isinstance(self._feed, DatasetFeed):
            return self._feed.dataset
        return tf.data.Dataset.from_generator(
            self._remaining_batches, output_signature=self._feed.batch_spec()
        )

    def _remaining_batches(self) -> Any:
        while True:
            try:
                yield self._feed.next()
            except StopIteration:
                return


def _prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns `dataset` with its next batches made ahead.

    It is kept with `dataset`: TensorFlow prepares a pipeline when it is first read, which takes as
    long as some hundred small steps where it holds arrays.
    """
    if not hasattr(dataset, _PREFETCHED):
        setattr(dataset, _PREFETCHED, dataset.prefetch(tf.data.AUTOTUNE))
    return getattr(dataset, _PREFETCHED)


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
