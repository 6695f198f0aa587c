"""`CustomTrainer`: fit, evaluate and predict for a Keras model."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import keras
import tensorflow as tf

from trainer import checks, hints, loop, replica_checks
from trainer.agreeing import check_batch, check_before, check_begun
from trainer.algorithm import Algorithm, has_own_step, is_plain, overrides
from trainer.callbacks.on_workers import for_worker
from trainer.callbacks.progress_bar import ProgressBar, replaces_bar
from trainer.compiling import compile_mark, compile_model, is_compiled_by_trainer
from trainer.copying import packed, unpack
from trainer.errors import placed
from trainer.explaining import Facts, explanation
from trainer.feeds import Feed, are_alike, as_array, class_weights, spec_of, split_arrays
from trainer.groups import Run
from trainer.hooks import Hooks, callback_list, python_logs, settle_modes
from trainer.labels import check_labels
from trainer.networks import Networks, learning_rates
from trainer.opening import limited, opened
from trainer.outputs import concatenated
from trainer.programs import Programs
from trainer.progress import Progress, ProgressInSteps
from trainer.public import public
from trainer.seeds import checked_seed, seed_of_random_state
from trainer.snapshots import files
from trainer.snapshots.algorithm import AlgorithmState
from trainer.snapshots.facts import checked
from trainer.snapshots.files import Contents, DamagedSnapshotError
from trainer.snapshots.guarding import guarded
from trainer.snapshots.paths import AnyPath, path_of, shown
from trainer.snapshots.plain import decoded
from trainer.snapshots.session import Fits, Session, session_of
from trainer.snapshots.state import TrainingState
from trainer.step_attributes import in_step
from trainer.watching import Mode


class CustomTrainer(Algorithm):
    """Trains, evaluates and runs a Keras model as `model.fit` does, by a loop of its own.

    The trainer owns the loop, the steps and the metrics' lifecycle; the model stays a plain
    `keras.Model`. A new algorithm is a subclass that overrides `train_step`, `test_step`,
    `predict_step`, `compute_loss` or `metrics`.

    ```python
    trainer = CustomTrainer(model, optimizer="adam", loss="mse", metrics=["mae"])
    history = trainer.fit(x, y, epochs=3, validation_split=0.1)
    ```

    Args:
        model: the model. If it is compiled, nothing else is needed.
        optimizer: as `model.compile` takes it; this and the next four compile the model, for all
            trainers of it. What a compiled model has for optimizer, loss and loss weights stays
            where nothing is given.
        loss: as `model.compile` takes it.
        metrics: as `model.compile` takes it.
        loss_weights: as `model.compile` takes it.
        weighted_metrics: as `model.compile` takes it.
        run_eagerly: whether to run steps as plain Python, for a debugger.
        jit_compile: whether XLA compiles the steps. `"auto"`, the default, decides it from the
            model, the device and the planned steps: on a CPU it does so for long training and
            evaluation of dense layers on arrays, elsewhere as Keras does.
        steps_per_execution: steps in one call; batch hooks then come once for so many steps.
        seed: seed of the order of shuffled arrays, 0 or more. Without one it follows from the state
            of Python's `random`, and so from `keras.utils.set_random_seed`.

    Attributes:
        model: the model.
        seed: the seed.
        array_budget: bytes of arrays that a copy on the device may take; larger ones are read in
            chunks, as are those on disk. `None` stands for a quarter of the free memory on an
            accelerator, and for 16 MiB on a CPU, which reads larger ones faster where they are.
        peer_timeout: seconds that this process waits, at each group of steps, for the others that
            train with it; at the start of a call it waits 600, if that is more.

    Raises:
        TypeError: `model` is no Keras model, or `seed` no whole number.
        ValueError: `seed` is below 0, or the model was made outside of the scope of the strategy
            that there is.
    """

    array_budget: int | None = None

    @public
    def __init__(
        self,
        model: keras.Model,
        *,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool | None = None,
        jit_compile: bool | str | None = None,
        steps_per_execution: int | None = None,
        seed: int | None = None,
    ):
        checks.is_model(model)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            replica_checks.made_in_scope(model, [])
        self.model = model
        if isinstance(model, Networks):  # which save what a single model has no room for
            checks.seed_of_networks(seed, model)
            self._progress, self.seed = model.progress, model.seed
        else:
            self._progress = Progress()
            self.seed = seed_of_random_state() if seed is None else checked_seed(seed)
        self._fits = Fits()
        self._session: Session | None = None
        self._restored: Contents | None = None
        self._explanations: dict[Mode, Callable[[], str | None]] = {}
        arguments = {
            "optimizer": optimizer,
            "loss": loss,
            "metrics": metrics,
            "loss_weights": loss_weights,
            "weighted_metrics": weighted_metrics,
        }
        settings = {
            "run_eagerly": run_eagerly,
            "jit_compile": jit_compile,
            "steps_per_execution": steps_per_execution,
        }
        compile_model(model, arguments, settings)
        if jit_compile is None and any(value is not None for value in arguments.values()):
            jit_compile = "auto"  # what the model has just been compiled with
        self._make_programs(jit_compile)

    def _make_programs(self, jit_compile: bool | str | None) -> None:
        """Makes what steps are compiled by, for the model as it is."""
        self._progress_in_steps = ProgressInSteps(lambda: self._progress)
        self._programs = Programs(self, jit_compile, self._progress_in_steps)
        self._compiled = (self.model, compile_mark(self.model))

    def __repr__(self) -> str:
        return hints.described(self)

    def __dir__(self) -> list[str]:
        return sorted(set(super().__dir__()) - hints.INNER)

    def __getstate__(self) -> dict[str, Any]:
        left_out = {"_programs", "_progress_in_steps", "_compiled", "_session", "_explanations"}
        attributes = {name: value for name, value in vars(self).items() if name not in left_out}
        return {**packed(self, attributes), "asked": self._programs.jit_compile}

    def __setstate__(self, state: dict[str, Any]) -> None:
        unpack(self, state)
        if isinstance(self.model, Networks):
            self._progress = self.model.progress
        self._session, self._explanations = None, {}
        self._make_programs(state["asked"])

    if not TYPE_CHECKING:  # which finds misspelt names by itself

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property of a subclass, whose own error this hides
                return super().__getattribute__(name)
            raise hints.missing_attribute(self, name)

        def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
            """Raises TypeError: a trainer is no model."""
            raise hints.not_callable(self)

    @property
    def step(self) -> int | tf.Tensor:
        """Training steps taken so far, over all calls; within a step, a float tensor."""
        return self._progress_in_steps.step() if in_step() else self._progress.step

    @property
    def epoch(self) -> int | tf.Tensor:
        """Epochs trained so far, over all calls; within a step, a float tensor.

        No less than a fit's `initial_epoch`.
        """
        return self._progress_in_steps.epoch() if in_step() else self._progress.epoch

    @property
    def optimizer(self) -> keras.Optimizer:
        """The model's optimizer."""
        return self.model.optimizer

    @public
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | str = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Collection[int] = 1,
    ) -> keras.callbacks.History:
        """Trains the model for a number of epochs. Arguments, defaults and result are Keras's.

        Args:
            x: inputs: an array of shape `(rows, ...)`, a structure of arrays, or a source of
                batches: `tf.data.Dataset`, `keras.utils.PyDataset`, generator, torch `DataLoader`,
                grain dataset.
            y: targets, an array or a structure of arrays with as many rows; sources yield theirs.
            batch_size: rows a batch, for arrays; 32 by default.
            epochs: the epoch to end before, counted from 0.
            verbose: 0 is silent, 1 a bar an epoch, 2 a line an epoch; `"auto"` is a bar on a
                terminal or in a notebook, lines elsewhere.
            callbacks: `keras.callbacks.Callback` objects, or a `CallbackList`.
            validation_split: share of the rows, the last ones, to hold out for validation.
            validation_data: data to evaluate on after an epoch, arrays as `(x, y)` or
                `(x, y, sample_weight)`, or a source.
            shuffle: `True` takes arrays and `PyDataset` batches in a new order each epoch, which
                follows from the trainer's seed and epoch; `"batch"` mixes the rows of each batch.
            class_weight: weight of the loss by class number.
            sample_weight: weight of the loss by row, for arrays.
            initial_epoch: the epoch to begin with.
            steps_per_epoch: batches an epoch; by default all that the data have.
            validation_steps: batches a validation; by default all.
            validation_batch_size: rows a batch of validation; `batch_size` by default.
            validation_freq: validate after every so many epochs, or after the listed ones, which
                count from 1.

        Returns:
            The `History`, its `history` a list of values an epoch by log key.

        Raises:
            ValueError: the model is not compiled, or the data or an argument does not fit; before
                any weight changes.
        """
        checks.outside_functions("fit", tf.errors.OperatorNotAllowedInGraphError)
        self._check_compiled("fit", "train")
        if validation_data is not None or validation_split:
            checks.validation_frequency(validation_freq)
        checks.class_weight(class_weight)
        initial_epoch = checks.whole_number("initial_epoch", initial_epoch)
        epochs = checks.whole_number("epochs", epochs)
        epochs = limited("epochs", epochs, keras.config.max_epochs())
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = split_arrays(
                (x, y, sample_weight), validation_split
            )
        checks.no_strings(self, "train", y)
        if epochs > initial_epoch and steps_per_epoch is None:
            self._check_arrays(x, y)
        training = self._opened(
            "train",
            "steps_per_epoch",
            (x, y, sample_weight),
            steps=steps_per_epoch,
            epochs=epochs - initial_epoch,
            batch_size=batch_size,
            shuffle=shuffle,
            class_weight=class_weight,
        )
        validations = range(initial_epoch + 1, epochs + 1)
        is_given = validation_data is not None
        evaluations = is_given and sum(loop.is_due(n, validation_freq) for n in validations)
        val_batch_size = validation_batch_size or batch_size
        val_data = keras.utils.unpack_x_y_sample_weight(validation_data)
        own_evaluate = self._own_evaluate()
        held_out = contextlib.nullcontext((None, None))
        if validation_data is not None and own_evaluate is None:
            checks.no_strings(self, "test", val_data[1])
            if evaluations and validation_steps is None and is_plain(self, "test"):
                check_labels(self.model, val_data[1])
            held_out = self._opened(
                "test",
                "validation_steps",
                val_data,
                steps=validation_steps,
                evaluations=evaluations,
                batch_size=val_batch_size,
            )
        with training as (feed, steps), held_out as (val_feed, val_steps):
            shown_steps = steps or feed.steps
            self._programs.build_for_training(feed)
            with self._hooks(callbacks, verbose, shown_steps, epochs, add_history=True) as hooks:
                run = self._run("train", feed, hooks, steps, epochs)
                run = guarded(run, self, self._progress)
                validation = val_feed and self._run("test", val_feed, hooks, val_steps)
                validate = validation and functools.partial(loop.evaluated, self, validation)
                if validation_data is not None and own_evaluate is not None:
                    settings = {"batch_size": val_batch_size, "steps": validation_steps}
                    validate = functools.partial(
                        _evaluated, own_evaluate, val_data, hooks, settings
                    )
                plan = {"epochs": epochs, "initial epoch": initial_epoch}
                with self._session_of(run, validation, plan) as session:
                    loop.train(
                        *(self, run, self._progress),
                        epochs=epochs,
                        initial_epoch=initial_epoch,
                        validate=validate,
                        validation_freq=validation_freq,
                        resumed=session.resumed,
                        begun=functools.partial(self._begun, run, evaluations and validation),
                        between=session,
                        validating=session.validating,
                    )
        return self.model.history

    @overload
    def evaluate(
        self,
        x: Any = ...,
        y: Any = ...,
        batch_size: int | None = ...,
        verbose: int | str = ...,
        sample_weight: Any = ...,
        steps: int | None = ...,
        callbacks: Any = ...,
        return_dict: Literal[False] = ...,
    ) -> float | list[float]: ...

    @overload
    def evaluate(
        self,
        x: Any = ...,
        y: Any = ...,
        batch_size: int | None = ...,
        verbose: int | str = ...,
        sample_weight: Any = ...,
        steps: int | None = ...,
        callbacks: Any = ...,
        *,
        return_dict: Literal[True],
    ) -> dict[str, float]: ...

    @overload
    def evaluate(
        self,
        x: Any = ...,
        y: Any = ...,
        batch_size: int | None = ...,
        verbose: int | str = ...,
        sample_weight: Any = ...,
        steps: int | None = ...,
        callbacks: Any = ...,
        return_dict: bool = ...,
    ) -> float | list[float] | dict[str, float]: ...

    @public
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
    ) -> float | list[float] | dict[str, float]:
        """Returns the loss and the metrics on given data. Arguments and result are Keras's.

        Args:
            x: inputs, as `fit` takes them.
            y: targets, as `fit` takes them.
            batch_size: rows a batch, for arrays; 32 by default.
            verbose: 0 is silent, 1 a bar, 2 a line, `"auto"` as in `fit`.
            sample_weight: weight of the loss by row, for arrays.
            steps: how many batches to take; by default all.
            callbacks: `keras.callbacks.Callback` objects, or a `CallbackList`.
            return_dict: whether to return a dict by log key.

        Returns:
            A dict, or a list in the order of the metrics, or the loss alone where that is all.

        Raises:
            ValueError: the model is not compiled, or the data or an argument does not fit.
        """
        checks.outside_functions("evaluate", tf.errors.OperatorNotAllowedInGraphError)
        self._check_compiled("evaluate", "test")
        checks.no_strings(self, "test", y)
        data = (x, y, sample_weight)
        opened = self._opened("test", "steps", data, steps=steps, batch_size=batch_size)
        with opened as (feed, steps), self._hooks(callbacks, verbose, steps or feed.steps) as hooks:
            logs = loop.evaluate(self, self._run("test", feed, hooks, steps))
        return logs if return_dict else self._in_order(logs)

    @public
    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Returns the model's outputs for given inputs. Arguments and result are Keras's.

        Args:
            x: inputs, as `fit` takes them; targets that a source yields are passed over.
            batch_size: rows a batch, for arrays; 32 by default.
            verbose: 0 is silent, 1 a bar, 2 a line, `"auto"` as in `fit`.
            steps: how many batches to take; by default all.
            callbacks: `keras.callbacks.Callback` objects, or a `CallbackList`.

        Returns:
            NumPy arrays with a row for each row of `x`, in the structure of the model's outputs;
            `tf.RaggedTensor` where the batches' shapes differ.

        Raises:
            ValueError: the data or an argument does not fit.
        """
        checks.outside_functions("predict", AttributeError)
        data = (x, None, None)
        opened = self._opened("predict", "steps", data, steps=steps, batch_size=batch_size)
        with opened as (feed, steps), self._hooks(callbacks, verbose, steps or feed.steps) as hooks:
            return loop.predict(self.model, self._run("predict", feed, hooks, steps))

    @overload
    def train_on_batch(
        self,
        x: Any,
        y: Any = ...,
        sample_weight: Any = ...,
        class_weight: Mapping[int, float] | None = ...,
        return_dict: Literal[False] = ...,
    ) -> float | list[float]: ...

    @overload
    def train_on_batch(
        self,
        x: Any,
        y: Any = ...,
        sample_weight: Any = ...,
        class_weight: Mapping[int, float] | None = ...,
        *,
        return_dict: Literal[True],
    ) -> dict[str, float]: ...

    @overload
    def train_on_batch(
        self,
        x: Any,
        y: Any = ...,
        sample_weight: Any = ...,
        class_weight: Mapping[int, float] | None = ...,
        return_dict: bool = ...,
    ) -> float | list[float] | dict[str, float]: ...

    @public
    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> float | list[float] | dict[str, float]:
        """Trains on one batch. Arguments and result are Keras's.

        Inside a `tf.function` it becomes part of that, as under Keras; `step` does not count there.

        Args:
            x: inputs of the batch.
            y: targets of the batch.
            sample_weight: weight of the loss by row.
            class_weight: weight of the loss by class number.
            return_dict: whether to return a dict by log key.

        Returns:
            The batch's loss and metrics, as `evaluate` returns them.

        Raises:
            ValueError: the model is not compiled, or an argument does not fit.
        """
        self._check_compiled("train_on_batch", "train")
        checks.no_strings(self, "train", y)
        checks.class_weight(class_weight)
        if class_weight is not None:
            if sample_weight is not None:
                raise ValueError(
                    "class_weight and sample_weight were both given: give one of them."
                )
            sample_weight = class_weights(y, class_weight)
        self.reset_metrics()
        logs = python_logs(self._run_on_batch("train", (x, y, sample_weight)))
        if tf.executing_eagerly():  # a trace is no step
            self._progress.count(1)
        return logs if return_dict else self._in_order(logs)

    @overload
    def test_on_batch(
        self, x: Any, y: Any = ..., sample_weight: Any = ..., return_dict: Literal[False] = ...
    ) -> float | list[float]: ...

    @overload
    def test_on_batch(
        self, x: Any, y: Any = ..., sample_weight: Any = ..., *, return_dict: Literal[True]
    ) -> dict[str, float]: ...

    @overload
    def test_on_batch(
        self, x: Any, y: Any = ..., sample_weight: Any = ..., return_dict: bool = ...
    ) -> float | list[float] | dict[str, float]: ...

    @public
    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False
    ) -> float | list[float] | dict[str, float]:
        """Evaluates one batch. Arguments, result and errors as in `train_on_batch`."""
        self._check_compiled("test_on_batch", "test")
        checks.no_strings(self, "test", y)
        self.reset_metrics()
        logs = python_logs(self._run_on_batch("test", (x, y, sample_weight)))
        return logs if return_dict else self._in_order(logs)

    @public
    def predict_on_batch(self, x: Any) -> Any:
        """Returns the model's outputs for one batch, a structure of NumPy arrays."""
        checks.outside_functions("predict_on_batch", AttributeError)
        return concatenated([self._run_on_batch("predict", (x,))])

    @public
    def save_snapshot(self, path: str | os.PathLike) -> None:
        """Saves what training changes: weights, optimizers, metrics, random seeds, steps, epochs.

        While `fit` runs, in a callback's hook, the whole training is saved, as the callback
        `Snapshots` does, as soon as all hooks of the batch or the epoch were called. Where several
        processes train together, each of them has to call it; the chief writes.

        Args:
            path: the folder to write, in place of one that is there.

        Raises:
            OSError: it cannot be written.
        """
        if self._session is not None:
            self._session.save(path_of(path))
            return
        with self._telling_of_lost_peers():
            contents = self._state().taken()
        if self.is_chief:
            files.write(path_of(path), contents)

    @public
    def restore_snapshot(self, path: str | os.PathLike) -> None:
        """Sets the trainer to what `save_snapshot` or the callback `Snapshots` saved.

        If that was saved while `fit` ran, the next `fit` goes on with it, in the same epoch.

        Args:
            path: the folder of the snapshot.

        Raises:
            ValueError: there is no snapshot, or it is damaged, or of another model or optimizer;
                nothing was changed.
        """
        contents = _read(path_of(path), "save_snapshot or Snapshots")
        self._state().put_back_at_rest(contents)
        self._restored = contents if "training" in contents.facts else None

    @public
    def replay(self, path: str | os.PathLike) -> dict[str, float]:
        """Runs a step that the callback `NaNGuard` recorded again, eagerly, for a debugger.

        The trainer is set to the state before the step, and is in it again afterwards.

        Args:
            path: the folder of the record.

        Returns:
            The step's logs, those of its batch alone.

        Raises:
            ValueError: the record is damaged, or of another model or optimizer.
        """
        contents = _read(path_of(path), "NaNGuard")
        if "batch" not in contents.facts:
            raise ValueError(f"{shown(path)} has no batch: give a folder that NaNGuard wrote.")
        state = self._state()
        state.put_back_at_rest(contents)
        self.reset_metrics()
        batch = decoded(contents.facts["batch"], contents.arrays)
        program = self._programs.program("train", self._programs.choose_xla("train"))
        try:
            return python_logs(program.run_eagerly_on(batch))
        finally:
            state.put_back_at_rest(contents)

    @public
    def explain(self) -> str:
        """Returns a line for the last `fit`, `evaluate` and `predict` each: what it costs, and why.

        It reports how many steps a compiled call had at most and what limited that, and whether XLA
        compiled them.
        """
        lines = (explain() for explain in self._explanations.values())
        return "\n".join(filter(None, lines)) or "Nothing has run yet."

    def _state(self) -> AlgorithmState:
        return AlgorithmState(self, self._progress, random=self._programs.random_operations)

    @contextlib.contextmanager
    def _session_of(
        self, run: Run, validation: Run | None, plan: dict[str, Any]
    ) -> Iterator[Session]:
        """Opens the session of a `fit`, for snapshots by hand and by callbacks."""
        before = self._session
        random = self._programs.random_operations
        state = TrainingState(self, run, validation, self._progress, random)
        callbacks = run.hooks.callbacks
        try:
            with session_of(
                *(state, callbacks, self._progress, self._fits, self._restored, self.peers),
                check=functools.partial(check_before, self, self._state(), plan, callbacks),
            ) as session:
                self._restored = None  # kept where this `fit` was refused
                self._session = session
                yield session
                session.finish(self._state().taken)
        finally:
            self._session = before

    def _run_on_batch(self, mode: Mode, batch: tuple) -> Any:
        with placed(f"in {mode}_on_batch, step {self.step}"), self._telling_of_lost_peers():
            batch = keras.tree.map_structure(as_array, batch)
            check_batch(self.peers, batch)
            self._programs.build_for_replicas(
                mode, lambda: keras.tree.map_structure(spec_of, batch)
            )
            program = self._programs.program(mode, self._programs.choose_xla(mode))
            return program.run_on_batch(batch)

    @contextlib.contextmanager
    def _opened(
        self, mode: Mode, argument: str, data: tuple, **how: Any
    ) -> Iterator[tuple[Feed, int | None]]:
        """Opens the feed of `data`; arguments as `opened` takes them."""
        how |= {"budget": self.array_budget, "epoch": self.epoch}
        with (
            self._telling_of_lost_peers(),
            opened(self, self._programs, mode, argument, data, **how) as found,
        ):
            yield found

    @contextlib.contextmanager
    def _telling_of_lost_peers(self) -> Iterator[None]:
        """Ends with one sentence where another process of those that train together is gone."""
        try:
            yield
        except tf.errors.OpError as error:
            self.peers.reraise(error, f"after step {self.step}")

    @contextlib.contextmanager
    def _hooks(
        self,
        callbacks: Any,
        verbose: int | str,
        steps: int | None,
        epochs: int = 1,
        add_history: bool = False,
    ) -> Iterator[Hooks]:
        if not self.is_chief:
            callbacks, verbose = for_worker(callbacks), 0
        bar = None if verbose == 0 or replaces_bar(callbacks) else ProgressBar()
        params = {"verbose": verbose, "epochs": epochs, "steps": steps}
        checks.bound(callbacks, self.model)
        hooks = Hooks(callback_list(callbacks, self.model, params, bar, add_history))
        settle_modes(hooks.callbacks, {metric.name for metric in self.own_metrics})
        for callback in hooks.callbacks:
            if hasattr(callback, "set_trainer"):
                callback.set_trainer(self)
        try:
            yield hooks
        finally:
            for callback in hooks.callbacks:
                if isinstance(callback, ProgressBar):
                    callback.close()

    def _run(self, mode: Mode, feed: Feed, hooks: Hooks, steps: int | None, epochs: int = 1) -> Run:
        length = steps or feed.steps
        choice = self._programs.choose_xla(mode, feed, planned=length and length * epochs)
        program = self._programs.program(mode, choice)
        at_once = int(self.model.steps_per_execution)
        if mode == "test":
            for callback in hooks.callbacks:
                if isinstance(callback, ProgressBar):
                    callback.validation_steps = length
        program.pace.longest = 0
        facts = Facts(
            *(mode, program, hooks, at_once, choice, length),
            is_in_graph=feed.is_in_graph,
            is_eager=self.model.run_eagerly,
        )
        self._explanations[mode] = functools.partial(explanation, facts)
        return Run(
            *(mode, program, feed, hooks, steps),
            steps_per_execution=at_once,
            under_xla=choice.groups,
            peers=self.peers,
            learning_rates=learning_rates(self.model) if mode == "train" else (),
        )

    def _own_evaluate(self) -> Callable[..., Any] | None:
        """Returns the `evaluate` that a class overrides, and that `fit` calls then."""
        if type(self).evaluate is not CustomTrainer.evaluate:
            return self.evaluate
        if overrides(self.model, "evaluate") and not has_own_step(self, "test"):
            return self.model.evaluate
        return None

    def _begun(self, run: Run, validation: Run | None, epoch: int) -> None:
        """Checks a training that has begun with `epoch`, before its first step."""
        check_begun(self, self._state(), epoch)
        if not (validation and validation.feed.is_in_graph and is_plain(self, "test")):
            return
        spec = validation.feed.batch_spec()
        if not (run.feed.is_in_graph and are_alike(run.feed.batch_spec(), spec)):
            with placed("tracing the test_step for validation_data, before the first step"):
                validation.program.try_on(spec)

    def _check_arrays(self, x: Any, y: Any) -> None:
        """Raises for arrays of a `fit` that hold what a step cannot take."""
        if is_plain(self, "train"):
            check_labels(self.model, y)

    def _check_compiled(self, method: str, mode: Mode) -> None:
        several = isinstance(self.model, Networks)
        if several and mode == "train" and not (self.model.optimizers or has_own_step(self, mode)):
            raise ValueError(
                "The networks have no optimizers: give CustomTrainer "
                "optimizer={'name': keras.optimizers.Adam(), ...}, one for each to train."
            )
        if not self.model.compiled and not has_own_step(self, mode):
            raise ValueError(
                f"{method} needs a compiled model: give CustomTrainer an optimizer and a loss, or "
                "call model.compile(optimizer=..., loss=...) first."
            )
        self._warn_of_another_trainer()

    def _warn_of_another_trainer(self) -> None:
        """Warns, once, where another trainer has compiled the model since the last call."""
        (model, mark), now = self._compiled, compile_mark(self.model)
        if mark is now and model is self.model:
            return
        self._compiled = (self.model, now)
        is_another = model is self.model and mark is not None
        if is_another and is_compiled_by_trainer(model):
            warnings.warn(
                "Another trainer has compiled the model since, with its own arguments, and they "
                "hold for this one, too: a model has one optimizer and one loss. Give each trainer "
                "a model of its own, such as keras.models.clone_model(model).",
                stacklevel=5,
            )

    def _in_order(self, logs: dict[str, float]) -> float | list[float]:
        """Returns the values of `logs` in the order of the metrics, further keys last."""
        names = []
        for metric in self.metrics:
            # What `compile` makes of `metrics` is one metric with a list of its own.
            names.extend(part.name for part in getattr(metric, "metrics", None) or [metric])
        ordered = [name for name in names if name in logs]
        ordered += [key for key in sorted(logs) if key not in names]
        values = [logs[name] for name in ordered]
        return values[0] if len(values) == 1 else values


def _evaluated(
    evaluate: Callable[..., Any], data: tuple, hooks: Hooks, settings: dict[str, Any]
) -> dict[str, float]:
    """Returns the logs of an `evaluate` that a class overrides, called as Keras's `fit` does."""
    x, y, sample_weight = data
    logs = evaluate(
        x=x,
        y=y,
        sample_weight=sample_weight,
        callbacks=hooks.callback_list,
        return_dict=True,
        **settings,
    )
    return dict(logs.items())


def _read(path: AnyPath, writer: str) -> Contents:
    """Returns what is in the folder `path`, that `writer` wrote."""
    path = files.existing(path, writer)
    try:
        return checked(files.read(path))
    except DamagedSnapshotError as error:
        raise DamagedSnapshotError(f"The snapshot {shown(path)} is damaged: {error}.") from error
