"""Steps, compiled: k of them from a feed in one call."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer import xla
from trainer.collecting import (
    EACH,
    EACH_BOUNDED,
    ROWS,
    Collector,
    LastOutputs,
    LastResults,
    Ran,
    Rows,
    stacked,
    tensors_of,
)
from trainer.feeds import Batch, Feed, Source
from trainer.operations import Operations
from trainer.pace import Pace
from trainer.random_operations import RandomOperations
from trainer.replicas import Replicas
from trainer.step_context import StepContext
from trainer.step_means import StepMeans
from trainer.traced_shapes import TracedShapes, exact_spec

_graph_as_written = tf.autograph.experimental.do_not_convert
_NUMBER = tf.TensorSpec([], tf.int64)
STEPS_ALONE = 100  # the first ones: what they cost more than in a loop is less than its trace
Until = Callable[[Any], tf.Tensor]  # returns whether to stop after a step with these outputs


class Program:
    """A step, compiled once, that runs k times in one call.

    Args:
        step: takes a batch, returns a structure of tensors.
        replicas: runs the step on each of them.
        jit_compile: whether XLA compiles the step, wherever its batches come from.
        results: returns, in the graph, the results of the last step from the variables that have
            them; the steps before it then need not compute theirs.
        explain: given an error of the step and the batch or its spec, adds to it what a user needs.
        context: what the step depends on besides its batch.
        knows_batches: whether the step is traced for the shapes of batches, not those of the data.
        random: what `tf.random` draws in the step.

    Attributes:
        pace: how many steps a call may have to be a short one.
        shapes: the shapes that the step is traced for.
        returns_results: whether `results` was given.
        gathers: whether groups have one step, as replicas gather in it what they exchange.
        operations: what the step does that a loop or XLA has to take care of.
        done: how many steps the last call of `run` had, also if something ended it.
    """

    groups_suit_xla = True

    def __init__(
        self,
        step: Callable[[Batch], Any],
        *,
        replicas: Replicas,
        jit_compile: bool = False,
        results: Callable[[], Any] | None = None,
        explain: Callable[[Exception, Any], None],
        context: StepContext,
        knows_batches: bool = False,
        random: RandomOperations | None = None,
    ):
        @_graph_as_written
        def explained_step(batch: Batch) -> Any:
            try:
                with context.step():
                    return step(context.begin(batch))
            except StopIteration as error:  # which for the loop is the end of the data
                raise RuntimeError("A step raised StopIteration.") from error
            except Exception as error:
                explain(error, batch)
                raise

        @_graph_as_written
        def replicated_step(batch: Batch) -> Any:
            with context.replicas():
                outputs = replicas.run(explained_step, batch)
            context.end(outputs)
            return outputs

        self.pace = Pace()
        self._context = context
        self.shapes = TracedShapes(knows_batches)
        self._explain = explain
        self._replicas = replicas
        self._replicated_step = replicated_step
        self.returns_results = results is not None
        self._last = LastOutputs(replicas.merged) if results is None else LastResults(results)
        self._xla_works = self._xla_gave_up = False
        self._random = random or RandomOperations()
        self.done = 0
        with tf.init_scope():
            # Counts all steps, and so tells how far a call came that an error or Ctrl-C ended.
            self._counter = tf.Variable(0, trainable=False, dtype=tf.int64)
        self._counted = 0
        self._compile(jit_compile)

    def run(
        self,
        feed: Feed,
        k: int = 1,
        *,
        each: bool = False,
        until: Until | None = None,
        under_xla: bool = False,
    ) -> Ran:
        """Runs up to `k` steps on the next batches of `feed`.

        Args:
            feed: the feed.
            k: how many steps, if there is data for them; the call may end earlier.
            each: whether to return the outputs of each step.
            until: ends the call after a step that it is true of.
            under_xla: whether XLA may compile the steps together, where their batches are cut out
                in the graph.

        Raises:
            StopIteration: the pass had no further batch; no step ran.
        """
        self.done = 0
        self._prepare()
        if feed.ended:
            raise StopIteration
        return self._run(feed, k, each, until, under_xla)

    def _run(self, feed: Feed, k: int, each: bool, until: Until | None, under_xla: bool) -> Ran:
        # Whether XLA takes the step is tried on a batch that can be run again without it.
        tries_xla = self._jit_compile and not self._xla_works and not feed.full_steps
        from_python = self._run_eagerly or not feed.is_in_graph or self._goes_singly(feed)
        if not from_python:
            self._know_step(feed, under_xla)
            under_xla = under_xla and self.operations == Operations()
            from_python = self.draws and feed.rows is None
        if from_python or tries_xla:
            outputs = self._run_from_python(feed, 1 if tries_xla and feed.is_in_graph else k, until)
            return Ran(len(outputs), outputs[-1], stacked(outputs) if each else None)
        if self._goes_alone(feed, k, under_xla):
            outputs = self._run_alone(feed)
            return Ran(1, outputs, stacked([outputs]) if each else None)
        return self._run_in_graph(feed, k, each, until, under_xla)

    @property
    def draws(self) -> bool:
        """Whether steps are called one by one, for what they draw to be what `model.fit` draws."""
        return self.operations.draws and not self._jit_compile

    def _draw_from_states(self) -> None:
        """Lets the step draw from states that can be saved, once it is known to draw."""
        if self._draws_from_states or not self.operations.draws:
            return
        if not self._random.are_kept:
            self._random.are_missing = True
            return
        if self._jit_compile or not self._replicas.is_single:
            self._random.warn()
            return
        self._draws_from_states, self._random.are_missing = True, False
        self._step = self._random.with_states(self._step)
        self._steps_by_rows = {
            rows: self._random.with_states(step) for rows, step in self._steps_by_rows.items()
        }
        self._traces.clear()

    def _know_step(self, feed: Feed, under_xla: bool) -> None:
        """Traces the step before its first group, for what operations it has."""
        if self._traces or self._varies(feed):
            return
        window = feed.full_window(1) if under_xla and self.groups_suit_xla else None
        self._trace((window or feed.window(1)).source.spec())

    @property
    def gave_up_xla(self) -> bool:
        """Whether XLA was to compile the step, and could not."""
        return self._xla_gave_up

    @property
    def means(self) -> StepMeans:
        """Means over an epoch of what the step returns, where that is not Keras's."""
        return self._context.means

    @property
    def seen(self) -> int:
        """A checksum of all batches so far, by which replicas see whether they read the same."""
        return self._replicas.seen

    def end_epoch(self) -> None:
        """Averages what layers keep, such as moving means, over the replicas as an epoch ends."""
        self._replicas.average()

    def whole(self, batch: Batch) -> Batch:
        """Returns a batch that was read, with the rows of all devices that train together."""
        return self._replicas.whole(batch)

    def run_on_batch(self, batch: Batch) -> Any:
        """Runs one step on `batch`, returns its outputs."""
        self._prepare()
        return self._on_batch(batch)

    def _on_batch(self, batch: Batch) -> Any:
        return self._replicas.merged_now(self._run_step(lambda: self._step_on(batch), batch))

    def run_eagerly_on(self, batch: Batch) -> Any:
        """Runs one step on `batch` as plain Python, for a debugger; returns its outputs."""
        self._prepare()
        return self._replicas.merged_now(self._replicated_step(batch))

    def _run_step(self, step: Callable[[], Callable], batch: Batch) -> Any:
        """Returns the outputs of what `step` returns, asked again once XLA is given up."""
        try:
            outputs = step()(batch)
        except tf.errors.OpError as error:
            if self._gives_up_xla(error):
                return self._run_step(step, batch)
            self._context.undo()
            self._explain(error, batch)
            raise
        except BaseException:
            self._context.undo()
            raise
        self._xla_works = self._jit_compile
        return outputs

    def output_spec(self, feed: Feed) -> Any | None:
        """Returns the structure of what a step returns, without running one; `None` if eager."""
        self._prepare()
        return self._output_spec(feed)

    def _output_spec(self, feed: Feed) -> Any | None:
        if self._run_eagerly:
            return None
        in_graph = feed.is_in_graph
        spec = feed.window(1).source.spec() if in_graph else feed.batch_spec()
        return self._replicas.merged_spec(self._outputs_of(spec))

    def try_on(self, batch_spec: Any) -> None:
        """Traces the step for batches of `batch_spec` to see whether it can; drops the trace."""
        self._prepare()
        key = tuple(keras.tree.flatten_with_path(batch_spec))
        if not self._run_eagerly and key not in self._tried:
            tf.function(self._replicated_step).get_concrete_function(batch_spec)
            self._tried.add(key)

    @property
    def variables(self) -> list[tf.Variable]:
        """The variables that the traced steps read, those that belong to no layer, too."""
        traces = (*self._random.traces, *self._traces.values())
        found = {id(variable): variable for trace in traces for variable in _variables_of(trace)}
        own = (*self._replicas.own_variables, *self._context.own_variables)
        for variable in (*own, *self._random.variables):
            found.pop(id(variable), None)
        return list(found.values())

    def _prepare(self) -> None:
        """Drops all traces where the step is another one by now."""
        if self._context.prepare():
            self._random.go_on_anew()
            self._compile(self._jit_compile)
        self._draw_from_states()

    def _compile(self, jit_compile: bool) -> None:
        self._jit_compile = jit_compile
        self._run_eagerly = self._context.run_eagerly
        self._groups: dict[tuple, Callable] = {}
        self._group_traces: dict[tuple, Callable] = {}
        self._steps_by_rows: dict[tuple, Callable] = {}
        self._traces: dict[tuple, Callable] = {}
        self._tried: set[tuple] = set()
        self._alone = 0
        self.gathers = False
        self.operations = Operations()
        self._draws_from_states = False
        self._step = self._compiled_step()

    def _compiled_step(self) -> Callable:
        if self._run_eagerly:
            return self._replicated_step
        step = tf.function(
            self._replicated_step, jit_compile=self._jit_compile, reduce_retracing=True
        )
        return self._random.with_states(step) if self._draws_from_states else step

    def _step_for(self, batch_spec: Any) -> Callable:
        """Returns the compiled step for batches of `batch_spec`.

        Where the numbers of rows are known it is one of its own for these: a trace that other data
        left open computes with other bits.
        """
        shapes = [getattr(leaf, "shape", None) for leaf in tf.nest.flatten(batch_spec)]
        rows = tuple(shape[0] for shape in shapes if shape is not None and shape.rank)
        if None in rows or not rows:
            return self._step
        if rows not in self._steps_by_rows:
            self._steps_by_rows[rows] = self._compiled_step()
        return self._steps_by_rows[rows]

    def _step_on(self, batch: Batch) -> Callable:
        """Returns the compiled step for a batch that is there."""
        if self._run_eagerly or not self.shapes.knows_batches:
            return self._step
        self._trace(exact_spec(batch))
        return self._step_for(self.shapes.traced(exact_spec(batch)))

    def _goes_singly(self, feed: Feed) -> bool:
        """Returns whether each batch has to be there to find the trace that is for its shapes."""
        return self._varies(feed) and feed.position >= feed.full_steps

    def _varies(self, feed: Feed) -> bool:
        return self.shapes.knows_batches and self.shapes.vary(feed.window(1).source.spec())

    def _spec_in_graph(self, source: Source, first: tf.Tensor) -> Any:
        """Returns the `tf.TypeSpec` of the batches that a group takes from `source`."""
        spec = source.spec()
        if not self.shapes.vary(spec):
            return spec
        return exact_spec(source.batch(source.look(first, tf.constant(True))))  # all are full

    def _gives_up_xla(self, error: tf.errors.OpError) -> bool:
        """Does without XLA from here on, if `error` says that it cannot compile the step."""
        if self._xla_gave_up or not xla.cannot_compile(error):
            return False
        xla.warn_of_fallback(error)
        self._xla_gave_up = True
        self._compile(jit_compile=False)
        return True

    def _collector(self, each: bool, in_xla: bool) -> Collector:
        if each:
            return EACH_BOUNDED if in_xla else EACH
        return self._last

    def _run_in_graph(
        self, feed: Feed, k: int, each: bool, until: Until | None, under_xla: bool
    ) -> Ran:
        try:
            return self._call_group(feed, k, each, until, under_xla)
        except tf.errors.OpError as error:
            if not self.done and self._gives_up_xla(error):
                return self._run_in_graph(feed, k, each, until, under_xla=False)
            self._explain(error, feed.batch_spec())
            raise

    def _call_group(
        self, feed: Feed, k: int, each: bool, until: Until | None, under_xla: bool
    ) -> Ran:
        under_xla = (under_xla or self._jit_compile) and not self._xla_gave_up
        takes_full = (under_xla and self.groups_suit_xla) or self._varies(feed)
        window = feed.full_window(k) if takes_full else None
        under_xla = under_xla and window is not None
        collector = self._collector(each, under_xla)
        if self._replicas.gather(lambda: self._trace(feed.window(1).source.spec())):
            k, self.gathers = 1, True
        window = window or feed.window(k)
        group = self._group(window.source, (collector, until, under_xla))
        try:
            done, ended = group(
                window.source,
                tf.constant(window.first, tf.int64),
                tf.constant(min(window.steps, collector.most or window.steps), tf.int64),
            )
            self.done = int(done)
        except BaseException:
            self.done = int(self._counter.read_value()) - self._counted
            self._context.undo()
            raise
        finally:
            self._counted += self.done
            feed.position += self.done
        if not self.done:
            raise StopIteration
        return collector.ran(self.done, ended)

    def _group(self, source: Source, kind: tuple) -> Callable:
        """Returns the compiled function of several steps on batches of `source`."""
        collector, until, under_xla = kind
        if kind not in self._groups:
            self._groups[kind] = tf.function(
                functools.partial(self._steps, collector, until),
                jit_compile=under_xla,
                reduce_retracing=True,
            )
        signature = source.signature()
        if signature is None:
            return self._groups[kind]
        # To find the trace anew in each call would take as long as a small step.
        key = (kind, signature)
        if key not in self._group_traces:
            group = self._groups[kind]
            self._group_traces[key] = group.get_concrete_function(source, _NUMBER, _NUMBER)
        return self._group_traces[key]

    @_graph_as_written
    def _steps(
        self,
        collector: Collector,
        until: Until | None,
        source: Source,
        first: tf.Tensor,
        k: tf.Tensor,
    ) -> tuple[tf.Tensor, Any]:
        """Takes steps while there are batches, up to `k`; returns how many, and what to keep."""
        batch_spec = self._spec_in_graph(source, first)
        compiled_step = self._step_for(self.shapes.traced(batch_spec))
        merges = collector is not self._last  # which does so after the loop
        spec = self._outputs_of(batch_spec)
        spec = self._replicas.merged_spec(spec) if merges else spec

        def step(done: tf.Tensor, seen: Any, collected: Any) -> tuple:
            outputs = compiled_step(source.batch(seen))
            merged = self._replicas.merged(outputs) if merges or until else None
            collected = collector.add(collected, merged if merges else outputs)
            done += 1
            wanted = done < k if until is None else (done < k) & ~until(merged)
            # A batch that cannot be had must not break off the step before it.
            with tf.control_dependencies(tensors_of(outputs)):
                self._counter.assign_add(1)
                return done, source.look(first + done, wanted), collected

        done, _, collected = tf.while_loop(
            lambda done, seen, collected: source.has_batch(seen),
            step,
            (
                tf.zeros_like(k),
                source.look(first, k > 0),
                collector.start(spec),
            ),
        )
        return done, collector.end(collected, spec)

    def _goes_alone(self, feed: Feed, k: int, under_xla: bool) -> bool:
        """Returns whether the next step on arrays runs without the loop, which costs a trace more.

        XLA compiles a loop for a single full batch, too: with it the numbers are others.
        """
        if feed.rows is None or (under_xla and feed.position < feed.full_steps):
            return False
        is_single = min(k, feed.steps - feed.position) == 1
        is_early = self._alone < STEPS_ALONE and not self._jit_compile
        return is_single or is_early or self.draws

    def _run_alone(self, feed: Feed) -> Any:
        """Returns the outputs of a step on the next batch of arrays."""
        source, first, _ = feed.window(1)
        seen = source.look(tf.constant(first, tf.int64), tf.constant(True))
        batch = source.batch(seen)
        spec = exact_spec(batch) if self.shapes.knows_batches else source.spec()
        outputs = self._run_step(lambda: self._trace(spec), batch)
        self.done = 1
        feed.position += 1
        self._alone += 1
        return self._replicas.merged_now(outputs)

    def _run_from_python(self, feed: Feed, k: int, until: Until | None = None) -> list[Any]:
        """Returns the outputs of each step."""
        outputs = []
        with contextlib.suppress(StopIteration):
            while len(outputs) < k and not (until and outputs and until(outputs[-1])):
                if not (self._run_eagerly or self.shapes.knows_batches) and feed.position == 0:
                    # Open to any number of rows from the start: an odd last batch is no new trace.
                    self._outputs_of(feed.batch_spec())
                outputs.append(self._on_batch(feed.next()))
                self.done += 1
        if not outputs:
            raise StopIteration
        return outputs

    def _outputs_of(self, batch_spec: Any) -> Any:
        return self._trace(batch_spec).structured_outputs

    def _trace(self, batch_spec: Any) -> Callable:
        """Returns the step's trace for batches of `batch_spec`, known from the last time."""
        batch_spec = self.shapes.traced(batch_spec)
        key = tuple(keras.tree.flatten_with_path(batch_spec))
        if key not in self._traces:
            trace = self._step_for(batch_spec).get_concrete_function(batch_spec)
            self._traces[key], self.operations = trace, self.operations.and_of(trace)
            if tf.executing_eagerly() and self._context.has_new_variables():
                # Now, as what `tf.random` draws begins again with another trace.
                self._compile(self._jit_compile)
            self._draw_from_states()
        return self._traces[key] if key in self._traces else self._trace(batch_spec)


