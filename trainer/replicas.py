"""Replicas: a step run on each of them, and what their results come to."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainer.counting import counting_own_rows
from trainer.feeds import PartOfBatch
from trainer.gradients import refusing_to_apply
from trainer.losses import refusing_calls
from trainer.peers import spans_processes
from trainer.shares import Step, checksum, current_share, on_share
from trainer.sums import read_at_once
from trainer.telling import Told, telling

tree = keras.tree
_SUMS = 2**40  # checksums are below
_APART = 1_000_003  # between the seeds of two replicas
_EXCHANGED = (tf.float16, tf.float32, tf.float64, tf.int32, tf.int64)  # by any collective


class Local(NamedTuple):
    """What a step returned on the replicas of this process.

    Attributes:
        outputs: structure of tensors, an axis of replicas in front.
        rows: each replica's own rows, int32 of shape `(replicas,)`.
    """

    outputs: Any
    rows: tf.Tensor


class Kept(NamedTuple):
    """What steps change apart from weights and optimizers; each attribute is called to have it.

    Attributes:
        seeds: the states of the seed generators, `[seed, count]` each. A replica draws by seeds of
            its own; between steps all have the same again.
        metrics: the metrics; on a replica they count what is its own.
        averages: variables of layers, which each replica has a value of its own of.
        losses: losses that a step may call, which Keras divides by the number of replicas.
        optimizers: optimizers that a step may call, which add up what they are given.
    """

    seeds: Callable[[], list[keras.Variable]]
    metrics: Callable[[], list[keras.metrics.Metric]]
    averages: Callable[[], list[keras.Variable]]
    losses: Callable[[], list[keras.losses.Loss]]
    optimizers: Callable[[], list[keras.Optimizer]]


class Replicas:
    """Runs steps on the replicas of a strategy: here, on the only one.

    Args:
        strategy: the strategy.

    Attributes:
        is_single: whether there is one replica.
    """

    is_single = True

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy

    def run(self, step: Step, batch: Any) -> Any:
        """Returns what `step` returns, to be merged."""
        return self._strategy.run(step, args=(batch,))

    def merged(self, outputs: Any) -> Any:
        """Returns what became of what `run` returned, on all replicas."""
        return outputs

    merged_now = merged  # outside of a graph

    def whole(self, batch: Any) -> Any:
        """Returns a batch that was read, the rows of all replicas in it."""
        return batch

    def gather(self, trace: Callable[[], Any]) -> bool:
        """Returns whether replicas gather in a step what may have other shapes in the next one.

        Such steps run in calls of their own: in a loop TensorFlow holds the shapes to the first.

        Args:
            trace: returns the step's trace.
        """
        return False

    def average(self) -> None:
        """Sets what layers keep, such as averages over batches, to its mean over all replicas."""

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
        kept: what steps change.
    """

    is_single = False

    def __init__(self, strategy: tf.distribute.Strategy, kept: Kept):
        super().__init__(strategy)
        self._kept = kept
        self._averaged = tf.function(lambda: strategy.run(self._average_of_all))
        self._gathering: dict[tf.Graph, bool] = {}
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

    def gather(self, trace: Callable[[], Any]) -> bool:  # noqa: D102
        graph = trace().graph
        if graph not in self._gathering:
            self._gathering[graph] = "CollectiveGatherV2" in _operations_of(graph)
        return self._gathering[graph]

    def average(self) -> None:  # noqa: D102
        if self._kept.averages():
            self._averaged()

    def _average_of_all(self) -> None:
        context = tf.distribute.get_replica_context()
        add_up = functools.partial(context.all_reduce, tf.distribute.ReduceOp.SUM)
        is_first = context.replica_id_in_sync_group == 0
        variables = self._kept.averages()
        own = [tf.convert_to_tensor(variable) for variable in variables]
        first = add_up([tf.where(is_first, value, tf.zeros_like(value)) for value in own])
        # What all have alike keeps its bits.
        apart = add_up(list(map(_difference, own, first)))
        for variable, base, total in zip(variables, first, apart, strict=True):
            variable.assign(base + total / context.num_replicas_in_sync)

    def seen_spec(self, batch_spec: Any) -> Any:
        """Returns the `tf.TypeSpec` of what a replica sees of batches of `batch_spec`."""
        specs = []

        def look(batch: Any) -> None:
            self._run(lambda seen: specs.append(tree.map_structure(_spec_of, seen)), batch)

        tf.function(look, autograph=False).get_concrete_function(batch_spec)
        return specs[0]

    def whole(self, batch: Any) -> Any:  # noqa: D102
        return tf.nest.map_structure(self._joined, batch) if _is_split(batch) else batch

    def _joined(self, value: Any) -> tf.Tensor:
        """Returns the rows that all replicas have in `value`.

        Raises:
            TypeError: it is text, which processes cannot exchange.
        """
        parts = self._strategy.experimental_local_results(value)
        dtype = parts[0].dtype
        if not self._are_elsewhere:
            return tf.concat(parts, axis=0)
        if dtype in _EXCHANGED:
            return self._strategy.gather(value, axis=0)
        if dtype == tf.string:
            raise TypeError(
                "Processes cannot exchange text, which the model returns: let it return numbers."
            )
        numbers = self._strategy.run(tf.cast, args=(value, tf.int64))
        return tf.cast(self._strategy.gather(numbers, axis=0), dtype)

    def _run(self, step: Step, batch: Any) -> tuple[Any, Any]:
        """Returns what `step` returns on the replicas here, and how many rows they have."""

        def drawing_apart(seen: Any) -> Any:
            with _drawing_apart(self._kept.seeds()):
                return step(seen)

        is_split = _is_split(batch)
        if self._are_elsewhere and not (is_split or isinstance(batch, PartOfBatch)):
            self._seen.assign_add(checksum(batch))
        kept = self._kept
        with (
            counting_own_rows(kept.metrics()),
            refusing_calls(kept.losses()),
            refusing_to_apply(kept.optimizers()),
        ):
            return self._strategy.run(on_share, args=(drawing_apart, batch, is_split))


