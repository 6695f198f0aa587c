"""White digits on black into bold blue print on paper, and back: a CycleGAN (Zhu et al., 2017).

One half of the digits is white on black, the other half in print, so that nothing shows which
picture belongs to which. Two generators translate, two discriminators tell translations from
originals, and what is translated there and back must be what it was. As print is made from white
digits by a rule, the true counterpart of each held-out picture is known: at the end it is told how
far the translations are from it, and how many of those to white are read right by a classifier of
white digits, beside the same before training and for pictures left as they are. In the output
folder's `translations.png` each column has a white digit, its translation, that translated back,
and a print, its translation, that translated back.

    python cyclegan.py                              # scikit-learn's digits: offline, some minutes
    python cyclegan.py --data mnist                 # MNIST, downloaded the first time
    python cyclegan.py --data FILE.npz              # arrays x_train, y_train, x_test, y_test
"""

import digits
import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainer import CustomTrainer, Networks
from trainer.images import grid, write_png

PAPER = (0.95, 0.9, 0.7)
INK = (0.1, 0.2, 0.6)
BATCH_SIZE = 32


class CycleGAN(CustomTrainer):
    """Trains translations from x to y and from y to x on batches (x, y) that are not pairs.

    Args:
        to_y: network of images x to images y.
        to_x: network of images y to images x.
        d_x: discriminator of images x, to logits of patches, high for originals.
        d_y: the same of images y.
        optimizers: an optimizer for each of `to_y`, `to_x`, `d_x` and `d_y`, by these names.
        cycle_weight: how much the way there and back counts.
        seed: as in `Networks`.
    """

    def __init__(self, to_y, to_x, d_x, d_y, *, optimizers, cycle_weight=10.0, seed=None):
        networks = {"to_y": to_y, "to_x": to_x, "d_x": d_x, "d_y": d_y}
        super().__init__(Networks(networks, seed=seed), optimizer=optimizers)
        self.cycle_weight = cycle_weight
        self.cycle_loss = keras.metrics.Mean(name="cycle_loss")
        self.g_loss = keras.metrics.Mean(name="g_loss")
        self.d_loss = keras.metrics.Mean(name="d_loss")

    def train_step(self, data):
        """Trains the four networks on one batch."""
        to_y, to_x, d_x, d_y = self.model.networks.values()
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            fake_y, fake_x = to_y(x, training=True), to_x(y, training=True)
            cycle = distance(to_x(fake_y, training=True), x)
            cycle += distance(to_y(fake_x, training=True), y)
            real_x, taken_x = d_x(x, training=True), d_x(fake_x, training=True)
            real_y, taken_y = d_y(y, training=True), d_y(fake_y, training=True)
            g_loss = far_from(1, taken_x) + far_from(1, taken_y) + self.cycle_weight * cycle
            x_loss = (far_from(1, real_x) + far_from(0, taken_x)) / 2
            y_loss = (far_from(1, real_y) + far_from(0, taken_y)) / 2
        losses = {"to_y": g_loss, "to_x": g_loss, "d_x": x_loss, "d_y": y_loss}
        for name, loss in losses.items():
            weights = self.model.networks[name].trainable_weights
            self.minimize(loss, tape, weights, self.model.optimizers[name])
        self.track_loss(g_loss + x_loss + y_loss, x)
        self.cycle_loss.update_state(cycle)
        self.g_loss.update_state(g_loss)
        self.d_loss.update_state(x_loss + y_loss)
        return self.metric_results()


def distance(images, others):
    """Returns the mean absolute difference."""
    return tf.reduce_mean(tf.abs(images - others))


def far_from(target, logits):
    """Returns the mean square of what logits lack to a target, the least-squares GAN's loss."""
    return tf.reduce_mean((logits - target) ** 2)