def _variables_of(trace: tf.types.experimental.ConcreteFunction) -> list[tf.Variable]:
    """Returns the variables that a trace reads, in the order in which it does."""
    # Not `captured_inputs`, which tells what a call is given, and so counts as one for collectives.
    order = {id(tensor): number for number, (tensor, _) in enumerate(trace.graph.captures)}
    local = tf.distribute.get_strategy().experimental_local_results

    def place(variable: tf.Variable) -> tuple[int, str]:
        handles = (getattr(one, "handle", None) for one in local(variable))
        return min(order.get(id(handle), len(order)) for handle in handles), variable.name

    return sorted(trace.variables, key=place)


class PredictProgram(Program):
    """A program whose outputs have a row for each row of the batches; those of all steps count.

    `run` returns them as a list: of one structure where the rows of all steps can be concatenated,
    otherwise of one structure a step.
    """

    groups_suit_xla = False  # how many rows there will be is open
    _joins = False

    def _run(self, feed: Feed, k: int, *how: Any) -> Ran:
        if not feed.position:
            spec = self._output_spec(feed) if feed.is_in_graph else None
            self._joins = spec is not None and Rows.takes(spec) and not self.draws
        if self._joins:
            ran = super()._run(feed, k, *how)
            return ran._replace(outputs=[ran.outputs])
        outputs = self._run_from_python(feed, k)
        return Ran(len(outputs), outputs)

    def _collector(self, each: bool, in_xla: bool) -> Collector:
        return ROWS
