"""What is asked of a model, its optimizers and its metrics that several replicas are to share."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Sequence

import keras

from trainer.algorithm import Algorithm, has_own_step, overrides
from trainer.counting import with_parts
from trainer.networks import single_optimizers, trained_networks
from trainer.watching import Mode

_NO_SUMS = (keras.metrics.PearsonCorrelation, keras.metrics.ConcordanceCorrelation)


def steps(algorithm: Algorithm, mode: Mode, metrics: Iterable[keras.metrics.Metric]) -> None:
    """Checks what several replicas need to take steps of `mode`.

    Args:
        algorithm: has the steps.
        mode: whose steps they are.
        metrics: what the steps may update.

    Raises:
        ValueError: they cannot take them.
    """
    model = algorithm.model
    made_in_scope(model, metrics)
    if mode == "predict" or has_own_step(algorithm, mode):
        return
    if overrides(model, f"{mode}_step"):
        _warn_of_step_of_model(model, f"{mode}_step")
    if overrides(model, "compute_loss") and type(algorithm).compute_loss is Algorithm.compute_loss:
        _refuse_loss_of_model(model)


def made_in_scope(model: keras.Model, metrics: Iterable[keras.metrics.Metric]) -> None:
    """Raises ValueError if the strategy of `model` knows nothing of a variable of its training."""
    strategy = model.distribute_strategy
    devices = strategy.num_replicas_in_sync
    made: dict[str, Sequence[keras.Variable]] = {"the model": model.variables}
    for _, optimizer in trained_networks(model):
        made[f"the optimizer {optimizer.name}"] = optimizer.variables
    for metric in reversed(with_parts(metrics)):
        made[f"the metric {metric.name}"] = metric.variables
    for name, variables in made.items():
        if not all(strategy.extended.variable_created_in_scope(v.value) for v in variables):
            raise ValueError(
                f"The model is for {devices} devices, but {name} was made outside of the scope of "
                "their strategy: make the model, the optimizer, the metrics and the trainer under "
                "`with strategy.scope():`."
            )


def built_metrics(model: keras.Model, metrics: Iterable[keras.metrics.Metric]) -> None:
    """Raises ValueError for a metric whose states on several replicas do not add up to one."""
    metrics = list(metrics)
    made_in_scope(model, metrics)
    for metric in with_parts(metrics):
        if isinstance(metric, _NO_SUMS):
            raise ValueError(
                f"The metric {metric.name} keeps what is no sum, so several devices cannot share "
                "it: evaluate it on one, or take another metric."
            )


def built_optimizers(model: keras.Model) -> None:
    """Raises ValueError for a setting of an optimizer that Keras has for one replica only."""
    devices = model.distribute_strategy.num_replicas_in_sync
    settings = ("gradient_accumulation_steps", "ema_overwrite_frequency")
    for _, optimizer in trained_networks(model):
        for single, setting in itertools.product(single_optimizers(optimizer), settings):
            if value := getattr(single, setting, None):
                raise ValueError(
                    f"The optimizer {single.name} has {setting}={value}, which Keras cannot do on "
                    f"{devices} devices: make it without."
                )


def _warn_of_step_of_model(model: keras.Model, step: str) -> None:
    """Warns that several replicas take a step of the model's own for what it does not say it is."""
    devices = model.distribute_strategy.num_replicas_in_sync
    warnings.warn(
        f"{type(model).__name__} has a {step} of its own, which each of {devices} devices "
        "takes with its rows: gradients are added up whatever number of rows they are of, and a "
        f"loss of Keras's is logged divided by {devices}. Move the step into a subclass of "
        "CustomTrainer, whose minimize and track_loss see to that.",
        stacklevel=7,
    )


def _refuse_loss_of_model(model: keras.Model) -> None:
    """Raises ValueError, as nothing tells what of a model's own loss Keras has divided already."""
    devices = model.distribute_strategy.num_replicas_in_sync
    raise ValueError(
        f"{type(model).__name__} has a compute_loss of its own, of which {devices} devices cannot "
        f"tell whether Keras has divided it by {devices}: move it into a subclass of "
        "CustomTrainer, as a mean over the rows."
    )
