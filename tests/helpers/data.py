"""Small data: the same numbers each time, and batches of them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

BATCH = 16


ROWS = 50  # three batches and an odd one


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns the same normally distributed float32 numbers each time."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class Slices(keras.utils.PyDataset):
    """Batches cut out of arrays in their order; of one array they are no tuples."""

    def __init__(self, *arrays: np.ndarray, batch_size: int):
        super().__init__()
        self.arrays, self.batch_size = arrays, batch_size

    def __len__(self):
        return -(-len(self.arrays[0]) // self.batch_size)

    def __getitem__(self, number):
        rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
        batch = tuple(array[rows] for array in self.arrays)
        return batch if len(batch) > 1 else batch[0]


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
    """Batches of arrays, `data` being (x,), (x, y) or (x, y, sample_weight)."""

    def __init__(self, data: tuple, **workers: Any):
        super().__init__(**workers)
        self._data = data

    def __len__(self) -> int:
        return -(-len(keras.tree.flatten(self._data)[0]) // BATCH)

    def __getitem__(self, number: int) -> tuple:
        return rows_of(self._data, number * BATCH, (number + 1) * BATCH)


def batches_of(data: tuple) -> list[tuple]:
    """Returns `data` cut into batches."""
    dataset = Batches(data)
    return [dataset[number] for number in range(len(dataset))]
