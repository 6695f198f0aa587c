"""Small data: the same numbers each time, and batches of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

BATCH = 16
ROWS = 50  # three batches and an odd one


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns the same normally distributed float32 numbers each time."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def labels(*shape: int, classes: int = 3) -> np.ndarray:
    """Returns the same class numbers each time."""
    return np.random.default_rng(1).integers(0, classes, shape)


def rows_of(data: Any, start: int | None = None, stop: int | None = None) -> Any:
    """Returns some rows of a structure of arrays."""
    return keras.tree.map_structure(lambda array: array[start:stop], data)


def two_like_batches(data: Any) -> Any:
    """Returns the first batch twice: Keras gives those it looked at to each validation again."""
    return keras.tree.map_structure(lambda array: np.concatenate([array[:BATCH]] * 2), data)


class Batches(keras.utils.PyDataset):
    """Batches cut out of a structure of arrays, in their order."""

    def __init__(self, data: Any, batch_size: int = BATCH, **workers: Any):
        super().__init__(**workers)
        self.data, self.batch_size = data, batch_size
        self.rows = len(keras.tree.flatten(data)[0])

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __getitem__(self, number: int) -> Any:
        return rows_of(self.data, number * self.batch_size, (number + 1) * self.batch_size)


class ReorderedBatches(Batches):
    """Batches whose rows are in another order after each epoch."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.order = np.arange(self.rows)

    def __getitem__(self, number: int) -> Any:
        rows = self.order[number * self.batch_size : (number + 1) * self.batch_size]
        return keras.tree.map_structure(lambda array: array[rows], self.data)

    def on_epoch_end(self) -> None:
        self.order = np.roll(self.order, 3)[::-1]


def memmap_of(array: np.ndarray, folder: Path) -> np.memmap:
    """Returns the array as a file in `folder`."""
    on_disk = np.memmap(folder / f"{time.monotonic_ns()}", array.dtype, "w+", shape=array.shape)
    on_disk[:] = array
    return on_disk


def batches_of(data: tuple) -> list[tuple]:
    """Returns `data` cut into batches."""
    dataset = Batches(data)
    return [dataset[number] for number in range(len(dataset))]
