"""Several devices and several processes end with the numbers of one device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from tests.helpers import replicas
from tests.helpers.cluster import Cluster

WITHIN = 1e-6  # relative, and absolute for what is nearly zero


class Setup(NamedTuple):
    """How many devices or processes train, and what.

    Attributes:
        devices: how many devices of this process.
        processes: how many processes.
        trainings: the names of the trainings.
        default: those of them that are in the default tier.
    """

    devices: int
    processes: int
    trainings: list[str]
    default: set[str] = frozenset()


SOME = ["add_loss, sample_weight, AUC", "a GAN"]  # for there are two cores
# What is the same for a device of this process and of another, and what one process decides alone.
ON_DEVICES = {
    *("eagerly", "class_weight, with XLA", "numbers of gradients clipped", "clipped and scaled"),
    *("a step alone", "a loss of a layer alone", "logs computed from results"),
    *("a class ignored", "a sum", "two outputs, masks", "batch normalization of all rows"),
}
IN_PROCESSES = {"one stops in an epoch", "one stops after an epoch"}
TELLING = {
    *("a plain model", "add_loss, sample_weight, AUC", "masks, clipped", "a GAN"),
}
SETUPS = {
    "2 devices": Setup(2, 1, [n for n in replicas.NAMES if n not in IN_PROCESSES], TELLING),
    "4 devices": Setup(4, 1, SOME),
    "2 processes": Setup(
        1, 2, [name for name in replicas.NAMES if name not in ON_DEVICES], {"a plain model"}
    ),
    "4 processes": Setup(1, 4, SOME),
}


def items_of(name: str, setup: Setup) -> list:
    """Returns the parameters of each training on a setup, with their marks."""
    tier = pytest.mark.processes if setup.processes > 1 else pytest.mark.exhaustive
    return [
        pytest.param(setup, n, id=f"{name}-{n}", marks=[] if n in setup.default else tier)
        for n in setup.trainings
    ]


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[int, Cluster]]:
    """Returns clusters by their number of processes; they start when they are first called."""
    clusters = {setup.processes: Cluster(setup.processes) for setup in SETUPS.values()}
    yield clusters
    for cluster in clusters.values():
        cluster.stop()


@pytest.mark.xdist_group("replicas")  # one process trains on one device, once
@pytest.mark.parametrize(
    ("setup", "training"),
    [item for name, setup in SETUPS.items() for item in items_of(name, setup)],
)
def test_numbers_are_those_of_one_device(setup, training, clusters):
    if setup.processes > 1:
        results = clusters[setup.processes].call(replicas.train, training)
    else:
        results = [replicas.train(training, setup.devices)]
    assert len(results) == setup.processes
    for found in results:
        assert_close(found, replicas.train_on_one_device(training))


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    assert len(found) > 1
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=WITHIN, atol=WITHIN, err_msg=key)
