"""Distillation (Hinton et al., 2015): a small student learns from a teacher's soft targets.

The teacher, a convolutional network, has learned from all the training digits. The student, with
one narrow hidden layer, gets 300 of them: once with their labels alone, once with what the teacher
says of them, too, which keeps it from learning the few by heart (section 6 of the paper). Both
accuracies on held-out digits are told for each seed.

    python distillation.py                          # scikit-learn's digits: offline, a minute
    python distillation.py --data mnist             # MNIST, downloaded the first time
    python distillation.py --data FILE.npz          # arrays x_train, y_train, x_test, y_test
"""

import digits
import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainer import CustomTrainer

TRANSFER_ROWS = 300


class Distiller(CustomTrainer):
    """Trains a student on labels and on the soft targets of a teacher.

    Args:
        student: the model to train, to logits.
        teacher: a trained model, to logits.
        temperature: what logits are divided by before they become targets.
        alpha: share of the labels in the loss; the rest is the teacher's.
        compile_arguments: as `CustomTrainer` takes them.
    """

    def __init__(self, student, teacher, *, temperature=4.0, alpha=0.1, **compile_arguments):
        super().__init__(student, **compile_arguments)
        self.teacher = teacher
        self.temperature = temperature
        self.alpha = alpha
        self.distance = keras.metrics.Mean(name="distance")

    def train_step(self, data):
        """Trains on one batch; the teacher's part of the loss is scaled by the temperature."""
        x, y = data
        t = self.temperature
        soft_targets = tf.nn.softmax(self.teacher(x, training=False) / t)
        with tf.GradientTape() as tape:
            logits = self.model(x, training=True)
            hard = self.compute_loss(x, y, logits)
            soft = tf.nn.softmax_cross_entropy_with_logits(soft_targets, logits / t)
            loss = self.alpha * hard + (1 - self.alpha) * t**2 * tf.reduce_mean(soft)
        self.minimize(loss, tape)
        self.track_loss(hard, x)
        self.distance.update_state(soft)
        return self.compute_metrics(x, y, logits)


def build_student():
    """Returns a small classifier of images, to logits."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ]
    )


def compile_arguments():
    """Returns what the teacher and both students are compiled with."""
    return {
        "optimizer": keras.optimizers.Adam(1e-3),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def accuracies(teacher, x, y, x_test, y_test, epochs, seed):
    """Returns the accuracy of a student without the teacher, and of one with it."""
    rows = np.random.default_rng(seed).permutation(len(x))[:TRANSFER_ROWS]
    reached = []
    for distilled in (False, True):
        keras.utils.set_random_seed(seed)
        student = build_student()
        trainer = (
            Distiller(student, teacher, seed=seed, **compile_arguments())
            if distilled
            else CustomTrainer(student, seed=seed, **compile_arguments())
        )
        trainer.fit(x[rows], y[rows], batch_size=32, epochs=epochs, verbose=0)
        reached.append(trainer.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"])
    return reached


def main():
    """Trains a teacher, then two students for each seed, and tells their accuracies."""
    parser = digits.parser(__doc__, digits_epochs=300, epochs=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds to try")
    args = digits.parsed(parser)
    x, y, x_test, y_test = digits.load_images(args.data)
    keras.utils.set_random_seed(args.seed)

    teacher = digits.trained_judge(x, y, args.seed)
    accuracy = teacher.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    print(f"Accuracy of the teacher: {accuracy:.4f}")
    print("| seed | student alone | with its teacher |")
    print("| --- | --- | --- |")
    for seed in args.seeds:
        alone, distilled = accuracies(teacher.model, x, y, x_test, y_test, args.epochs, seed)
        print(f"| {seed} | {alone:.4f} | {distilled:.4f} |", flush=True)


if __name__ == "__main__":
    main()
