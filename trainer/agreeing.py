"""What processes have to have in common before they train together."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.algorithm import Algorithm
from trainer.callbacks.for_network import unwrapped
from trainer.callbacks.nan_guard import NaNGuard
from trainer.callbacks.snapshots import Snapshots
from trainer.feeds import Feed
from trainer.networks import trained_networks
from trainer.peers import Peers
from trainer.snapshots.algorithm import AlgorithmState
from trainer.snapshots.files import Contents

_SHOWN = 5  # differences
# Keras counts names on, and so has them in what joins layers.
_NAMES = {"name", "inbound_nodes", "input_layers", "output_layers"}
_IN_ALL = (Snapshots, NaNGuard, keras.callbacks.TerminateOnNaN)  # or in none


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
        peers.settle()  # lest one that ends with the error takes it from the others
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


def check_before(
    algorithm: Algorithm,
    state: AlgorithmState,
    plan: dict[str, Any],
    callbacks: Iterable[keras.callbacks.Callback],
    restored: Contents | None,
) -> None:
    """Checks that all processes are about to train the same.

    Args:
        algorithm: the algorithm.
        state: what training changes of it.
        plan: what they are asked for, by name.
        callbacks: the callbacks.
        restored: the snapshot to go on with.

    Raises:
        ValueError: they are not.
    """

    def facts() -> Facts:
        told = dict(plan)
        told["callbacks"] = _told_of_callbacks(callbacks)
        told["snapshot to go on with"] = _told_of_snapshot(restored)
        return Facts(told, _sums_of(state.alike()))

    check_alike(algorithm.peers, facts)


def check_begun(algorithm: Algorithm, state: AlgorithmState, epoch: int) -> None:
    """Checks that all processes begin with the same, now that callbacks had their say.

    Args:
        algorithm: the algorithm.
        state: what training changes of it.
        epoch: the epoch to begin with.

    Raises:
        ValueError: they do not.
    """
    check_alike(
        algorithm.peers, lambda: Facts({"epoch to begin with": epoch}, _sums_of(state.alike()))
    )


def check_batch(peers: Peers, batch: Any) -> None:
    """Checks that all processes have the same batch for a step.

    Args:
        peers: the processes.
        batch: the batch, a structure of tensors.

    Raises:
        ValueError: they do not.
    """
    parts = tf.nest.flatten(batch, expand_composites=True)
    check_alike(peers, lambda: Facts({}, {"the batch": _sum(map(np.asarray, parts))}))


def chiefs_seed(peers: Peers, seed: int) -> int:
    """Returns the seed of the chief, which any number may be."""
    return int(peers.text_of_each(str(seed))[0])


def _versions() -> dict[str, str]:
    """Returns the versions of the packages that training follows from."""
    try:
        own = metadata.version("keras-custom-trainer")
    except metadata.PackageNotFoundError:  # read from a folder, not installed
        own = "unknown"
    found = {"trainer": own, "TensorFlow": tf.__version__, "Keras": keras.__version__}
    return {f"version of {package}": version for package, version in found.items()}


def _settings(model: keras.Model) -> dict[str, Any]:
    """Returns what a model and what it is compiled with were made with, as far as they tell it."""
    places = {"model": model.get_config, "compiled": model.get_compile_config}
    found = {}
    for number, (_, optimizer) in enumerate(trained_networks(model)):
        places[f"optimizer {number}"] = optimizer.get_config
        found[f"optimizer {number}"] = type(optimizer).__name__
    for place, tell in places.items():
        with contextlib.suppress(Exception):  # a class of the user's need not be able to
            for path, value in keras.tree.flatten_with_path(tell()):
                if _is_setting(path, value):
                    found["/".join(map(str, (place, *path)))] = value
    return found


def _is_setting(path: tuple, value: Any) -> bool:
    """Returns whether processes train alike only where they have the same value at a path."""
    is_rate = path[-1] == "learning_rate" and isinstance(value, float)  # which is the chief's
    is_name = not _NAMES.isdisjoint(path) and "dtype" not in path
    return not (is_rate or is_name or path[0] == "optimizer")


def _told_of_callbacks(callbacks: Iterable[keras.callbacks.Callback]) -> list[str]:
    """Returns which callbacks there are that all processes have to have, or none."""
    found = (c for c in map(unwrapped, callbacks) if isinstance(c, _IN_ALL))
    return sorted({type(callback).__name__ for callback in found})


def facts_at_start(algorithm: Algorithm, name: str, feed: Feed, steps: int | None) -> Facts:
    """Returns what is known before variables are made, which takes all processes."""
    facts = _facts_of_data(name, feed, steps)
    return facts._replace(told={**_versions(), **_settings(algorithm.model), **facts.told})


def _facts_of_data(name: str, feed: Feed, steps: int | None) -> Facts:
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


def _sums_of(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Returns a checksum of each array by its name."""
    return {name: _sum([array]) for name, array in arrays.items()}


def _told_of_snapshot(contents: Contents | None) -> str:
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
