"""Losses on replicas: weighed so that those of all replicas average to the loss of all rows."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.labels import ignored_class, per_output
from trainer.replacing import replaced
from trainer.shares import current_share

tree = keras.tree
_is_weighed = contextvars.ContextVar("is_weighed", default=False)


def replica_mean(loss: tf.Tensor) -> tf.Tensor:
    """Returns a loss of Keras's as the mean over this replica's rows.

    Keras divides what its losses return by the number of replicas.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss if replicas == 1 else loss * tf.cast(replicas, loss.dtype)


def loss_on_replica(
    loss: keras.losses.Loss, y: Any, y_pred: Any, sample_weight: Any = None
) -> tf.Tensor:
    """Returns a loss of Keras's as the mean over this replica's rows, weighed where need be.

    Arguments and errors are those of `weight_on_replica`.
    """
    with weighing():
        weight = weight_on_replica(loss, y, y_pred, sample_weight)
        return replica_mean(loss(y, y_pred, weight))


@contextlib.contextmanager
def weighing() -> Iterator[None]:
    """Lets losses be called that `refusing_calls` refuses, as here they come out right."""
    before = _is_weighed.set(True)
    try:
        yield
    finally:
        _is_weighed.reset(before)


@contextlib.contextmanager
def refusing_calls(losses: Iterable[keras.losses.Loss]) -> Iterator[None]:
    """Refuses calls of losses whose result Keras divides by the number of replicas.

    Args:
        losses: the losses.
    """
    with replaced(losses, "call", _call_if_weighed):
        yield


