"""What a `tf.data` iterator holds, buffers included, as bytes and back."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

_FAIL_IF_STATEFUL = 2
# What counts the passes of a shuffle, with the path of its iterator in front.
_COUNTED = re.compile(rb"(Iterator::[^@]*)@@epoch_num_random_samples")
_FAILED = re.compile(rb"error_message|status_msg")  # names of what is there where reading failed


class Content(NamedTuple):
    """What an iterator held.

    Attributes:
        data: bytes that cannot be written on.
        counted: the shuffles that it tells the number of passes of, which are those that have an
            iterator at that moment.
        has_failed: whether it may hold an error, met in reading ahead, in place of a batch.
    """

    data: np.ndarray
    counted: frozenset[bytes]
    has_failed: bool


def content_of(iterator: Any) -> Content | None:
    """Returns what `iterator` holds.

    `None` where TensorFlow cannot tell, since the pipeline calls Python or reads variables.
    """
    try:
        content = tf.raw_ops.SerializeIterator(
            resource_handle=_handle(iterator), external_state_policy=_FAIL_IF_STATEFUL
        )
    except tf.errors.FailedPreconditionError:
        return None
    data = tf.io.serialize_tensor(content).numpy()
    counted = frozenset(_COUNTED.findall(data))
    return Content(np.frombuffer(data, np.uint8), counted, _FAILED.search(data) is not None)


def set_content(iterator: Any, data: np.ndarray) -> None:
    """Lets `iterator` go on from the `Content.data` of another one of such a pipeline."""
    serialized = tf.io.parse_tensor(data.tobytes(), tf.variant)
    tf.raw_ops.DeserializeIterator(resource_handle=_handle(iterator), serialized=serialized)


@tf.function(reduce_retracing=True)
def skip(iterator: Any, batches: tf.Tensor) -> None:
    """Takes `batches` from `iterator`, and drops them.

    Raises:
        tf.errors.OutOfRangeError: there are fewer.
    """
    for _ in tf.range(batches):
        iterator.get_next()


def _handle(iterator: Any) -> tf.Tensor:
    (handle,) = tf.nest.flatten(iterator, expand_composites=True)
    return handle
