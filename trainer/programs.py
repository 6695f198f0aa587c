"""The compiled steps of an algorithm: one program for training, evaluation and prediction each."""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer import checks, replica_checks, xla
from trainer.algorithm import Algorithm, calls_as_built, has_own_step, overrides
from trainer.building import build_by_step, build_state
from trainer.compiling import compile_mark
from trainer.errors import add_note, explain
from trainer.feeds import Feed, rows_at_hand
from trainer.networks import Networks, build_optimizers, missing_optimizer, trained_networks
from trainer.program import PredictProgram, Program
from trainer.progress import ProgressInSteps
from trainer.random_operations import RandomOperations
from trainer.replicas import Kept, Replicas, ReplicasWithLogs, ReplicasWithRows, SeveralReplicas
from trainer.step_context import StepContext, has_means
from trainer.step_means import StepMeans
from trainer.sums import read_at_once
from trainer.traced_shapes import keras_traces_batches
from trainer.watching import Mode


class Programs:
    """The programs of an algorithm, made when they are needed, and again after `compile`.

    Args:
        algorithm: has the steps.
        jit_compile: what the user asked for, until the model is compiled again; `None` stands for
            what it was compiled with.
        progress: how far training has come, for steps to read.

    Attributes:
        random_operations: what `tf.random` draws in the steps of training and evaluation, by mode.
    """

    def __init__(
        self, algorithm: Algorithm, jit_compile: bool | str | None, progress: ProgressInSteps
    ):
        self._algorithm = algorithm
        self._progress = progress
        self.random_operations: dict[Mode, RandomOperations] = {
            "train": RandomOperations(),
            "test": RandomOperations(),
        }
        self._asked = (compile_mark(algorithm.model), jit_compile)
        self._programs: dict[Mode, tuple[tuple, Program]] = {}
        self._built_for: tuple = ()
        self._ready_for: dict[Mode, tuple] = {}  # runs of several replicas
        self._means = {
            mode: StepMeans(self._known_metrics) for mode in ("train", "test", "predict")
        }
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
        model = self._algorithm.model
        own = self._own_method(mode)
        obstacle = f"{own} is not Keras's" if own else _obstacle_in_data(feed)
        return xla.choose(mode, model, self.jit_compile, planned, obstacle)

    @property
    def jit_compile(self) -> bool | str | None:
        """What the user asked of XLA; `None` if that is what the model was compiled with."""
        mark, asked = self._asked
        return asked if mark is compile_mark(self._algorithm.model) else None

    def build_for_replicas(self, mode: Mode, batch_spec: Callable[[], Any]) -> None:
        """Makes the variables that a step of several replicas cannot make.

        Args:
            mode: whose step it is.
            batch_spec: returns the `tf.TypeSpec` of a batch.

        Raises:
            ValueError: several replicas cannot train the model, or share its metrics.
        """
        model, replicas = self._algorithm.model, self._replicas(mode)
        if not isinstance(replicas, SeveralReplicas):
            return
        if self._ready_for.get(mode) == (compile_mark(model), model.built):
            return
        replica_checks.steps(self._algorithm, mode, self._metrics())
        spec = replicas.seen_spec(batch_spec())
        if mode != "predict":
            self._build_by_a_step(mode, spec, or_else="test_step")
            replica_checks.built_metrics(model, self._metrics())
            if mode == "train":
                replica_checks.built_optimizers(model)
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
                own_mode = step.removesuffix("_step")
                with self._means[own_mode].observing():
                    build_by_step(algorithm, self._checked_step(own_mode), spec)
                self._built_by[step] = mark
                return
            except Exception as error:
                failed = error
        if not algorithm.model.built:
            explain(failed, algorithm.known_inputs(mode), spec)
            raise failed
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
        if feed.is_in_graph and steps_are_plain and not model.run_eagerly:
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
        """Returns the compiled step of `mode`.

        Raises:
            ValueError: the model compiles its steps itself.
        """
        model = self._algorithm.model
        checks.compiles_no_steps(model, mode)
        made_by = (compile_mark(model), choice.steps)
        if mode not in self._programs or self._programs[mode][0] != made_by:
            if mode in self._programs and mode in self.random_operations:
                self.random_operations[mode].go_on_anew()
            kind = PredictProgram if mode == "predict" else Program
            program = kind(
                self._checked_step(mode),
                replicas=self._replicas(mode),
                jit_compile=choice.steps,
                results=self._metric_results if self._returns_results(mode) else None,
                explain=functools.partial(self._explain, mode),
                context=StepContext(
                    self._algorithm,
                    mode,
                    self._progress,
                    self._assigned(mode),
                    self._means[mode],
                ),
                knows_batches=self._knows_batches(mode),
                random=self.random_operations.get(mode),
            )
            self._programs[mode] = (made_by, program)
        return self._programs[mode][1]

    def _explain(self, mode: Mode, error: Exception, batch: Any) -> None:
        """Adds to an error of the step of `mode` what its batch was, and how to mend it."""
        model = self._algorithm.model
        is_of_networks = isinstance(error, KeyError) and isinstance(model, Networks)
        for network in error.args if is_of_networks else ():
            if network in model.networks and network not in model.optimizers:
                add_note(error, missing_optimizer(network))
        explain(error, self._algorithm.known_inputs(mode), rows_at_hand(batch))

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

    def _assigned(self, mode: Mode) -> Callable[[], list[keras.Variable]]:
        """Returns what lists the variables that a step assigns in its forward pass."""
        own = operator.attrgetter("non_trainable_variables")
        return functools.partial(own, self._algorithm.model) if mode == "train" else list

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
        """Returns all metrics that a step updates, those that are made for it, too."""
        means = [mean for means in self._means.values() for mean in means.metrics]
        return [*self._known_metrics(), *means]

    def _known_metrics(self) -> list[keras.metrics.Metric]:
        """Returns all metrics that a user knows of, whatever a class lists."""
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
        algorithm, name = self._algorithm, f"{mode}_step"
        step, means = getattr(algorithm, name), self._means[mode]

        def checked_step(batch: Any) -> Any:
            batch = _with_rank(batch, algorithm.known_inputs(mode))
            if has_means(algorithm, mode):
                return means.run(step, name, batch)
            return step(batch) if mode == "predict" else checks.logs(step(batch), name)

        return checked_step

    def _returns_results(self, mode: Mode) -> bool:
        """Returns whether the step of `mode` is Keras's, which returns the metrics' results."""
        return mode != "predict" and self._own_method(mode) is None

    def _own_method(self, mode: Mode) -> str | None:
        """Returns the first method that is not Keras's, of those that make a step's results."""
        algorithm, model = self._algorithm, self._algorithm.model
        own = [f"{mode}_step"] if has_own_step(algorithm, mode) else []
        if type(algorithm).compute_metrics is not Algorithm.compute_metrics:
            own.append("compute_metrics")
        of_model = (f"{mode}_step", "compute_metrics", "get_metrics_result")
        methods = [f"{type(algorithm).__name__}.{name}" for name in own]
        methods += [f"{type(model).__name__}.{name}" for name in of_model if overrides(model, name)]
        return next(iter(methods), None)


def _obstacle_in_data(feed: Feed | None) -> str | None:
    """Returns why XLA cannot compile several steps together, `None` where it can."""
    if feed is None:
        return "a single batch"
    if feed.full_steps:
        return None
    if feed.rows is None or feed.batch_size is None:
        return "batches are not cut out of arrays"
    if feed.rows < feed.batch_size:
        return f"{feed.rows} rows are less than a batch of {feed.batch_size}"
    return "arrays of strings, ragged or sparse rows"


def _with_rank(batch: Any, inputs: list[keras.KerasTensor] | None) -> Any:
    """Returns `batch` with the rank of the model's inputs where the data leave x of any rank."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    leaves = keras.tree.flatten(x)
    are_open = [isinstance(leaf, tf.Tensor) and leaf.shape.rank is None for leaf in leaves]
    if not any(are_open) or len(leaves) != len(inputs or ()):
        return batch
    ranked = [
        tf.ensure_shape(leaf, [None] * len(symbol.shape)) if is_open else leaf
        for leaf, symbol, is_open in zip(leaves, inputs, are_open, strict=True)
    ]
    x = keras.tree.pack_sequence_as(x, ranked)
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