def _call_if_weighed(
    loss: keras.losses.Loss, call: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    if current_share() and not _is_weighed.get():
        raise ValueError(
            f"A step calls the loss {loss.name}, whose result Keras divides by the number of "
            "devices: call it by self.call_loss(loss, y, y_pred), which is right on any number."
        )
    return call(*args, **kwargs)


def weights_on_replica(model: keras.Model, y: Any, y_pred: Any, sample_weight: Any) -> Any:
    """Returns the sample weights to give the compiled losses, as `weight_on_replica` does for one.

    Raises:
        ValueError: a loss cannot be weighed.
    """
    if not current_share() or not model.loss:
        return sample_weight
    outputs = tree.flatten(y_pred)
    losses = _each_output(model, model.loss, y_pred)
    targets = _each_output(model, y, y_pred)
    weights = _each_output(model, sample_weight, y_pred)
    if losses is None or targets is None or weights is None:
        if any(map(_is_special, tree.flatten(model.loss))) or any(map(_mask_of, outputs)):
            raise ValueError(_OF_UNKNOWN_OUTPUT)
        return sample_weight
    weighed = list(map(weight_on_replica, losses, targets, outputs, weights))
    if all(new is old for new, old in zip(weighed, weights, strict=True)):
        return sample_weight
    return tree.pack_sequence_as(y_pred, weighed) if len(outputs) > 1 else weighed[0]


def weight_on_replica(loss: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
    """Returns the sample weight to give a loss of Keras's, for `replica_mean` to be right of it.

    That is for losses whose mean over the rows of all replicas is not that of the replicas' means:
    where rows or parts of them do not count, and where it is a sum.

    Args:
        loss: as `compile` takes it.
        y: the replica's targets.
        y_pred: the replica's outputs.
        sample_weight: the replica's own sample weights.

    Raises:
        ValueError: the loss has a reduction that nothing makes up for.
    """
    share = current_share()
    if not share:
        return sample_weight
    reduction = getattr(loss, "reduction", "mean")
    if reduction in (None, "none", "mean_with_sample_weight"):
        raise ValueError(
            f"The loss {_name_of(loss)} has the reduction {reduction!r}, which "
            "several devices cannot share: give it reduction='sum_over_batch_size' or 'sum'."
        )
    if _is_of_batch(loss):
        raise ValueError(
            f"The loss {_name_of(loss)} is one of all rows of a batch together, which "
            "several devices cannot share: take one of each row, as Dice and Tversky are with "
            "axis=(1, 2, 3)."
        )
    if _returns_scalar(loss, y, y_pred):
        if sample_weight is not None:
            raise ValueError(
                f"The loss {_name_of(loss)} returns a single number for all rows, "
                "which several devices cannot weigh by sample_weight or class_weight: let it "
                "return a number for each row."
            )
        # Keras divides by the number of replicas only what it averages itself.
        is_masked = _mask_of(y_pred) is not None
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return None if is_masked else tf.constant(1 / replicas)
    counted = _counted(loss, y, y_pred)
    if reduction == "sum":
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        factor = tf.math.divide_no_nan(_float(share.of), _float(share.rows * replicas))
    elif counted is not None:
        factor = _factor_of_part(tf.reduce_sum(_float(counted)))
    else:
        return sample_weight
    if sample_weight is None:
        sample_weight = tf.ones([tf.shape(y_pred)[0], *(1 for _ in y_pred.shape[2:])])
    return tf.cast(sample_weight, tf.float32) * factor


def _factor_of_part(part: tf.Tensor) -> tf.Tensor:
    """Returns what makes means over parts of the replicas' rows count like means over the rows.

    Args:
        part: how much this replica's mean is over.
    """
    share = current_share()
    part = tf.where(share.rows > 0, part, 0.0)
    context = tf.distribute.get_replica_context()
    of = context.all_reduce(tf.distribute.ReduceOp.SUM, part)
    return tf.math.divide_no_nan(part * _float(share.of), of * _float(share.rows))


def _counted(loss: Any, y: Any, y_pred: Any) -> tf.Tensor | None:
    """Returns what counts of `y_pred`, bool; `None` where all does."""
    counted = _mask_of(y_pred)
    ignored = ignored_class(loss)
    if ignored is not None:
        labels = tf.reshape(y, tf.shape(y_pred)[:-1])
        is_label = labels != tf.cast(ignored, labels.dtype)
        counted = is_label if counted is None else counted & is_label
    return counted


def _mask_of(y_pred: Any) -> tf.Tensor | None:
    # By this name Keras's guide to masking shows the mask that a tensor carries.
    return getattr(y_pred, "_keras_mask", None)


def _is_special(loss: Any) -> bool:
    """Returns whether a loss may be something else than the mean over rows by Keras."""
    if _is_of_batch(loss):
        return True
    if not isinstance(loss, keras.losses.Loss):
        return callable(loss) and not _is_of_keras(loss)
    is_mean = loss.reduction in ("mean", "sum_over_batch_size")
    return not is_mean or ignored_class(loss) is not None


def _is_of_batch(loss: Any) -> bool:
    """Returns whether a loss of Keras's is no mean of numbers that each follow from one row."""
    found = keras.losses.get(loss) if isinstance(loss, str) else loss
    if isinstance(found, (keras.losses.Dice, keras.losses.Tversky)):
        return found.axis is None
    functions = (keras.losses.dice, keras.losses.tversky, keras.losses.circle)
    return isinstance(found, keras.losses.Circle) or found in functions


def _returns_scalar(loss: Any, y: Any, y_pred: Any) -> bool:
    """Returns whether a loss of the user's own returns a single number for all rows."""
    if not callable(loss) or _is_of_keras(loss):
        return False
    is_object = isinstance(loss, keras.losses.Loss)
    dtype = loss.dtype if is_object else keras.config.floatx()
    y, y_pred = tree.map_structure(
        lambda array: keras.ops.convert_to_tensor(array, dtype), (y, y_pred)
    )
    return (loss.call if is_object else loss)(y, y_pred).shape.rank == 0


def _name_of(loss: Any) -> str:
    return getattr(loss, "name", None) or getattr(loss, "__name__", str(loss))


def _is_of_keras(loss: Any) -> bool:
    named = type(loss) if isinstance(loss, keras.losses.Loss) else loss
    return getattr(named, "__module__", "").partition(".")[0] == "keras"


def _each_output(model: keras.Model, structure: Any, y_pred: Any) -> list[Any] | None:
    """Returns the part of `structure` for each output, `None` where that cannot be told."""
    count = len(tree.flatten(y_pred))
    if not tree.is_nested(structure):
        return [structure] * count
    leaves = tree.flatten(structure)
    if count == len(leaves) == 1:
        return leaves
    if isinstance(structure, dict) and isinstance(y_pred, dict):
        return [structure.get(name) for name in sorted(y_pred)]
    parts = per_output(model, structure, count)
    return None if all(part is None for part in parts) else parts


def _float(number: Any) -> tf.Tensor:
    return tf.cast(number, tf.float32)


_OF_UNKNOWN_OUTPUT = (
    "On several devices it has to be known which loss, target and sample weight an output has, if "
    "losses are masked, own functions or no means over the rows: give each as a list in the order "
    "of the outputs, or as a dict by the outputs' names."
)
