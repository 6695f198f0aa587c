"""A feed set to the state of another one gives what that one gives, in later passes too."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import ReorderedBatches, numbers
from tests.helpers.feeds import iter_rest_of
from tests.helpers.tables import names_of
from trainer.feeds import Feed, datasets, open_feed

ROWS, MOST, PASSES = 48, 20, 4  # at most so many batches of a pass are taken
NUMBERS = np.arange(ROWS, dtype="float32")


def rows(count: int = ROWS) -> tf.data.Dataset:
    return tf.data.Dataset.range(count)


def plus_one(number):
    return number + 1


def through_python(number):
    return tf.ensure_shape(tf.numpy_function(lambda n: n * 2, [number], tf.int64), number.shape)


PIPELINES: dict[str, Callable[[], Any]] = {
    "no shuffle": lambda: rows().batch(4),
    "shuffle": lambda: rows().shuffle(10, seed=3).batch(4),
    "a buffer for all rows": lambda: rows().shuffle(ROWS, seed=3).batch(4),
    "fewer batches than are made ahead": lambda: rows(6).shuffle(4, seed=3).batch(4),
    "unknown length": lambda: rows().shuffle(10, seed=3).batch(4).filter(lambda n: n[0] != 7),
    "repeat after shuffle": lambda: rows().shuffle(10, seed=3).repeat(2).batch(5),
    "shuffle after repeat": lambda: rows().repeat(2).shuffle(10, seed=3).batch(5),
    "one order": lambda: rows().shuffle(9, seed=3, reshuffle_each_iteration=False).batch(4),
    "cache": lambda: rows().cache().shuffle(10, seed=3).batch(4),
    "parallel": lambda: rows().shuffle(10, seed=3).map(plus_one, num_parallel_calls=2).batch(4),
    "shuffles one in the other": lambda: rows().shuffle(9, seed=3).batch(2).shuffle(3, seed=4),
    "shuffles side by side": lambda: tf.data.Dataset.zip(
        rows().shuffle(10, seed=3), rows(30).shuffle(4, seed=1)
    ).batch(4),
    "shuffles one after the other": lambda: (
        rows().shuffle(10, seed=3).concatenate(rows().shuffle(4, seed=1)).batch(6)
    ),
    "interleave": lambda: (
        rows(5)
        .shuffle(5, seed=1)
        .interleave(lambda n: rows().map(lambda m: 100 * n + m), num_parallel_calls=2)
        .shuffle(20, seed=2)
        .batch(20)
    ),
    "drawn rows": lambda: (
        tf.data.Dataset.random(seed=3, rerandomize_each_iteration=True).take(ROWS).batch(4)
    ),
    "mixed datasets": lambda: tf.data.Dataset.sample_from_datasets(
        [rows().shuffle(5, seed=1), rows()], seed=4
    ).batch(6),
    "Python in the pipeline": lambda: rows().shuffle(10, seed=3).batch(4).map(through_python),
}


def of_generator() -> Iterator[np.ndarray]:
    for number in itertools.count():
        yield np.full((2, 3), number, "float32")


def of_torch() -> Any:
    torch = pytest.importorskip("torch")
    order = torch.Generator().manual_seed(3)
    data = torch.utils.data.TensorDataset(torch.arange(ROWS))
    return torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, generator=order)


def of_grain(**how: Any) -> Any:
    grain = pytest.importorskip("grain")
    return grain.MapDataset.range(ROWS).shuffle(seed=1).batch(4)


SOURCES: dict[str, Callable[[], Any]] = {
    **PIPELINES,
    "arrays": lambda: numbers(ROWS, 3),
    "PyDataset": lambda: ReorderedBatches(NUMBERS, 4),
    "PyDataset, three workers": lambda: ReorderedBatches(NUMBERS, 4, workers=3),
    "generator": of_generator,
    "torch DataLoader": of_torch,
    "grain MapDataset": of_grain,
    "grain IterDataset": lambda: of_grain().to_iter_dataset(),
}


def opened(name: str, seed: int = 1) -> Feed:
    return open_feed(SOURCES[name](), batch_size=4, shuffle=True, seed=seed)


def epoch_of(feed: Feed, epoch: int) -> Iterator[Any]:
    feed.epoch_began()
    feed.rewind(epoch)
    yield from rest_of_epoch(feed)


def rest_of_epoch(feed: Feed) -> Iterator[Any]:
    yield from itertools.islice(iter_rest_of(feed), MOST - feed.position)
    feed.finish_pass(goes_on=False)
    feed.epoch_ended()


DEFAULT = (
    *("arrays", "PyDataset", "PyDataset, three workers", "generator", "shuffle", "one order"),
    *("repeat after shuffle", "Python in the pipeline", "drawn rows"),
)


@pytest.mark.parametrize("name", names_of(SOURCES, DEFAULT))
def test_it_goes_on_as_the_other_one(monkeypatch, name):
    draws = random.Random(name)
    for _ in range(4):
        # Whether the content of an iterator is looked up at each place, or hardly ever.
        monkeypatch.setattr(datasets, "_SHARE", draws.choice([0, 5000]))
        with contextlib.closing(opened(name)) as feed:
            feed.check_repeatable()
            batches, states = [], []
            for epoch in range(PASSES):
                batches.append([])
                for batch in epoch_of(feed, epoch):
                    batches[-1].append(batch)
                    if draws.random() < 0.1:
                        time.sleep(draws.choice([0, 0.003]))  # to make batches ahead, or not
                        states.append((epoch, len(batches[-1]), feed.state()))
                if draws.random() < 0.6:
                    states.append((epoch, None, feed.state()))
        for epoch, position, state in draws.sample(states, min(3, len(states))):
            with contextlib.closing(opened(name, seed=2)) as other:
                other.check_repeatable()
                other.check_restorable(state)
                other.restore(state)
                if position is not None:
                    assert_same(list(rest_of_epoch(other)), batches[epoch][position:])
                for later in range(epoch + 1, PASSES):
                    assert_same(list(epoch_of(other, later)), batches[later], at=f"pass {later}")


def test_the_check_takes_nothing_and_changes_no_order():
    for name in PIPELINES:
        with contextlib.closing(opened(name)) as feed, contextlib.closing(opened(name)) as other:
            feed.check_repeatable()
            for epoch in range(2):
                assert_same(list(epoch_of(feed, epoch)), list(epoch_of(other, epoch)), at=name)
