"""Python sources as feeds: batches fetched ahead in threads or processes while a step runs."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from trainer.feeds.ahead import PATIENCE, DaemonThreads, fetched
from trainer.feeds.feed import Batch, Feed
from trainer.feeds.rows import row_order
from trainer.feeds.tensors import as_array, as_tensor, spec_of
from trainer.held import Draws, is_same

tree = keras.tree
_AHEAD = 2  # batches fetched before they are asked for, where the source does not say
_END = object()


class IterableFeed(Feed):
    """Batches that Python hands out one by one; each kind of source says how a pass starts."""

    def __init__(self, pool: concurrent.futures.Executor, ahead: int = _AHEAD):
        self._pool = pool
        self._ahead = ahead
        self._batches: Iterator[Batch] = iter(())
        self._peeked: Batch | None = None

    def calls(self, epoch: int) -> Iterable[Callable[[], Any]]:
        """Returns the calls that fetch the batches of a pass, in their order."""
        raise NotImplementedError

    def _start_pass(self, epoch: int) -> None:
        self._batches, self._peeked = self._fetched(self.calls(epoch)), None

    def next(self) -> Batch:  # noqa: D102
        batch = self._peek()
        self._peeked = None
        self.position += 1
        return batch

    def batch_spec(self) -> Any:  # noqa: D102
        return tree.map_structure(spec_of, self._peek())

    def close(self) -> None:  # noqa: D102
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _peek(self) -> Batch:
        if self._peeked is None:
            self._peeked = next(self._batches)
        return self._peeked

    def _fetched(self, calls: Iterable[Callable[[], Any]]) -> Iterator[Batch]:
        return map(self._ready, fetched(self._pool, calls, self._ahead))

    def _ready(self, batch: Any) -> Batch:
        if isinstance(batch, list):
            batch = tuple(batch)
        return tree.map_structure(as_tensor, batch)


class IteratorFeed(IterableFeed):
    """Batches of a loader that can be iterated over again, or of a generator that cannot.

    Args:
        start: called for each pass, returns an iterator over its batches.
        steps: batches in a pass, `None` where that is not known.
    """

    runs_forward = True

    def __init__(self, start: Callable[[], Iterator[Any]], steps: int | None = None):
        super().__init__(DaemonThreads(1))
        self._start = start
        self.steps = steps

    def calls(self, epoch: int) -> Iterable[Callable[[], Any]]:  # noqa: D102
        return itertools.repeat(functools.partial(next, self._started(), _END))

    def restoring(self, state: dict[str, Any]) -> list[tuple[int, Callable[[], Any]]]:  # noqa: D102
        if not self.runs_forward or "starts" not in state:
            return super().restoring(state)
        last = max(state["starts"], default=0)
        seeks = (functools.partial(self.seek, *place) for place in state["passes"])
        ends = functools.partial(setattr, self, "exhausted", state["exhausted"])
        return [*zip(state["starts"], seeks, strict=True), (last, ends)]

    def _started(self) -> Iterator[Any]:
        # In the thread that fetches: what the last pass fetches ahead may draw from the same seed.
        return self._pool.submit(self._start).result()

    def _fetched(self, calls: Iterable[Callable[[], Any]]) -> Iterator[Batch]:
        return itertools.takewhile(lambda batch: batch is not _END, super()._fetched(calls))

    def _ready(self, batch: Any) -> Batch:
        return batch if batch is _END else super()._ready(batch)


class GrainFeed(IteratorFeed):
    """Batches of a grain dataset or loader, whose iterators tell their state and take it back.

    Args:
        start: called for each pass, returns an iterator over its batches.
    """

    def __init__(self, start: Callable[[], Iterator[Any]]):
        super().__init__(start)
        self._iterator: Any = None
        self._state: Any = None
        self._states_ahead: collections.deque[Any] = collections.deque()

    def calls(self, epoch: int) -> Iterable[Callable[[], Any]]:  # noqa: D102
        self._iterator = self._started()
        return self._calls_from(_state_of(self._iterator))

    def next(self) -> Batch:  # noqa: D102
        batch = super().next()
        self._state = self._states_ahead.popleft()
        return batch

    @property
    def runs_forward(self) -> bool:
        """Whether the iterator has no state to go back to."""
        return self._iterator is not None and self._state is None

    def state(self) -> dict[str, Any]:  # noqa: D102
        return super().state() | {"iterator": self._state}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: D102
        if state["iterator"] is None:
            super().restore(state)
            return
        ((epoch, position),) = state["passes"]
        self.rewind(epoch)
        self._iterator.set_state(state["iterator"])
        self._batches = self._fetched(self._calls_from(state["iterator"]))
        self._peeked = None
        self.position, self.exhausted = position, state["exhausted"]

    def _calls_from(self, state: Any) -> Iterable[Callable[[], Any]]:
        self._state = state
        self._states_ahead.clear()
        return itertools.repeat(functools.partial(_with_state_after, self._iterator))

    def _ready(self, batch: Any) -> Batch:
        if batch is _END:
            return batch
        batch, state = batch
        self._states_ahead.append(state)
        return super()._ready(batch)


def _with_state_after(iterator: Any) -> Any:
    batch = next(iterator, _END)
    return batch if batch is _END else (batch, _state_of(iterator))


def _state_of(iterator: Any) -> Any | None:
    with contextlib.suppress(Exception):  # a dataset of the user's own need not have one
        return iterator.get_state()
    return None


class GeneratorFeed(IteratorFeed):
    """Batches of a generator, which lives once: a new pass goes on where the last one stopped.

    Args:
        generator: yields batches.
        most: how many batches will be asked for, so that none is fetched in vain.
    """

    def __init__(self, generator: Iterator[Any], most: int | None):
        super().__init__(lambda: itertools.islice(generator, most))
        self._batches = super()._fetched(super().calls(epoch=0))

    def _start_pass(self, epoch: int) -> None:
        pass

    def close(self) -> None:  # noqa: D102
        super().close()
        # Whoever uses the generator next should not find it at work in our thread.
        if not self._pool.have_ended(PATIENCE):
            warnings.warn(
                "The generator was asked for a batch ahead and has not given it within "
                f"{PATIENCE:g} seconds, so the call ends without it. Until it comes, to ask the "
                'generator for another one raises "ValueError: generator already executing".',
                stacklevel=2,
            )


class PyDatasetFeed(IterableFeed):
    """Batches of a `keras.utils.PyDataset`, fetched by its workers.

    Args:
        dataset: the data set.
        shuffle: whether each epoch takes the batches in another order.
        seed: the seed of that order.
        class_weight: weight by class number, or `None`.
    """

    def __init__(
        self,
        dataset: keras.utils.PyDataset,
        shuffle: bool,
        seed: int,
        class_weight: dict[int, float] | None,
    ):
        ahead = dataset.max_queue_size if dataset.workers > 1 else _AHEAD
        super().__init__(_workers(dataset), ahead)
        self._dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self._class_weight = class_weight
        self._in_processes = dataset.use_multiprocessing and dataset.workers > 0
        # One thread fetches in order, so what it draws can be had again.
        self._draws = Draws(dataset) if dataset.workers <= 1 and not self._in_processes else None
        self._drawn: dict[str, Any] = {}  # what the batches taken have left of the generators
        self._drawn_ahead: collections.deque[dict[str, Any]] = collections.deque()
        self._epochs_began = self._epochs_ended = 0

    @property
    def steps(self) -> int | None:
        """Batches in a pass; a data set may change it from epoch to epoch."""
        return self._dataset.num_batches

    @property
    def infinite(self) -> bool:
        """Whether the data set has no length."""
        return self._dataset.num_batches is None

    def _start_pass(self, epoch: int) -> None:
        if self._in_processes:
            # Processes have a copy of the data set: each pass needs it as it is then.
            self.close()
            self._pool = _workers(self._dataset)
        self._drawn_ahead.clear()
        super()._start_pass(epoch)

    def next(self) -> Batch:  # noqa: D102
        batch = super().next()
        if self._draws is not None:
            self._drawn |= self._drawn_ahead.popleft()
        return batch

    def calls(self, epoch: int) -> Iterable[Callable[[], Any]]:  # noqa: D102
        if self._in_processes:
            return (functools.partial(_held_batch, number) for number in self._numbers(epoch))
        fetch = self._dataset.__getitem__
        if self._draws is not None:
            fetch = functools.partial(_with_draws, self._draws, fetch)
        return (functools.partial(fetch, number) for number in self._numbers(epoch))

    def _skip(self, batches: int) -> None:
        self._drawn_ahead.clear()
        calls = itertools.islice(self.calls(self.pass_of), batches, None)
        self._batches, self._peeked = self._fetched(calls), None
        self.position = batches

    def epoch_began(self) -> None:  # noqa: D102
        self._epochs_began += 1
        self._dataset.on_epoch_begin()

    def epoch_ended(self) -> None:  # noqa: D102
        if self._epochs_ended < self._epochs_began:  # or it had ended before a restart
            self._epochs_ended += 1
            self._dataset.on_epoch_end()

    def state(self) -> dict[str, Any]:  # noqa: D102
        epochs = {"epochs_began": self._epochs_began, "epochs_ended": self._epochs_ended}
        drawn = self._drawn
        if self._drawn and (self.ended or not self.position):  # nothing is being fetched ahead
            now = self._draws.state()
            drawn = {path: now[path] for path in self._drawn}
        return super().state() | epochs | {"drawn": drawn}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: D102
        # A data set may change itself in its hooks: they are called as often.
        for epoch in range(state["epochs_began"]):
            self.epoch_began()
            if epoch < state["epochs_ended"]:
                self.epoch_ended()
        self.pass_of = None
        super().restore(state)
        self.restore_draws(state)

    def restore_draws(self, state: dict[str, Any]) -> None:  # noqa: D102
        if self._draws is not None:
            self._draws.set_state(state.get("drawn", {}))
            self._drawn = state.get("drawn", {})

    def _numbers(self, epoch: int) -> Iterable[int]:
        if self.steps is None:
            return itertools.count()
        order = row_order(self.steps, 1, self.shuffle, self.seed, epoch)
        return range(self.steps) if order is None else map(int, order)

    def _ready(self, batch: Any) -> Batch:
        if self._draws is not None:
            batch, drawn = batch
            self._drawn_ahead.append(drawn)
        batch = (batch,) if hasattr(batch, "__array__") else batch
        if self._class_weight is not None and isinstance(batch, (tuple, list)):
            batch = weigh_batch(batch, self._class_weight)
        return super()._ready(batch)


def weigh_batch(batch: tuple | list, class_weight: dict[int, float]) -> tuple:
    """Returns `batch`, `(x, y)`, with the weight of each row's class as third part."""
    if len(batch) == 3:
        raise ValueError(
            "class_weight was given for batches that have sample weights: give one of them."
        )
    return (*batch, class_weights(batch[1], class_weight)) if len(batch) == 2 else tuple(batch)


