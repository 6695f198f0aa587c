"""Random operations of compiled steps, `tf.random.normal` and the like, with a state to save.

TensorFlow keeps the state of such an operation, a counter of the generator Philox (Salmon et al.,
2011, "Parallel random numbers: as easy as 1, 2, 3"), where nobody can read it. Here each operation
in a trace is replaced by its stateless counterpart with the same key, whose counter is in a
variable and goes on as TensorFlow's does: it draws the same numbers.
"""

from __future__ import annotations

import itertools
import secrets
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainer.operations import DRAWS

_STATELESS = {
    "RandomStandardNormal": "StatelessRandomNormalV2",
    "RandomUniform": "StatelessRandomUniformV2",
    "RandomUniformInt": "StatelessRandomUniformIntV2",
    "TruncatedNormal": "StatelessTruncatedNormalV2",
}
_ADVANCE = 256  # of the counter, for each number drawn
_PHILOX = 1
_PARTS = {"key": tf.uint64, "counter": tf.uint64, "algorithm": tf.int32}
_WARNING = (
    "The step draws random numbers by tf.random where their state cannot be saved: a training that "
    "goes on from a snapshot draws others. keras.random, with a keras.random.SeedGenerator or "
    "without, and tf.random.Generator go on where they were; so does tf.random in a step on one "
    "device without XLA that draws in no function of its own, where fit has the callback Snapshots."
)
_graph_as_written = tf.autograph.experimental.do_not_convert
Traced = Any  # a tf.types.experimental.ConcreteFunction
Compiled = Any  # a tf.types.experimental.PolymorphicFunction
Graph = tf.compat.v1.GraphDef


class RandomOperations:
    """The states of the random operations in the traces of a step.

    Each trace has operations of its own, which draw from the begin of their sequences, as those of
    a `tf.function` do.

    Attributes:
        are_kept: whether steps draw from states that can be saved.
        are_missing: whether steps draw from others.
        traces: of the steps whose operations were replaced.
    """

    def __init__(self):
        self.are_kept = self.are_missing = False
        self.traces: list[Traced] = []
        self._states: dict[str, tf.Variable] = {}  # by what is traced
        self._restored: dict[str, np.ndarray] = {}  # of what is not traced yet, too
        self._has_warned = False

    @property
    def variables(self) -> list[tf.Variable]:
        """The variables that have the states."""
        return list(self._states.values())

    def state(self) -> dict[str, np.ndarray]:
        """Returns the states by names of the traces: int64, a row of key and counter each."""
        if self.are_missing:
            self.warn()
        return self._restored | {name: value.numpy() for name, value in self._states.items()}

    def restore(self, states: dict[str, np.ndarray]) -> None:
        """Sets the states to what `state` returned, those of traces to come, too."""
        self.are_kept |= bool(states)
        self._restored = dict(states)
        for name in self._states.keys() & states.keys():
            self._states[name].assign(states[name])

    def go_on_anew(self) -> None:
        """Lets the traces of a step that is compiled anew go on from the states there are."""
        self._restored |= {name: value.numpy() for name, value in self._states.items()}
        self._states.clear()
        self.traces.clear()

    def warn(self) -> None:
        """Warns once that there are operations whose states cannot be saved."""
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(_WARNING, stacklevel=2)

    def with_states(self, step: Compiled) -> Compiled:
        """Returns a step that draws what `step` does, from the states here.

        Args:
            step: a `tf.function` that takes a batch.
        """

        @_graph_as_written
        def stateless_step(batch: Any) -> Any:
            if any(leaf is None for leaf in tf.nest.flatten(batch)):
                self.warn()
                return step(batch)
            spec = tf.nest.map_structure(tf.type_spec_from_value, batch)
            with tf.init_scope():
                trace = step.get_concrete_function(spec)
            graph = trace.graph.as_graph_def()
            draws = _made_stateless(graph)
            if _still_draws(graph):
                self.warn()
            elif draws:
                self.traces.append(trace)
                return _called(trace, graph, draws, self._state_of(_name_of(spec), draws), batch)
            return step(batch)

        return tf.function(stateless_step, reduce_retracing=True)

    def _state_of(self, name: str, draws: list[_Draw]) -> tf.Variable:
        if name not in self._states:
            seeds = np.array([draw.seeds for draw in draws], np.int64)
            with tf.init_scope():
                self._states[name] = tf.Variable(seeds, trainable=False)
                restored = self._restored.get(name, seeds)
                # A step that is another one by now may have other operations.
                self._states[name].assign(restored if restored.shape == seeds.shape else seeds)
        return self._states[name]


