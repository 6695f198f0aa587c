"""Operations of a traced step that run otherwise in a loop, or under XLA."""

from __future__ import annotations

from typing import Any, NamedTuple

# Each place in a compiled function that has one of these draws its own numbers.
DRAWS = frozenset(
    {
        *("RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal"),
        *("ParameterizedTruncatedNormal", "RandomShuffle", "RandomCrop", "Multinomial"),
        *("RandomGamma", "RandomPoisson", "RandomPoissonV2"),
        *("SampleDistortedBoundingBox", "SampleDistortedBoundingBoxV2"),
    }
)
_CHECKS = frozenset({"Assert", "CheckNumerics", "CheckNumericsV2"})  # which XLA drops


class Operations(NamedTuple):
    """What a step does that a compiled function of several steps has to take care of.

    Attributes:
        draws: whether it draws random numbers by `tf.random.normal` and the like, whose state no
            variable has: a step in a loop and the same one alone draw other numbers.
        checks: whether it checks its numbers by `tf.debugging`.
    """

    draws: bool = False
    checks: bool = False

    def and_of(self, trace: Any) -> Operations:
        """Returns the same for this and a `tf.types.experimental.ConcreteFunction` together."""
        graph = trace.graph.as_graph_def()
        functions = (function.node_def for function in graph.library.function)
        kinds = {node.op for nodes in (graph.node, *functions) for node in nodes}
        return Operations(
            self.draws or not DRAWS.isdisjoint(kinds),
            self.checks or not _CHECKS.isdisjoint(kinds),
        )
