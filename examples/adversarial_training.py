"""Adversarial training with the fast gradient sign method (Goodfellow et al., 2015).

The attack moves each pixel by a step in the direction that raises the loss. A classifier trained on
attacked images beside the clean ones keeps most of its accuracy under attack; one trained plainly
loses most. Both accuracies on held-out digits are told for each seed, and a grid of clean and
attacked digits goes to the output folder.

    python adversarial_training.py                  # scikit-learn's digits: offline, a minute
    python adversarial_training.py --data mnist     # MNIST, downloaded the first time
    python adversarial_training.py --data FILE.npz  # arrays x_train, y_train, x_test, y_test
"""

import digits
import keras
import numpy as np
import tensorflow as tf

from trainer import CustomTrainer
from trainer.images import grid, write_png


class AdversarialTrainer(CustomTrainer):
    """Trains a classifier on clean and attacked images; evaluates it on both.

    Args:
        model: a classifier of images from 0 to 1.
        epsilon: how far the attack moves a pixel.
        alpha: share of the clean images in the loss; 1 is plain training.
        compile_arguments: as `CustomTrainer` takes them.
    """

    def __init__(self, model, *, epsilon=0.2, alpha=0.5, **compile_arguments):
        super().__init__(model, **compile_arguments)
        self.epsilon = epsilon
        self.alpha = alpha
        self.attacked = keras.metrics.SparseCategoricalAccuracy(name="attacked_accuracy")

    def attack(self, x, y):
        """Returns images that the model finds harder, no pixel farther than `epsilon` away."""
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = self.compute_loss(x, y, self.model(x, training=False))
        return tf.clip_by_value(x + self.epsilon * tf.sign(tape.gradient(loss, x)), 0, 1)

    def train_step(self, data):
        """Trains on one batch and its attacked images, as section 6 of the paper."""
        x, y = data
        harder = self.attack(x, y)
        with tf.GradientTape() as tape:
            logits, harder_logits = self.model(x, training=True), self.model(harder, training=True)
            clean = self.compute_loss(x, y, logits)
            attacked = self.compute_loss(harder, y, harder_logits)
            loss = self.alpha * clean + (1 - self.alpha) * attacked
        self.minimize(loss, tape)
        self.track_loss(loss, x)
        self.attacked.update_state(y, harder_logits)
        return self.compute_metrics(x, y, logits)

    def test_step(self, data):
        """Evaluates one batch, clean and attacked."""
        x, y = data
        self.attacked.update_state(y, self.model(self.attack(x, y), training=False))
        return super().test_step(data)


def accuracies(alpha, data, epochs, seed):
    """Returns the trainer, and the accuracies on clean and on attacked held-out digits."""
    x, y, x_test, y_test = data
    keras.utils.set_random_seed(seed)
    trainer = AdversarialTrainer(
        digits.convnet(),
        alpha=alpha,
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        seed=seed,
    )
    trainer.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    logs = trainer.evaluate(x_test, y_test, batch_size=256, verbose=0, return_dict=True)
    return trainer, (logs["accuracy"], logs["attacked_accuracy"])


def main():
    """Trains plainly and adversarially for each seed, and tells the accuracies."""
    parser = digits.parser(__doc__, digits_epochs=40, epochs=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds to try")
    digits.add_output(parser, __file__)
    args = digits.parsed(parser)
    data = digits.load_images(args.data)

    print("| seed | plain: clean | plain: attacked | adversarial: clean | adversarial: attacked |")
    print("| --- | --- | --- | --- | --- |")
    for seed in args.seeds:
        _, plain = accuracies(1.0, data, args.epochs, seed)
        trainer, hardened = accuracies(0.5, data, args.epochs, seed)
        told = " | ".join(f"{accuracy:.4f}" for accuracy in (*plain, *hardened))
        print(f"| {seed} | {told} |", flush=True)

    images, labels = tf.constant(data[2][:16]), tf.constant(data[3][:16])
    rows = np.concatenate([images, trainer.attack(images, labels)])
    write_png(args.output / "attacked.png", grid(rows, 16, (0, 1)))
    print(f"The first held-out digits, clean and attacked: {args.output / 'attacked.png'}")


if __name__ == "__main__":
    main()
