"""Trainings of one device, several devices and several processes, and what they end with."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.helpers.cluster import number_and_count
from tests.helpers.data import Batches, numbers
from tests.helpers.devices import strategy_for
from tests.helpers.gans import LATENT, linear_discriminator, linear_generator
from tests.helpers.models import mlp
from trainer import CustomTrainer, GANTrainer

BATCH, EPOCHS = 16, 3
# The last batch has three rows: not the same number for each replica, and none for one of four.
ROWS, STEPS = 99, 7
Outcome = dict[str, Any]

X = numbers(ROWS, 4)
Y = np.random.default_rng(1).integers(0, 2, (ROWS, 1)).astype("float32")
WEIGHTS = np.random.default_rng(2).uniform(0.5, 2, ROWS).astype("float32")
WORDS = np.random.default_rng(3).integers(0, 6, (ROWS, 5))  # 0 is no word
IMAGES = np.tanh(numbers(ROWS, 8, 8, 1))
ARRAYS = {"x": X, "y": Y, "batch_size": BATCH}
HELD_OUT = {"validation_data": (X[:41], Y[:41]), "validation_batch_size": BATCH}


class AddsLoss(keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * tf.reduce_mean(tf.square(x)))
        return x


class Errors(keras.metrics.Metric):
    """Is made of another metric."""

    def __init__(self):
        super().__init__(name="mean_error")
        self.square = keras.metrics.RootMeanSquaredError()

    def update_state(self, y, y_pred, sample_weight=None):
        self.square.update_state(y, y_pred, sample_weight)

    def result(self):
        return 2.0 * self.square.result()


@tf.function
def mean(values):
    return tf.reduce_mean(values)


class LogsMore(CustomTrainer):
    """Has a step of its own, which changes gradients; its log keys are not the metrics' names."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.errors = Errors()

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self.call_model(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        self.track_loss(loss, x)
        gradients = tape.gradient(loss, self.model.trainable_weights)
        self.apply_gradients([0.5 * gradient for gradient in gradients])
        self.errors.update_state(y, y_pred)
        logs = self.compute_metrics(x, y, y_pred)
        errors = {"errors": logs["mean_error"], "root": self.errors.square.result()}
        more = {"loss": loss, "mean_error": 2.0 * loss, "mean": mean(y_pred), **errors}
        return {**logs, **more, "rate": self.optimizer.learning_rate, "of": {"batch": loss}}


class OfResults(keras.Sequential):
    """Logs what is computed from the results of metrics."""

    def get_metrics_result(self):
        results = super().get_metrics_result()
        return {**results, "root": tf.sqrt(results["loss"])}


class TracksMore(CustomTrainer):
    """Has metrics of its own: of a mean over the batch, and of a number for each row."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mean_error = keras.metrics.Mean(name="mean_error")
        self.right = keras.metrics.Mean(name="right")
        self.total = keras.metrics.Sum(name="total")

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        mean_error = tf.reduce_mean(tf.abs(y - y_pred))
        self.mean_error.update_state(mean_error)
        self.total.update_state(mean_error)
        self.right.update_state(tf.abs(y - y_pred) < 0.5)
        return super().compute_loss(x, y, y_pred, sample_weight, training)


class HasStepOnly(CustomTrainer):
    """Has a step of its own, no compiled loss, and a layer and a metric for it alone."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.square = keras.losses.MeanSquaredError()
        self.head = keras.layers.Dense(1)
        self.f1 = keras.metrics.F1Score(threshold=0.3)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            y_pred = self.head(self.model(data))
            loss = self.call_loss(self.square, tf.ones_like(y_pred), y_pred)
        self.minimize(loss, tape, self.model.trainable_weights + self.head.trainable_weights)
        self.track_loss(loss, data)
        self.f1.update_state(data[:, :1] > 0, y_pred)
        return self.metric_results()


class ReturnsLoss(CustomTrainer):
    """Has steps that return a loss and update no metric."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self.call_model(x, training=True))
        self.minimize(loss, tape, self.model.trainable_weights)
        return {"loss": loss}

    def test_step(self, data):
        x, y = data
        return {"loss": self.compute_loss(x, y, self.call_model(x), training=False)}


class AddsLossAlone(keras.layers.Layer):
    """Adds all loss that there is; keeps an infinite number."""

    def build(self, shape):
        self.most = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(np.inf), trainable=False
        )

    def call(self, inputs):
        self.add_loss(tf.reduce_mean(tf.square(inputs)))
        return tf.minimum(inputs, self.most)


def mean_square(y, y_pred):
    """A loss, and a metric, that returns a number for the whole batch."""
    return tf.reduce_mean(tf.square(y - y_pred))


class FixedLatents(GANTrainer):
    """Draws the same latent points for each row."""

    def sample_latent(self, n):
        return tf.tile(tf.constant(numbers(1, LATENT)), [n, 1])


class KeepsLogs(keras.callbacks.Callback):
    """Keeps the logs of each step."""

    def __init__(self):
        super().__init__()
        self.logs: list[dict[str, float]] = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append(dict(logs))


class StopsTheLast(keras.callbacks.Callback):
    """Asks, in the last process alone, to stop: after a batch or after an epoch."""

    def __init__(self, is_last: bool, after_batch: tuple[int, int] | None = None):
        super().__init__()
        self.is_last, self.after_batch, self.epoch = is_last, after_batch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.is_last and (self.epoch, batch) == self.after_batch:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.is_last and self.after_batch is None and epoch == 1:
            self.model.stop_training = True


class SetsLearningRate(keras.callbacks.Callback):
    """Sets another learning rate in each process but the chief."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.02 / (epoch + 1) + self.number

    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            self.model.optimizer.learning_rate = 0.03 + self.number


def batches() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(50, seed=3).batch(BATCH)


def batches_of_worker(strategy: tf.distribute.Strategy) -> Any:
    """Returns a dataset that each worker makes for itself: the rows of its replicas."""

    def made(context: tf.distribute.InputContext) -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices((X[:96], Y[:96]))
        rows = rows.batch(BATCH // context.num_replicas_in_sync)
        return rows.shard(context.num_input_pipelines, context.input_pipeline_id)

    return strategy.distribute_datasets_from_function(made)


def on_disk(array: np.ndarray) -> np.memmap:
    """Returns a memmap of a file that has no name, and so is gone with the memmap."""
    with tempfile.TemporaryFile() as file:
        written = np.memmap(file, array.dtype, "w+", shape=array.shape)
    written[:] = array
    return written


def write_files(folder: Path) -> None:
    """Writes text files of 10, 9, ..., 3 rows."""
    for number in range(8):
        lines = (",".join(map(str, row)) for row in X[number * 10 : number * 10 + 10 - number])
        (folder / str(number)).write_text("\n".join(lines))


def lines_of_files(folder: Path, part: int = 0, parts: int = 1) -> tf.data.Dataset:
    """Returns rows of text files: of all of them, or of those that one of several workers reads."""

    def parsed(line: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.ensure_shape(tf.strings.to_number(tf.strings.split(line, ",")), [4])
        return x, tf.cast(x[:1] > 0, tf.float32)

    names = [str(folder / str(number)) for number in range(8)]
    return tf.data.TextLineDataset(names[part::parts]).map(parsed).batch(BATCH // parts)


def lines_of_two_workers(folder: Path) -> tf.data.Dataset:
    """Returns rows of files for two workers to split, or in one process the batches they make."""
    if number_and_count()[1] == 2:
        return lines_of_files(folder)
    of_each = (lines_of_files(folder, part, parts=2) for part in range(2))
    batches = [
        [np.concatenate(parts) for parts in zip(*filter(None, pair), strict=True)]
        for pair in itertools.zip_longest(*of_each)
    ]
    signature = tuple(tf.TensorSpec([None, columns]) for columns in (4, 1))
    return tf.data.Dataset.from_generator(lambda: map(tuple, batches), output_signature=signature)


def fit_on_files(strategy: tf.distribute.Strategy, folder: Path) -> Outcome:
    """Returns the outcome of a training on files that workers split."""
    return fit_on(trainer(strategy), lines_of_two_workers(folder))


def evaluate_whole_files(strategy: tf.distribute.Strategy, folder: Path) -> Outcome:
    """Returns the logs of an evaluation of files that each worker reads as a whole."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    made = trainer(strategy, metrics=("accuracy", keras.metrics.AUC))
    lines = lines_of_files(folder).with_options(options)
    return made.evaluate(lines, verbose=0, return_dict=True)


def generated() -> Any:
    slices = Batches((X, Y), BATCH)
    for _ in range(EPOCHS):
        yield from map(slices.__getitem__, range(STEPS))


def trainer(
    strategy: tf.distribute.Strategy,
    *layers: Callable[[], keras.layers.Layer],
    kind: type[CustomTrainer] = CustomTrainer,
    loss: Any = "binary_crossentropy",
    metrics: tuple = ("accuracy",),
    jit_compile: bool = False,
    run_eagerly: bool = False,
    **of_optimizer: Any,
) -> CustomTrainer:
    keras.utils.set_random_seed(7)
    with strategy.scope():
        model = mlp(*(make() for make in layers), activation="sigmoid")
        return kind(
            model,
            optimizer=keras.optimizers.Adam(0.01, **of_optimizer),
            loss=loss,
            metrics=[make() if callable(make) else make for make in metrics],
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
            seed=5,
        )


def fit_compiled(
    strategy: tf.distribute.Strategy,
    model: Callable[[], keras.Model],
    x: Any,
    y: Any,
    optimizer: Callable[[], keras.Optimizer] = lambda: keras.optimizers.Adam(0.01),
    **how: Any,
) -> Outcome:
    """Returns what training and evaluating a model compiled in some way ends with."""
    keras.utils.set_random_seed(7)
    with strategy.scope():
        made = CustomTrainer(model(), optimizer=optimizer(), **how, seed=5)
    size = None if y is None else BATCH
    made.fit(x, y, batch_size=size, epochs=EPOCHS, verbose=0)
    return outcome(made, evaluated=made.evaluate(x, y, size, verbose=0))


def fit_compiled_alone(
    strategy: tf.distribute.Strategy,
    model: Callable[[], keras.Model],
    kind: type[CustomTrainer] = CustomTrainer,
) -> Outcome:
    """Returns what a training without targets ends with, that has an optimizer and no loss."""
    keras.utils.set_random_seed(7)
    with strategy.scope():
        made = kind(model(), optimizer=keras.optimizers.Adam(0.01), seed=5)
    return fit_on(made, tf.data.Dataset.from_tensor_slices(X).batch(BATCH))


def of_sparse() -> keras.Model:
    return keras.Sequential([keras.Input((4,), sparse=True), keras.layers.Dense(1)])


def sparse_rows() -> tf.data.Dataset:
    rows = tf.sparse.from_dense(np.maximum(X, 0))
    return tf.data.Dataset.from_tensor_slices((rows, Y)).batch(BATCH)


def tagger() -> keras.Model:
    """Tells a class for each word."""
    return keras.Sequential([keras.layers.Embedding(6, 4, mask_zero=True), keras.layers.Dense(6)])


class Counts(keras.Model):
    """Tells a number from some words, ragged."""

    def __init__(self):
        super().__init__()
        self.embedding, self.dense = keras.layers.Embedding(6, 4), keras.layers.Dense(1)

    def call(self, words):
        padded = words.to_tensor()
        is_word = tf.cast(padded > 0, tf.float32)
        return self.dense(tf.reduce_sum(self.embedding(padded) * is_word[..., None], 1))


def ragged_words() -> tf.data.Dataset:
    words = tf.RaggedTensor.from_tensor(WORDS + 1, lengths=np.arange(ROWS) % 5 + 1)
    return tf.data.Dataset.from_tensor_slices((words % 6, Y)).batch(BATCH)


def of_words(**of_loss: Any) -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **of_loss)


def two_headed() -> keras.Model:
    words = keras.Input((5,), dtype="int32")
    hidden = keras.layers.Embedding(6, 4, mask_zero=True)(words)
    tags = keras.layers.Dense(6, name="tags")(hidden)
    topic = keras.layers.Dense(2, name="topic")(keras.layers.GlobalAveragePooling1D()(hidden))
    return keras.Model(words, {"tags": tags, "topic": topic})


def fit_two_headed(strategy: tf.distribute.Strategy) -> Outcome:
    y = {"tags": WORDS, "topic": WORDS[:, 0] % 2}
    losses = {"tags": of_words(), "topic": of_words()}
    weights = {"tags": 1.0, "topic": 0.5}
    return fit_compiled(strategy, two_headed, WORDS, y, loss=losses, loss_weights=weights)


def overflowing() -> np.ndarray:
    """Returns targets of which one makes the scaled gradients of its device overflow."""
    targets = Y.copy()
    targets[5] = 1e36
    return targets


def clipping_and_scaling() -> keras.Optimizer:
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01, clipnorm=0.02))


def fit_normalizing(strategy: tf.distribute.Strategy) -> Outcome:
    """Returns the moving mean of a training that changes no weights, and how far replicas differ.

    Only then do batches that are normalized in parts have the same moving mean.
    """
    keras.utils.set_random_seed(7)
    with strategy.scope():
        layers = [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        made = CustomTrainer(model, optimizer=keras.optimizers.SGD(0.0), loss="mse")
    made.fit(X[:96], Y[:96], batch_size=BATCH, epochs=EPOCHS, verbose=0)
    parts = [
        [value.numpy() for value in strategy.experimental_local_results(variable.value)]
        for variable in model.non_trainable_variables
    ]
    spread = [np.ptp(np.stack(part), 0) for part in parts]
    return {"moving mean": model.layers[0].moving_mean.numpy(), "spread": np.stack(spread)}


def train_on_some_batches(strategy: tf.distribute.Strategy) -> Outcome:
    """Returns what comes of batches given by hand, to a model that is not built yet."""
    keras.utils.set_random_seed(7)
    with strategy.scope():
        model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(1)])
        made = CustomTrainer(model, optimizer="adam", loss="mse", metrics=["mae"])
    logs = [made.train_on_batch(X[:rows], Y[:rows]) for rows in (16, 3, 1)]
    tested = made.test_on_batch(X[:7], Y[:7], sample_weight=WEIGHTS[:7])
    predicted = made.predict_on_batch(X[:3])
    weights = {str(number): weight for number, weight in enumerate(model.get_weights())}
    with strategy.scope():
        signs = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x > 0)])
    are_positive = CustomTrainer(signs).predict(X[:21], BATCH, verbose=0).astype("float32")
    more = {"logs": logs, "tested": tested, "predicted": predicted, "signs": are_positive}
    return {**weights, **more}


def outcome(made: CustomTrainer, **more: Any) -> Outcome:
    """Returns what a training ended with."""
    variables = [*made.model.variables]
    for optimizer in (getattr(made.model, "optimizers", None) or {"": made.optimizer}).values():
        variables += optimizer.variables
    return {
        **{f"history of {key}": found for key, found in made.model.history.history.items()},
        **{f"variable {number}": v.numpy() for number, v in enumerate(variables)},
        **more,
    }


def fit(made: CustomTrainer, **how: Any) -> Outcome:
    """Returns what a training, an evaluation and a prediction end with."""
    untrained = made.predict(X, BATCH, verbose=0)
    made.fit(**{"epochs": EPOCHS, "verbose": 0, **HELD_OUT, **how})
    return outcome(
        made,
        untrained=untrained,
        evaluated=made.evaluate(X, Y, BATCH, verbose=0),
        predicted=made.predict(X, BATCH, verbose=0),
    )


def fit_alone(made: CustomTrainer, **how: Any) -> Outcome:
    """Returns what a training ends with that is followed by nothing."""
    made.fit(**{**ARRAYS, **how}, epochs=EPOCHS, verbose=0)
    return outcome(made)


def fit_on(made: CustomTrainer, source: Any, **how: Any) -> Outcome:
    """Returns the same of a training on a source of batches."""
    return fit_alone(made, x=source, y=None, batch_size=None, **how)


def fit_logging_each_step(strategy: tf.distribute.Strategy) -> Outcome:
    """Returns the logs of each step, too; each process wants another learning rate."""
    keeps, sets = KeepsLogs(), SetsLearningRate(number_and_count()[0])
    ended = fit_alone(trainer(strategy), callbacks=[keeps, sets])
    return {**ended, "logs": [[logs[key] for key in sorted(logs)] for logs in keeps.logs]}


def fit_and_stop(strategy: tf.distribute.Strategy, **how: Any) -> Outcome:
    number, count = number_and_count()
    return fit_alone(trainer(strategy), callbacks=[StopsTheLast(number == count - 1, **how)])


def fit_gan(strategy: tf.distribute.Strategy) -> Outcome:
    keras.utils.set_random_seed(7)
    with strategy.scope():
        made = FixedLatents(
            linear_generator(),
            linear_discriminator(),
            latent_dim=LATENT,
            label_noise=0,
            d_optimizer=keras.optimizers.Adam(0.01),
            g_optimizer=keras.optimizers.Adam(0.01),
            seed=5,
        )
    untrained = made.predict(numbers(41, LATENT), BATCH, verbose=0)
    made.fit(IMAGES, batch_size=BATCH, epochs=EPOCHS, verbose=0, validation_data=IMAGES[:41])
    predicted = made.predict(numbers(41, LATENT), BATCH, verbose=0)
    return outcome(made, untrained=untrained, predicted=predicted)


def regularized() -> keras.layers.Layer:
    return keras.layers.Dense(5, kernel_regularizer="l2")


TRAININGS: dict[str, Callable[[tf.distribute.Strategy], Outcome]] = {
    "a plain model": lambda strategy: fit(trainer(strategy, regularized), **ARRAYS),
    "on disk": lambda strategy: fit_alone(trainer(strategy), x=on_disk(X), y=on_disk(Y)),
    "on disk, in order": lambda strategy: fit_alone(
        trainer(strategy), x=on_disk(X), y=on_disk(Y), shuffle=False
    ),
    "eagerly": lambda strategy: fit_alone(trainer(strategy, run_eagerly=True)),
    "add_loss, sample_weight, AUC": lambda strategy: fit(
        trainer(strategy, AddsLoss, metrics=(keras.metrics.AUC,)),
        **ARRAYS,
        sample_weight=WEIGHTS,
    ),
    "class_weight, with XLA": lambda strategy: fit_alone(
        trainer(strategy, jit_compile=True), class_weight={0: 1, 1: 3}
    ),
    "numbers of gradients clipped": lambda strategy: fit_alone(trainer(strategy, clipvalue=0.01)),
    "clipped and scaled": lambda strategy: fit_compiled(
        *(strategy, functools.partial(mlp, activation="sigmoid"), X, overflowing()),
        optimizer=clipping_and_scaling,
        loss="mse",
    ),
    "masks, clipped": lambda strategy: fit_compiled(
        *(strategy, tagger, tf.data.Dataset.from_tensor_slices((WORDS, WORDS)).batch(BATCH), None),
        optimizer=lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.02),
        loss=of_words(),
        metrics=["accuracy"],
    ),
    "sparse": lambda strategy: fit_compiled(strategy, of_sparse, sparse_rows(), None, loss="mse"),
    "ragged": lambda strategy: fit_compiled(strategy, Counts, ragged_words(), None, loss="mse"),
    "a class ignored": lambda strategy: fit_compiled(
        strategy, tagger, WORDS, WORDS, loss=of_words(ignore_class=1)
    ),
    "a sum": lambda strategy: fit_compiled(
        strategy, tagger, WORDS, WORDS, loss=of_words(reduction="sum")
    ),
    "two outputs, masks": fit_two_headed,
    "metrics of a step, a loss that is a number": lambda strategy: fit_alone(
        trainer(
            strategy, kind=TracksMore, loss=mean_square, metrics=("accuracy", lambda: mean_square)
        )
    ),
    "a step alone": lambda strategy: fit_compiled_alone(strategy, mlp, HasStepOnly),
    "a loss of a layer alone": lambda strategy: fit_compiled_alone(
        strategy, lambda: mlp(AddsLossAlone())
    ),
    "logs computed from results": lambda strategy: fit_compiled(
        strategy,
        lambda: OfResults([keras.Input((4,)), keras.layers.Dense(1)]),
        *(X, Y),
        loss="mse",
    ),
    "averages": fit_normalizing,
    "batch normalization of all rows": lambda strategy: fit_alone(
        trainer(strategy, lambda: keras.layers.BatchNormalization(synchronized=True))
    ),
    "single batches": train_on_some_batches,
    "a step of its own": lambda strategy: fit_alone(trainer(strategy, kind=LogsMore)),
    "steps that return a loss": lambda strategy: fit_alone(
        trainer(strategy, kind=ReturnsLoss, metrics=())
    ),
    "one stops in an epoch": lambda strategy: fit_and_stop(strategy, after_batch=(1, 2)),
    "one stops after an epoch": fit_and_stop,
    "other learning rates, logs of each step": fit_logging_each_step,
    "tf.data": lambda strategy: fit_on(trainer(strategy), batches()),
    "tf.data, split already": lambda strategy: fit_on(
        trainer(strategy), strategy.experimental_distribute_dataset(batches())
    ),
    "tf.data, made by each worker": lambda strategy: fit_on(
        trainer(strategy), batches_of_worker(strategy)
    ),
    "PyDataset": lambda strategy: fit_on(trainer(strategy), Batches((X, Y), BATCH)),
    "a generator": lambda strategy: fit_on(trainer(strategy), generated(), steps_per_epoch=STEPS),
    "a GAN": fit_gan,
}
# These read text files from a folder.
TRAININGS_ON_FILES: dict[str, Callable[[tf.distribute.Strategy, Path], Outcome]] = {
    "tf.data, files of each worker": fit_on_files,
    "tf.data, files of all workers": evaluate_whole_files,
}
NAMES = [*TRAININGS, *TRAININGS_ON_FILES]


def train(name: str, devices: int = 1) -> dict[str, np.ndarray]:
    """Returns what the training `name` ends with on all workers, or on devices of this process."""
    keras.utils.clear_session(free_memory=False)  # names, which are log keys, count from the start
    strategy = strategy_for(devices)
    if name in TRAININGS:
        ended = TRAININGS[name](strategy)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder))
            ended = TRAININGS_ON_FILES[name](strategy, Path(folder))
    return {key: np.asarray(value) for key, value in ended.items()}


@functools.cache
def train_on_one_device(name: str) -> dict[str, np.ndarray]:
    """Returns what the training `name` ends with on one device."""
    return train(name)
