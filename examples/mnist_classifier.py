"""A digit classifier: Keras's guide "Writing a training loop from scratch", by `CustomTrainer`.

The guide writes its loop by hand. Here a subclass has the step, and `fit` has the rest:

1. The loop tells the loss of one batch in every 200.
2. After each epoch come the accuracy in training and in validation, and the seconds it took.
3. Steps run compiled; with `--eager` they run as plain Python, and take several times as long.
4. With `--add-loss` a layer adds a loss of its own to the one that the labels give.

What the guide does not have: with `--snapshots FOLDER` a run that was killed goes on where it was.

Run it, from anywhere, after `pip install "keras-custom-trainer[examples]"`:

    python mnist_classifier.py                      # scikit-learn's digits: offline, some seconds
    python mnist_classifier.py --data mnist         # MNIST, downloaded the first time
    python mnist_classifier.py --data mnist --eager
    python mnist_classifier.py --data FILE.npz      # arrays x_train, y_train, x_test, y_test
"""

import time

import digits
import keras
import tensorflow as tf
from tqdm.auto import tqdm

from trainer import CustomTrainer
from trainer.callbacks import Snapshots

BATCH_SIZE = 64


class GuideTrainer(CustomTrainer):
    """Trains by the guide's step, and logs the loss of the batch as `loss_of_batch`."""

    def train_step(self, data):
        """Trains on one batch; returns its logs."""
        x, y = data
        with tf.GradientTape() as tape:
            logits = self.model(x, training=True)
            loss = self.compute_loss(x, y, logits)  # with the losses that layers add
        self.minimize(loss, tape)
        self.track_loss(loss, x)
        return {**self.compute_metrics(x, y, logits), "loss_of_batch": loss}


class GuideLines(keras.callbacks.Callback):
    """Prints the guide's lines, above the progress bar where there is one."""

    def wants_batch(self, step):
        """Returns whether to call `on_train_batch_end`; other batches' logs stay in TensorFlow."""
        return step % 200 == 0

    def on_epoch_begin(self, epoch, logs=None):
        """Starts the clock."""
        self.began = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """Prints the loss of this batch alone; `loss` in the logs is the mean of all so far."""
        tqdm.write(f"Training loss (for one batch) at step {batch}: {logs['loss_of_batch']:.4f}")
        tqdm.write(f"Seen so far: {(batch + 1) * BATCH_SIZE} samples")

    def on_epoch_end(self, epoch, logs=None):
        """Prints the accuracies and the seconds, those of validation among them."""
        tqdm.write(f"Training acc over epoch: {logs['acc']:.4f}")
        tqdm.write(f"Validation acc: {logs['val_acc']:.4f}")
        tqdm.write(f"Time taken: {time.monotonic() - self.began:.2f}s")


class ActivityRegularization(keras.layers.Layer):
    """Hands its inputs on, and adds their sum times `rate` to the loss."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def call(self, inputs):
        """Returns `inputs`."""
        self.add_loss(self.rate * keras.ops.sum(inputs))
        return inputs


def build_model(rate=None):
    """Returns a classifier of 784 pixels to 10 logits; a `rate` adds the layer with a loss."""
    inputs = keras.Input((784,), name="pixels")
    x = keras.layers.Dense(64, activation="relu")(inputs)
    if rate is not None:
        x = ActivityRegularization(rate)(x)
    x = keras.layers.Dense(64, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))


def dataset(x, y):
    """Returns the rows of `x`, flattened, and `y`. Pixels stay 0 to 255, as in the guide."""
    return tf.data.Dataset.from_tensor_slices((x.reshape(len(x), 784), y))


def arguments():
    """Returns the command line's arguments."""
    parser = digits.parser(__doc__, digits_epochs=50, epochs=2)
    parser.add_argument("--eager", action="store_true", help="run the steps as plain Python")
    parser.add_argument(
        "--add-loss",
        metavar="RATE",
        type=float,
        nargs="?",
        const=1e-2,
        help="add RATE times the sum of the first layer's outputs to the loss; the guide's rate, "
        "%(const)s, is so much for pixels up to 255 that little else is learned, 1e-6 is gentle",
    )
    parser.add_argument(
        "--snapshots", metavar="FOLDER", help="save the training there, and go on from there"
    )
    return digits.parsed(parser)


def main():
    """Trains, and tells the accuracy on the test rows."""
    args = arguments()
    x, y, x_test, y_test = digits.load(args.data)
    keras.utils.set_random_seed(args.seed)

    held_out = len(x) // 6  # the last 10,000 rows of MNIST
    train = dataset(x[:-held_out], y[:-held_out]).shuffle(1024).batch(BATCH_SIZE)
    validation = dataset(x[-held_out:], y[-held_out:]).batch(BATCH_SIZE)
    test = dataset(x_test, y_test).batch(BATCH_SIZE)

    trainer = GuideTrainer(
        build_model(args.add_loss),
        optimizer=keras.optimizers.SGD(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")],
        run_eagerly=args.eager,
    )
    callbacks = [GuideLines()]
    if args.snapshots:
        callbacks.append(Snapshots(args.snapshots, every_seconds=1))
    trainer.fit(train, validation_data=validation, epochs=args.epochs, callbacks=callbacks)

    accuracy = trainer.evaluate(test, verbose=0, return_dict=True)["acc"]
    print(f"Accuracy on {len(x_test)} held-out digits: {accuracy:.4f}")


if __name__ == "__main__":
    main()