class ReplicasWithRows(SeveralReplicas):
    """Runs steps that return a row for each row of their batch: they are put behind one another."""

    def run(self, step: Step, batch: Any) -> Any:  # noqa: D102
        outputs, _ = self._run(lambda seen: _own_rows(step(seen)), batch)
        return tree.map_structure(self._joined, outputs)


class ReplicasWithLogs(SeveralReplicas):
    """Runs steps that return logs; merged, what no metric tells is the mean over all rows.

    Args:
        strategy: the strategy.
        kept: what steps change.
        results: returns what the metrics tell by log key.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        kept: Kept,
        results: Callable[[], dict[str, Any]],
    ):
        super().__init__(strategy, kept)
        self._results = results
        self._told: dict[str, Told] = {}  # of the step's logs
        self.merged_now = tf.function(self.merged)

    def run(self, step: Step, batch: Any) -> Local:  # noqa: D102
        def noting_told(seen: Any) -> Any:
            logs = step(seen)
            self._told = known.among(logs)
            return tree.map_structure(tf.convert_to_tensor, logs)

        with telling(self._kept.metrics()) as known:
            outputs, rows = self._run(noting_told, batch)
        self._check_told()
        return Local(tree.map_structure(self._stacked, outputs), self._stacked(rows))

    def merged(self, outputs: Local) -> dict[str, tf.Tensor]:  # noqa: D102
        others = {key: value for key, value in outputs.outputs.items() if key not in self._told}
        means = self._means(others, outputs.rows) if others else {}
        told = self._all_told() if self._told else {}
        return {key: told[key] if key in told else means[key] for key in outputs.outputs}

    def _check_told(self) -> None:
        """Raises ValueError if a log is computed from results, and only the step knows how."""
        computed = [key for key, log in self._told.items() if log.metric is None]
        if not computed:
            return
        known = tf.function(self._results).get_concrete_function().structured_outputs
        for key in computed:
            if key not in known:
                raise ValueError(
                    f"The log {key!r} is computed from results of metrics, or by a tf.function "
                    "that calls some, but several devices know the results only after the step: "
                    "let a metric compute it in its own result(), or leave out the tf.function."
                )

    def _all_told(self) -> dict[str, tf.Tensor]:
        """Returns the logs that metrics tell, of the rows of all replicas."""

        def told() -> dict[str, Any]:
            results = self._results()
            return {key: log.now(results) for key, log in self._told.items()}

        variables = [v for metric in self._kept.metrics() for v in metric.variables]
        return read_at_once(self._strategy, variables, told)

    def merged_spec(self, spec: Local) -> dict[str, Any]:  # noqa: D102
        return tree.map_structure(lambda s: tf.TensorSpec(s.shape[1:], s.dtype), spec.outputs)

    def _stacked(self, value: Any) -> tf.Tensor:
        return tf.stack(self._strategy.experimental_local_results(value))

    def _means(self, stacks: Any, rows: tf.Tensor) -> Any:
        weights = tf.cast(rows, tf.float32)
        leaves = tree.flatten(stacks)
        sums = [_weighted_sum(stack, weights) for stack in leaves]
        packed = tf.concat([[tf.reduce_sum(weights)], *(tf.reshape(s, [-1]) for s in sums)], 0)
        sizes = [1, *map(tf.size, sums)]
        all_rows, *parts = tf.split(self._over_processes(packed), sizes)
        means = [
            tf.cast(tf.reshape(part / all_rows, tf.shape(total)), stack.dtype)
            for part, total, stack in zip(parts, sums, leaves, strict=True)
        ]
        return tree.pack_sequence_as(stacks, means)

    def _over_processes(self, total: tf.Tensor) -> tf.Tensor:
        """Returns the sum of what the processes call `total`."""
        if not self._are_elsewhere:
            return total

        def summed() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, total / self._here)

        return self._strategy.experimental_local_results(self._strategy.run(summed))[0]


def _own_rows(outputs: Any) -> Any:
    """Returns the replica's own rows of what a step made of those that it sees.

    Raises:
        ValueError: there is a single number among them.
    """
    if any(tf.TensorShape(getattr(leaf, "shape", ())).rank == 0 for leaf in tree.flatten(outputs)):
        raise ValueError(
            "The predict_step returns a single number for a batch, which several devices cannot "
            "put together: let it return a row for each row."
        )
    return current_share().own(outputs)


def _difference(value: tf.Tensor, base: tf.Tensor) -> tf.Tensor:
    return tf.where(value == base, tf.zeros_like(value), value - base)  # of infinities, too


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


def _operations_of(graph: tf.Graph) -> set[str]:
    """Returns the kinds of operations in a graph and in the functions that it calls."""
    whole = graph.as_graph_def()
    nodes = [*whole.node, *(node for made in whole.library.function for node in made.node_def)]
    return {node.op for node in nodes}


def _is_split(batch: Any) -> bool:
    return any(isinstance(leaf, tf.distribute.DistributedValues) for leaf in tf.nest.flatten(batch))


def _spec_of(value: Any) -> tf.TypeSpec | None:
    return None if value is None else tf.type_spec_from_value(value)
