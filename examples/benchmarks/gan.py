"""The row of the guide's DCGAN: `GANTrainer` beside the same step as a `keras.Model`'s."""

import keras
import tensorflow as tf
from keras import layers

from benchmarks import networks
from benchmarks.measuring import Row, Sides, always
from trainer import GANTrainer

LATENT_DIM = 128
BATCH_SIZE = 64
STEPS = 4


def build_discriminator():
    """Returns the guide's discriminator, at 28x28."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(64, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2D(128, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.GlobalMaxPooling2D(),
            layers.Dense(1),
        ]
    )


def build_generator():
    """Returns the guide's generator, at 28x28."""
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
        ]
    )


class GAN(keras.Model):
    """The guide's GAN as a model with a step of its own."""

    def __init__(self, generator, discriminator):
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.seed_generator = keras.random.SeedGenerator(1)
        self.built = True  # its networks are, and callbacks that save ask for it

    def compile(self, d_optimizer, g_optimizer, loss):
        """Takes both optimizers."""
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.bce = loss
        self.d_loss = keras.metrics.Mean(name="d_loss")
        self.g_loss = keras.metrics.Mean(name="g_loss")

    @property
    def metrics(self):
        """The two losses."""
        return [self.d_loss, self.g_loss]

    def train_step(self, images):
        """Trains the discriminator, then the generator, on one batch of images."""
        rows = tf.shape(images)[0]
        labels = tf.concat([tf.ones((rows, 1)), tf.zeros((rows, 1))], axis=0)
        labels += 0.05 * keras.random.uniform(tf.shape(labels), seed=self.seed_generator)
        both = tf.concat([self.generator(self.latent(rows)), images], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.bce(labels, self.discriminator(both))
        variables = self.discriminator.trainable_weights
        self.d_optimizer.apply(tape.gradient(d_loss, variables), variables)
        with tf.GradientTape() as tape:
            logits = self.discriminator(self.generator(self.latent(rows)))
            g_loss = self.bce(tf.zeros((rows, 1)), logits)
        variables = self.generator.trainable_weights
        self.g_optimizer.apply(tape.gradient(g_loss, variables), variables)
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {metric.name: metric.result() for metric in self.metrics}

    def latent(self, rows):
        """Returns `rows` latent points."""
        return keras.random.normal((rows, LATENT_DIM), seed=self.seed_generator)


def both():
    """Returns the model and the trainer."""
    model = GAN(build_generator(), build_discriminator())
    model.compile(
        d_optimizer=keras.optimizers.Adam(3e-4),
        g_optimizer=keras.optimizers.Adam(4e-4),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    trainer = GANTrainer(
        build_generator(),
        build_discriminator(),
        latent_dim=LATENT_DIM,
        d_optimizer=keras.optimizers.Adam(3e-4),
        g_optimizer=keras.optimizers.Adam(4e-4),
        label_noise=0.05,
    )
    return model, trainer


def steps():
    """Returns some steps of both."""
    model, trainer = both()
    images, _ = networks.data(STEPS * BATCH_SIZE, 28, 28, 1)
    settings = {"batch_size": BATCH_SIZE, "verbose": 0}
    return Sides(always(model.fit, images, **settings), always(trainer.fit, images, **settings))


ROWS = [Row("dcgan", f"the guide's DCGAN, {STEPS} steps of 64 images", steps, target=1)]
