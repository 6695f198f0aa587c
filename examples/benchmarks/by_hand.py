"""Loops written by hand: the fastest that public TensorFlow and Keras allow.

Each runs its epoch in one call of a `tf.function`, by `tf.while_loop`, and does in each step what
`model.fit` does: loss, gradient, optimizer, the mean of the loss and a metric; or what
`model.evaluate` or `model.predict` does. What they have no place for is what those are for:
callbacks, validation, a bar, an error that names the batch.
"""

import math

import keras
import numpy as np
import tensorflow as tf


class Loop:
    """A step of a classifier by SGD, and the logs of an epoch of them."""

    def __init__(self, network):
        self.network = network
        self.optimizer = keras.optimizers.SGD()
        self.optimizer.build(network.trainable_variables)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.mean_loss = keras.metrics.Mean(name="loss")
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def epoch(self):
        """Trains for an epoch, returns its logs."""
        for metric in (self.mean_loss, self.accuracy):
            metric.reset_state()
        self.run()
        return {metric.name: float(metric.result()) for metric in (self.mean_loss, self.accuracy)}

    def step(self, x, y):
        """Trains on one batch."""
        with tf.GradientTape() as tape:
            logits = self.network(x, training=True)
            loss = self.loss(y, logits)
        variables = self.network.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self.measure(x, y, logits, loss)

    def measure(self, x, y, logits, loss):
        """Updates the metrics with one batch."""
        self.mean_loss.update_state(loss, sample_weight=tf.shape(x)[0])
        self.accuracy.update_state(y, logits)


class ArrayLoop(Loop):
    """The epoch as one program of XLA, over arrays that are tensors before the first epoch.

    Args:
        network: what to train.
        x: inputs.
        y: class numbers.
        batch_size: rows a batch.
        shuffle: whether NumPy draws a new order of the rows for each epoch.
        gather_ahead: whether the rows of all batches are put in order before the first step, not
            those of each batch before its own.
    """

    def __init__(self, network, x, y, batch_size, shuffle=True, gather_ahead=False):
        super().__init__(network)
        self.arrays = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        self.batch_size = batch_size
        self.draws = np.random.default_rng(0) if shuffle else None
        steps = self._gathered_ahead if gather_ahead else self._gathered_by_step
        self.steps = tf.function(steps, jit_compile=True, autograph=False)

    def run(self):
        """Runs the full batches in one call, the rows that are left in another."""
        rows = len(self.arrays[0])
        order = np.arange(rows) if self.draws is None else self.draws.permutation(rows)
        full = rows - rows % self.batch_size
        for part in (order[:full], order[full:]):
            if len(part):
                size = min(self.batch_size, len(part))
                order_in_batches = tf.constant(part.reshape(-1, size).astype("int32"))
                self.steps(*self.arrays, order_in_batches, tf.constant(len(part) // size))

    def _gathered_by_step(self, x, y, order, limit):
        def step(number):
            self.step(tf.gather(x, order[number]), tf.gather(y, order[number]))
            return (number + 1,)

        tf.while_loop(lambda number: number < limit, step, (tf.constant(0),))

    def _gathered_ahead(self, x, y, order, limit):
        x, y = tf.gather(x, order), tf.gather(y, order)

        def step(number):
            self.step(x[number], y[number])
            return (number + 1,)

        tf.while_loop(lambda number: number < limit, step, (tf.constant(0),))


class DatasetLoop(Loop):
    """The epoch as one graph, over an iterator that reads ahead.

    Args:
        network: what to train.
        dataset: a `tf.data.Dataset` of known length.
        jit_compile: whether XLA compiles the step; the loop and the iterator stay TensorFlow's.
    """

    def __init__(self, network, dataset, jit_compile):
        super().__init__(network)
        self.length = tf.constant(int(dataset.cardinality()))
        self.dataset = dataset.prefetch(tf.data.AUTOTUNE)
        self.compiled_step = tf.function(self.step, jit_compile=jit_compile, autograph=False)
        self.steps = tf.function(self._steps, autograph=False)

    def run(self):
        """Runs the steps in one call."""
        self.steps(iter(self.dataset), self.length)

    def _steps(self, iterator, limit):
        def step(number):
            self.compiled_step(*iterator.get_next())
            return (number + 1,)

        tf.while_loop(lambda number: number < limit, step, (tf.constant(0),))


class EvaluationLoop(Loop):
    """An evaluation as one graph, over arrays that are tensors before it.

    Args:
        network: what to evaluate.
        x: inputs.
        y: class numbers.
        batch_size: rows a batch.
    """

    def __init__(self, network, x, y, batch_size):
        super().__init__(network)
        self.arrays = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        self.batch_size = batch_size
        self.limit = tf.constant(math.ceil(len(x) / batch_size))
        self.steps = tf.function(self._steps, autograph=False)

    def run(self):
        """Runs the steps in one call."""
        self.steps(*self.arrays, self.limit)

    def step(self, x, y):
        """Evaluates one batch."""
        logits = self.network(x, training=False)
        self.measure(x, y, logits, self.loss(y, logits))

    def _steps(self, x, y, limit):
        def step(number):
            rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
            self.step(x[rows], y[rows])
            return (number + 1,)

        tf.while_loop(lambda number: number < limit, step, (tf.constant(0),))


class PredictionLoop:
    """A prediction as one graph, over an array that is a tensor before it.

    Args:
        network: what predicts.
        x: inputs.
        batch_size: rows a batch.
    """

    def __init__(self, network, x, batch_size):
        self.network = network
        self.x = tf.convert_to_tensor(x)
        self.batch_size = batch_size
        self.limit = tf.constant(math.ceil(len(x) / batch_size))
        self.steps = tf.function(self._steps, autograph=False)

    def predict(self):
        """Returns the logits of all rows, an array."""
        return self.steps(self.x, self.limit).numpy()

    def _steps(self, x, limit):
        def step(number, logits):
            batch = x[number * self.batch_size : (number + 1) * self.batch_size]
            return number + 1, logits.write(number, self.network(batch, training=False))

        logits = tf.TensorArray(tf.float32, limit, infer_shape=False)
        _, logits = tf.while_loop(
            lambda number, logits: number < limit, step, (tf.constant(0), logits)
        )
        return logits.concat()
