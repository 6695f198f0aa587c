"""What processes have to have in common before they train together."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.feeds import Feed
from trainer.peers import Peers
from trainer.snapshots.files import Contents

_SHOWN = 5  # differences


class Facts(NamedTuple):
    """What is known of a training before its first step.

    Attributes:
        told: what JSON can hold, by name.
        sums: checksums of arrays, by name.
    """

    told: dict[str, Any]
    sums: dict[str, int]


def check_alike(peers: Peers, facts: Callable[[], Facts]) -> None:
    """Checks that what is known of a training is the same in all processes.

    Args:
        peers: the processes.
        facts: returns it; asked only where there are several processes.

    Raises:
        ValueError: something differs, in all processes; the message names it.
    """
    if peers.count == 1:
        return
    chief, *others = (
        Facts(*json.loads(text)) for text in peers.text_of_each(json.dumps(facts(), default=str))
    )
    lines = [
        line
        for number, other in enumerate(others, 1)
        for line in _differences(number, other, chief)
    ]
    if lines:
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise ValueError(
            f"The {peers.count} processes would not train the same: "
            f"{'; '.join(lines[:_SHOWN])}{more}. Run the same script in each of them, on the same "
            "data and files, with the same versions of the packages, and make the model and the "
            "trainer under the scope of the strategy."
        )


def _differences(number: int, other: Facts, chief: Facts) -> Iterator[str]:
    """Yields a line for each way in which process `number` differs from the chief."""
    for name in {**chief.told, **other.told}:
        mine, chiefs = other.told.get(name), chief.told.get(name)
        if mine != chiefs:
            yield f"{name}: {mine} in process {number}, {chiefs} in the chief"
    for name in {**chief.sums, **other.sums}:
        if name not in other.sums or name not in chief.sums:
            where = f"process {number}" if name in other.sums else "the chief"
            yield f"{name} is there in {where} alone"
        elif other.sums[name] != chief.sums[name]:
            yield f"{name} is another one in process {number} than in the chief"


def chiefs_seed(peers: Peers, seed: int) -> int:
    """Returns the seed of the chief, which any number may be."""
    return int(peers.text_of_each(str(seed))[0])


def versions() -> dict[str, str]:
    """Returns the versions of the packages that training follows from."""
    try:
        own = metadata.version("keras-custom-trainer")
    except metadata.PackageNotFoundError:  # read from a folder, not installed
        own = "unknown"
    found = {"trainer": own, "TensorFlow": tf.__version__, "Keras": keras.__version__}
    return {f"version of {package}": version for package, version in found.items()}


def facts_of_data(name: str, feed: Feed, steps: int | None) -> Facts:
    """Returns what data tell before they are read; of arrays the first batch is read, too."""
    told = {"steps": steps, "batches": feed.steps, "rows": feed.rows}
    told["batch size"] = feed.batch_size
    sums = {}
    if feed.rows is not None:
        feed.seek(0, 0)
        leaves = keras.tree.flatten(feed.next())
        feed.seek(0, 0)
        sums["first batch"] = _sum(map(np.asarray, filter(tf.is_tensor, leaves)))
    return Facts(
        *({f"{what} of the {name}": fact for what, fact in d.items()} for d in (told, sums))
    )


def sums_of(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Returns a checksum of each array by its name."""
    return {name: _sum([array]) for name, array in arrays.items()}


def told_of_snapshot(contents: Contents | None) -> str:
    """Returns what tells a snapshot to go on with from others."""
    if contents is None:
        return "none"
    return (
        f"of step {contents.facts['progress']['step']}, checksum {_sum(contents.arrays.values())}"
    )


def _sum(arrays: Iterable[np.ndarray]) -> int:
    total = 0
    for array in arrays:
        held = array.tobytes() if array.dtype != object else repr(array.tolist()).encode()
        total = zlib.crc32(held, total)
    return total
