"""What a `tf.data` pipeline draws, and whether another process can draw it again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

PREFETCHED = "_prefetched_for_trainer"  # what reads a dataset, kept with it
_IGNORE_STATE = 1
# Kinds of parts that call no function, so none that draws.
_CALL_NOTHING = {
    *("Batch", "Cache", "Concatenate", "FixedLengthRecord", "Options", "Prefetch", "Random"),
    *("Range", "Repeat", "Shard", "Shuffle", "Skip", "Take", "Tensor", "TensorSlice", "TextLine"),
    *("TFRecord", "Unbatch", "Zip"),
}


# Kinds of parts whose files TensorFlow can split among processes.
_READ_FILES = {
    *("ArrayRecord", "FixedLengthRecord", "RecordIO", "SSTable", "TextLine", "TFRecord"),
}


class _Node(NamedTuple):
    """A node of a pipeline's graph.

    Attributes:
        definition: the node.
        in_parallel: whether several threads run it, in no fixed order.
        beside: the nodes by name that it can read.
    """

    definition: Any
    in_parallel: bool
    beside: dict[str, Any]

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers and counts on from draw to draw."""
        return {"seed", "seed2"} <= set(self.definition.attr)

    @property
    def has_seed(self) -> bool:
        """Whether it, if it draws, does so from a seed."""
        return any(self.definition.attr[name].i for name in ("seed", "seed2"))

    @property
    def shuffles_unseeded(self) -> bool:
        """Whether it shuffles, and its two seeds say that they are none."""
        seeds = [name.partition(":")[0] for name in self.definition.input[2:4]]
        return "Shuffle" in self.definition.op and all(map(self._is_zero, seeds))

    def _is_zero(self, name: str) -> bool:
        node = self.beside.get(name)
        return (
            node is not None
            and node.op == "Const"
            and not tf.make_ndarray(node.attr["value"].tensor).any()
        )


def check_draws(dataset: tf.data.Dataset) -> None:
    """Checks that what `dataset` draws is drawn again where it is iterated over anew.

    Where it calls functions, that takes some seconds a gigabyte of arrays that it holds.

    Raises:
        ValueError: it draws random numbers that cannot be drawn again.
    """
    if _kinds_of(parts_of(dataset)) <= _CALL_NOTHING:
        return
    for node in _nodes(_graph(dataset)):
        name = f"{node.definition.op} ({node.definition.name})"
        if node.draws and not node.has_seed:
            raise ValueError(
                f"The tf.data pipeline draws from {name}, which has no seed, so no other process "
                f"can go on with it: take the stateless form, {_stateless(node.definition)}, and "
                "zip the dataset with tf.data.Dataset.random(seed=...) for its seeds; or call "
                "keras.utils.set_random_seed before the dataset is made."
            )
        if node.draws and node.in_parallel:
            raise ValueError(
                f"The tf.data pipeline draws from {name} in parallel, so in no fixed order, which "
                "no other process can repeat: take the stateless form, "
                f"{_stateless(node.definition)}, or no num_parallel_calls."
            )


def check_shuffles(dataset: tf.data.Dataset) -> None:
    """Checks that each shuffle in `dataset` has a seed, so that another process has its order.

    Raises:
        ValueError: one has none.
    """
    for node in _nodes(_graph(dataset)):
        if node.shuffles_unseeded:
            raise ValueError(
                "The tf.data pipeline shuffles without a seed, so another process cannot go on "
                "with what tf.distribute splits: give shuffle and list_files a seed, or call "
                "keras.utils.set_random_seed before the dataset is made."
            )


def reads_files(dataset: tf.data.Dataset) -> bool:
    """Returns whether `dataset` reads files of kinds that TensorFlow splits among processes."""
    kinds = _kinds_of(parts_of(dataset))
    if not kinds <= _CALL_NOTHING:
        kinds = _kinds_of(node.definition.op for node in _nodes(_graph(dataset)))
    return not kinds.isdisjoint(_READ_FILES)


def count_of_shuffles(parts: list[str]) -> int:
    """Returns how many of the parts of a pipeline shuffle, or draw, anew in each pass."""
    return sum("Shuffle" in kind or "Random" in kind for kind in parts)


def parts_of(dataset: tf.data.Dataset) -> list[str]:
    """Returns the kinds of the parts of a pipeline, the last one first."""
    found, waiting = {}, [dataset]
    while waiting:
        part = waiting.pop()
        if isinstance(part, tf.data.Dataset) and id(part) not in found:
            found[id(part)] = type(part).__name__
            # No public name leads from a dataset to those that it reads.
            read = (value for name, value in vars(part).items() if name != PREFETCHED)
            waiting.extend(tf.nest.flatten(list(filter(_holds_parts, read))))
    return list(found.values())


def _kinds_of(names: Iterable[str]) -> set[str]:
    """Returns the kinds of parts that classes or operations of these names are."""
    return {re.sub(r"^_|(Dataset)?(V\d+)?$", "", name) for name in names}


def _holds_parts(value: Any) -> bool:
    return isinstance(value, (tf.data.Dataset, list, tuple, dict))


def _graph(dataset: tf.data.Dataset) -> Any:
    serialized = tf.raw_ops.DatasetToGraphV2(
        input_dataset=tf.data.experimental.to_variant(dataset),
        external_state_policy=_IGNORE_STATE,
        strip_device_assignment=True,
    )
    graph = tf.compat.v1.GraphDef()
    graph.ParseFromString(serialized.numpy())
    return graph


def _nodes(graph: Any) -> Iterator[_Node]:
    """Yields the nodes of the graph and of all functions that it calls."""
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    seen = set()
    waiting = [(graph.node, False)]
    while waiting:
        body, in_parallel = waiting.pop()
        beside = {node.name: node for node in body}
        for node in body:
            yield _Node(node, in_parallel, beside)
            for name in _called(node):
                call = (name, in_parallel or node.op.startswith("Parallel"))
                if call not in seen and name in functions:
                    seen.add(call)
                    waiting.append((functions[name], call[1]))


def _called(node: Any) -> Iterator[str]:
    """Yields the names of the functions that `node` calls."""
    for value in node.attr.values():
        yield from (function.name for function in (value.func, *value.list.func))


def _stateless(node: Any) -> str:
    """Returns the public function that draws like `node` from a seed that it is given."""
    name = node.name.split("/")[0]
    if hasattr(tf.image, f"stateless_{name}"):
        return f"tf.image.stateless_{name}"
    return _STATELESS.get(node.op, "tf.random.stateless_uniform or one of its kind")


_STATELESS = {
    "RandomUniform": "tf.random.stateless_uniform",
    "RandomUniformInt": "tf.random.stateless_uniform",
    "RandomStandardNormal": "tf.random.stateless_normal",
    "TruncatedNormal": "tf.random.stateless_truncated_normal",
    "Multinomial": "tf.random.stateless_categorical",
    "RandomGamma": "tf.random.stateless_gamma",
    "RandomPoissonV2": "tf.random.stateless_poisson",
    "RandomShuffle": "tf.random.experimental.stateless_shuffle",
    "SampleDistortedBoundingBoxV2": "tf.image.stateless_sample_distorted_bounding_box",
}