class _Draw(NamedTuple):
    """A random operation of a graph.

    Attributes:
        name: of the operation.
        shape: the name of the tensor that tells how many numbers it draws.
        seeds: its key and the two halves of its first counter.
    """

    name: str
    shape: str
    seeds: tuple[int, int, int]


def _made_stateless(graph: Graph) -> list[_Draw]:
    """Replaces operations of a graph by stateless ones, which take their states by placeholders."""
    draws = []
    for node in [node for node in graph.node if node.op in _STATELESS]:
        shape, *bounds = (name for name in node.input if not name.startswith("^"))
        after = [name for name in node.input if name.startswith("^")]
        seeds = (node.attr["seed"].i, 0, node.attr["seed2"].i)
        if not any(seeds):  # TensorFlow, too, takes any then
            seeds = (secrets.randbits(63), 0, secrets.randbits(63))
        draws.append(_Draw(node.name, shape if ":" in shape else f"{shape}:0", seeds))
        is_integer = node.op == "RandomUniformInt"
        dtypes = {"dtype": "Tout" if is_integer else "dtype", "Tshape": "T"}
        stateless = graph.node.add(name=node.name, op=_STATELESS[node.op], device=node.device)
        stateless.input.extend(
            [shape, *(f"{node.name}/{part}" for part in _PARTS), *bounds, *after]
        )
        for attribute, there in dtypes.items():
            stateless.attr[attribute].CopyFrom(node.attr[there])
        for part, dtype in _PARTS.items():
            placeholder = graph.node.add(name=f"{node.name}/{part}", op="Placeholder")
            placeholder.attr["dtype"].type = dtype.as_datatype_enum
        graph.node.remove(node)
    return draws


def _still_draws(graph: Graph) -> bool:
    """Returns whether a graph, or a function that it calls, has other random operations."""
    nodes = itertools.chain(graph.node, *(function.node_def for function in graph.library.function))
    return not DRAWS.isdisjoint(node.op for node in nodes)


def _called(
    trace: Traced,
    graph: Graph,
    draws: list[_Draw],
    state: tf.Variable,
    batch: Any,
) -> Any:
    """Returns what a trace does for `batch`, computed by its rewritten graph."""
    captured = map(tf.identity, trace.captured_inputs)
    given = [*tf.nest.flatten(batch, expand_composites=True), *captured]
    fed = {tensor.name: value for tensor, value in zip(trace.inputs, given, strict=True)}
    now = state.read_value()
    numbers = tf.bitcast(now, tf.uint64)
    for row, draw in enumerate(draws):
        parts = (numbers[row, :1], numbers[row, 1:], tf.constant(_PHILOX))
        fed |= {f"{draw.name}/{p}:0": value for p, value in zip(_PARTS, parts, strict=True)}
    flat = tf.nest.flatten(trace.structured_outputs, expand_composites=True)
    names = [output.name for output in filter(tf.is_tensor, flat)]
    found = tf.graph_util.import_graph_def(
        graph, fed, [*names, *(draw.shape for draw in draws)], name=""
    )
    sizes = [tf.reduce_prod(tf.cast(shape, tf.int64)) for shape in found[len(names) :]]
    state.assign(now + _ADVANCE * tf.stack([[0, size, 0] for size in sizes]))
    outputs = iter(found[: len(names)])
    packed = [next(outputs) if tf.is_tensor(output) else output for output in flat]
    return tf.nest.pack_sequence_as(trace.structured_outputs, packed, expand_composites=True)


def _name_of(batch_spec: Any) -> str:
    leaves = keras.tree.flatten_with_path(batch_spec)
    return ", ".join(f"{'/'.join(map(str, path))} {spec}" for path, spec in leaves)
