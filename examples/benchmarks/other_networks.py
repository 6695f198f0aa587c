"""Rows of networks whose steps cost more than what surrounds them."""

import functools

import tensorflow as tf

from benchmarks import networks
from benchmarks.measuring import Row, both

BATCH_SIZE = 64


def on_arrays(network, rows, shape):
    """Returns the sides of an epoch of arrays."""
    x, y = networks.data(rows, *shape)
    return both(network, lambda side: side.fit(x, y, batch_size=BATCH_SIZE, verbose=0))


def on_datasets(network, rows, shape):
    """Returns the sides of an epoch of tf.data."""
    arrays = networks.data(rows, *shape)
    dataset = tf.data.Dataset.from_tensor_slices(arrays).shuffle(1024).batch(BATCH_SIZE)
    return both(network, lambda side: side.fit(dataset, verbose=0))


# Name, what it is, network, rows for about a second an epoch, shape of a row.
NETWORKS = [
    ("convnet", "convnet, 28x28", networks.convnet, 16_000, (28, 28, 1)),
    ("lstm", "LSTM of 64 units, 32 steps", networks.lstm, 9_600, networks.SEQUENCE),
    (
        "transformer",
        "transformer block of width 64, 32 steps",
        networks.transformer,
        4_800,
        (networks.SEQUENCE[0], networks.WIDTH),
    ),
]
ROWS = [
    Row(
        f"{name}-{kind}",
        f"{what}, {rows:,} rows, {kind}",
        functools.partial(sides, network, rows, shape),
        target=1,
    )
    for name, what, network, rows, shape in NETWORKS
    for kind, sides in (("arrays", on_arrays), ("tfdata", on_datasets))
]
