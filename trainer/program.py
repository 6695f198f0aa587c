"""Steps, compiled: k of them from a feed in one call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NoReturn

import keras
import tensorflow as tf

from trainer.feeds import Batch, Feed

_graph_as_written = tf.autograph.experimental.do_not_convert


class Program:
    """A step, compiled once, that runs k times in one call.

    Args:
        step: takes a batch, returns a structure of tensors.
        strategy: runs the step on each of its replicas.
        run_eagerly: whether to run the step as plain Python, for a debugger.
        jit_compile: whether XLA compiles the step.
        explain: given an error of the step and the batch or its spec, raises one to show the user.
    """

    reduction = "mean"  # what becomes of the outputs of several replicas

    def __init__(
        self,
        step: Callable[[Batch], Any],
        *,
        strategy: tf.distribute.Strategy,
        run_eagerly: bool = False,
        jit_compile: bool = False,
        explain: Callable[[Exception, Any], NoReturn],
    ):
        @_graph_as_written
        def explained_step(batch: Batch) -> Any:
            try:
                return step(batch)
            except Exception as error:
                explain(error, batch)

        @_graph_as_written
        def replicated_step(batch: Batch) -> Any:
            outputs = strategy.run(explained_step, args=(batch,))
            if strategy.num_replicas_in_sync == 1:
                return outputs
            return _reduced(outputs, strategy, self.reduction)

        self._run_eagerly = run_eagerly
        self._explain = explain
        self._step = replicated_step
        if not run_eagerly:
            self._step = tf.function(
                replicated_step, jit_compile=jit_compile, reduce_retracing=True
            )
            self._one = tf.function(self._take_and_step, reduce_retracing=True)
            self._exactly = tf.function(self._take_and_step_k_times, reduce_retracing=True)
            self._at_most = tf.function(self._step_while_data_last, reduce_retracing=True)

    def run(self, feed: Feed, k: int = 1) -> Any:
        """Runs up to `k` steps on the next batches of `feed`.

        Returns:
            The outputs of the last step that ran.

        Raises:
            StopIteration: the pass had no further batch; no step ran.
        """
        if feed.ended:
            raise StopIteration
        if feed.source is None or self._run_eagerly:
            return self._run_from_python(feed, k)
        function, arguments, done = self._compiled_for(feed, k)
        try:
            outputs = function(*arguments)
        except tf.errors.OutOfRangeError:
            raise StopIteration from None
        except tf.errors.OpError as error:
            self._explain(error, feed.batch_spec())
        except ValueError as error:
            # A trace that earlier data had opened to any shape is refused as a whole.
            if "EnsureShape" in str(error):
                self._explain(error, feed.batch_spec())
            raise
        if done is None:
            outputs, done = outputs
        feed.position += int(done)
        return outputs

    def run_on_batch(self, batch: Batch) -> Any:
        """Runs one step on `batch`, returns its outputs."""
        try:
            return self._step(batch)
        except tf.errors.OpError as error:
            self._explain(error, batch)

    def output_spec(self, feed: Feed, k: int = 1) -> Any | None:
        """Returns the structure of what `run` would return, without running; `None` if eager."""
        if self._run_eagerly:
            return None
        if feed.source is None:
            return self._traced(feed).structured_outputs
        function, arguments, done = self._compiled_for(feed, k)
        outputs = function.get_concrete_function(*arguments).structured_outputs
        return outputs if done else outputs[0]

    def _compiled_for(self, feed: Feed, k: int) -> tuple[Any, tuple, int | None]:
        """Returns what runs `k` steps, its arguments, and how many these will be, if known."""
        first = tf.constant(feed.position, tf.int64)
        if k == 1:
            return self._one, (feed.source, first), 1
        if feed.steps is None and not feed.infinite:
            return self._at_most, (feed.source, first, tf.constant(k, tf.int64)), None
        k = k if feed.steps is None else min(k, feed.steps - feed.position)
        return self._exactly, (feed.source, first, tf.constant(k, tf.int64)), k

    def _run_from_python(self, feed: Feed, k: int) -> Any:
        outputs = None
        for done in range(k):
            try:
                if not self._run_eagerly and feed.position == 0:
                    self._traced(feed)
                batch = feed.next()
            except StopIteration:
                if done == 0:
                    raise
                break
            outputs = self.run_on_batch(batch)
        return outputs

    def _traced(self, feed: Feed) -> Any:
        # Open to any number of rows from the start, so that an odd last batch is no new trace.
        return self._step.get_concrete_function(feed.batch_spec())

    def _step_after(self, batch: Batch) -> Any:
        # At the end of the data nothing may run: no counter either, which takes nothing of a batch.
        # TensorFlow drops a dependency on what is an input as well, so it is one on a copy.
        tensors = tf.nest.flatten(batch, expand_composites=True)
        first = next(tensor for tensor in tensors if tensor is not None)
        with tf.control_dependencies([tf.identity(first)]):
            return self._step(batch)

    @_graph_as_written
    def _take_and_step(self, source: Any, step: tf.Tensor) -> Any:
        return self._step_after(source.take(step))

    @_graph_as_written
    def _take_and_step_k_times(self, source: Any, first: tf.Tensor, k: tf.Tensor) -> Any:
        # The first step, outside the loop, gives the structure that the loop carries.
        outputs = self._step_after(source.take(first))
        _, outputs = tf.while_loop(
            lambda done, _: done < k,
            lambda done, _: (done + 1, self._step_after(source.take(first + done))),
            (tf.constant(1, tf.int64), outputs),
        )
        return outputs

    @_graph_as_written
    def _step_while_data_last(self, source: Any, first: tf.Tensor, k: tf.Tensor) -> Any:
        outputs = self._step_after(source.take(first))

        def step_and_look_ahead(done: tf.Tensor, batch: Any, _: Any) -> Any:
            outputs = self._step(batch.get_value())
            return done + 1, source.take_if(done + 1 < k), outputs

        one = tf.constant(1, tf.int64)
        done, _, outputs = tf.while_loop(
            lambda done, batch, _: batch.has_value(),
            step_and_look_ahead,
            (one, source.take_if(one < k), outputs),
        )
        return outputs, done


class PredictProgram(Program):
    """A program whose outputs have a row for each row of the batches; those of all steps count."""

    reduction = "concat"

    def run(self, feed: Feed, k: int = 1) -> list[Any]:
        """Returns a list of the outputs of up to `k` steps; else as in `Program`."""
        outputs = [super().run(feed)]
        with contextlib.suppress(StopIteration):
            for _ in range(k - 1):
                outputs.append(super().run(feed))
        return outputs


def _reduced(outputs: Any, strategy: tf.distribute.Strategy, how: str) -> Any:
    def reduce(value: Any) -> Any:
        local = strategy.experimental_local_results(value)
        if how == "concat":
            return local[0] if len(local) == 1 else tf.concat(local, axis=0)
        return tf.reduce_mean(tf.stack(local), axis=0)

    return keras.tree.map_structure(reduce, outputs)
