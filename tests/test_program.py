"""k steps in one call are k steps, and never one too many."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.comparisons import assert_same
from tests.helpers.data import Batches, numbers
from tests.helpers.models import compiled, mlp, seeded, variables_of
from tests.helpers.tables import each, names_of
from trainer import CustomTrainer
from trainer import program as programs
from trainer.feeds import Feed, open_feed
from trainer.program import PredictProgram, Program
from trainer.progress import Progress, ProgressInSteps
from trainer.replicas import Replicas
from trainer.step_context import StepContext
from trainer.step_means import StepMeans
from trainer.traced_shapes import keras_traces_batches

BATCH = 4
ROWS = 22  # five batches and an odd one
STEPS = 6
X, Y = numbers(ROWS, 4), numbers(ROWS, 1, seed=1)


@pytest.fixture(autouse=True)
def _no_step_goes_alone(monkeypatch):
    """Lets the first call have several steps."""
    monkeypatch.setattr(programs, "STEPS_ALONE", 0)


# Feeds of the same batches, from each kind of source


def dataset(rows: int = ROWS) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X[:rows], Y[:rows])).batch(BATCH)


def data_set(rows: int = ROWS) -> Batches:
    return Batches((X[:rows], Y[:rows]), BATCH)


def batches(rows: int = ROWS) -> list:
    made = data_set(rows)
    return [made[number] for number in range(len(made))]


class Kind(NamedTuple):
    give: Callable[[int], dict[str, Any]]
    known: bool = True  # whether the length is known


KINDS = {
    "arrays": Kind(lambda rows: {"x": X[:rows], "y": Y[:rows], "batch_size": BATCH}),
    "tf.data": Kind(lambda rows: {"x": dataset(rows)}),
    "tf.data of unknown length": Kind(
        lambda rows: {"x": dataset(rows).filter(lambda *_: True)}, known=False
    ),
    "generator": Kind(lambda rows: {"x": iter(batches(rows))}, known=False),
    "PyDataset": Kind(lambda rows: {"x": data_set(rows)}),
}


@contextlib.contextmanager
def feed_of(kind: Kind, rows: int = ROWS):
    with contextlib.closing(open_feed(**kind.give(rows))) as feed:
        feed.rewind(0)
        yield feed


def infinite_feed() -> Feed:
    feed = open_feed(dataset(8).repeat())
    feed.rewind(0)
    return feed


# Programs


def reraise(error: Exception, batch: Any) -> NoReturn:
    raise error


def program_of(
    step: Callable, kind: type[Program] = Program, run_eagerly: bool = False, **how: Any
) -> Program:
    replicas = Replicas(tf.distribute.get_strategy())
    trainer = CustomTrainer(keras.Sequential([keras.Input((4,))]), run_eagerly=run_eagerly)
    progress = ProgressInSteps(Progress)
    context = StepContext(trainer, "train", progress, assigned=list, means=StepMeans(list))
    return kind(step, **{"replicas": replicas, "explain": reraise, "context": context, **how})


class Recurrence:
    """A step whose result depends on the order of all batches before it."""

    def __init__(self) -> None:
        self.state = tf.Variable(0.5)
        self.steps = tf.Variable(0)
        self.traces = 0

    def set_back(self) -> None:
        self.state.assign(0.5)
        self.steps.assign(0)

    def __call__(self, batch: tuple) -> dict[str, tf.Tensor]:
        self.traces += 1
        x, y = batch
        self.steps.assign_add(1)
        self.state.assign(tf.sin(3.0 * self.state + tf.reduce_sum(x)) + tf.reduce_mean(y))
        return {"state": self.state.read_value(), "rows": tf.shape(x)[0]}

    @staticmethod
    def by_hand(count: int) -> list[float]:
        """Returns the state after each of the first steps, computed by NumPy."""
        state, states = np.float64(0.5), []
        for x, y in itertools.islice(batches(), count):
            state = np.sin(3.0 * state + x.sum(dtype="float64")) + y.mean(dtype="float64")
            states.append(float(state))
        return states


def try_a_step(program: Program, kind: Kind) -> None:
    """Runs a step, for where a first one is alone, to try whether XLA takes it."""
    with feed_of(kind) as feed:
        program.run(feed)


WAYS = {"compiled": {}, "eager": {"run_eagerly": True}, "XLA": {"jit_compile": True}}


def steps_taken(program: Program, feed: Feed, groups: Any) -> list[int]:
    """Runs groups of steps until the end, returns the position after each."""
    positions = []
    for k in groups:
        before = feed.position
        try:
            ran = program.run(feed, k)
        except StopIteration:
            assert program.done == 0
            break
        assert ran.steps == program.done == feed.position - before <= k
        positions.append(feed.position)
    return positions


@pytest.mark.parametrize("way", **each(WAYS, default=["compiled", "eager"]))
@pytest.mark.parametrize("kind", **each(KINDS))
def test_the_steps_are_taken_one_after_the_other(kind, way):
    step = Recurrence()
    program = program_of(step, **way)
    with feed_of(kind) as feed:
        for done, expected in zip((1, 2, 3, 4, 5, 6), Recurrence.by_hand(STEPS), strict=True):
            ran = program.run(feed, 1)
            outputs = ran.outputs
            assert (ran.steps, ran.each, program.done) == (1, None, 1)
            assert float(outputs["state"]) == pytest.approx(expected, abs=1e-4)
            assert int(outputs["rows"]) == (2 if done == STEPS else BATCH)
            assert int(step.steps) == feed.position == done


@hypothesis.settings(max_examples=8)
@hypothesis.given(
    kind=st.sampled_from([*KINDS]),
    rows=st.integers(1, ROWS),
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=3),
)
def test_groups_of_any_size_are_single_steps(kind, rows, sizes):
    single, grouped = Recurrence(), Recurrence()
    with feed_of(KINDS[kind], rows) as feed:
        program = program_of(single)
        positions = steps_taken(program, feed, [1] * (STEPS + 1))
    assert positions == list(range(1, -(-rows // BATCH) + 1))
    with feed_of(KINDS[kind], rows) as feed:
        steps_taken(program_of(grouped), feed, sizes * (STEPS + 1))
        assert feed.position == positions[-1]
    assert_same(grouped.state.numpy(), single.state.numpy())
    assert_same(grouped.steps.numpy(), single.steps.numpy())


@pytest.mark.parametrize("way", **each(WAYS, default=["compiled", "eager"]))
@pytest.mark.parametrize("kind", **each(KINDS))
def test_a_group_ends_where_the_data_do(kind, way):
    step = Recurrence()
    program = program_of(step, **way)
    try_a_step(program, kind)
    for k in (2, 4, STEPS, 50):
        step.set_back()
        with feed_of(kind) as feed:
            # XLA compiles for a shape: the odd batch of arrays has a call of its own.
            full = feed.full_steps if way == WAYS["XLA"] and feed.full_steps else STEPS
            positions = steps_taken(program, feed, [k] * (STEPS + 1))
        ends = {min(done, full) for done in range(k, STEPS + k, k)}
        assert positions == sorted(ends | {STEPS}), k
        assert int(step.steps) == STEPS, k
        assert float(step.state) == pytest.approx(Recurrence.by_hand(STEPS)[-1], abs=1e-4), k


@pytest.mark.parametrize("way", ["compiled", "eager"])
@pytest.mark.parametrize("kind", **each(KINDS))
def test_after_the_end_nothing_runs(kind, way):
    step = Recurrence()
    program = program_of(step, **WAYS[way])
    with feed_of(kind) as feed:
        steps_taken(program, feed, [1] * STEPS)
        for k in (1, 3, 1):
            with pytest.raises(StopIteration):
                program.run(feed, k)
            assert feed.position == STEPS, k
            assert int(step.steps) == STEPS, k


@pytest.mark.parametrize("way", ["compiled", "eager"])
@pytest.mark.parametrize("kind", **each(KINDS))
def test_the_batch_after_the_last_step_is_the_next(kind, way):
    """No batch is taken from the source and dropped."""
    program = program_of(Recurrence(), **WAYS[way])
    for groups in ([1, 1, 1], [3], [2, 1], [1, 2]):
        with feed_of(kind) as feed:
            steps_taken(program, feed, groups)
            x, y = feed.next()
        np.testing.assert_array_equal(x, X[12:16])
        np.testing.assert_array_equal(y, Y[12:16])


@pytest.mark.parametrize("way", ["compiled", "eager"])
def test_data_without_end(way):
    step = Recurrence()
    program, feed = program_of(step, **WAYS[way]), infinite_feed()
    for k, done in ((3, 3), (1, 4), (5, 9)):
        program.run(feed, k)
        assert int(step.steps) == feed.position == done


def with_dropout() -> keras.Model:
    return compiled(mlp(keras.layers.Dropout(0.4)), metrics=None)


def without_dropout() -> keras.Model:
    return compiled(mlp(), metrics=None)


def trained(build: Callable, kind: Kind, group: int, **settings: Any) -> tuple[list, list]:
    """Returns variables and logs after two epochs of groups of `group` steps."""
    model = seeded(build)
    trainer = CustomTrainer(model, steps_per_execution=group, **settings)
    logs = []
    for _ in range(2):
        history = trainer.fit(**kind.give(ROWS), shuffle=False, verbose=0)
        logs.append(history.history)
    return [variable.numpy() for variable in variables_of(model)], logs


@functools.cache
def trained_step_by_step(build: Callable, way: str) -> tuple[list, list]:
    return trained(build, KINDS["arrays"], 1, **WAYS[way])


@pytest.mark.parametrize("way", ["compiled", "eager"])
@pytest.mark.parametrize("kind", **each(KINDS))
def test_groups_leave_the_bits_of_a_model(kind, way):
    ours = trained(with_dropout, kind, 4, **WAYS[way])
    assert_same(ours, trained_step_by_step(with_dropout, way))


@pytest.mark.xdist_group("xla")
@pytest.mark.parametrize("kind", names_of(["arrays", "tf.data of unknown length"], ["arrays"]))
def test_groups_under_xla_are_close(kind):
    """Without dropout, for XLA has random numbers of its own."""
    values, logs = trained(without_dropout, KINDS[kind], 4, jit_compile=True)
    known_values, known_logs = trained_step_by_step(without_dropout, "compiled")
    for value, known in zip(values, known_values, strict=True):
        np.testing.assert_allclose(value, known, rtol=2e-4, atol=2e-5)
    for log, known in zip(logs, known_logs, strict=True):
        assert log == {key: pytest.approx(value, rel=1e-4) for key, value in known.items()}


# What a call gives of its steps


@pytest.mark.parametrize("way", **each(WAYS, default=["compiled", "eager"]))
@pytest.mark.parametrize("kind", **each(KINDS))
def test_the_outputs_of_each_step_are_kept_where_they_are_asked_for(kind, way):
    step, groups = Recurrence(), []
    program = program_of(step, **way)
    with feed_of(kind) as feed:
        for k in (1, 3, 1, 50, 50):
            with contextlib.suppress(StopIteration):
                groups.append(program.run(feed, k, each=True))
    assert sum(ran.steps for ran in groups) == int(step.steps) == STEPS
    for ran in groups:
        assert {key: len(values) for key, values in ran.each.items()} == {
            "state": ran.steps,
            "rows": ran.steps,
        }
        for key, values in ran.each.items():
            assert isinstance(values, np.ndarray)
            np.testing.assert_array_equal(values[-1], ran.outputs[key])
    states = np.concatenate([ran.each["state"] for ran in groups])
    np.testing.assert_allclose(states, Recurrence.by_hand(STEPS), atol=1e-4)
    rows = np.concatenate([ran.each["rows"] for ran in groups])
    assert list(rows) == [BATCH] * (STEPS - 1) + [ROWS % BATCH]


@pytest.mark.parametrize("kind", **each(KINDS))
def test_keeping_the_outputs_of_each_step_changes_no_bit(kind):
    single, grouped = Recurrence(), Recurrence()
    program = program_of(single)
    with feed_of(kind) as feed:
        states = [program.run(feed).outputs["state"].numpy() for _ in range(STEPS)]
    with feed_of(kind) as feed:
        ran = program_of(grouped).run(feed, STEPS, each=True)
    assert_same(ran.each["state"], np.array(states))


def is_past_three(outputs: dict) -> tf.Tensor:
    return outputs["count"] >= 3


@pytest.mark.parametrize("each_of_them", [False, True])
@pytest.mark.parametrize("way", **each(WAYS, default=["compiled", "eager"]))
@pytest.mark.parametrize("kind", **each(KINDS))
def test_a_call_ends_after_the_step_that_until_is_true_of(kind, way, each_of_them):
    step = Recurrence()

    def counting(batch):
        outputs = step(batch)
        return {**outputs, "count": step.steps.read_value()}

    program = program_of(counting, **way)
    try_a_step(program, kind)
    step.set_back()
    with feed_of(kind) as feed:
        ran = program.run(feed, STEPS, until=is_past_three, each=each_of_them)
        assert (ran.steps, program.done, feed.position, int(step.steps)) == (3, 3, 3, 3)
        assert int(ran.outputs["count"]) == 3
        for done in (4, 5, 6):  # true of each of these, too
            ran = program.run(feed, STEPS, until=is_past_three, each=each_of_them)
            assert (ran.steps, feed.position, int(step.steps)) == (1, done, done)


@pytest.mark.parametrize("kind", **each(KINDS))
def test_until_takes_no_batch_that_it_does_not_use(kind):
    program = program_of(Recurrence())
    with feed_of(kind) as feed:
        ran = program.run(feed, STEPS, until=lambda outputs: outputs["rows"] > 0)
        assert ran.steps == 1
        np.testing.assert_array_equal(feed.next()[0], X[4:8])


@pytest.mark.parametrize("way", ["compiled", "eager"])
@pytest.mark.parametrize("name", ["tf.data", "tf.data of unknown length", "generator"])
def test_a_batch_that_cannot_be_had_leaves_the_steps_before_it(name, way):
    """What breaks is the source: its third batch raises."""
    step = Recurrence()
    program = program_of(step, explain=explain, **WAYS[way])

    def broken():
        yield from batches()[:2]
        raise RuntimeError("no third batch")

    data = broken()
    if name != "generator":
        spec = (tf.TensorSpec((None, 4), "float32"), tf.TensorSpec((None, 1), "float32"))
        data = tf.data.Dataset.from_generator(broken, output_signature=spec)
        if KINDS[name].known:
            data = data.apply(tf.data.experimental.assert_cardinality(STEPS))
    with contextlib.closing(open_feed(data)) as feed:
        feed.rewind(0)
        breaks = (ExplainedError, RuntimeError, tf.errors.OpError)
        with pytest.raises(breaks, match="no third batch"):
            program.run(feed, STEPS)
        assert (program.done, feed.position, int(step.steps)) == (2, 2, 2)
    assert float(step.state) == pytest.approx(Recurrence.by_hand(2)[-1], abs=1e-4)


# Traces


@pytest.mark.parametrize("jit_compile", **each({"graph": False, "XLA": True}, ["graph"]))
@pytest.mark.parametrize("kind", **each(KINDS))
def test_one_trace_serves_all_groups_and_the_odd_batch(kind, jit_compile):
    step = Recurrence()
    program = program_of(step, jit_compile=jit_compile)
    for groups in ([1] * STEPS, [2, 3, 1], [50, 1], [5, 1]):
        with feed_of(kind) as feed:
            steps_taken(program, feed, groups)
            assert feed.position == STEPS
    assert step.traces == 1


@pytest.mark.parametrize("kind", **each(KINDS))
def test_data_of_another_length_need_few_traces(kind):
    """The batch size becomes unknown once, if it was known at first."""
    step = Recurrence()
    program = program_of(step)
    for rows in (20, 8, 10, 13, 22, 16, 5):
        with feed_of(kind, rows) as feed:
            steps_taken(program, feed, [2] * STEPS)
    assert step.traces <= 2


class CountsTraces(CustomTrainer):
    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
@pytest.mark.parametrize("kind", **each(KINDS))
def test_a_second_fit_on_data_of_the_same_shapes_traces_nothing(kind, steps_per_execution):
    trainer = CountsTraces(compiled(mlp(), metrics=None), steps_per_execution=steps_per_execution)
    watching = keras.callbacks.EarlyStopping("loss")
    # Where Keras traces for batches, an odd last one is a second trace, once.
    most = 2 if keras_traces_batches() and steps_per_execution == 1 else 1
    traces = []
    for _ in range(3):
        trainer.fit(**kind.give(ROWS), verbose=0, callbacks=[watching])
        traces.append(trainer.traces)
    assert traces[0] in range(1, most + 1)
    assert traces == traces[:1] * 3


def test_an_eager_step_is_run_as_plain_python_each_time():
    step = Recurrence()
    program = program_of(step, run_eagerly=True)
    with feed_of(KINDS["arrays"]) as feed:
        steps_taken(program, feed, [4, 4])
    assert step.traces == STEPS


# What a program tells


@pytest.mark.parametrize("kind", **each(KINDS))
def test_the_spec_of_the_outputs_is_told_without_a_step(kind):
    step = Recurrence()
    program = program_of(step)
    for k in (3, 1):
        step.set_back()
        with feed_of(kind) as feed:
            spec = program.output_spec(feed)
            assert set(spec) == {"state", "rows"}
            assert (spec["rows"].shape, spec["rows"].dtype) == ((), tf.int32)
            assert int(step.steps) == feed.position == 0
            program.run(feed, k)
            assert int(step.steps) == k
    assert step.traces == 1


def test_an_eager_program_tells_no_spec():
    with feed_of(KINDS["arrays"]) as feed:
        assert program_of(Recurrence(), run_eagerly=True).output_spec(feed) is None


@pytest.mark.parametrize("each", [False, True])
def test_the_first_steps_on_arrays_go_alone(each, monkeypatch):
    monkeypatch.setattr(programs, "STEPS_ALONE", 2)
    step = Recurrence()
    program = program_of(step)
    with feed_of(KINDS["arrays"]) as feed:
        runs = [program.run(feed, STEPS, each=each) for _ in range(3)]
        assert [ran.steps for ran in runs] == [1, 1, STEPS - 2]
        assert feed.ended
    expected = Recurrence.by_hand(STEPS)
    last = [float(ran.outputs["state"]) for ran in runs]
    assert last == pytest.approx([expected[0], expected[1], expected[-1]], abs=1e-4)
    if each:
        told = np.concatenate([ran.each["state"] for ran in runs])
        assert told == pytest.approx(expected, abs=1e-4)
    assert step.traces == 1


@pytest.mark.parametrize("way", ["compiled", "eager"])
def test_a_single_batch(way):
    step = Recurrence()
    program = program_of(step, **WAYS[way])
    for count, (x, y) in enumerate(batches(), 1):
        outputs = program.run_on_batch((tf.constant(x), tf.constant(y)))
        expected = Recurrence.by_hand(count)[-1]
        assert float(outputs["state"]) == pytest.approx(expected, abs=1e-4)
    assert step.traces <= (2 if way == "compiled" else STEPS)


class ExplainedError(Exception):
    def __init__(self, error: Exception, batch: Any):
        super().__init__(str(error))
        self.shapes = [tuple(part.shape) for part in keras.tree.flatten(batch)]


def explain(error: Exception, batch: Any) -> NoReturn:
    raise ExplainedError(error, batch) from error


@pytest.mark.parametrize("way", ["compiled", "eager"])
@pytest.mark.parametrize("kind", **each(KINDS))
def test_an_error_of_the_step_is_explained(kind, way):
    def raises(batch):
        raise KeyError("in Python")

    program = program_of(raises, explain=explain, **WAYS[way])
    for k in (1, 3):
        with feed_of(kind) as feed, pytest.raises(ExplainedError, match="in Python") as caught:
            program.run(feed, k)
        assert [shape[1:] for shape in caught.value.shapes] == [(4,), (1,)]


@pytest.mark.parametrize("way", ["compiled", "eager"])
@pytest.mark.parametrize("kind", **each(KINDS))
def test_an_error_in_the_graph_is_explained_and_stops_at_its_step(kind, way):
    step = Recurrence()

    def fails_in_the_odd_batch(batch):
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(batch[0])[0], BATCH)]):
            return step(tuple(map(tf.identity, batch)))

    program = program_of(fails_in_the_odd_batch, explain=explain, **WAYS[way])
    expected = Recurrence.by_hand(STEPS - 1)[-1]
    for groups in ([1] * STEPS, [STEPS], [4, 2]):
        step.set_back()
        with feed_of(kind) as feed, pytest.raises(ExplainedError) as caught:
            steps_taken(program, feed, groups)
        assert int(step.steps) == STEPS - 1, groups
        assert sum(groups[:-1]) + program.done == STEPS - 1, groups
        if feed.is_in_graph and way == "compiled":
            assert feed.position == STEPS - 1, groups
        assert float(step.state) == pytest.approx(expected, abs=1e-4), groups
        assert [shape[1:] for shape in caught.value.shapes] == [(4,), (1,)]


# Predictions


def outputs_of(batch: tuple) -> dict[str, tf.Tensor]:
    return {"rows": 2 * batch[0], "sums": [tf.reduce_sum(batch[0], axis=1)]}


@pytest.mark.parametrize("way", **each(WAYS, default=["compiled", "eager"]))
@pytest.mark.parametrize("kind", **each(KINDS))
def test_predictions_of_a_group_are_those_of_its_steps(kind, way):
    program = program_of(outputs_of, PredictProgram, **way)
    for k in (1, 2, 4, 50):
        with feed_of(kind) as feed:
            groups = [program.run(feed, k) for _ in range(-(-STEPS // k))]
            assert feed.position == STEPS
            in_graph = feed.is_in_graph and way != WAYS["eager"]
        assert [ran.steps for ran in groups] == [min(k, STEPS - at) for at in range(0, STEPS, k)]
        assert [len(ran.outputs) for ran in groups] == [1 if in_graph else r.steps for r in groups]
        outputs = list(itertools.chain.from_iterable(ran.outputs for ran in groups))
        rows = np.concatenate([output["rows"] for output in outputs])
        np.testing.assert_array_equal(rows, 2 * X)
        (sums,) = zip(*(output["sums"] for output in outputs), strict=True)
        np.testing.assert_allclose(np.concatenate(sums), X.sum(axis=1), rtol=1e-5, atol=1e-6)


def of_the_positive(batch: tuple) -> tf.RaggedTensor:
    return tf.ragged.boolean_mask(batch[0], batch[0] > 0)


def of_as_many_columns_as_rows(batch: tuple) -> tf.Tensor:
    return tf.matmul(batch[0], batch[0], transpose_b=True)


def a_number_a_batch(batch: tuple) -> tf.Tensor:
    return tf.reduce_sum(batch[0])


@pytest.mark.parametrize("way", ["compiled", "eager"])
@pytest.mark.parametrize("kind", **each(KINDS))
@pytest.mark.parametrize("step", [of_the_positive, of_as_many_columns_as_rows, a_number_a_batch])
def test_outputs_that_do_not_fit_behind_one_another_come_step_by_step(step, kind, way):
    program = program_of(step, PredictProgram, **WAYS[way])
    with feed_of(kind) as feed:
        groups = [program.run(feed, k) for k in (1, 4, 50)]
    assert [ran.steps for ran in groups] == [len(ran.outputs) for ran in groups] == [1, 4, 1]
    outputs = list(itertools.chain.from_iterable(ran.outputs for ran in groups))
    for output, batch in zip(outputs, batches(), strict=True):
        expected = step(tuple(map(tf.constant, batch)))
        assert type(output) is type(expected)
        output, expected = (
            part.to_tensor() if isinstance(part, tf.RaggedTensor) else part
            for part in (output, expected)
        )
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", **each(KINDS))
def test_predictions_leave_the_next_batch(kind):
    program = program_of(outputs_of, PredictProgram)
    with feed_of(kind) as feed:
        program.run(feed, 3)
        np.testing.assert_array_equal(feed.next()[0], X[12:16])


@pytest.mark.parametrize("kind", **each(KINDS))
def test_after_the_last_prediction_comes_none(kind):
    program = program_of(outputs_of, PredictProgram)
    with feed_of(kind) as feed:
        program.run(feed, STEPS)
        with pytest.raises(StopIteration):
            program.run(feed, 2)
