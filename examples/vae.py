"""Digits from a variational autoencoder (Kingma and Welling, 2014), by overriding the loss alone.

The encoder gives each image a normal distribution of latent points, the decoder makes images of
points. What is minimized is the bound of the paper: what the reconstruction costs and what the
latent points cost, in nats. It is told for held-out images, beside what they cost a model that
knows each pixel's mean and no more. Samples and reconstructions go to the output folder.

    python vae.py                                   # scikit-learn's digits: offline, a minute
    python vae.py --data mnist                      # MNIST, downloaded the first time
    python vae.py --data FILE.npz                   # arrays x_train, y_train, x_test, y_test
"""

import digits
import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainer import CustomTrainer
from trainer.images import grid, write_png

LATENT_DIM = 16
PIXELS = 28 * 28


class VAE(CustomTrainer):
    """Trains a model that returns reconstructions, latent means and logarithms of variances."""

    def __init__(self, model, **compile_arguments):
        super().__init__(model, **compile_arguments)
        self.reconstruction = keras.metrics.Mean(name="reconstruction")
        self.divergence = keras.metrics.Mean(name="divergence")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the negative of the bound, equation 10 of the paper with one draw an image."""
        images, mean, log_variance = y_pred
        reconstruction = PIXELS * keras.losses.binary_crossentropy(x, images)
        terms = 1 + log_variance - mean**2 - tf.exp(log_variance)
        divergence = -0.5 * tf.reduce_sum(terms, axis=-1)
        self.reconstruction.update_state(tf.reduce_mean(reconstruction, axis=(1, 2)))
        self.divergence.update_state(divergence)
        return tf.reduce_mean(reconstruction) + tf.reduce_mean(divergence)


@keras.saving.register_keras_serializable(package="vae")
class Sampling(layers.Layer):
    """Draws a point from the normal distribution of a mean and the logarithm of a variance."""

    def __init__(self, seed, **keywords):
        super().__init__(**keywords)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def get_config(self):
        """Returns what another such layer is made of."""
        return {**super().get_config(), "seed": self.seed}

    def call(self, inputs):
        """Returns a point for each row."""
        mean, log_variance = inputs
        noise = keras.random.normal(keras.ops.shape(mean), seed=self.seed_generator)
        return mean + keras.ops.exp(0.5 * log_variance) * noise


def build_model(seed):
    """Returns the model that is trained, and the decoder in it."""
    images = keras.Input((28, 28, 1))
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu")(images)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Dense(128, activation="relu")(layers.Flatten()(x))
    mean = layers.Dense(LATENT_DIM, name="mean")(x)
    log_variance = layers.Dense(LATENT_DIM, name="log_variance")(x)
    decoder = keras.Sequential(
        [
            keras.Input((LATENT_DIM,)),
            layers.Dense(7 * 7 * 32, activation="relu"),
            layers.Reshape((7, 7, 32)),
            layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2DTranspose(16, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ],
        name="decoder",
    )
    reconstructions = decoder(Sampling(seed)([mean, log_variance]))
    return keras.Model(images, [reconstructions, mean, log_variance]), decoder


def nats_by_pixel_means(x_train, x_test):
    """Returns what a held-out image costs a model of independent pixels, each with its mean."""
    means = np.clip(x_train.mean(axis=0), 1e-3, 1 - 1e-3)
    losses = -(x_test * np.log(means) + (1 - x_test) * np.log(1 - means))
    return losses.sum(axis=(1, 2, 3)).mean()


def main():
    """Trains, writes pictures, and tells what held-out images cost."""
    parser = digits.parser(__doc__, digits_epochs=60, epochs=10)
    digits.add_output(parser, __file__)
    args = digits.parsed(parser)
    x_train, _, x_test, _ = digits.load_images(args.data)
    keras.utils.set_random_seed(args.seed)

    model, decoder = build_model(args.seed)
    vae = VAE(model, optimizer=keras.optimizers.Adam(1e-3), seed=args.seed)
    vae.fit(x_train, batch_size=64, epochs=args.epochs, validation_data=(x_test,))

    latent = np.random.default_rng(0).normal(size=(64, LATENT_DIM))
    samples = decoder.predict(latent, verbose=0)
    write_png(args.output / "samples.png", grid(samples, 8, (0, 1)))
    pairs = np.concatenate([x_test[:16], vae.predict(x_test[:16], verbose=0)[0]])
    write_png(args.output / "reconstructions.png", grid(pairs, 16, (0, 1)))
    nats = vae.evaluate(x_test, verbose=0, return_dict=True)
    print(f"Pictures are in {args.output}.")
    print(f"A held-out image costs {nats['loss']:.1f} nats:", end=" ")
    print(f"{nats['reconstruction']:.1f} its pixels, {nats['divergence']:.1f} its latent point;")
    print(f"by each pixel's mean alone it costs {nats_by_pixel_means(x_train, x_test):.1f} nats")


if __name__ == "__main__":
    main()