def build_generator(name):
    """Returns a translator of pictures."""

    def block(x, layer):
        x = layer(x)
        return layers.ReLU()(layers.GroupNormalization(groups=-1)(x))  # an instance's norm

    images = keras.Input((28, 28, 3))
    x = block(images, layers.Conv2D(16, 5, padding="same"))
    x = block(x, layers.Conv2D(32, 3, strides=2, padding="same"))
    x = layers.Add()([x, block(x, layers.Conv2D(32, 3, padding="same"))])
    x = block(x, layers.Conv2DTranspose(16, 4, strides=2, padding="same"))
    outputs = layers.Conv2D(3, 5, padding="same", activation="sigmoid")(x)
    return keras.Model(images, outputs, name=name)


def build_discriminator(name):
    """Returns a discriminator of pictures, to a logit for each of 7x7 patches."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 3)),
            layers.Conv2D(32, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(64, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(1, 3, padding="same"),
        ],
        name=name,
    )


def in_white(images):
    """Returns images of one channel as pictures of three, white on black."""
    return tf.repeat(images, 3, axis=-1)


def in_print(images):
    """Returns images of one channel in print: strokes a pixel wider on each side, blue on paper."""
    bold = tf.nn.max_pool2d(images, 3, strides=1, padding="SAME")
    return PAPER + bold * (tf.constant(INK) - PAPER)


def batches(images, drawn, seed):
    """Returns a dataset of pictures, `drawn` of images that come in a new order each epoch."""
    dataset = tf.data.Dataset.from_tensor_slices(images).shuffle(2000, seed=seed)
    return dataset.batch(BATCH_SIZE, drop_remainder=True).map(drawn)


def translated(networks, whites, prints):
    """Returns pictures in white made of `prints`, and pictures in print made of `whites`."""
    return (
        networks["to_x"].predict(prints, verbose=0),
        networks["to_y"].predict(whites, verbose=0),
    )


def comparison(made, true, judge, labels):
    """Returns how pictures in white and in print compare with their true counterparts, as text.

    Args:
        made: both, made of each other.
        true: both, as they should be.
        judge: a trained classifier of white digits.
        labels: the digits.
    """
    to_white, to_print = (np.abs(a - b).mean() for a, b in zip(made, true, strict=True))
    read = digits.read_by(judge, made[0].mean(axis=-1, keepdims=True))
    right = np.mean(read == labels)
    return f"off by {to_white:.3f} to white, {to_print:.3f} to print; {right:.1%} read right"


def main():
    """Trains, writes pictures, and tells how far translations are from their true counterparts."""
    parser = digits.parser(__doc__, digits_epochs=20, epochs=1)
    digits.add_output(parser, __file__)
    args = digits.parsed(parser)
    x_train, y_train, x_test, y_test = digits.load_images(args.data)
    keras.utils.set_random_seed(args.seed)

    networks = {
        "to_y": build_generator("to_print"),
        "to_x": build_generator("to_white"),
        "d_x": build_discriminator("tells_white"),
        "d_y": build_discriminator("tells_print"),
    }
    optimizers = {name: keras.optimizers.Adam(1e-3, beta_1=0.5) for name in networks}
    cyclegan = CycleGAN(**networks, optimizers=optimizers, seed=args.seed)
    judge = digits.trained_judge(x_train, y_train, args.seed)
    true = in_white(x_test).numpy(), in_print(x_test).numpy()
    untrained = translated(networks, *true)
    half = len(x_train) // 2
    whites = batches(x_train[:half], in_white, args.seed)
    prints = batches(x_train[half:], in_print, args.seed + 1)
    cyclegan.fit(tf.data.Dataset.zip(whites, prints), epochs=args.epochs)

    made = translated(networks, *true)
    back = translated(networks, *made)
    rows = (true[0], made[1], back[0], true[1], made[0], back[1])
    pictures = np.concatenate([row[:16] for row in rows])
    write_png(args.output / "translations.png", grid(pictures, 16, (0, 1)))
    print(f"Pictures are in {args.output}.")
    print("Held-out digits, compared with their true counterparts; those in white are read:")
    print("left as they are:", comparison(true[::-1], true, judge, y_test))
    print("before training: ", comparison(untrained, true, judge, y_test))
    print("translated:      ", comparison(made, true, judge, y_test))
    print("true counterpart:", comparison(true, true, judge, y_test))


if __name__ == "__main__":
    main()
