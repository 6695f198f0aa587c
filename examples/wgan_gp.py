"""Digits from a Wasserstein GAN with gradient penalty (Gulrajani et al., 2017), by `GANTrainer`.

The discriminator becomes a critic: five updates for one of the generator bring the difference of
its means over real images and over samples near the Wasserstein distance between the two, which the
logs tell as `distance`. Unlike a GAN's losses it falls as the samples get better; and as a critic
learns few images by heart, it is told for held-out images, too. At the end a classifier that has
learned the real digits reads 1,000 samples: how many digits there are, how far their shares are
from the real ones, and a score, beside samples from before training and held-out images. A grid of
samples, from the same latent points each time, goes to the output folder after each epoch.

    python wgan_gp.py                               # scikit-learn's digits: offline, some minutes
    python wgan_gp.py --data mnist                  # MNIST, downloaded the first time
    python wgan_gp.py --data FILE.npz               # arrays x_train, y_train, x_test, y_test
    python wgan_gp.py --devices 2                   # on two devices of this machine
"""

import digits
import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainer import GANTrainer
from trainer.callbacks import SampleImages

LATENT_DIM = 64


class WGANGP(GANTrainer):
    """Trains a generator against a critic, high for real images, by Algorithm 1 of the paper.

    The critic's updates in one step share their real images, where the paper draws new ones.
    """

    def __init__(self, *networks, penalty_weight=10.0, discriminator_steps=5, **arguments):
        super().__init__(*networks, discriminator_steps=discriminator_steps, **arguments)
        self.penalty_weight = penalty_weight
        self.distance = keras.metrics.Mean(name="distance")
        del self.real_accuracy, self.fake_accuracy  # a critic knows no border between the two

    def discriminator_loss(self, real_logits, fake_logits):
        """Returns the critic's loss without the penalty: the distance, with its sign changed."""
        return tf.reduce_mean(fake_logits) - tf.reduce_mean(real_logits)

    def generator_loss(self, fake_logits):
        """Returns the generator's loss."""
        return -tf.reduce_mean(fake_logits)

    def penalty(self, images, fakes, labels, training):
        """Returns what slopes other than 1 cost, at points between the images and the fakes."""
        rows = tf.shape(images)[0]
        shares = keras.random.uniform((rows, 1, 1, 1), seed=self.seed_generator)
        points = shares * images + (1 - shares) * fakes
        with tf.GradientTape() as tape:
            tape.watch(points)
            logits = self.discriminator(points, training=training)
        squares = tf.reduce_sum(tape.gradient(logits, points) ** 2, axis=(1, 2, 3))
        return self.penalty_weight * tf.reduce_mean((tf.sqrt(squares + 1e-12) - 1) ** 2)

    def track_logits(self, real_logits, fake_logits):
        """Updates the estimate of the distance."""
        self.distance.update_state(real_logits - fake_logits)


def build_critic():
    """Returns a critic of images; no normalization over the batch, so each row has its slope."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Flatten(),
            layers.Dense(256),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Dense(256),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Dense(1),
        ],
        name="critic",
    )


def build_generator():
    """Returns a generator of latent points to images."""
    return keras.Sequential(
        [
            keras.Input((LATENT_DIM,)),
            layers.Dense(512, activation="relu"),
            layers.Dense(512, activation="relu"),
            layers.Dense(28 * 28, activation="sigmoid"),
            layers.Reshape((28, 28, 1)),
        ],
        name="generator",
    )


def opinion(judge, images, real_shares):
    """Returns what the judge sees in images, as text.

    Args:
        judge: a trained classifier.
        images: the images.
        real_shares: the share of each digit among the real images.

    Returns:
        How many of the ten digits it sees; the Kullback-Leibler divergence of their shares from the
        real ones; and the score of Salimans et al., 2016, with the judge for the Inception network:
        from 1 to 10, high where it is sure of each digit and sees all of them.
    """
    logits = judge.predict(images, batch_size=256, verbose=0)
    shares = np.bincount(logits.argmax(axis=-1), minlength=10) / len(images)
    divergence = keras.losses.kl_divergence(shares, real_shares)
    probabilities = keras.ops.softmax(logits)
    mean = keras.ops.mean(probabilities, axis=0, keepdims=True)
    score = np.exp(np.mean(keras.losses.kl_divergence(probabilities, mean)))
    seen = np.count_nonzero(shares)
    return f"{seen} of 10 digits seen, shares off by {divergence:.3f} nats, score {score:.2f}"


def main():
    """Trains, writes pictures, and tells what a classifier sees in samples and in real images."""
    parser = digits.parser(__doc__, digits_epochs=60, epochs=10)
    digits.add_devices(parser)
    digits.add_output(parser, __file__)
    args = digits.parsed(parser)
    strategy = digits.strategy_of(args.devices)
    x_train, y_train, x_test, _ = digits.load_images(args.data)
    keras.utils.set_random_seed(args.seed)

    with strategy.scope():
        gan = WGANGP(
            build_generator(),
            build_critic(),
            latent_dim=LATENT_DIM,
            d_optimizer=keras.optimizers.Adam(1e-4, beta_1=0.0, beta_2=0.9),
            g_optimizer=keras.optimizers.Adam(1e-4, beta_1=0.0, beta_2=0.9),
            seed=args.seed,
        )
    judge = digits.trained_judge(x_train, y_train, args.seed)
    real_shares = np.bincount(y_train, minlength=10) / len(y_train)
    untrained = opinion(judge, gan.generate(1000, seed=0), real_shares)
    samples = SampleImages(args.output, grid=(8, 8))
    history = gan.fit(
        x_train,
        batch_size=64,
        epochs=args.epochs,
        validation_data=(x_test,),
        callbacks=[samples],
    ).history

    print(f"Pictures are in {args.output}.")
    distances = history["val_distance"]
    print(f"Distance of samples from held-out images: at most {max(distances):.2f}", end=", ")
    print(f"at the end {distances[-1]:.2f}")
    print("What a classifier of digits sees in 1,000 samples, and in real images:")
    print("before training:", untrained)
    print("after training: ", opinion(judge, gan.generate(1000, seed=0), real_shares))
    print("held-out images:", opinion(judge, x_test, real_shares))


if __name__ == "__main__":
    main()
