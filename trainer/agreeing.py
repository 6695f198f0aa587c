"""What processes have to have in common before they train together."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.feeds import Feed
from trainer.peers import Peers

_SHOWN = 5  # differences


def check_alike(peers: Peers, facts: Callable[[], dict[str, Any]]) -> None:
    """Checks that what is known of a training is the same in all processes.

    Args:
        peers: the processes.
        facts: returns what JSON can hold by name; asked only where there are several processes.

    Raises:
        ValueError: something differs, in all processes; the message names it.
    """
    if peers.count == 1:
        return
    told = [json.loads(text) for text in peers.text_of_each(json.dumps(facts()))]
    chief = told[0]
    lines = [
        f"{name} is {_said(name, others)} in process {number} and {_said(name, chief)} in the chief"
        for number, others in enumerate(told)
        for name in {**chief, **others}
        if others.get(name) != chief.get(name)
    ]
    if lines:
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        raise ValueError(
            f"The {peers.count} processes would not train the same: "
            f"{'; '.join(lines[:_SHOWN])}{more}. Run the same script in each of them, on the same "
            "data and files, with the same versions of the packages, and make the model and the "
            "trainer under the scope of the strategy."
        )


def chiefs_seed(peers: Peers, seed: int) -> int:
    """Returns the seed of the chief, which any number may be."""
    return int(peers.text_of_each(str(seed))[0])


def facts_of_versions() -> dict[str, str]:
    """Returns the versions of the packages that training follows from."""
    try:
        own = metadata.version("keras-custom-trainer")
    except metadata.PackageNotFoundError:  # read from a folder, not installed
        own = "unknown"
    versions = {"trainer": own, "TensorFlow": tf.__version__, "Keras": keras.__version__}
    return {f"the version of {package}": version for package, version in versions.items()}


def facts_of_data(name: str, feed: Feed, steps: int | None) -> dict[str, Any]:
    """Returns what data tell before they are read, and a sum of the first batch of arrays."""
    facts = {"steps": steps, "batches": feed.steps, "rows": feed.rows}
    facts["batch size"] = feed.batch_size
    if feed.rows is not None:
        feed.seek(0, 0)
        leaves = keras.tree.flatten(feed.next())
        feed.seek(0, 0)
        facts["first batch, summed up"] = _sum(map(np.asarray, filter(tf.is_tensor, leaves)))
    return {f"the {what} of the {name}": fact for what, fact in facts.items()}


def facts_of_arrays(what: str, arrays: dict[str, np.ndarray] | None) -> dict[str, str]:
    """Returns a sum of each array by its name, `what` before it."""
    return {f"{what} {name}": f"summed up {_sum([a])}" for name, a in (arrays or {}).items()}


def _said(name: str, facts: dict[str, Any]) -> str:
    return str(facts[name]) if name in facts else "missing"


def _sum(arrays: Iterable[np.ndarray]) -> int:
    total = 0
    for array in arrays:
        held = array.tobytes() if array.dtype != object else repr(array.tolist()).encode()
        total = zlib.crc32(held, total)
    return total
