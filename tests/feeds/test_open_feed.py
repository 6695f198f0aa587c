"""Which feed is opened for which data, and which arguments are refused."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tensorflow as tf

from tests.helpers.data import labels, memmap_of, numbers
from tests.helpers.feeds import assert_equal, in_batches, one_pass
from tests.helpers.tables import each
from trainer.feeds import Feed, open_feed
from trainer.feeds.arrays import ArrayFeed
from trainer.feeds.datasets import DatasetFeed
from trainer.feeds.iterables import GeneratorFeed, GrainFeed, IteratorFeed, PyDatasetFeed
from trainer.feeds.streamed import StreamedFeed

ROWS = 10
X, Y, W = numbers(ROWS, 2), labels(ROWS), np.abs(numbers(ROWS, seed=1))


@contextlib.contextmanager
def opened(*data: Any, **how: Any):
    with contextlib.closing(open_feed(*data, **how)) as feed:
        yield feed


class Halves(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, number):
        return X[5 * number : 5 * number + 5], Y[5 * number : 5 * number + 5]


def halves():
    yield from (Halves()[number] for number in range(2))


def dataset() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(5)


def torch_data() -> Any:
    return pytest.importorskip("torch.utils.data", reason="needs the extra `conformance`")


def torch_loader() -> Iterable:
    torch = pytest.importorskip("torch", reason="needs the extra `conformance`")
    parts = torch_data().TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch_data().DataLoader(parts, batch_size=5)


def torch_stream() -> Iterable:
    class Stream(torch_data().IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y, strict=True))

    return torch_data().DataLoader(Stream(), batch_size=5)


def grain_dataset() -> Any:
    grain = pytest.importorskip("grain", reason="needs the extra `conformance`")
    return grain.MapDataset.source(list(zip(X, Y, strict=True))).batch(5)


def grain_loader() -> Any:
    grain = pytest.importorskip("grain", reason="needs the extra `conformance`")
    return grain.DataLoader(
        data_source=list(zip(X, Y, strict=True)),
        sampler=grain.samplers.SequentialSampler(ROWS),
        operations=[grain.transforms.Batch(5)],
    )


SOURCES: dict[str, tuple[Callable[[], Any], type[Feed], int | None, bool]] = {
    # what is given as x, its feed, its steps, whether it can be gone through again
    "tf.data": (dataset, DatasetFeed, 2, True),
    "PyDataset": (Halves, PyDatasetFeed, 2, True),
    "generator": (halves, GeneratorFeed, None, False),
    "iterator": (lambda: iter([*halves()]), GeneratorFeed, None, False),
    "zip": (lambda: zip([X[:5], X[5:]], [Y[:5], Y[5:]], strict=True), GeneratorFeed, None, False),
    "iterator of tf.data": (lambda: iter(dataset()), GeneratorFeed, None, False),
    "torch DataLoader": (torch_loader, IteratorFeed, 2, True),
    "torch DataLoader without length": (torch_stream, IteratorFeed, None, True),
    "grain MapDataset": (grain_dataset, GrainFeed, None, True),
    "grain IterDataset": (lambda: grain_dataset().to_iter_dataset(), GrainFeed, None, True),
    "grain DataLoader": (grain_loader, GrainFeed, None, True),
}


@pytest.mark.parametrize(("make", "kind", "steps", "again"), **each(SOURCES))
def test_sources(make, kind, steps, again):
    with opened(make()) as feed:
        assert type(feed) is kind
        assert (feed.steps, feed.infinite) == (steps, False)
        for epoch in range(2 if again else 1):
            batches = one_pass(feed, epoch)
            assert all(isinstance(batch, tuple) for batch in batches)
            for batch, expected in zip(batches, in_batches((X, Y), 5), strict=True):
                assert_equal(batch, expected)


ARRAYS = {
    "NumPy": (X,),
    "with targets": (X, Y),
    "with weights": (X, Y, W),
    "weights without targets": (X, None, W),
    "structures": ({"a": X, "b": [X, None]}, (Y, Y)),
    "tensor": (tf.constant(X), tf.constant(Y)),
    "ragged": (tf.ragged.constant([[1]] * ROWS), Y),
    "sparse": (tf.sparse.from_dense(X), Y),
    "scipy": (scipy.sparse.csr_matrix(X),),
    "frame": (pd.DataFrame(X), pd.Series(Y), pd.Series(W)),
}


@pytest.mark.parametrize("data", **each(ARRAYS))
def test_arrays(data):
    with opened(*data, batch_size=4) as feed:
        assert type(feed) is ArrayFeed
        assert (feed.steps, feed.infinite) == (3, False)
        assert len(one_pass(feed)) == 3


GIVEN = {  # as Keras packs them
    "x": ((X,), X),
    "x in a list": (([X, X],), ((X, X),)),
    "x in a dict": (({"a": X},), {"a": X}),
    "x and y": ((X, Y), (X, Y)),
    "all": ((X, Y, W), (X, Y, W)),
    "weights without targets": ((X, None, W), X),
}


@pytest.mark.parametrize(("data", "batch"), **each(GIVEN))
def test_a_batch_has_the_parts_that_were_given(data, batch):
    with opened(*data, batch_size=ROWS) as feed:
        (whole,) = one_pass(feed)
    assert_equal(whole, batch)


SIZES = {
    "neither": ({}, 90, [32, 32, 26]),
    "batch_size": ({"batch_size": 50}, 90, [50, 40]),
    "steps": ({"steps": 4}, 90, [23, 23, 23, 21]),
    "more steps than rows": ({"steps": 9}, 4, [1, 1, 1, 1]),
    "both": ({"batch_size": 40, "steps": 9}, 90, [40, 40, 10]),
}


@pytest.mark.parametrize(("how", "rows", "sizes"), **each(SIZES))
def test_how_arrays_are_cut(how, rows, sizes):
    with opened(np.arange(rows), **how) as feed:
        batches = one_pass(feed)
    assert [len(x.numpy()) for x in batches] == sizes
    np.testing.assert_array_equal(np.concatenate(batches), np.arange(rows))


MAPPED = {
    "x": lambda folder: (memmap_of(X, folder), Y),
    "y": lambda folder: (X, memmap_of(X, folder)),
    "weights": lambda folder: (X, Y, memmap_of(X, folder)[:, 0]),
    "in a structure": lambda folder: ({"a": X, "b": [memmap_of(X, folder)]}, Y),
    "part of one": lambda folder: (memmap_of(X, folder)[:, 1],),
    "as a plain array": lambda folder: (np.asarray(memmap_of(X, folder)), Y),
    "a view of a part": lambda folder: (np.asarray(memmap_of(X, folder)[1:])[::2],),
}


@pytest.mark.parametrize("make", **each(MAPPED))
def test_arrays_on_disk(make, tmp_path):
    with opened(*make(tmp_path)) as feed:
        assert type(feed) is StreamedFeed


def test_a_copy_of_an_array_on_disk_is_in_memory(tmp_path):
    with opened(memmap_of(X, tmp_path) + 1) as feed:
        assert type(feed) in (ArrayFeed, StreamedFeed)  # `+` gives a memmap without a file
        assert_equal(one_pass(feed), [X + 1])
    with opened(np.array(memmap_of(X, tmp_path))) as feed:
        assert type(feed) is ArrayFeed


BUDGETS = {  # X has 80 bytes, Y has 80
    "more": ((X, Y), 161, ArrayFeed),
    "just enough": ((X, Y), 160, ArrayFeed),
    "less": ((X, Y), 159, StreamedFeed),
    "none": ((X,), 0, StreamedFeed),
    "in a structure": (({"a": X, "b": [X]}, Y), 200, StreamedFeed),
    "weights": ((X, Y, W), 199, StreamedFeed),
    "a frame": ((pd.DataFrame(X), Y), 100, StreamedFeed),
    "what is there already": ((tf.constant(X), tf.constant(Y)), 0, ArrayFeed),
    "tensors beside": ((tf.constant(X), Y), 80, ArrayFeed),
    "sparse": ((tf.sparse.from_dense(X), tf.constant(Y)), 0, ArrayFeed),
    "ragged": ((tf.ragged.constant([[1]] * ROWS), tf.constant(Y)), 0, ArrayFeed),
}


@pytest.mark.parametrize(("data", "budget", "kind"), **each(BUDGETS))
def test_arrays_that_are_too_large_are_streamed(data, budget, kind):
    with opened(*data, batch_size=4, budget=budget) as feed:
        assert type(feed) is kind
        assert len(one_pass(feed)) == feed.steps == 3


def test_without_a_budget_a_cpu_holds_arrays_of_16_mb_as_a_whole():
    for rows, kind in ((2**22, ArrayFeed), (2**22 + 1, StreamedFeed)):
        with opened(np.zeros(rows, "float32"), batch_size=2**20) as feed:
            assert type(feed) is kind


def test_a_dataset_has_no_budget():
    with opened(dataset(), budget=0) as feed:
        assert type(feed) is DatasetFeed


@pytest.mark.parametrize("make", [lambda: (X, Y), lambda: (Halves(),)], ids=["arrays", "PyDataset"])
def test_the_order_follows_from_shuffle_and_seed(make):
    def orders(**how: Any) -> list[list[int]]:
        with opened(*make(), **how) as feed:
            return [
                [int(label) for _, y in one_pass(feed, epoch) for label in y] for epoch in range(3)
            ]

    assert orders() == orders(shuffle=False, seed=9) == [list(Y)] * 3
    assert orders(shuffle=True, seed=3) == orders(shuffle=True, seed=3)
    assert orders(shuffle=True, seed=3) != orders()
    assert all(sorted(order) == sorted(Y) for order in orders(shuffle=True))


def test_batch_shuffling_keeps_rows_in_their_batch():
    with opened(np.arange(ROWS), batch_size=5, shuffle="batch") as feed:
        for x, expected in zip(one_pass(feed), in_batches(np.arange(ROWS), 5), strict=True):
            assert sorted(x.numpy()) == list(expected)


# Weights

CLASS_WEIGHT = {0: 0.5, 2: 3.0}
WEIGHED = np.array([CLASS_WEIGHT.get(int(label), 1.0) for label in Y], "float32")
WEIGHABLE = {
    "arrays": lambda: (X, Y),
    "frames": lambda: (pd.DataFrame(X), pd.Series(Y)),
    "tensors": lambda: (tf.constant(X), tf.constant(Y)),
    "tf.data": lambda: (dataset(),),
    "PyDataset": lambda: (Halves(),),
}


@pytest.mark.parametrize("make", **each(WEIGHABLE))
def test_class_weight(make):
    with opened(*make(), class_weight=CLASS_WEIGHT, batch_size=5) as feed:
        weights = np.concatenate([batch[2] for batch in one_pass(feed)])
    np.testing.assert_array_equal(weights, WEIGHED)


def test_class_weight_of_a_memmap(tmp_path):
    with opened(memmap_of(X, tmp_path), Y, class_weight=CLASS_WEIGHT) as feed:
        assert type(feed) is StreamedFeed
        assert_equal(one_pass(feed), [(X, Y, WEIGHED)])


TARGETS = {"a": Y, "b": [Y, Y]}
STRUCTURES = {
    "one for all": (W, {"a": W, "b": [W, W]}),
    "a column for all": (W[:, None], {"a": W[:, None], "b": [W[:, None], W[:, None]]}),
    "a series for all": (pd.Series(W), {"a": W[:, None], "b": [W[:, None], W[:, None]]}),
    "one each": ({"a": W, "b": [2 * W, 3 * W]}, {"a": W, "b": [2 * W, 3 * W]}),
}


@pytest.mark.parametrize(("given", "expected"), **each(STRUCTURES))
def test_weights_of_several_targets(given, expected):
    with opened(X, TARGETS, given, batch_size=ROWS) as feed:
        ((_, _, weights),) = one_pass(feed)
    assert_equal(weights, {"a": expected["a"], "b": tuple(expected["b"])})


# Refusals

Opened = Callable[[], Feed]
BESIDE = "let the {0} yield (x, y) or (x, y, sample_weight) instead."
REFUSED: dict[str, tuple[Opened, str]] = {
    "nothing": (lambda: open_feed(None), "x is missing: give arrays, a tf.data.Dataset or a"),
    "targets alone": (lambda: open_feed(None, Y), "x is missing: give arrays"),
    "list of numbers": (
        lambda: open_feed([[1, 2], [3, 4]]),
        "x is of type list: expected arrays, a structure of arrays, a tf.data.Dataset, a "
        "keras.utils.PyDataset, a generator, a torch DataLoader or a grain dataset; for nested "
        "Python lists of numbers, call numpy.array on them first.",
    ),
    "string": (lambda: open_feed("data.csv"), "x is of type str: expected arrays"),
    "number": (lambda: open_feed(3), "x is of type int: expected arrays"),
    "generator function": (lambda: open_feed(halves), "x is a generator function: call it"),
    "list of batches": (lambda: open_feed([(1, 2), (3, 4)]), "x is of type list: expected arrays"),
    "list of targets": (lambda: open_feed(X, [0] * ROWS), "y is of type list"),
    "list of weights": (lambda: open_feed(X, Y, [1.0] * ROWS), "sample_weight is of type list"),
    **{
        f"y beside a {name}": (
            lambda make=make: open_feed(make(), Y),
            f"y was given beside a {kind}: {BESIDE.format(kind)}",
        )
        for name, make, kind in [
            ("tf.data.Dataset", dataset, "tf.data.Dataset"),
            ("PyDataset", Halves, "PyDataset"),
            ("generator", halves, "generator"),
            ("torch DataLoader", torch_loader, "torch DataLoader"),
            ("grain dataset", grain_dataset, "grain dataset"),
        ]
    },
    "weights beside tf.data": (
        lambda: open_feed(dataset(), None, W),
        f"sample_weight was given beside a tf.data.Dataset: {BESIDE.format('tf.data.Dataset')}",
    ),
    **{
        f"class_weight beside a {name}": (
            lambda make=make: open_feed(make(), class_weight=CLASS_WEIGHT),
            f"class_weight was given beside a {kind}: {BESIDE.format(kind)}",
        )
        for name, make, kind in [
            ("generator", halves, "generator"),
            ("torch DataLoader", torch_loader, "torch DataLoader"),
            ("grain dataset", grain_dataset, "grain dataset"),
        ]
    },
    "class_weight and sample_weight": (
        lambda: open_feed(X, Y, W, class_weight=CLASS_WEIGHT),
        "class_weight and sample_weight were both given: give one of them.",
    ),
    "class_weight of several targets": (
        lambda: open_feed(X, {"a": Y}, class_weight=CLASS_WEIGHT),
        "class_weight is for a single target; y has none or several.",
    ),
    "class_weight without targets": (
        lambda: open_feed(X, class_weight=CLASS_WEIGHT),
        "class_weight",
    ),
    "weights of other targets": (
        lambda: open_feed(X, TARGETS, {"a": W}),
        "sample_weight and y differ in structure: give one array of weights for all targets",
    ),
    "weights for some of the targets": (
        lambda: open_feed(X, [Y, Y], [W]),
        "sample_weight and y differ in structure",
    ),
    "wide weights of several targets": (
        lambda: open_feed(X, [Y, Y], np.ones((ROWS, 2))),
        f"sample_weight has shape ({ROWS}, 2) for several targets: give one weight a row, of shape "
        f"({ROWS},), or one array for each target in the structure of y.",
    ),
    "fewer targets": (lambda: open_feed(X, Y[:7]), "x has 10 rows, y has 7 rows: every array"),
    "fewer weights": (
        lambda: open_feed(X, Y, W[:7]),
        "x has 10 rows, y has 10 rows, sample_weight has 7 rows: every array",
    ),
    "fewer weights of several targets": (
        lambda: open_feed(X, [Y, Y], W[:7]),
        "x has 10 rows, y/0 has 10 rows, y/1 has 10 rows, sample_weight has 7 rows",
    ),
    "no rows": (lambda: open_feed(X[:0], Y[:0]), "x has no rows"),
    "weights in tf.data": (
        lambda: open_feed(tf.data.Dataset.from_tensors((X, Y, W)), class_weight=CLASS_WEIGHT),
        "class_weight was given for a dataset that yields sample weights: give one of them.",
    ),
}


@pytest.mark.parametrize(("open_it", "message"), **each(REFUSED))
def test_refusals(open_it, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        open_it()
    assert "\n" not in str(caught.value)


def test_weights_in_a_py_dataset_are_refused_beside_class_weight():
    class Weighed(Halves):
        def __getitem__(self, number):
            return (*super().__getitem__(number), np.ones(5))

    with opened(Weighed(), class_weight=CLASS_WEIGHT) as feed:
        feed.rewind(0)
        with pytest.raises(ValueError, match="sample weights: give one of them"):
            feed.next()