def class_weights(y: Any, class_weight: dict[int, float]) -> np.ndarray:
    """Returns the weight of each row's class.

    Args:
        y: class numbers of shape `(n,)` or `(n, 1)`, or one-hot rows `(n, classes)`.
        class_weight: weight by class number; classes without one weigh 1.

    Returns:
        Array of n weights in `keras.config.floatx()`.
    """
    labels = np.asarray(as_array(y))
    if labels.ndim > 1:
        labels = labels[..., 0] if labels.shape[-1] == 1 else np.argmax(labels, axis=-1)
    numbers, places = np.unique(np.round(labels).astype(np.int64), return_inverse=True)
    weights = [class_weight.get(int(number), 1.0) for number in numbers]
    return np.asarray(weights, keras.config.floatx())[places]


def _workers(dataset: keras.utils.PyDataset) -> concurrent.futures.Executor:
    if dataset.use_multiprocessing and dataset.workers > 0:
        return concurrent.futures.ProcessPoolExecutor(
            dataset.workers, initializer=_hold, initargs=(dataset,)
        )
    return DaemonThreads(max(1, dataset.workers))


def _with_draws(draws: Draws, fetch: Callable[[int], Any], number: int) -> tuple[Any, dict]:
    """Returns a batch, and the states of the generators that it has drawn from."""
    before = draws.state()
    batch = fetch(number)
    after = draws.state()
    return batch, {path: after[path] for path in after if not is_same(after[path], before[path])}


_held: list[keras.utils.PyDataset] = []  # in a worker process: the data set it serves


def _hold(dataset: keras.utils.PyDataset) -> None:
    _held[:] = [dataset]


def _held_batch(number: int) -> Any:
    return _held[0][number]
