"""Logical devices of the test process, and steps that each of them takes with its rows."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer.shares import on_share


class MirroredStrategy(tf.distribute.MirroredStrategy):
    """A strategy of some logical devices, that a process may have besides one of others."""

    def __init__(self, devices: int):
        # TensorFlow's way for tests: by the same key it takes groups of a single size.
        self._collective_key_base = 1000 * devices
        super().__init__([f"CPU:{number}" for number in range(devices)])


@functools.cache
def strategy_for(devices: int) -> tf.distribute.Strategy:
    """Returns a strategy of all workers of a cluster, or of so many devices of this process."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if devices == 1:
        return tf.distribute.get_strategy()
    return MirroredStrategy(devices)


class Ran(NamedTuple):
    """What a step came to on each device.

    Attributes:
        outputs: what the step returned, as arrays.
        rows: how many rows of the batch the device counts as its own.
    """

    outputs: list[Any]
    rows: list[int]


def run_on_shards(
    step: Callable[[Any], Any], batch: Any, devices: int = 2, is_split: bool = False
) -> Ran:
    """Runs a compiled step on each device with its rows of a batch.

    Args:
        step: takes the rows that the device sees, laid out as a batch.
        batch: a structure of tensors; where it is split, one that `tf.distribute` has split.
        devices: how many devices.
        is_split: whether `batch` is split.
    """
    strategy = strategy_for(devices)

    @tf.function(autograph=False)
    def run(batch: Any) -> Any:
        return strategy.run(on_share, args=(step, batch, is_split))

    outputs, rows = run(batch)
    of_each = keras.tree.map_structure(strategy.experimental_local_results, outputs)
    return Ran(
        [
            keras.tree.map_structure_up_to(outputs, lambda o, n=n: o[n].numpy(), of_each)
            for n in range(devices)
        ],
        [int(of_one) for of_one in strategy.experimental_local_results(rows)],
    )
