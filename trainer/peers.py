"""Peers: the processes that train together, and what they tell each other between steps."""

from __future__ import annotations

import atexit
import contextlib
import functools
import re
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import tensorflow as tf

_JOBS = ("chief", "worker")  # in the order of their replicas
_EXIT_TIMEOUT = 5.0  # seconds that a process which exits waits for the others
_ABORTED = "Collective ops is aborted by"
_OF_LOSS = (
    *(tf.errors.UnavailableError, tf.errors.DeadlineExceededError),
    *(tf.errors.AbortedError, tf.errors.CancelledError),
)


class PeerLostError(RuntimeError):
    """Another process, of those that train together, has ended or is silent."""


class Peers:
    """The processes of a strategy: here, the only one.

    What they tell each other is a collective: all of them have to call the same methods in the same
    order.

    Attributes:
        number: which of them this process is, counted from 0, the chief.
        count: how many there are.
    """

    number = 0
    count = 1

    @property
    def is_chief(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.number == 0

    def of_any(self, *flags: bool) -> tuple[bool, ...]:
        """Returns for each of several questions whether one of the processes says yes."""
        return flags

    def of_any_if_alike(self, number: int, *flags: bool) -> tuple[bool, ...] | None:
        """Returns what `of_any` does, `None` where the processes give different numbers.

        Args:
            number: from 0 to 2**40.
            flags: the answers to the questions.
        """
        return flags

    def numbers_of_each(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the numbers that each process gives, equally many, a row a process, float64."""
        return numbers[None].astype(np.float64)

    def text_of_each(self, text: str) -> list[str]:
        """Returns what each process says, in their order."""
        return [text]

    def settle(self) -> None:
        """Waits until the others have what this process told them last, or are gone."""

    def reraise(self, error: tf.errors.OpError, place: str) -> NoReturn:
        """Raises `error`, or what it comes to where it says that a process is lost.

        Args:
            error: what TensorFlow raised.
            place: how far this process had come.

        Raises:
            PeerLostError: another process is lost.
            RuntimeError: another process did something else.
        """
        raise error


class SeveralPeers(Peers):
    """The processes of a `tf.distribute.MultiWorkerMirroredStrategy`.

    Args:
        strategy: the strategy.
        timeout: seconds that one waits for the others to be told something.
    """

    def __init__(self, strategy: tf.distribute.Strategy, timeout: float):
        resolver = strategy.cluster_resolver
        cluster = resolver.cluster_spec()
        tasks = [(job, index) for job in _JOBS for index in _indices(cluster, job)]
        self.number = tasks.index((resolver.task_type, resolver.task_id))
        self.count = len(tasks)
        self._summed = _sum_over(strategy, timeout)
        self._settle = _settling(strategy)

    def of_any(self, *flags: bool) -> tuple[bool, ...]:  # noqa: D102
        return tuple((self._sum(np.float64(flags)) > 0).tolist())

    def of_any_if_alike(self, number: int, *flags: bool) -> tuple[bool, ...] | None:  # noqa: D102
        wanted = number * self.count if self.is_chief else 0
        total, wanted, *sums = self._sum(np.float64([number, wanted, *flags])).tolist()
        return tuple(value > 0 for value in sums) if total == wanted else None

    def numbers_of_each(self, numbers: np.ndarray) -> np.ndarray:  # noqa: D102
        rows = np.zeros((self.count, numbers.size))
        rows[self.number] = numbers
        return self._sum(rows.ravel()).reshape(rows.shape)

    def text_of_each(self, text: str) -> list[str]:  # noqa: D102
        mine = np.frombuffer(text.encode(), np.uint8)
        sizes = self.numbers_of_each(np.float64([mine.size])).ravel().astype(int)
        padded = np.pad(mine, (0, sizes.max() - mine.size))
        rows = self.numbers_of_each(padded).astype(np.uint8)
        return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]

    def settle(self) -> None:  # noqa: D102
        self._settle()

    def reraise(self, error: tf.errors.OpError, place: str) -> NoReturn:  # noqa: D102
        is_aborted = _ABORTED in error.message
        if not is_aborted and not isinstance(error, _OF_LOSS):
            raise error
        cause = _cause(error.message)
        this = f"Process {self.number} of {self.count} ends {place}"
        if re.search(r"expected type|[Ss]hape", cause):
            raise RuntimeError(
                f"{this}: another one did something else meanwhile ({cause}). Give all of them the "
                "same data, which end alike, and let callbacks that predict, evaluate or read "
                "metrics do it in all of them."
            ) from None
        raise PeerLostError(
            f"{this}: another one has ended or is silent ({cause}). Start all of them again; with "
            "the callback Snapshots they go on from the latest snapshot."
        ) from None

    def _sum(self, numbers: np.ndarray) -> np.ndarray:
        return self._summed(numbers).numpy()


@functools.cache
def peers_of(strategy: tf.distribute.Strategy, timeout: float) -> Peers:
    """Returns the processes that `strategy` spans; arguments as `SeveralPeers` takes them."""
    return SeveralPeers(strategy, timeout) if spans_processes(strategy) else Peers()


def spans_processes(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether there are replicas of `strategy` in other processes."""
    replicas = strategy.num_replicas_in_sync
    return replicas > 1 and len(strategy.extended.worker_devices) < replicas


def _sum_over(
    strategy: tf.distribute.Strategy, timeout: float
) -> tf.types.experimental.PolymorphicFunction:
    """Returns a function that sums numbers over processes; it fails after `timeout` seconds."""
    here = len(strategy.extended.worker_devices)
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=timeout)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64)])
    def summed(numbers: tf.Tensor) -> tf.Tensor:
        def in_replica() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            speaks = context.replica_id_in_sync_group % here == 0  # one for all of a process
            mine = tf.where(speaks, numbers, tf.zeros_like(numbers))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, mine, options)

        return strategy.experimental_local_results(strategy.run(in_replica))[0]

    return summed


@functools.cache
def _settling(strategy: tf.distribute.Strategy) -> Callable[[], None]:
    """Returns what waits until the other processes have what this one sent them last.

    They fetch it from this process, which does not know when they have it. Whoever takes part in
    one more sum has it. A failure of that sum matters to nobody: the other process has left
    already, is lost, or goes on without this one. This process waits so when it exits, too.
    """
    summed = _sum_over(strategy, _EXIT_TIMEOUT)

    def settle() -> None:
        with contextlib.suppress(tf.errors.OpError):
            summed(np.zeros(1))

    atexit.register(settle)
    return settle


def _cause(message: str) -> str:
    """Returns what of a message of TensorFlow's tells why a collective ended."""
    *_, aborting = re.split(rf"{_ABORTED}\W*", message)
    if aborting != message:
        return aborting.partition("\n")[0].rstrip(" .:")
    lines = (re.sub(r"{{.*?}}|\[\[.*", "", line).strip() for line in message.splitlines())
    return [line for line in lines if line][-1].rstrip(" .:")


def _indices(cluster: tf.train.ClusterSpec, job: str) -> list[int]:
    return cluster.task_indices(job) if job in cluster.jobs else []
