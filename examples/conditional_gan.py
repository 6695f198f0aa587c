"""Digits on request: a conditional GAN (Mirza and Osindero, 2014), by `GANTrainer` as it is.

Networks that take labels are all it needs: the generator gets each latent point with the digit to
draw, the discriminator each image with the digit that it shall show. At the end a classifier that
has learned the real digits reads 1,000 samples, a hundred of each, and the share on which it agrees
with the request is told, beside the share before training. A grid with one digit in each column,
from the same latent points each time, goes to the output folder after every epoch.

    python conditional_gan.py                       # scikit-learn's digits: offline, some minutes
    python conditional_gan.py --data mnist          # MNIST, downloaded the first time
    python conditional_gan.py --data FILE.npz       # arrays x_train, y_train, x_test, y_test
"""

import digits
import keras
import numpy as np
from keras import layers

from trainer import GANTrainer
from trainer.callbacks import SampleImages

LATENT_DIM = 64


def build_generator():
    """Returns a generator of latent points and labels to images."""
    latent = keras.Input((LATENT_DIM,), name="latent")
    labels = keras.Input((), dtype="int32", name="label")
    x = layers.Concatenate()([latent, layers.Embedding(10, 32)(labels)])
    x = layers.Dense(7 * 7 * 64)(x)
    x = layers.Reshape((7, 7, 64))(layers.LeakyReLU(negative_slope=0.2)(x))
    for filters in (64, 32):
        x = layers.Conv2DTranspose(filters, 4, strides=2, padding="same")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    images = layers.Conv2D(1, 5, padding="same", activation="sigmoid")(x)
    return keras.Model([latent, labels], images, name="generator")


def build_discriminator():
    """Returns a discriminator of images and labels to a logit, high for fakes.

    The label enters by a product with the features (Miyato and Koyama, 2018).
    """
    images = keras.Input((28, 28, 1), name="image")
    labels = keras.Input((), dtype="int32", name="label")
    x = images
    for filters in (32, 64):
        x = layers.Conv2D(filters, 4, strides=2, padding="same")(x)
        x = layers.LeakyReLU(negative_slope=0.2)(x)
    features = layers.Dense(64)(layers.Dropout(0.3)(layers.Flatten()(x)))
    features = layers.LeakyReLU(negative_slope=0.2)(features)
    fits = layers.Dot(axes=1)([features, layers.Embedding(10, 64)(labels)])
    logits = layers.Add()([layers.Dense(1)(features), fits])
    return keras.Model([images, labels], logits, name="discriminator")


def share_agreed(gan, judge):
    """Returns the share of 1,000 samples in which the judge reads the digit asked for."""
    asked = np.tile(np.arange(10), 100)
    return np.mean(digits.read_by(judge, gan.generate(1000, seed=0, labels=asked)) == asked)


def main():
    """Trains, writes pictures, and tells how many samples show the digit asked for."""
    parser = digits.parser(__doc__, digits_epochs=60, epochs=10)
    digits.add_output(parser, __file__)
    args = digits.parsed(parser)
    x_train, y_train, x_test, y_test = digits.load_images(args.data)
    keras.utils.set_random_seed(args.seed)

    gan = GANTrainer(
        build_generator(),
        build_discriminator(),
        latent_dim=LATENT_DIM,
        d_optimizer=keras.optimizers.Adam(2e-4, beta_1=0.5),
        g_optimizer=keras.optimizers.Adam(2e-4, beta_1=0.5),
        seed=args.seed,
    )
    judge = digits.trained_judge(x_train, y_train, args.seed)
    untrained = share_agreed(gan, judge)
    gan.fit(
        x_train,
        y_train,
        batch_size=64,
        epochs=args.epochs,
        callbacks=[SampleImages(args.output, grid=(8, 10), labels=np.tile(np.arange(10), 8))],
    )
    accuracy = judge.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"]
    print(f"Pictures are in {args.output}.")
    print(f"A classifier with an accuracy of {accuracy:.4f} on held-out digits reads the digit")
    print(f"asked for in {share_agreed(gan, judge):.1%} of 1,000 samples", end="; ")
    print(f"before training in {untrained:.1%}")


if __name__ == "__main__":
    main()
