"""The compiled steps of an algorithm: one program for training, evaluation and prediction each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer import checks, replica_checks, xla
from trainer.algorithm import Algorithm, calls_as_built, has_own_step, overrides
from trainer.building import build_by_step, build_state
from trainer.compiling import compile_mark
from trainer.errors import raise_clearer
from trainer.feeds import Feed, rows_at_hand
from trainer.labels import guard_labels
from trainer.networks import build_optimizers, trained_networks
from trainer.program import PredictProgram, Program
from trainer.replicas import Kept, Replicas, ReplicasWithLogs, ReplicasWithRows, SeveralReplicas
from trainer.sums import read_at_once
from trainer.traced_shapes import keras_traces_batches
from trainer.watching import Mode


class Programs:
    """The programs of an algorithm, made when they are needed, and again after `compile`.

    Args:
        algorithm: has the steps.
        jit_compile: what the user asked for, until the model is compiled again; `None` stands for
            what it was compiled with.
    """

    def __init__(self, algorithm: Algorithm, jit_compile: bool | str | None):
        self._algorithm = algorithm
        self._asked = (compile_mark(algorithm.model), jit_compile)
        self._programs: dict[Mode, tuple[tuple, Program]] = {}
        self._built_for: tuple = ()
        self._ready_for: dict[Mode, tuple] = {}  # runs of several replicas
        self._built_by: dict[str, tuple] = {}  # steps of them, and what marked the model

    def choose_xla(
        self, mode: Mode, feed: Feed | None = None, planned: int | None = None
    ) -> xla.Choice:
        """Returns what XLA compiles in a run of `planned` steps over `feed`, or of single batches.

        Args:
            mode: the run's.
            feed: the batches.
            planned: steps of the whole call, `None` where that is open.
        """
        mark, asked = self._asked
        model = self._algorithm.model
        obstacle = None
        if feed is None or not feed.full_steps:
            obstacle = "batches are not cut out of arrays"
        elif not self._returns_results(mode):
            obstacle = f"a {mode}_step of its own"
        asked = asked if mark is compile_mark(model) else None
        return xla.choose(mode, model, asked, planned, obstacle)

    def build_for_replicas(self, mode: Mode, batch_spec: Callable[[], Any]) -> None:
        """Makes the variables that a step of several replicas cannot make.

        Args:
            mode: whose step it is.
            batch_spec: returns the `tf.TypeSpec` of a batch.

        Raises:
            ValueError: several replicas cannot train the model, or share its metrics.
        """
        model, replicas = self._algorithm.model, self._replicas(mode)
        mark = (compile_mark(model), model.built)
        if not isinstance(replicas, SeveralReplicas) or self._ready_for.get(mode) == mark:
            return
        replica_checks.steps(self._algorithm, mode, self._metrics())
        spec = replicas.seen_spec(batch_spec())
        if mode != "predict":
            self._build_by_a_step(mode, spec, or_else="test_step")
            replica_checks.built_metrics(model, self._metrics())
        elif not model.built or self._has_own_step(mode):
            self._build_by_a_step(mode, spec, or_else="predict_step")
        self._ready_for[mode] = (compile_mark(model), model.built)

    def _build_by_a_step(self, mode: Mode, spec: Any, or_else: str) -> None:
        """Makes the variables that a step of `mode` makes for batches of `spec`.

        Args:
            mode: the mode.
            spec: the spec.
            or_else: the step that makes the same where that of `mode` is Keras's.
        """
        algorithm = self._algorithm
        own = [f"{mode}_step"] if self._has_own_step(mode) else []
        mark = (compile_mark(algorithm.model),)
        for step in dict.fromkeys([*own, or_else]):
            if self._built_by.get(step) == mark:
                return
            try:
                build_by_step(algorithm, getattr(algorithm, step), spec)
                self._built_by[step] = mark
                return
            except Exception as error:
                failed = error
        if not algorithm.model.built:
            raise_clearer(failed, algorithm.known_inputs(mode), spec)
        # The step will say it better.
        with algorithm.model.distribute_strategy.scope():
            build_optimizers(algorithm.model)

    def _has_own_step(self, mode: Mode) -> bool:
        """Returns whether the step of `mode` is not Keras's."""
        name = f"{mode}_step"
        return has_own_step(self._algorithm, mode) or overrides(self._algorithm.model, name)

    def build_for_training(self, feed: Feed) -> None:
        """Makes the variables of Keras's own training step, which TensorFlow else traces twice."""
        model = self._algorithm.model
        steps_are_plain = self._returns_results("train") and self._returns_results("test")
        # A loss scale's inner optimizer has other variable names when it is built outside a step.
        optimizer = getattr(model, "optimizer", None)
        is_scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if feed.is_in_graph and steps_are_plain and not is_scaled and not model.run_eagerly:
            with contextlib.suppress(Exception):  # the step will say it better
                self._build(*self._makes_variables(feed))

    def _makes_variables(self, feed: Feed) -> tuple:
        """Returns a function that makes the variables of a plain step, and its arguments' specs."""
        model = self._algorithm.model
        outputs = getattr(model, "outputs", None) or []
        if len(outputs) != 1 or not calls_as_built(model):
            return self._algorithm.test_step, feed.batch_spec()

        # The loss of a single output has no variables, and the model has its own.
        def update_metrics(batch: Any, y_pred: Any) -> None:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
            model.compute_metrics(x, y, y_pred, sample_weight)

        return update_metrics, feed.batch_spec(), tf.TensorSpec(outputs[0].shape, outputs[0].dtype)

    def _build(self, function: Callable[..., Any], *specs: Any) -> None:
        model = self._algorithm.model
        mark = (compile_mark(model),)
        if self._built_for != mark:
            build_state(model, function, *specs)
            self._built_for = mark

    def program(self, mode: Mode, choice: xla.Choice) -> Program:
        """Returns the compiled step of `mode`."""
        model = self._algorithm.model
        made_by = (compile_mark(model), model.run_eagerly, choice.steps)
        if mode not in self._programs or self._programs[mode][0] != made_by:
            known_inputs = self._algorithm.known_inputs
            kind = PredictProgram if mode == "predict" else Program
            program = kind(
                self._checked_step(mode),
                replicas=self._replicas(mode),
                run_eagerly=model.run_eagerly,
                jit_compile=choice.steps,
                results=self._metric_results if self._returns_results(mode) else None,
                explain=lambda error, batch: raise_clearer(
                    error, known_inputs(mode), rows_at_hand(batch)
                ),
                knows_batches=self._knows_batches(mode),
            )
            self._programs[mode] = (made_by, program)
        return self._programs[mode][1]

    def _knows_batches(self, mode: Mode) -> bool:
        """Returns whether Keras traces the step of `mode` for the shapes of batches."""
        model = self._algorithm.model
        takes_one = model.steps_per_execution == 1 and not model.run_eagerly
        is_alone = model.distribute_strategy.num_replicas_in_sync == 1
        return mode != "predict" and takes_one and is_alone and keras_traces_batches()

    def _replicas(self, mode: Mode) -> Replicas:
        """Returns what runs the step of `mode` on the replicas that there are."""
        strategy = self._algorithm.model.distribute_strategy
        if strategy.num_replicas_in_sync == 1:
            return Replicas(strategy)
        kept = Kept(
            *(self._algorithm.seeds, self._metrics, self._averages, self._losses, self._optimizers)
        )
        if mode == "predict":
            return ReplicasWithRows(strategy, kept)
        return ReplicasWithLogs(strategy, kept, self._algorithm.metric_results)

    def _averages(self) -> list[keras.Variable]:
        """Returns what layers assign for themselves, and Keras adds up for none of them."""
        own = self._algorithm.model.non_trainable_variables
        return [v for v in own if v.aggregation == "none" and tf.as_dtype(v.dtype).is_floating]

    def _losses(self) -> list[keras.losses.Loss]:
        """Returns the losses that are attributes of the trainer."""
        own = vars(self._algorithm).values()
        return [value for value in own if isinstance(value, keras.losses.Loss)]

    def _optimizers(self) -> list[keras.Optimizer]:
        """Returns the optimizers that a step of the trainer's own may call."""
        if not has_own_step(self._algorithm, "train"):
            return []
        own = [optimizer for _, optimizer in trained_networks(self._algorithm.model)]
        own += [v for v in vars(self._algorithm).values() if isinstance(v, keras.Optimizer)]
        return list({id(optimizer): optimizer for optimizer in own}.values())

    def _metrics(self) -> list[keras.metrics.Metric]:
        """Returns all metrics that a step may update, whatever a class lists."""
        algorithm = self._algorithm
        of_keras = keras.Model.metrics.fget(algorithm.model)
        return list({id(metric): metric for metric in [*algorithm.metrics, *of_keras]}.values())

    def _metric_results(self) -> dict[str, tf.Tensor]:
        """Returns what the metrics say of the rows of all replicas."""
        algorithm = self._algorithm
        variables = [variable for metric in algorithm.metrics for variable in metric.variables]
        strategy = algorithm.model.distribute_strategy
        return read_at_once(strategy, variables, algorithm.metric_results)

    def _checked_step(self, mode: Mode) -> Callable[[Any], Any]:
        """Returns the step of `mode` with what can be checked of its batch and its result."""
        model = self._algorithm.model
        step, name = getattr(self._algorithm, f"{mode}_step"), f"{mode}_step"

        def checked_step(batch: Any) -> Any:
            batch = checks.shapes(self._algorithm.known_inputs(mode), batch)
            if mode == "predict":
                return step(batch)
            if mode == "train":
                batch = guard_labels(model, batch)
            return checks.logs(step(batch), name)

        return checked_step

    def _returns_results(self, mode: Mode) -> bool:
        """Returns whether the step of `mode` is Keras's, which returns the metrics' results."""
        algorithm, model = self._algorithm, self._algorithm.model
        of_model = (f"{mode}_step", "compute_metrics", "get_metrics_result")
        return (
            mode != "predict"
            and not has_own_step(algorithm, mode)
            and type(algorithm).compute_metrics is Algorithm.compute_metrics
            and not any(overrides(model, name) for name in of_model)
        )
