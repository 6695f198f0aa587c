"""Feeds: batches with a length and a position, whatever the data come as."""

from __future__ import annotations

import collections.abc
import inspect
import math
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.feeds.arrays import ArrayFeed
from trainer.feeds.datasets import DatasetFeed, weigh_classes
from trainer.feeds.feed import (
    Batch,
    Feed,
    PartOfBatch,
    Source,
    Window,
    restore_together,
    rows_at_hand,
)
from trainer.feeds.iterables import (
    GeneratorFeed,
    GrainFeed,
    IteratorFeed,
    PyDatasetFeed,
    class_weights,
)
from trainer.feeds.memory import free_bytes
from trainer.feeds.rows import WHOLE, Part, as_arrays, row_count, split_rows
from trainer.feeds.streamed import StreamedFeed, is_on_disk
from trainer.feeds.tensors import as_array, byte_size, is_array, spec_of

__all__ = [
    "Batch",
    "Feed",
    "Part",
    "PartOfBatch",
    "Source",
    "Window",
    "are_arrays",
    "are_alike",
    "as_array",
    "class_weights",
    "open_feed",
    "restore_together",
    "rows_at_hand",
    "spec_of",
    "split_arrays",
]

tree = keras.tree

_COPY_ON_CPU = 2**24  # bytes; a CPU reads larger arrays faster where they are


def open_feed(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    steps: int | None = None,
    most: int | None = None,
    shuffle: bool | str = False,
    class_weight: dict[int, float] | None = None,
    seed: int = 0,
    budget: int | None = None,
    part: Part = WHOLE,
    strategy: tf.distribute.Strategy | None = None,
) -> Feed:
    """Returns the feed for data given as `fit`, `evaluate` and `predict` take them.

    Args:
        x: arrays, a structure of arrays, or a source of batches.
        y: targets, for arrays only.
        sample_weight: weights of the rows, for arrays only.
        batch_size: rows a batch, for arrays only; 32 where neither it nor `steps` is given.
        steps: steps an epoch; arrays without a `batch_size` are cut into so many batches.
        most: how many batches will be asked for in all, `None` where that is open.
        shuffle: as `fit` takes it.
        class_weight: as `fit` takes it.
        seed: seed of the order of arrays and of `keras.utils.PyDataset`.
        budget: bytes of arrays that a copy on the device may take; larger ones are read in chunks.
            Where it is `None`, a quarter of the free memory on an accelerator, 16 MiB on a CPU.
        part: what this process reads of each batch of arrays.
        strategy: splits a `tf.data.Dataset` among processes where its policy says so.

    Raises:
        ValueError: the data are of no known kind, or an argument does not go with them.
    """
    if x is None:
        raise ValueError("x is missing: give arrays, a tf.data.Dataset or a source of batches.")
    if are_arrays(x):
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if not are_arrays(value):
                raise ValueError(_unknown(name, value))
        data = _batch_of_arrays(x, y, sample_weight, class_weight)
        if batch_size is None and steps:
            rows = row_count(keras.utils.unpack_x_y_sample_weight(data))
            batch_size = math.ceil(rows / steps)
        kind = ArrayFeed if _is_kept_whole(data, budget) else StreamedFeed
        return kind(data, batch_size or 32, shuffle, seed, part)
    kind = _kind(x)
    _refuse(kind, y=y, sample_weight=sample_weight)
    if kind == "tf.data.Dataset":
        x = x if class_weight is None else weigh_classes(x, class_weight)
        return DatasetFeed(x, strategy)
    return _source_feed(kind, x, most, shuffle, class_weight, seed)


def are_alike(spec: Any, other: Any) -> bool:
    """Returns whether batches have x and y of the same structure, types and shapes but the rows."""
    leaves, others = (tree.flatten_with_path(_inputs_and_targets(each)) for each in (spec, other))
    return len(leaves) == len(others) and all(
        path == other_path and _of_a_row(leaf) == _of_a_row(other_leaf)
        for (path, leaf), (other_path, other_leaf) in zip(leaves, others, strict=True)
    )


def _inputs_and_targets(spec: Any) -> tuple:
    return keras.utils.unpack_x_y_sample_weight(spec)[:2]


def _of_a_row(spec: Any) -> Any:
    """Returns what a spec says of a row: its type and shape."""
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None:
        return spec
    return spec.dtype, spec.shape[1:].as_list() if spec.shape.rank else []


def _batch_of_arrays(
    x: Any, y: Any, sample_weight: Any, class_weight: dict[int, float] | None
) -> Any:
    """Returns all rows, laid out as a batch."""
    x, y, sample_weight = as_arrays((x, y, sample_weight))
    row_count((x, y, sample_weight))
    if class_weight is not None:
        if sample_weight is not None:
            raise ValueError("class_weight and sample_weight were both given: give one of them.")
        if y is None or tree.is_nested(y):
            raise ValueError("class_weight is for a single target; y has none or several.")
        sample_weight = class_weights(y, class_weight)
    elif sample_weight is not None:
        sample_weight = _weights_per_target(y, sample_weight)
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


