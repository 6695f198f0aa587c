"""What a loop in a graph keeps of its steps' outputs."""

from __future__ import annotations

from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.tables import each
from trainer.collecting import (
    Collector,
    EachOutputs,
    LastOutputs,
    LastResults,
    Ran,
    Rows,
    stacked,
)

FLOAT = tf.TensorSpec((), "float32")


def collected(
    collector: Collector, outputs: Any, spec: Any, steps: int, jit_compile: bool = False
) -> Any:
    """Returns what a function returns that collects `outputs(step)` of so many steps."""

    @tf.function(jit_compile=jit_compile, autograph=False)
    def run(k: tf.Tensor) -> Any:
        _, kept = tf.while_loop(
            lambda step, kept: step < k,
            lambda step, kept: (step + 1, collector.add(kept, outputs(step))),
            (tf.constant(0), collector.start(spec)),
        )
        return collector.end(kept, spec)

    return run(tf.constant(steps))


def structure_of(step: tf.Tensor) -> dict[str, Any]:
    number = tf.cast(step, "float32")
    return {"a": number / 4, "b": (tf.stack([step, step + 1]), {"c": tf.cast(step, "bool")})}


STRUCTURE = {
    "a": FLOAT,
    "b": (tf.TensorSpec((2,), "int32"), {"c": tf.TensorSpec((), "bool")}),
}


def by_hand(steps: int) -> dict[str, Any]:
    numbers = np.arange(steps, dtype="int32")
    return {
        "a": numbers.astype("float32") / np.float32(4),
        "b": (np.stack([numbers, numbers + 1], axis=1), {"c": numbers > 0}),
    }


def at(step: int, whole: Any) -> Any:
    return keras.tree.map_structure(lambda values: values[step], whole)


def in_numpy(outputs: Any) -> Any:
    return keras.tree.map_structure(np.asarray, outputs)


@pytest.mark.xdist_group("xla")
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "XLA"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_outputs_of_the_last_step(steps, jit_compile):
    ended = collected(
        LastOutputs(lambda outputs: outputs), structure_of, STRUCTURE, steps, jit_compile
    )
    ran = LastOutputs(lambda outputs: outputs).ran(steps, ended)
    assert (ran.steps, ran.each) == (steps, None)
    assert_same(in_numpy(ran.outputs), in_numpy(at(-1, by_hand(steps))))


OPEN = {
    "rows": (tf.TensorSpec((None, 2), "float32"), lambda step: tf.ones((step + 1, 2))),
    "a row": (tf.TensorSpec((1, None), "int32"), lambda step: tf.ones((1, step + 1), "int32")),
    "any rank": (tf.TensorSpec(None, "float32"), lambda step: tf.ones((step + 1, 2))),
    "text": (tf.TensorSpec((), "string"), tf.strings.as_string),
}


@pytest.mark.parametrize(("spec", "outputs"), **each(OPEN))
def test_the_last_outputs_may_have_an_open_shape(spec, outputs):
    ended = collected(LastOutputs(lambda outputs: outputs), outputs, spec, 5)
    np.testing.assert_array_equal(ended.numpy(), outputs(tf.constant(4)).numpy())


def test_results_are_asked_for_once_after_the_last_step():
    count, asked = tf.Variable(0), []

    def results() -> dict[str, tf.Tensor]:
        asked.append(1)
        return {"count": count.read_value()}

    def outputs(step: tf.Tensor) -> tf.Tensor:
        count.assign_add(1)
        return tf.zeros(())

    ended = collected(LastResults(results), outputs, FLOAT, 6)
    assert int(ended["count"]) == 6
    assert len(asked) == 1


@pytest.mark.xdist_group("xla")
@pytest.mark.parametrize(
    ("most", "jit_compile"), [(None, False), (9, False), (9, True)], ids=["open", "bound", "XLA"]
)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_the_outputs_of_each_step(steps, most, jit_compile):
    collector = EachOutputs(most)
    assert collector.most == most
    ran = collector.ran(steps, collected(collector, structure_of, STRUCTURE, steps, jit_compile))
    assert ran.steps == steps
    assert_same(ran.each, by_hand(steps))
    assert_same(in_numpy(ran.outputs), in_numpy(at(-1, by_hand(steps))))


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_rows_of_all_steps_come_behind_one_another(sizes):
    def outputs(step: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.fill([tf.gather(sizes, step)], step)
        return {"rows": rows, "pairs": tf.stack([rows, rows], axis=1)}

    spec = {"rows": tf.TensorSpec((None,), "int32"), "pairs": tf.TensorSpec((None, 2), "int32")}
    ran = Rows().ran(len(sizes), collected(Rows(), outputs, spec, len(sizes)))
    expected = np.repeat(np.arange(len(sizes), dtype="int32"), sizes)
    assert (ran.steps, ran.each) == (len(sizes), None)
    np.testing.assert_array_equal(ran.outputs["rows"], expected)
    np.testing.assert_array_equal(ran.outputs["pairs"], np.stack([expected] * 2, axis=1))


FITTING = {
    "rows of numbers": (tf.TensorSpec((None, 3), "float32"), True),
    "numbers": (tf.TensorSpec((None,), "float32"), True),
    "as many rows each": (tf.TensorSpec((4, 3), "float32"), True),
    "a structure": ({"a": tf.TensorSpec((None, 3), "float32"), "b": [FLOAT]}, False),
    "a structure of rows": ([tf.TensorSpec((None, 3), "float32")] * 2, True),
    "a number": (FLOAT, False),
    "open columns": (tf.TensorSpec((None, None), "float32"), False),
    "open rank": (tf.TensorSpec(None, "float32"), False),
    "ragged": (tf.RaggedTensorSpec((None, None), "float32", 1), False),
    "sparse": (tf.SparseTensorSpec((None, 3), "float32"), False),
}


@pytest.mark.parametrize(("spec", "fits"), **each(FITTING))
def test_which_outputs_fit_behind_one_another(spec, fits):
    assert bool(Rows.takes(spec)) is fits


def test_tensors_of_a_graph_fit_as_their_specs_do():
    fits = []

    @tf.function
    def trace(x):
        fits.append([bool(Rows.takes(part)) for part in (x, x[0], x @ tf.transpose(x))])

    trace.get_concrete_function(tf.TensorSpec((None, 3), "float32"))
    assert fits == [[True, True, False]]


def test_outputs_one_by_one_are_stacked():
    outputs = [structure_of(tf.constant(step)) for step in range(3)]
    assert_same(stacked(outputs), by_hand(3))
    assert_same(stacked([{"a": 1.5}, {"a": 2.5}]), {"a": np.array([1.5, 2.5])})


def test_what_a_call_and_the_next_one_ran():
    first, second = Ran(2, {"loss": 1.0}), Ran(3, {"loss": 2.0})
    assert first.followed_by(second) == Ran(5, {"loss": 2.0})


def test_predictions_of_a_call_and_the_next_one_are_all_kept():
    first, second = Ran(2, ["a", "b"]), Ran(1, ["c"])
    assert first.followed_by(second) == Ran(3, ["a", "b", "c"])
    assert first == Ran(2, ["a", "b"])
