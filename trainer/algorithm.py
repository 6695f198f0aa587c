"""An algorithm: what happens to one batch, its losses and its metrics."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import keras
import tensorflow as tf

from trainer.feeds import Batch
from trainer.gradients import apply_on_replicas, weighed
from trainer.losses import loss_on_replica, replica_mean, weighing, weights_on_replica
from trainer.networks import Networks, trained_networks
from trainer.noting import is_only_noted
from trainer.peers import Peers, peers_of
from trainer.shares import current_share, first_of
from trainer.step_attributes import RecordsReads

tree = keras.tree
_START_TIMEOUT = 600.0  # seconds


class Algorithm(RecordsReads):
    """The steps that `model.fit`, `evaluate` and `predict` take, for a subclass to override.

    Where the model's own class overrides one of them, the model's is used, unless a subclass of the
    trainer overrides it too.

    Attributes:
        model: the model that the steps train and call.
        seed: seed of what is shuffled and drawn.
        peer_timeout: seconds that a process waits, before each group, for the others that train
            with it; at the start of a call it waits 600, if that is more.
    """

    model: keras.Model
    seed: int
    peer_timeout: float = 120.0

    @property
    def peers(self) -> Peers:
        """The processes that train together."""
        return peers_of(self.model.distribute_strategy, self.peer_timeout)

    @property
    def peers_at_start(self) -> Peers:
        """The processes that train together, given the time to read their data first."""
        timeout = max(self.peer_timeout, _START_TIMEOUT)
        return peers_of(self.model.distribute_strategy, timeout)

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one, of those that train together, that writes files."""
        return self.peers.is_chief

    def train_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Trains on one batch; to override for another algorithm.

        Args:
            data: a batch as the data yield it: x, (x, y) or (x, y, sample_weight).

        Returns:
            The value of each log key, scalars; usually what `compute_metrics` returns. Where a step
            updates no metric, an epoch logs the mean of each over its rows; likewise of a key that
            is the name of a metric which the step does not update, such as `"loss"` without
            `track_loss`. Other keys log what the last step returned, as in Keras.
        """
        if overrides(self.model, "train_step"):
            return self.model.train_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self.call_model(x, training=True)
            loss = self._loss_of(x, y, y_pred, sample_weight, training=True)
        self.track_loss(loss, x)
        self.minimize(loss, tape)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def test_step(self, data: Batch) -> dict[str, tf.Tensor]:
        """Evaluates one batch; to override. Argument and result as in `train_step`."""
        if overrides(self.model, "test_step"):
            return self.model.test_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self.call_model(x, training=False)
        loss = self._loss_of(x, y, y_pred, sample_weight, training=False)
        self.track_loss(loss, x)
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def predict_step(self, data: Batch) -> Any:
        """Returns the model's output for one batch, a structure of tensors; to override."""
        if overrides(self.model, "predict_step"):
            return self.model.predict_step(data)
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self.call_model(x, training=False)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns the loss of one batch, `add_loss` terms and regularisers in it; to override.

        Args:
            x: inputs.
            y: targets.
            y_pred: the model's outputs.
            sample_weight: weights of the rows.
            training: whether this is a training step.

        Returns:
            A scalar. On several replicas it is that of this one's rows, such that the mean over
            replicas, weighted by their rows, is the loss of the batch.

        Raises:
            ValueError: several replicas cannot share a compiled loss.
        """
        takes_training = "training" in inspect.signature(self.model.compute_loss).parameters
        keywords = {"training": training} if takes_training else {}
        with weighing():
            if not overrides(self.model, "compute_loss"):
                sample_weight = weights_on_replica(self.model, y, y_pred, sample_weight)
            return replica_mean(self.model.compute_loss(x, y, y_pred, sample_weight, **keywords))

    def _loss_of(self, *data: Any, training: bool) -> tf.Tensor:
        """Calls `compute_loss`, which may have been overridden without `training`, as in Keras."""
        parameters = inspect.signature(self.compute_loss).parameters.values()
        takes_training = any(p.name == "training" or p.kind == p.VAR_KEYWORD for p in parameters)
        return self.compute_loss(*data, **({"training": training} if takes_training else {}))

    def call_loss(
        self, loss: keras.losses.Loss, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> tf.Tensor:
        """Returns what `loss` makes of one batch, for a step of your own.

        On one device that is `loss(y, y_pred, sample_weight)`. On several, Keras divides the result
        by their number and knows of no rows but one device's; this does not.

        Args:
            loss: the loss, an object.
            y: targets.
            y_pred: outputs.
            sample_weight: weights of the rows.

        Returns:
            A scalar, as `compute_loss` returns it.

        Raises:
            ValueError: several replicas cannot share the loss.
        """
        return loss_on_replica(loss, y, y_pred, sample_weight)

    def known_inputs(self, mode: str) -> list[keras.KerasTensor] | None:
        """Returns what the x of a batch has to be like in the step of `mode`.

        `None` where that is not known, as where the step or the model's `call` is not Keras's.
        """
        own = has_own_step(self, mode) or overrides(self.model, f"{mode}_step")
        passes_x_on = isinstance(self.model, Networks) or calls_as_built(self.model)
        return getattr(self.model, "inputs", None) if passes_x_on and not own else None

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that each epoch and each evaluation starts afresh; to override.

        The model's, and each `keras.metrics.Metric` that is an attribute of the trainer.
        """
        of_model = self.model.metrics
        return [*of_model, *_without(self._metrics_in_attributes(), of_model)]

    @property
    def own_metrics(self) -> list[keras.metrics.Metric]:
        """Those of `metrics` that are not the model's."""
        is_overridden = type(self).metrics is not Algorithm.metrics
        if not (is_overridden or self._metrics_in_attributes()):
            return []  # without a walk through the model's layers
        return _without(self.metrics, self.model.metrics)

    def _metrics_in_attributes(self) -> list[keras.metrics.Metric]:
        return [value for value in vars(self).values() if isinstance(value, keras.metrics.Metric)]

    def call_model(self, x: Any, training: bool) -> Any:
        """Returns the model's output for `x`; passes `training` where the model takes it."""
        if "training" in inspect.signature(self.model.call).parameters:
            return self.model(x, training=training)
        return self.model(x)

    def minimize(
        self,
        loss: tf.Tensor,
        tape: tf.GradientTape,
        variables: list | None = None,
        optimizer: keras.Optimizer | None = None,
    ) -> None:
        """Carries `loss` to `variables` by one step of `optimizer`.

        Scales the gradients as mixed precision and the number of replicas ask for. With several
        networks, call it once for each, with a tape each or a persistent one.

        Args:
            loss: scalar computed under `tape`, a mean over this replica's rows.
            tape: the tape; it may still be recording.
            variables: what to change; the model's trainable weights where not given.
            optimizer: what changes them; the model's optimizer where not given.

        Raises:
            TypeError: the tape comes before the loss.
        """
        if isinstance(loss, tf.GradientTape):
            raise TypeError("minimize was given the tape first: call minimize(loss, tape).")
        variables = self.model.trainable_weights if variables is None else variables
        optimizer = self.model.optimizer if optimizer is None else optimizer
        if not variables:
            warnings.warn(
                "There are no trainable weights: the step changes nothing. Set `trainable` of the "
                "layers to train, and compile again.",
                stacklevel=2,
            )
            return
        if is_only_noted(optimizer, variables):
            return
        # Equal to the gradient of scale * loss, with no product to record on the tape.
        scale = optimizer.scale_loss(tf.ones_like(loss))
        if share := current_share():
            scale *= tf.cast(share.rows / share.of, scale.dtype)
        gradients = tape.gradient(loss, variables, output_gradients=scale)
        if share:
            apply_on_replicas(optimizer, gradients, variables)
        else:
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def apply_gradients(
        self,
        gradients: list[tf.Tensor | tf.IndexedSlices | None],
        variables: list | None = None,
        optimizer: keras.Optimizer | None = None,
    ) -> None:
        """Takes one step of `optimizer`, for a step that changes gradients before.

        On one device that is `optimizer.apply_gradients(zip(gradients, variables))`. On several
        that adds gradients up whatever rows they are of; this does not.

        Args:
            gradients: gradients of a mean over this replica's rows, scaled by
                `optimizer.scale_loss` where the optimizer scales.
            variables: what to change; the model's trainable weights where not given.
            optimizer: what changes them; the model's optimizer where not given.
        """
        variables = self.model.trainable_weights if variables is None else variables
        optimizer = self.model.optimizer if optimizer is None else optimizer
        if is_only_noted(optimizer, variables):
            return
        if current_share():
            apply_on_replicas(optimizer, weighed(gradients), variables)
        else:
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

    def track_loss(self, loss: tf.Tensor, x: Any) -> None:
        """Adds `loss`, the mean over the rows of `x`, to the running `loss` of the logs."""
        rows = tf.shape(first_of(x))[0]
        # First among the metrics that Keras itself lists, also where a class lists others.
        keras.Model.metrics.fget(self.model)[0].update_state(loss, sample_weight=rows)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, tf.Tensor]:
        """Updates the compiled metrics; returns the running value of every metric by log key."""
        logs = self.model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return {**logs, **_results(self.own_metrics)}

    def metric_results(self) -> dict[str, tf.Tensor]:
        """Returns the running value of every metric by log key, also where that is a variable."""
        results = {**self.model.get_metrics_result(), **_results(self.own_metrics)}
        return {
            key: tf.convert_to_tensor(value)
            if isinstance(value, (tf.Variable, keras.Variable))
            else value
            for key, value in results.items()
        }

    def reset_metrics(self) -> None:
        """Starts all metrics afresh."""
        self.model.reset_metrics()
        for metric in self.own_metrics:
            metric.reset_state()

    def epoch_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Returns what the metrics say after an epoch whose last step returned `logs`.

        That is the metrics' results if `logs` has just their keys; otherwise the step has log keys
        of its own, and `logs` stands.
        """
        if not all(getattr(metric, "built", True) for metric in self.model.metrics):
            return logs  # of compiled metrics, which have no results before their first update
        results = self.metric_results()
        return results if results.keys() == logs.keys() else logs

    def seeds(self) -> list[keras.Variable]:
        """Returns the states of the seed generators of the model and of the trainer."""
        of_model = [v for v in self.model.variables if v.name == "seed_generator_state"]
        values = vars(self).values()
        return of_model + [v.state for v in values if isinstance(v, keras.random.SeedGenerator)]

    def finalize_weights(self) -> None:
        """Ends training: puts in place the averaged weights of an optimizer that keeps some."""
        for network, optimizer in trained_networks(self.model):
            optimizer.finalize_variable_values(network.trainable_weights)


def overrides(model: keras.Model, method: str) -> bool:
    """Returns whether the model's class, or the model itself, has its own `method`."""
    function = getattr(getattr(model, method), "__func__", None)
    return function is not getattr(keras.Model, method)