def split_arrays(data: tuple, fraction: float) -> tuple[Any, Any]:
    """Returns `data` without its last rows, and these: `fraction` of all, as Keras counts them.

    Args:
        data: x, y and sample weights.
        fraction: share of the rows in the second part, between 0 and 1.

    Raises:
        ValueError: the data are no arrays, or `fraction` leaves one part without rows.
        TypeError: `fraction` is no number.
    """
    for name, part in zip(("x", "y", "sample_weight"), data, strict=True):
        if not are_arrays(part):
            kind = _kind(part) if name == "x" else type(part).__name__
            raise ValueError(
                f"validation_split is for arrays, but {name} is a {kind}: give validation_data "
                "instead."
            )
    return split_rows(data, fraction)


def _is_kept_whole(data: Any, budget: int | None) -> bool:
    """Returns whether the device is to hold `data` as a whole."""
    arrays = [leaf for leaf in tree.flatten(data) if isinstance(leaf, np.ndarray)]
    size = byte_size(arrays)  # what came as tensors is there already
    if any(map(is_on_disk, arrays)) or (budget is not None and size > budget):
        return False
    if not tf.config.list_logical_devices("GPU"):
        return size <= _COPY_ON_CPU
    return size <= free_bytes() // 4


def _weights_per_target(y: Any, sample_weight: Any) -> Any:
    if not tree.is_nested(y):
        return sample_weight
    if isinstance(sample_weight, (list, tuple, dict)):
        try:
            tree.assert_same_structure(y, sample_weight)
        except ValueError:
            raise ValueError(
                "sample_weight and y differ in structure: give one array of weights for all "
                "targets, or one for each in the structure of y."
            ) from None
        return sample_weight
    shape = tuple(sample_weight.shape)
    if len(shape) > 1 and shape[1:] != (1,):
        raise ValueError(
            f"sample_weight has shape {shape} for several targets: give one weight a row, of shape "
            f"({shape[0]},), or one array for each target in the structure of y."
        )
    return tree.map_structure(lambda _: sample_weight, y)


def are_arrays(structure: Any) -> bool:
    """Returns whether all leaves of `structure` are arrays."""
    return all(is_array(leaf) for leaf in tree.flatten(structure))


def _kind(x: Any) -> str:
    """Returns what messages call the kind of source `x` is."""
    distributed = (tf.distribute.DistributedDataset,)
    if isinstance(x, (tf.data.Dataset, *distributed)):
        return "tf.data.Dataset"
    if isinstance(x, keras.utils.PyDataset):
        return "PyDataset"
    if _is_of(x, "torch.utils.data", "DataLoader"):
        return "torch DataLoader"
    if _is_of(x, "grain", "MapDataset", "IterDataset", "DataLoader"):
        return "grain dataset"
    if isinstance(x, collections.abc.Iterator):
        return "generator"
    raise ValueError(_unknown("x", x))


def _unknown(name: str, value: Any) -> str:
    if inspect.isgeneratorfunction(value):
        return f"{name} is a generator function: call it, as in {value.__name__}()."
    if isinstance(value, type):
        return f"{name} is the class {value.__name__}: expected an object of it."
    sources = (
        ", a tf.data.Dataset, a keras.utils.PyDataset, a generator, a torch DataLoader or a grain "
        "dataset"
    )
    return (
        f"{name} is of type {type(value).__name__}: expected arrays, a structure of arrays"
        f"{sources if name == 'x' else ''}; for nested Python lists of numbers, call numpy.array "
        "on them first."
    )


def _is_of(x: Any, module: str, *names: str) -> bool:
    # A library that was never imported has made no object.
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(x, tuple(getattr(loaded, name) for name in names))


def _refuse(kind: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"{name} was given beside a {kind}: let the {kind} yield "
                "(x, y) or (x, y, sample_weight) instead."
            )


def _source_feed(
    kind: str,
    x: Any,
    most: int | None,
    shuffle: bool | str,
    class_weight: dict[int, float] | None,
    seed: int,
) -> Feed:
    if kind == "PyDataset":
        return PyDatasetFeed(x, bool(shuffle), seed, class_weight)
    _refuse(kind, class_weight=class_weight)
    if kind == "generator":
        return GeneratorFeed(x, most)
    if kind == "grain dataset":
        return GrainFeed(lambda: iter(x))
    has_length = hasattr(x.dataset, "__len__")
    return IteratorFeed(lambda: iter(x), len(x) if has_length else None)
