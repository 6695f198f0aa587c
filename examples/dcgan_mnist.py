"""Digits from a DCGAN: the networks and the step of Keras's guide, by `GANTrainer` and `fit`.

The guide "Writing a training loop from scratch" ends in a deep convolutional GAN, with a loop and
a step by hand. Here `GANTrainer` has the step and `fit` the loop; this file has the two networks,
and a callback that tells the losses every 200 steps. A grid of samples, from the same latent points
each time, goes to the output folder after each epoch; the last one is there as `samples.png`, too.
At the end a classifier that has learned the real digits reads 1,000 samples. With `--resume` a run
goes on from the last epoch of one that was stopped, or that shall have more, to the same bits.

    python dcgan_mnist.py                           # scikit-learn's digits: offline, some minutes
    python dcgan_mnist.py --data mnist              # MNIST, downloaded the first time
    python dcgan_mnist.py --data FILE.npz           # arrays x_train, y_train, x_test, y_test
    python dcgan_mnist.py --devices 2               # on two devices of this machine
"""

import digits
import keras
import numpy as np
from keras import layers
from tqdm.auto import tqdm

from trainer import GANTrainer
from trainer.callbacks import SampleImages
from trainer.images import grid, write_png

LATENT_DIM = 128
BATCH_SIZE = 64


class Losses(keras.callbacks.Callback):
    """Prints the losses every 200 steps, each the mean of the epoch so far."""

    def wants_batch(self, step):
        """Returns whether to call `on_train_batch_end`; other batches' logs stay in TensorFlow."""
        return step % 200 == 0

    def on_train_batch_end(self, batch, logs=None):
        """Prints the two losses."""
        tqdm.write(f"discriminator loss at step {batch}: {logs['d_loss']:.4f}")
        tqdm.write(f"generator loss at step {batch}: {logs['g_loss']:.4f}")


def build_discriminator():
    """Returns the guide's discriminator of images to a logit, high for fakes."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(64, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(128, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.GlobalMaxPooling2D(),
            layers.Dense(1),
        ],
        name="discriminator",
    )


def build_generator():
    """Returns the guide's generator of latent points to images."""
    return keras.Sequential(
        [
            keras.Input((LATENT_DIM,)),
            layers.Dense(7 * 7 * 128),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Reshape((7, 7, 128)),
            layers.Conv2DTranspose(128, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2DTranspose(128, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(1, 7, padding="same", activation="sigmoid"),
        ],
        name="generator",
    )


def build_gan(seed):
    """Returns the trainer of both networks."""
    return GANTrainer(build_generator(), build_discriminator(), latent_dim=LATENT_DIM, seed=seed)


def classes_seen(gan, judge):
    """Returns how many of 1,000 samples the judge reads as each digit."""
    return np.bincount(digits.read_by(judge, gan.generate(1000, seed=0)), minlength=10)


def main():
    """Trains, writes pictures, and tells which digits there are among 1,000 samples."""
    parser = digits.parser(__doc__, digits_epochs=10, epochs=3)
    parser.add_argument("--resume", action="store_true", help="go on from the output folder")
    digits.add_devices(parser)
    digits.add_output(parser, __file__)
    args = digits.parsed(parser)
    strategy = digits.strategy_of(args.devices)
    x_train, y_train, x_test, y_test = digits.load_images(args.data)
    keras.utils.set_random_seed(args.seed)

    with strategy.scope():
        gan = build_gan(args.seed)
    print(f"{gan.generator.count_params():,} parameters in the generator,")
    print(f"{gan.discriminator.count_params():,} in the discriminator")
    judge = digits.trained_judge(x_train, y_train, args.seed)
    untrained = classes_seen(gan, judge)
    saved = args.output / "gan.keras"
    if args.resume and saved.exists():
        with strategy.scope():
            gan = GANTrainer.from_model(keras.models.load_model(saved))
    gan.fit(
        np.concatenate([x_train, x_test]),
        batch_size=BATCH_SIZE,
        epochs=args.epochs,
        initial_epoch=gan.epoch,
        callbacks=[Losses(), SampleImages(args.output), keras.callbacks.ModelCheckpoint(saved)],
    )

    write_png(args.output / "samples.png", grid(gan.generate(64, seed=0), 8, (0, 1)))
    accuracy = judge.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    seen = classes_seen(gan, judge)
    print(f"Pictures are in {args.output}.")
    print(f"A classifier with an accuracy of {accuracy:.4f} on held-out digits reads 1,000 samples")
    print("as", ", ".join(f"{count} times {digit}" for digit, count in enumerate(seen)))
    print(f"Digits seen among them: {np.count_nonzero(seen)} of 10", end="; ")
    print(f"before training: {np.count_nonzero(untrained)} of 10")


if __name__ == "__main__":
    main()
