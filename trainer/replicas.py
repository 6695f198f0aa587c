"""Replicas: a step run on each of them, and what their results come to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer.feeds import PartOfBatch
from trainer.peers import spans_processes
from trainer.shares import Step, checksum_of_first_row, current_share, on_share

tree = keras.tree
_SUMS = 2**40  # checksums are below
_APART = 1_000_003  # between the seeds of two replicas


class Local(NamedTuple):
    """What a step returned on the replicas of this process.

    Attributes:
        outputs: structure of tensors, an axis of replicas in front.
        rows: each replica's own rows, int32 of shape `(replicas,)`.
    """

    outputs: Any
    rows: tf.Tensor


class Replicas:
    """Runs steps on the replicas of a strategy: here, on the only one.

    Args:
        strategy: the strategy.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy

    def run(self, step: Step, batch: Any) -> Any:
        """Returns what `step` returns, to be merged."""
        return self._strategy.run(step, args=(batch,))

    def merged(self, outputs: Any) -> Any:
        """Returns what became of what `run` returned, on all replicas."""
        return outputs

    merged_now = merged  # outside of a graph

    @property
    def own_variables(self) -> tuple[tf.Variable, ...]:
        """Variables of steps that are no part of a training."""
        return ()

    @property
    def seen(self) -> int:
        """What all batches so far come to: the same number in processes that saw the same ones."""
        return 0

    def merged_spec(self, spec: Any) -> Any:
        """Returns the spec of what `merged` returns for what has `spec`."""
        return spec


class SeveralReplicas(Replicas):
    """Runs steps on several replicas, in this process and in others.

    Each sees its part of the rows, as even as can be. A batch that came from `tf.distribute` is
    split already.

    Args:
        strategy: the strategy.
        seeds: returns the states of the seed generators, `[seed, count]` each. A replica draws by
            seeds of its own; between steps all have the same again.
    """

    def __init__(self, strategy: tf.distribute.Strategy, seeds: Callable[[], list[Any]]):
        super().__init__(strategy)
        self._seeds = seeds
        self._here = len(strategy.extended.worker_devices)
        self._are_elsewhere = spans_processes(strategy)
        with tf.init_scope():
            self._seen = tf.Variable(0, trainable=False, dtype=tf.int64)

    @property
    def own_variables(self) -> tuple[tf.Variable, ...]:  # noqa: D102
        return (self._seen,)

    @property
    def seen(self) -> int:  # noqa: D102
        return int(self._seen.read_value()) % _SUMS

    def seen_spec(self, batch_spec: Any) -> Any:
        """Returns the `tf.TypeSpec` of what a replica sees of batches of `batch_spec`."""
        specs = []

        def look(batch: Any) -> None:
            self._run(lambda seen: specs.append(tree.map_structure(_spec_of, seen)), batch)

        tf.function(look, autograph=False).get_concrete_function(batch_spec)
        return specs[0]

    def _run(self, step: Step, batch: Any) -> tuple[Any, Any]:
        """Returns what `step` returns on the replicas here, and how many rows they have."""

        def drawing_apart(seen: Any) -> Any:
            with _drawing_apart(self._seeds()):
                return step(seen)

        is_split = _is_split(batch)
        if self._are_elsewhere and not (is_split or isinstance(batch, PartOfBatch)):
            self._seen.assign_add(checksum_of_first_row(batch))
        return self._strategy.run(on_share, args=(drawing_apart, batch, is_split))


class ReplicasWithRows(SeveralReplicas):
    """Runs steps that return a row for each row of their batch: they are put behind one another."""

    def run(self, step: Step, batch: Any) -> Any:  # noqa: D102
        outputs, _ = self._run(lambda seen: current_share().own(step(seen)), batch)
        return tree.map_structure(self._joined, outputs)

    def _joined(self, value: Any) -> tf.Tensor:
        if self._are_elsewhere:
            return self._strategy.gather(value, axis=0)
        return tf.concat(self._strategy.experimental_local_results(value), axis=0)


class ReplicasWithLogs(SeveralReplicas):
    """Runs steps that return logs; merged, what is no metric's is the mean over all rows.

    Args:
        strategy: the strategy.
        seeds: as `SeveralReplicas` takes it.
        results: returns what the metrics say by log key; they know the rows of all replicas.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        seeds: Callable[[], list[Any]],
        results: Callable[[], dict[str, Any]],
    ):
        super().__init__(strategy, seeds)
        self._results = results
        self.merged_now = tf.function(self.merged)

    def run(self, step: Step, batch: Any) -> Local:  # noqa: D102
        outputs, rows = self._run(step, batch)
        return Local(tree.map_structure(self._stacked, outputs), self._stacked(rows))

    def merged(self, outputs: Local) -> dict[str, tf.Tensor]:  # noqa: D102
        found = self._results()
        others = {key: value for key, value in outputs.outputs.items() if key not in found}
        means = self._means(others, outputs.rows) if others else {}
        return {key: found[key] if key in found else means[key] for key in outputs.outputs}

    def merged_spec(self, spec: Local) -> dict[str, tf.TensorSpec]:  # noqa: D102
        return {key: tf.TensorSpec(s.shape[1:], s.dtype) for key, s in spec.outputs.items()}

    def _stacked(self, value: Any) -> tf.Tensor:
        return tf.stack(self._strategy.experimental_local_results(value))

    def _means(self, stacks: dict[str, tf.Tensor], rows: tf.Tensor) -> dict[str, tf.Tensor]:
        weights = tf.cast(rows, tf.float32)
        sums = {key: _weighted_sum(stack, weights) for key, stack in stacks.items()}
        packed = tf.concat(
            [[tf.reduce_sum(weights)], *(tf.reshape(s, [-1]) for s in sums.values())], 0
        )
        sizes = [1, *(tf.size(s) for s in sums.values())]
        all_rows, *parts = tf.split(self._over_processes(packed), sizes)
        return {
            key: tf.cast(tf.reshape(part / all_rows, tf.shape(sums[key])), stack.dtype)
            for part, (key, stack) in zip(parts, stacks.items(), strict=True)
        }

    def _over_processes(self, total: tf.Tensor) -> tf.Tensor:
        """Returns the sum of what the processes call `total`."""
        if not self._are_elsewhere:
            return total

        def summed() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, total / self._here)

        return self._strategy.experimental_local_results(self._strategy.run(summed))[0]


def _weighted_sum(stack: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns the sum over replicas, float32; what one without rows returned does not count."""
    weights = tf.reshape(weights, [-1] + [1] * (stack.shape.rank - 1))
    values = tf.where(weights > 0, tf.cast(stack, tf.float32), 0.0)
    return tf.reduce_sum(values * weights, axis=0)


@contextlib.contextmanager
def _drawing_apart(seeds: list[Any]) -> Iterator[None]:
    """Gives this replica seeds of its own, for as long as a step is under way."""
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    for state in seeds:
        state.assign(state + tf.cast(tf.stack([_APART * number, 0]), state.dtype))
    try:
        yield
    finally:
        for state in seeds:
            state.assign(state - tf.cast(tf.stack([_APART * number, 0]), state.dtype))


def _is_split(batch: Any) -> bool:
    return any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in tf.nest.flatten(batch))


def _spec_of(value: Any) -> tf.TypeSpec | None:
    return None if value is None else tf.type_spec_from_value(value)