def calls_as_built(model: keras.Model) -> bool:
    """Returns whether Keras's own code joins the layers of `model`, as `Sequential` does."""
    calling = next(cls for cls in type(model).__mro__ if "call" in vars(cls))
    return calling.__module__.partition(".")[0] == "keras"


def has_own_step(algorithm: Algorithm, mode: str) -> bool:
    """Returns whether a subclass overrides the step of `mode`: "train", "test" or "predict"."""
    return getattr(type(algorithm), f"{mode}_step") is not getattr(Algorithm, f"{mode}_step")


def is_plain(algorithm: Algorithm, mode: str) -> bool:
    """Returns whether the step of `mode`, its loss's call and the model's are all Keras's."""
    model = algorithm.model
    return (
        not has_own_step(algorithm, mode)
        and type(algorithm).compute_loss is Algorithm.compute_loss
        and type(algorithm).call_model is Algorithm.call_model
        and not any(overrides(model, name) for name in (f"{mode}_step", "compute_loss"))
        and calls_as_built(model)
    )


def _without(
    metrics: list[keras.metrics.Metric], others: list[keras.metrics.Metric]
) -> list[keras.metrics.Metric]:
    left_out = {id(metric) for metric in others}
    return [metric for metric in metrics if id(metric) not in left_out]


def _results(metrics: list[keras.metrics.Metric]) -> dict[str, tf.Tensor]:
    results = {}
    for metric in metrics:
        result = metric.result()
        results.update(result if isinstance(result, dict) else {metric.name: result})
    return results
