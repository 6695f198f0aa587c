"""Opening the data of a `fit`, an `evaluate` or a `predict`, checked before anything runs."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras

from trainer import checks
from trainer.agreeing import check_alike, chiefs_seed, facts_at_start
from trainer.algorithm import Algorithm
from trainer.feeds import Feed, Part, are_arrays, open_feed
from trainer.programs import Programs
from trainer.watching import Mode

_DATA_OF = {"steps_per_epoch": "data", "validation_steps": "validation data", "steps": "data"}
_BATCH_SIZE_OF = {
    "steps_per_epoch": "batch_size",
    "validation_steps": "validation_batch_size",
    "steps": "batch_size",
}


@contextlib.contextmanager
def opened(
    algorithm: Algorithm,
    programs: Programs,
    mode: Mode,
    argument: str,
    data: tuple,
    *,
    epoch: int,
    steps: int | None,
    epochs: int = 1,
    evaluations: int = 1,
    **how: Any,
) -> Iterator[tuple[Feed, int | None]]:
    """Opens the feed of `data`, checked to have what is asked of it; yields it, and the steps.

    Args:
        algorithm: whose run it is; takes over the chief's seed.
        programs: its programs, which may have to make variables for these data.
        mode: the mode of the run.
        argument: the name that the user gave `steps` by.
        data: x, y and sample weights.
        epoch: the epoch that the run begins in.
        steps: batches to take each time, `None` for all.
        epochs: how many times, each going on where the one before ended.
        evaluations: how many times, each starting afresh.
        how: further arguments of `open_feed`.
    """
    steps = limited(argument, checks.steps(argument, steps), keras.config.max_steps_per_epoch())
    if are_arrays(data[0]):  # a source has batches of its own
        how["batch_size"] = checks.batch_size(_BATCH_SIZE_OF[argument], how.get("batch_size"))
    group = int(algorithm.model.steps_per_execution)
    # The last group of an epoch is a whole one, too.
    most = steps and math.ceil(steps / group) * group * epochs * evaluations
    peers = algorithm.peers
    algorithm.seed = chiefs_seed(algorithm.peers_at_start, algorithm.seed)
    feed = open_feed(
        *data,
        steps=steps,
        most=most,
        seed=algorithm.seed,
        part=Part(peers.number, peers.count),
        strategy=algorithm.model.distribute_strategy,
        **how,
    )
    with contextlib.closing(feed):
        checks.enough_data(feed, argument, steps, epochs)
        check_alike(peers, lambda: facts_at_start(algorithm, _DATA_OF[argument], feed, steps))
        programs.build_for_replicas(mode, lambda: _first_spec(feed, epoch))
        yield feed, steps


def limited(name: str, value: int | None, limit: int | None) -> int | None:
    """Returns `value`, or Keras's own limit for short test runs where that is lower."""
    if not limit or (value and value <= limit):
        return value
    warnings.warn(f"Limiting {name} to {limit}, as keras.config asks.", stacklevel=4)
    return limit


def _first_spec(feed: Feed, epoch: int) -> Any:
    """Returns the spec of the batches that `feed` begins `epoch` with."""
    feed.rewind(epoch)
    return feed.batch_spec()
