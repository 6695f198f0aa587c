"""Training scripts as people write them, small: each shape of Keras's guides and examples once.

A script is given `trained_by`, which returns what trains a model: the model itself, or a trainer of
it. It returns what is to be the same for both: models, histories, numbers, arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.helpers.data import Batches, labels, numbers, rows_of

layers = keras.layers
ops = keras.ops
optimizers = keras.optimizers
Adam, SGD = optimizers.Adam, optimizers.SGD
TrainedBy = Callable[[keras.Model], Any]
Script = Callable[[TrainedBy], list[Any]]

SCRIPTS: dict[str, Script] = {}
PLAIN = {"jit_compile": False}  # of `compile`: XLA may end with other bits
QUIET = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}  # of `fit`, on arrays
SILENT = {"epochs": 2, "verbose": 0}  # of `fit`, on a source of batches

ROWS = 20  # two batches and an odd one
X, Y = numbers(ROWS, 4), numbers(ROWS, 1, seed=1)
CLASSES = labels(ROWS)
IMAGES = numbers(ROWS, 8, 8, 1)
TOKENS = labels(ROWS, 6, classes=9)
SCCE = "sparse_categorical_crossentropy"


def script(function: Script) -> Script:
    """Makes a script part of the walk, by its name."""
    SCRIPTS[function.__name__.replace("_", " ")] = function
    return function


def batches(*data: Any, size: int = 8) -> tf.data.Dataset:
    """Returns a dataset of batches of `(x, y, ...)`, or of x alone."""
    return tf.data.Dataset.from_tensor_slices(data if len(data) > 1 else data[0]).batch(size)


def dense_model(outputs: int = 1, activation: str | None = None) -> keras.Model:
    inputs = keras.Input((4,))
    hidden = layers.Dense(5, activation="relu")(inputs)
    return keras.Model(inputs, layers.Dense(outputs, activation=activation)(hidden))


def minimize(model: keras.Model, tape: tf.GradientTape, loss: Any, optimizer: Any = None) -> None:
    gradients = tape.gradient(loss, model.trainable_weights)
    pairs = zip(gradients, model.trainable_weights, strict=True)
    (optimizer or model.optimizer).apply_gradients(pairs)


# Steps of one's own


class StepWithComputedMetrics(keras.Model):
    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred, sample_weight=sample_weight)
        minimize(self, tape, loss)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred, sample_weight=sample_weight)
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data):
        x, y = data
        y_pred = self(x, training=False)
        loss = self.compute_loss(y=y, y_pred=y_pred)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}


@script
def own_train_step_and_test_step(trained_by):
    inputs = keras.Input((4,))
    hidden = layers.Dropout(0.3)(layers.Dense(5)(inputs))
    model = StepWithComputedMetrics(inputs, layers.Dense(1)(hidden))
    model.compile("adam", "mse", metrics=["mae"], **PLAIN)
    trainer = trained_by(model)
    trainer.fit(X, Y, validation_data=(X[:9], Y[:9]), sample_weight=np.abs(X[:, 0]), **QUIET)
    return [model, trainer.evaluate(X, Y, verbose=0)]


class OwnMetricsListed(keras.Model):
    """Lists its metrics, so that Keras resets them; knows no compiled loss."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.mae_metric = keras.metrics.MeanAbsoluteError(name="mae")
        self.loss_fn = keras.losses.MeanSquaredError()

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.loss_fn(y, y_pred)
        minimize(self, tape, loss)
        self.loss_tracker.update_state(loss)
        self.mae_metric.update_state(y, y_pred)
        return {"loss": self.loss_tracker.result(), "mae": self.mae_metric.result()}

    @property
    def metrics(self):
        return [self.loss_tracker, self.mae_metric]


@script
def own_metrics_property(trained_by):
    inputs = keras.Input((4,))
    model = OwnMetricsListed(inputs, layers.Dense(1)(inputs))
    model.compile(optimizer=Adam(0.01), **PLAIN)
    trained_by(model).fit(X, Y, **QUIET)
    return [model]


class EntropyBonus(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        entropy = -ops.mean(ops.sum(y_pred * ops.log(y_pred + 1e-7), axis=-1))
        self.entropy.update_state(entropy)
        return loss - 0.1 * entropy


@script
def own_compute_loss(trained_by):
    inputs = keras.Input((4,))
    model = EntropyBonus(inputs, layers.Dense(3, activation="softmax")(inputs))
    model.entropy = keras.metrics.Mean(name="entropy")
    model.compile(SGD(0.1), SCCE, metrics=["accuracy"], **PLAIN)
    trained_by(model).fit(X, CLASSES, validation_split=0.25, **QUIET)
    return [model]


class Distiller(keras.Model):
    """The student learns from labels and from a teacher; `compile` takes more than Keras's."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def compile(self, optimizer, metrics, student_loss_fn, distillation_loss_fn, alpha=0.1, **how):
        super().compile(optimizer=optimizer, metrics=metrics, **how)
        self.student_loss_fn = student_loss_fn
        self.distillation_loss_fn = distillation_loss_fn
        self.alpha = alpha

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, allow_empty=False, training=True
    ):
        teacher_pred = self.teacher(x, training=False)
        student_loss = self.student_loss_fn(y, y_pred)
        soft = [ops.softmax(logits / 3.0, axis=1) for logits in (teacher_pred, y_pred)]
        distillation_loss = self.distillation_loss_fn(*soft) * 3.0**2
        return self.alpha * student_loss + (1 - self.alpha) * distillation_loss

    def call(self, x):
        return self.student(x)


@script
def knowledge_distillation(trained_by):
    teacher, student = dense_model(3), dense_model(3)
    teacher.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **PLAIN)
    trained_by(teacher).fit(X, CLASSES, **QUIET)
    distiller = Distiller(student, teacher)
    distiller.compile(
        Adam(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
        student_loss_fn=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        distillation_loss_fn=keras.losses.KLDivergence(),
        **PLAIN,
    )
    trainer = trained_by(distiller)
    trainer.fit(X, CLASSES, **QUIET)
    return [teacher, distiller, student, trainer.evaluate(X, CLASSES, verbose=0)]


class Coder(keras.Model):
    """Two networks, an optimizer for each."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([layers.Dense(3, activation="tanh")])
        self.decoder = keras.Sequential([layers.Dense(4)])

    def compile(self, encoder_optimizer, decoder_optimizer, **how):
        super().compile(**how)
        self.encoder_optimizer = encoder_optimizer
        self.decoder_optimizer = decoder_optimizer

    def call(self, x):
        return self.decoder(self.encoder(x))

    def train_step(self, x):
        with tf.GradientTape(persistent=True) as tape:
            loss = ops.mean(ops.square(x - self(x)))
        minimize(self.encoder, tape, loss, self.encoder_optimizer)
        minimize(self.decoder, tape, loss, self.decoder_optimizer)
        return {"reconstruction": loss}


@script
def two_optimizers(trained_by):
    model = Coder()
    model.compile(SGD(0.1, momentum=0.9), Adam(0.01), **PLAIN)
    trained_by(model).fit(X, **QUIET)
    return [model, model.encoder_optimizer.variables, model.decoder_optimizer.variables]


@script
def slower_learning_of_the_first_layers(trained_by):
    model = dense_model()
    first = {id(weight) for weight in model.layers[1].weights}
    slow, fast = SGD(0.001), Adam(0.01)
    model.compile(
        optimizers.MultiOptimizer(lambda v: slow if id(v) in first else fast), "mse", **PLAIN
    )
    trained_by(model).fit(X, Y, **QUIET)
    return [model]


class ClippedStep(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients, norm = tf.clip_by_global_norm(tape.gradient(loss, self.trainable_weights), 0.5)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return {"loss": loss, "norm": norm}


@script
def gradients_clipped_by_hand(trained_by):
    inputs = keras.Input((4,))
    model = ClippedStep(inputs, layers.Dense(1)(inputs))
    model.compile(SGD(0.1), "mse", **PLAIN)
    trained_by(model).fit(batches(X, Y), **SILENT)
    return [model]


class Accumulating(keras.Model):
    """Applies the gradients of every two steps at once."""

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self.count = tf.Variable(0, trainable=False)
        self.sums = [tf.Variable(tf.zeros_like(w), trainable=False) for w in self.trainable_weights]

    def train_step(self, data):
        x, y = data
        self.count.assign_add(1)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_weights)
        for total, gradient in zip(self.sums, gradients, strict=True):
            total.assign_add(gradient / 2)
        tf.cond(self.count % 2 == 0, self.apply_sums, lambda: None)
        return {"loss": loss}

    def apply_sums(self):
        self.optimizer.apply_gradients(zip(self.sums, self.trainable_weights, strict=True))
        for total in self.sums:
            total.assign(tf.zeros_like(total))


@script
def gradients_accumulated_by_hand(trained_by):
    inputs = keras.Input((4,))
    model = Accumulating(inputs, layers.Dense(1)(inputs))
    model.compile(SGD(0.1), "mse", **PLAIN)
    trained_by(model).fit(X, Y, **{**QUIET, "batch_size": 4, "epochs": 3})
    return [model, model.sums]


@script
def gradients_accumulated_by_the_optimizer(trained_by):
    model = dense_model()
    model.compile(Adam(0.01, gradient_accumulation_steps=2, clipnorm=0.1), "mse", **PLAIN)
    trained_by(model).fit(X, Y, **QUIET)
    return [model]


class SharpnessAware(keras.Model):
    """Takes the gradient where the loss is largest nearby (SAM)."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        weights = self.trainable_weights
        gradients = tape.gradient(loss, weights)
        scale = 0.05 / (tf.linalg.global_norm(gradients) + 1e-12)
        steps = [gradient * scale for gradient in gradients]
        for weight, step in zip(weights, steps, strict=True):
            weight.assign_add(step)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        gradients = tape.gradient(loss, weights)
        for weight, step in zip(weights, steps, strict=True):
            weight.assign_sub(step)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return self.compute_metrics(x, y, y_pred)


@script
def sharpness_aware_minimization(trained_by):
    inputs = keras.Input((4,))
    model = SharpnessAware(inputs, layers.Dense(3, activation="softmax")(inputs))
    model.compile(Adam(0.01), SCCE, metrics=["accuracy"], **PLAIN)
    trained_by(model).fit(X, CLASSES, **QUIET)
    return [model]


class Adversarial(keras.Model):
    """Trains on examples moved along the sign of their gradient (FGSM)."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = self.compute_loss(x, y, self(x, training=True))
        x = tf.stop_gradient(x + 0.1 * tf.sign(tape.gradient(loss, x)))
        return super().train_step((x, y))


@script
def adversarial_examples(trained_by):
    inputs = keras.Input((4,))
    hidden = layers.BatchNormalization()(layers.Dense(5)(inputs))
    model = Adversarial(inputs, layers.Dense(3, activation="softmax")(hidden))
    model.compile(Adam(0.01), SCCE, metrics=["accuracy"], **PLAIN)
    trained_by(model).fit(X, CLASSES, validation_data=(X, CLASSES), **QUIET)
    return [model]


class ScaledByHand(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.optimizer.scale_loss(self.compute_loss(x, y, y_pred))
        minimize(self, tape, loss)
        return self.compute_metrics(x, y, y_pred)


@script
def mixed_precision(trained_by):
    inputs = keras.Input((4,))
    hidden = layers.Dense(8, activation="relu", dtype="mixed_float16")(inputs)
    model = ScaledByHand(inputs, layers.Dense(1, dtype="float32")(hidden))
    model.compile(
        optimizers.LossScaleOptimizer(Adam(0.01), 2.0**10, dynamic_growth_steps=2),
        "mse",
        metrics=["mae"],
        **PLAIN,
    )
    trained_by(model).fit(X, Y, **QUIET)
    return [model]


# Losses and metrics


def focal_loss(y_true, y_pred):
    y_true = ops.one_hot(ops.cast(ops.reshape(y_true, [-1]), "int32"), 3)
    chosen = ops.sum(y_true * y_pred, axis=-1)
    return -ops.square(1 - chosen) * ops.log(chosen + 1e-7)


class WeightedSquares(keras.losses.Loss):
    def __init__(self, factor=0.1, name="weighted_squares"):
        super().__init__(name=name)
        self.factor = factor

    def call(self, y_true, y_pred):
        mse = ops.mean(ops.square(y_true - y_pred), axis=-1)
        return mse + self.factor * ops.mean(ops.square(0.5 - y_pred), axis=-1)


class ConfusedClasses(keras.metrics.Metric):
    def __init__(self, name="confused", **kwargs):
        super().__init__(name=name, **kwargs)
        self.matrix = self.add_weight(shape=(3, 3), initializer="zeros", name="matrix")

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = ops.reshape(y_true, [-1]), ops.argmax(y_pred, axis=-1)
        self.matrix.assign_add(tf.math.confusion_matrix(y_true, y_pred, 3, dtype="float32"))

    def result(self):
        return 1 - ops.trace(self.matrix) / ops.maximum(ops.sum(self.matrix), 1)


@script
def own_loss_function_and_metric(trained_by):
    model = dense_model(3, "softmax")
    metrics = [ConfusedClasses(), keras.metrics.SparseTopKCategoricalAccuracy(2)]
    model.compile("adam", focal_loss, metrics=metrics, **PLAIN)
    trained_by(model).fit(X, CLASSES, validation_split=0.2, **QUIET)
    return [model]


@script
def own_loss_class(trained_by):
    model = dense_model()
    model.compile("rmsprop", WeightedSquares(0.3), metrics=["mse", "mape"], **PLAIN)
    trained_by(model).fit(X, Y, **QUIET)
    return [model]


class ActivityPenalty(layers.Layer):
    def call(self, inputs):
        self.add_loss(1e-2 * ops.sum(ops.square(inputs)))
        return inputs


class LossLayer(layers.Layer):
    """Computes the loss inside of the model, which has the targets among its inputs."""

    def __init__(self, name=None):
        super().__init__(name=name)
        self.loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)

    def call(self, targets, logits):
        self.add_loss(self.loss_fn(targets, logits))
        return ops.sigmoid(logits)


@script
def loss_inside_of_the_model(trained_by):
    inputs, targets = keras.Input((4,), name="inputs"), keras.Input((1,), name="targets")
    logits = layers.Dense(1)(ActivityPenalty()(layers.Dense(3)(inputs)))
    model = keras.Model([inputs, targets], LossLayer(name="predictions")(targets, logits))
    model.compile("adam", **PLAIN)
    data = {"inputs": X, "targets": np.float32(Y > 0)}
    trained_by(model).fit(data, **QUIET)
    return [model]


@script
def regularizers_and_constraints(trained_by):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(
                6,
                kernel_regularizer=keras.regularizers.L1L2(1e-3, 1e-2),
                activity_regularizer="l2",
                kernel_constraint=keras.constraints.MaxNorm(1.0),
            ),
            layers.Dense(6, kernel_regularizer=keras.regularizers.OrthogonalRegularizer()),
            layers.Dense(1, bias_constraint="non_neg"),
        ]
    )
    model.compile(SGD(0.05), "mse", **PLAIN)
    trained_by(model).fit(X, Y, validation_data=(X, Y), **QUIET)
    return [model]


@script
def class_weights(trained_by):
    model = dense_model(1, "sigmoid")
    rare = np.float32(Y > 0.8)
    metrics = [
        keras.metrics.Precision(name="precision"),
        keras.metrics.AUC(curve="PR", name="prc"),
        keras.metrics.TruePositives(name="tp"),
    ]
    model.compile(Adam(1e-2), keras.losses.BinaryCrossentropy(), metrics=metrics, **PLAIN)
    weight = {0: 0.6, 1: 3.5}
    trained_by(model).fit(X, rare, class_weight=weight, validation_data=(X, rare), **QUIET)
    return [model]


@script
def sample_weights_in_a_dataset(trained_by):
    model = dense_model()
    model.compile("adam", "huber", metrics=["mae"], weighted_metrics=["mae"], **PLAIN)
    weights = np.where(CLASSES == 2, 2.0, 0.5).astype("float32")
    trained_by(model).fit(batches(X, Y, weights), validation_data=batches(X, Y), **SILENT)
    return [model]


class UncertaintyWeights(layers.Layer):
    """Weights the losses of several tasks by variances that are learnt."""

    def build(self, _):
        self.log_variances = self.add_weight(shape=(2,), initializer="zeros", name="log_variances")

    def call(self, task_losses):
        task_losses = ops.stack(task_losses)
        return ops.sum(ops.exp(-self.log_variances) * task_losses + self.log_variances)


class MultiTask(keras.Model):
    def __init__(self):
        super().__init__()
        self.trunk = layers.Dense(6, activation="relu")
        self.heads = {"size": layers.Dense(1), "kind": layers.Dense(3)}
        self.weigh = UncertaintyWeights()
        self.trackers = [keras.metrics.Mean(name=f"{task}_loss") for task in self.heads]

    def call(self, x):
        shared = self.trunk(x)
        return {task: head(shared) for task, head in self.heads.items()}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        kind_loss = keras.losses.sparse_categorical_crossentropy(
            y["kind"], y_pred["kind"], from_logits=True
        )
        task_losses = [
            ops.mean(ops.square(y["size"] - y_pred["size"])),
            ops.mean(kind_loss),
        ]
        for tracker, loss in zip(self.trackers, task_losses, strict=True):
            tracker.update_state(loss)
        return self.weigh(task_losses)


@script
def several_tasks_with_learnt_weights(trained_by):
    model = MultiTask()
    model.compile(Adam(0.01), **PLAIN)
    targets = {"size": Y, "kind": CLASSES}
    trained_by(model).fit(X, targets, validation_data=(X, targets), **QUIET)
    return [model]


# Inputs


@script
def dicts_of_inputs_and_outputs(trained_by):
    title = keras.Input((6,), name="title", dtype="int32")
    tags = keras.Input((4,), name="tags")
    features = layers.LSTM(4)(layers.Embedding(9, 4)(title))
    joined = layers.concatenate([features, tags])
    priority = layers.Dense(1, name="priority")(joined)
    department = layers.Dense(3, name="department")(joined)
    model = keras.Model(
        inputs={"title": title, "tags": tags},
        outputs={"priority": priority, "department": department},
    )
    model.compile(
        Adam(1e-2),
        loss={
            "priority": keras.losses.BinaryCrossentropy(from_logits=True),
            "department": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        },
        loss_weights={"priority": 1.0, "department": 0.2},
        metrics={"department": ["accuracy"]},
        **PLAIN,
    )
    targets = {"priority": np.float32(Y > 0), "department": CLASSES}
    trainer = trained_by(model)
    trainer.fit({"title": TOKENS, "tags": X}, targets, **QUIET)
    return [model, trainer.predict({"title": TOKENS, "tags": X}, verbose=0)]


@script
def structured_data_with_string_features(trained_by):
    words = np.array(["fixed", "normal", "reversible"])[CLASSES]
    table = {"age": X[:, 0], "thal": words, "ca": TOKENS[:, 0]}
    dataset = tf.data.Dataset.from_tensor_slices((table, np.float32(Y > 0))).batch(8)
    inputs = {
        "age": keras.Input((1,), name="age"),
        "thal": keras.Input((1,), name="thal", dtype="string"),
        "ca": keras.Input((1,), name="ca", dtype="int64"),
    }
    normalization = layers.Normalization()
    normalization.adapt(dataset.map(lambda x, y: x["age"][:, None]))
    strings = layers.StringLookup(output_mode="multi_hot")
    strings.adapt(words)
    integers = layers.IntegerLookup(output_mode="multi_hot")
    integers.adapt(TOKENS[:, 0])
    encoded = [normalization(inputs["age"]), strings(inputs["thal"]), integers(inputs["ca"])]
    hidden = layers.Dropout(0.5)(layers.Dense(8, "relu")(layers.concatenate(encoded)))
    model = keras.Model(inputs, layers.Dense(1, "sigmoid")(hidden))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"], **PLAIN)
    ready = dataset.map(lambda x, y: ({name: v[:, None] for name, v in x.items()}, y))
    trained_by(model).fit(ready, validation_data=ready, **SILENT)
    return [model]


SENTENCES = tf.constant([" ".join(f"w{token}" for token in row) for row in TOKENS])


@script
def text_vectorized_in_the_pipeline(trained_by):
    vectorize = layers.TextVectorization(max_tokens=8, output_sequence_length=6)
    vectorize.adapt(SENTENCES)
    dataset = batches(SENTENCES, np.float32(Y > 0)).map(lambda text, y: (vectorize(text), y))
    inputs = keras.Input((None,), dtype="int64")
    x = layers.Dropout(0.5)(layers.Embedding(8, 4)(inputs))
    x = layers.Conv1D(4, 3, padding="valid", activation="relu", strides=1)(x)
    x = layers.GlobalMaxPooling1D()(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"], **PLAIN)
    trained_by(model).fit(dataset.cache().prefetch(2), validation_data=dataset, **SILENT)
    return [model]


@script
def text_vectorized_in_the_model(trained_by):
    vectorize = layers.TextVectorization(output_mode="tf_idf", ngrams=2)
    vectorize.adapt(SENTENCES)
    inputs = keras.Input((), dtype="string")
    model = keras.Model(inputs, layers.Dense(1, "sigmoid")(vectorize(inputs)))
    model.compile("adam", "binary_crossentropy", **PLAIN)
    trained_by(model).fit(batches(SENTENCES, np.float32(Y > 0)), **SILENT)
    return [model]


@script
def images_of_a_directory(trained_by):
    for number, image in enumerate(np.clip(128 + 60 * IMAGES, 0, 255).astype("uint8")):
        path = Path("images", f"class_{CLASSES[number]}", f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(image).numpy())
    how = {"image_size": (8, 8), "batch_size": 4, "validation_split": 0.2, "seed": 1}
    training, validation = keras.utils.image_dataset_from_directory(
        "images", subset="both", color_mode="grayscale", shuffle=False, verbose=False, **how
    )
    augmentation = [layers.RandomFlip("horizontal", seed=1), layers.RandomRotation(0.1, seed=2)]
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *augmentation,
            layers.Rescaling(1.0 / 255),
            layers.SeparableConv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Adam(3e-3), loss, metrics=["acc"], **PLAIN)
    trained_by(model).fit(training.prefetch(1), validation_data=validation, **SILENT)
    return [model]


@script
def mixup_of_two_datasets(trained_by):
    one = batches(IMAGES[:16], np.float32(keras.utils.to_categorical(CLASSES[:16], 3)))
    other = one.shuffle(10, seed=1)

    def mixed(first, second):
        (images, targets), (more_images, more_targets) = first, second
        share = tf.random.stateless_uniform([tf.shape(images)[0]], (1, 2))
        of_images, of_targets = share[:, None, None, None], share[:, None]
        return (
            images * of_images + more_images * (1 - of_images),
            targets * of_targets + more_targets * (1 - of_targets),
        )

    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(3, 3), layers.Flatten(), layers.Dense(3, "softmax")]
    )
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"], **PLAIN)
    zipped = tf.data.Dataset.zip((one, other))
    trained_by(model).fit(zipped.map(mixed), **{**SILENT, "epochs": 1})
    return [model]


@script
def sequence_of_batches(trained_by):
    model = dense_model()
    model.compile("adam", "mse", **PLAIN)
    held_out = Batches((X, Y), batch_size=5)
    trained_by(model).fit(
        Batches((X, Y), batch_size=8), validation_data=held_out, shuffle=False, **SILENT
    )
    return [model]


@script
def endless_generator(trained_by):
    def generate():
        random = np.random.default_rng(1)
        while True:
            x = random.normal(size=(4, 4)).astype("float32")
            yield x, x.sum(axis=1, keepdims=True)

    model = dense_model()
    model.compile("adam", "mse", **PLAIN)
    trained_by(model).fit(generate(), steps_per_epoch=3, **SILENT)
    return [model]


@script
def time_series_of_windows(trained_by):
    series = np.cumsum(numbers(40, 3), axis=0).astype("float32")
    how = {"sequence_length": 5, "sampling_rate": 2, "batch_size": 8}
    training = keras.utils.timeseries_dataset_from_array(series[:-10], series[10:, :1], **how)
    validation = keras.utils.timeseries_dataset_from_array(series[:25], series[10:35, :1], **how)
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, layers.Dense(1)(layers.LSTM(4)(inputs)))
    model.compile(Adam(1e-2), "mse", **PLAIN)
    stopping = keras.callbacks.EarlyStopping(monitor="val_loss", min_delta=0, patience=5)
    saving = keras.callbacks.ModelCheckpoint(
        "checkpoint.weights.h5", save_weights_only=True, save_best_only=True
    )
    trained_by(model).fit(
        training, validation_data=validation, callbacks=[stopping, saving], **SILENT
    )
    model.load_weights("checkpoint.weights.h5")
    return [model]


# Sequences


@script
def masks_of_an_embedding(trained_by):
    inputs = keras.Input((None,), dtype="int32")
    embedded = layers.Embedding(9, 4, mask_zero=True)(inputs)
    sequences = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(embedded)
    outputs = layers.TimeDistributed(layers.Dense(9, activation="softmax"))(sequences)
    model = keras.Model(inputs, outputs)
    model.compile("adam", SCCE, metrics=["accuracy"], **PLAIN)
    trained_by(model).fit(TOKENS, TOKENS[:, ::-1], **QUIET)
    return [model]


class ResetStates(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        for layer in self.model.layers:
            if hasattr(layer, "reset_states"):
                layer.reset_states()


@script
def stateful_rnn(trained_by):
    inputs = keras.Input(batch_shape=(4, 6, 1))
    outputs = layers.Dense(1)(layers.GRU(3, stateful=True)(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("rmsprop", "mse", **PLAIN)
    waves = numbers(ROWS, 6, 1)
    trainer = trained_by(model)
    trainer.fit(waves, Y, callbacks=[ResetStates()], **{**QUIET, "batch_size": 4})
    model.layers[1].reset_states()
    return [model, trainer.predict(waves, batch_size=4, verbose=0)]


@script
def sequence_to_sequence(trained_by):
    encoder_inputs = keras.Input((None, 9))
    _, *states = layers.LSTM(4, return_state=True)(encoder_inputs)
    decoder_inputs = keras.Input((None, 9))
    decoder = layers.LSTM(4, return_sequences=True, return_state=True)
    decoded, _, _ = decoder(decoder_inputs, initial_state=states)
    outputs = layers.Dense(9, activation="softmax")(decoded)
    model = keras.Model([encoder_inputs, decoder_inputs], outputs)
    model.compile("rmsprop", "categorical_crossentropy", metrics=["accuracy"], **PLAIN)
    source = keras.utils.to_categorical(TOKENS, 9)
    target = source[:, ::-1]
    teacher = np.concatenate([np.zeros_like(target[:, :1]), target[:, :-1]], axis=1)
    trained_by(model).fit([source, teacher], target, validation_split=0.2, **QUIET)
    return [model]


class TransformerBlock(layers.Layer):
    def __init__(self, width, heads, rate=0.1):
        super().__init__()
        self.att = layers.MultiHeadAttention(num_heads=heads, key_dim=width)
        self.ffn = keras.Sequential([layers.Dense(width, activation="relu"), layers.Dense(width)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.dropouts = [layers.Dropout(rate) for _ in range(2)]

    def call(self, inputs, training=None, causal=False):
        attended = self.att(inputs, inputs, use_causal_mask=causal)
        attended = self.norms[0](inputs + self.dropouts[0](attended, training=training))
        fed = self.dropouts[1](self.ffn(attended), training=training)
        return self.norms[1](attended + fed)


class TokenAndPosition(layers.Layer):
    def __init__(self, length, words, width):
        super().__init__()
        self.tokens = layers.Embedding(words, width)
        self.positions = layers.Embedding(length, width)

    def call(self, x):
        return self.tokens(x) + self.positions(ops.arange(ops.shape(x)[-1]))


@script
def transformer_classifier(trained_by):
    inputs = keras.Input((6,), dtype="int32")
    x = TransformerBlock(4, 2)(TokenAndPosition(6, 9, 4)(inputs))
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    model.compile("adam", SCCE, metrics=["accuracy"], **PLAIN)
    trained_by(model).fit(TOKENS, CLASSES, validation_split=0.2, **QUIET)
    return [model]


class TextGenerator(keras.callbacks.Callback):
    """Writes a text after each epoch, by the model as it is then."""

    def __init__(self, trained_by):
        super().__init__()
        self.trained_by = trained_by
        self.texts = []

    def on_epoch_end(self, epoch, logs=None):
        text, random = [1], np.random.default_rng(epoch)
        for _ in range(2):
            padded = np.array([text + [0] * (6 - len(text))])
            logits = self.trained_by(self.model).predict(padded, verbose=0)[0, len(text) - 1]
            text.append(int(random.choice(9, p=np.exp(logits) / np.exp(logits).sum())))
        self.texts.append(text)


@script
def language_model_that_writes_after_each_epoch(trained_by):
    inputs = keras.Input((6,), dtype="int32")
    x = TransformerBlock(4, 2)(TokenAndPosition(6, 9, 4)(inputs), causal=True)
    model = keras.Model(inputs, layers.Dense(9)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, **PLAIN)
    dataset = batches(TOKENS).map(lambda text: (text, tf.roll(text, -1, axis=1)))
    writing = TextGenerator(trained_by)
    trained_by(model).fit(dataset, callbacks=[writing], **SILENT)
    return [model, writing.texts]


class MaskedLanguageModel(keras.Model):
    """Counts only the tokens that were masked."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        losses = keras.losses.sparse_categorical_crossentropy(y, y_pred)
        return ops.sum(losses * sample_weight) / ops.maximum(ops.sum(sample_weight), 1)


@script
def masked_language_model(trained_by):
    masked = numbers(ROWS, 6) > 0.8
    inputs = keras.Input((6,), dtype="int64")
    x = TransformerBlock(4, 1)(TokenAndPosition(6, 10, 4)(inputs))
    model = MaskedLanguageModel(inputs, layers.Dense(10, activation="softmax")(x))
    model.compile("adam", weighted_metrics=["sparse_categorical_accuracy"], **PLAIN)
    data = (np.where(masked, 9, TOKENS), TOKENS, masked.astype("float32"))
    trained_by(model).fit(batches(*data), **SILENT)
    return [model]


@script
def vision_transformer(trained_by):
    inputs = keras.Input((8, 8, 1))
    patches = ops.image.extract_patches(inputs, 4)
    patches = layers.Reshape((4, 16))(patches)
    encoded = layers.Dense(4)(patches) + layers.Embedding(4, 4)(ops.arange(4))
    x = TransformerBlock(4, 2)(encoded)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    model.compile(
        optimizers.AdamW(1e-3, weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top-2")],
        **PLAIN,
    )
    trained_by(model).fit(IMAGES, CLASSES, validation_split=0.2, **QUIET)
    return [model]


# Networks that make something


def image_generator(latent: int, extra: int = 0) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((latent + extra,)),
            layers.Dense(4 * 4 * 2),
            layers.LeakyReLU(0.2),
            layers.Reshape((4, 4, 2)),
            layers.Conv2DTranspose(3, 4, strides=2, padding="same"),
            layers.BatchNormalization(),
            layers.Conv2D(1, 3, padding="same", activation="tanh"),
        ],
        name="generator",
    )


def image_critic(channels: int = 1) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, channels)),
            layers.Conv2D(3, 4, strides=2, padding="same"),
            layers.LeakyReLU(0.2),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(1),
        ],
        name="discriminator",
    )


class GAN(keras.Model):
    def __init__(self, discriminator, generator, latent_dim):
        super().__init__()
        self.discriminator, self.generator = discriminator, generator
        self.latent_dim = latent_dim
        self.d_loss_tracker = keras.metrics.Mean(name="d_loss")
        self.g_loss_tracker = keras.metrics.Mean(name="g_loss")
        self.seed_generator = keras.random.SeedGenerator(1337)
        self.built = True

    @property
    def metrics(self):
        return [self.d_loss_tracker, self.g_loss_tracker]

    def compile(self, d_optimizer, g_optimizer, loss_fn=None, **how):
        super().compile(**how)
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn

    def latent(self, count):
        return keras.random.normal((count, self.latent_dim), seed=self.seed_generator)

    def train_step(self, real_images):
        count = ops.shape(real_images)[0]
        generated = self.generator(self.latent(count))
        combined = ops.concatenate([generated, real_images], axis=0)
        targets = ops.concatenate([ops.ones((count, 1)), ops.zeros((count, 1))], axis=0)
        targets += 0.05 * tf.random.uniform(tf.shape(targets))
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(targets, self.discriminator(combined, training=True))
        minimize(self.discriminator, tape, d_loss, self.d_optimizer)
        with tf.GradientTape() as tape:
            judged = self.discriminator(self.generator(self.latent(count), training=True))
            g_loss = self.loss_fn(ops.zeros((count, 1)), judged)
        minimize(self.generator, tape, g_loss, self.g_optimizer)
        self.d_loss_tracker.update_state(d_loss)
        self.g_loss_tracker.update_state(g_loss)
        return {"d_loss": self.d_loss_tracker.result(), "g_loss": self.g_loss_tracker.result()}


class Monitor(keras.callbacks.Callback):
    """Keeps images that the generator makes after each epoch."""

    def __init__(self):
        super().__init__()
        self.images = []

    def on_epoch_end(self, epoch, logs=None):
        latent = keras.random.normal((2, self.model.latent_dim), seed=epoch)
        self.images.append(self.model.generator(latent).numpy())


@script
def dcgan(trained_by):
    gan = GAN(image_critic(), image_generator(3), latent_dim=3)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    gan.compile(Adam(1e-3), Adam(1e-3), loss, **PLAIN)
    monitor = Monitor()
    trained_by(gan).fit(batches(IMAGES), callbacks=[monitor], **SILENT)
    return [gan, monitor.images, gan.d_optimizer.variables, gan.g_optimizer.variables]


class WassersteinGAN(GAN):
    def gradient_penalty(self, real_images, fake_images):
        count = ops.shape(real_images)[0]
        alpha = keras.random.uniform((count, 1, 1, 1), seed=self.seed_generator)
        between = real_images + alpha * (fake_images - real_images)
        with tf.GradientTape() as tape:
            tape.watch(between)
            judged = self.discriminator(between, training=True)
        norms = ops.sqrt(ops.sum(ops.square(tape.gradient(judged, between)), axis=[1, 2, 3]))
        return ops.mean((norms - 1.0) ** 2)

    def train_step(self, real_images):
        count = ops.shape(real_images)[0]
        for _ in range(2):
            with tf.GradientTape() as tape:
                fake = self.generator(self.latent(count), training=True)
                cost = ops.mean(self.discriminator(fake, training=True))
                cost -= ops.mean(self.discriminator(real_images, training=True))
                d_loss = cost + 10.0 * self.gradient_penalty(real_images, fake)
            minimize(self.discriminator, tape, d_loss, self.d_optimizer)
        with tf.GradientTape() as tape:
            fake = self.generator(self.latent(count), training=True)
            g_loss = -ops.mean(self.discriminator(fake, training=True))
        minimize(self.generator, tape, g_loss, self.g_optimizer)
        return {"d_loss": d_loss, "g_loss": g_loss}


@script
def wgan_gp(trained_by):
    gan = WassersteinGAN(image_critic(), image_generator(3), latent_dim=3)
    gan.compile(Adam(2e-4, beta_1=0.5), Adam(2e-4, beta_1=0.5), **PLAIN)
    trained_by(gan).fit(IMAGES, **QUIET)
    return [gan]


class ConditionalGAN(GAN):
    def train_step(self, data):
        real_images, one_hot = data
        count = ops.shape(real_images)[0]
        planes = ops.broadcast_to(one_hot[:, None, None, :], (count, 8, 8, 3))
        fake = self.generator(ops.concatenate([self.latent(count), one_hot], axis=1))
        shown = ops.concatenate(
            [
                ops.concatenate([fake, planes], axis=-1),
                ops.concatenate([real_images, planes], axis=-1),
            ],
            axis=0,
        )
        targets = ops.concatenate([ops.ones((count, 1)), ops.zeros((count, 1))], axis=0)
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(targets, self.discriminator(shown))
        minimize(self.discriminator, tape, d_loss, self.d_optimizer)
        with tf.GradientTape() as tape:
            fake = self.generator(ops.concatenate([self.latent(count), one_hot], axis=1))
            judged = self.discriminator(ops.concatenate([fake, planes], axis=-1))
            g_loss = self.loss_fn(ops.zeros((count, 1)), judged)
        minimize(self.generator, tape, g_loss, self.g_optimizer)
        self.d_loss_tracker.update_state(d_loss)
        self.g_loss_tracker.update_state(g_loss)
        return {"g_loss": self.g_loss_tracker.result(), "d_loss": self.d_loss_tracker.result()}


@script
def conditional_gan(trained_by):
    gan = ConditionalGAN(image_critic(4), image_generator(3, extra=3), latent_dim=3)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    gan.compile(Adam(3e-4), Adam(3e-4), loss, **PLAIN)
    trained_by(gan).fit(batches(IMAGES, keras.utils.to_categorical(CLASSES, 3)), **SILENT)
    return [gan]


class CycleGAN(keras.Model):
    """Two generators and two critics, an optimizer each."""

    def __init__(self):
        super().__init__()
        self.there, self.back = dense_model(4), dense_model(4)
        self.critic_there, self.critic_back = dense_model(), dense_model()

    def compile(self, **how):
        super().compile(**how)
        self.networks = [self.there, self.back, self.critic_there, self.critic_back]
        self.optimizers = [Adam(1e-3) for _ in self.networks]

    def train_step(self, batch):
        a, b = batch
        with tf.GradientTape(persistent=True) as tape:
            fake_b, fake_a = self.there(a, training=True), self.back(b, training=True)
            cycled = (
                ops.mean(ops.abs(self.back(fake_b) - a)),
                ops.mean(ops.abs(self.there(fake_a) - b)),
            )
            fooled = [
                ops.mean(ops.square(c(f) - 1))
                for c, f in ((self.critic_there, fake_b), (self.critic_back, fake_a))
            ]
            generators = [10 * loss + won for loss, won in zip(cycled, fooled, strict=True)]
            critics = [
                ops.mean(ops.square(critic(real) - 1)) + ops.mean(ops.square(critic(fake)))
                for critic, real, fake in (
                    (self.critic_there, b, fake_b),
                    (self.critic_back, a, fake_a),
                )
            ]
        losses = [*generators, *critics]
        for network, optimizer, loss in zip(self.networks, self.optimizers, losses, strict=True):
            minimize(network, tape, loss, optimizer)
        return {f"loss_{number}": loss for number, loss in enumerate(losses)}


@script
def cycle_gan_of_zipped_datasets(trained_by):
    gan = CycleGAN()
    gan.compile(**PLAIN)
    zipped = tf.data.Dataset.zip((batches(X), batches(numbers(ROWS, 4, seed=5))))
    trained_by(gan).fit(zipped, **SILENT)
    return [gan]


class Sampling(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        z_mean, z_log_var = inputs
        epsilon = keras.random.normal(ops.shape(z_mean), seed=self.seed_generator)
        return z_mean + ops.exp(0.5 * z_log_var) * epsilon


class VAE(keras.Model):
    def __init__(self, encoder, decoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.decoder = encoder, decoder
        names = ("total_loss", "reconstruction_loss", "kl_loss")
        self.trackers = [keras.metrics.Mean(name=name) for name in names]

    @property
    def metrics(self):
        return self.trackers

    def losses_of(self, data):
        z_mean, z_log_var, z = self.encoder(data)
        error = keras.losses.binary_crossentropy(data, self.decoder(z))
        error = ops.sum(error, axis=(1, 2))
        kl = -0.5 * ops.sum(1 + z_log_var - ops.square(z_mean) - ops.exp(z_log_var), axis=1)
        return ops.mean(error + kl), ops.mean(error), ops.mean(kl)

    def logged(self, losses):
        for tracker, loss in zip(self.trackers, losses, strict=True):
            tracker.update_state(loss)
        return {
            "loss": self.trackers[0].result(),
            "reconstruction_loss": self.trackers[1].result(),
            "kl_loss": self.trackers[2].result(),
        }

    def train_step(self, data):
        with tf.GradientTape() as tape:
            losses = self.losses_of(data)
        minimize(self, tape, losses[0])
        return self.logged(losses)

    def test_step(self, data):
        return self.logged(self.losses_of(data))


@script
def vae(trained_by):
    inputs = keras.Input((8, 8, 1))
    x = layers.Flatten()(layers.Conv2D(3, 3, activation="relu", strides=2)(inputs))
    z_mean, z_log_var = layers.Dense(2, name="z_mean")(x), layers.Dense(2, name="z_log_var")(x)
    encoder = keras.Model(inputs, [z_mean, z_log_var, Sampling()([z_mean, z_log_var])])
    decoder = keras.Sequential(
        [keras.Input((2,)), layers.Dense(64, activation="sigmoid"), layers.Reshape((8, 8, 1))]
    )
    model = VAE(encoder, decoder)
    model.compile(optimizer=Adam(), **PLAIN)
    images = np.float32(IMAGES > 0)
    trainer = trained_by(model)
    trainer.fit(images, validation_data=(images[:8],), **QUIET)
    return [model, encoder]


class VectorQuantizer(layers.Layer):
    def __init__(self, codes, width, beta=0.25):
        super().__init__()
        self.beta = beta
        self.codebook = self.add_weight(
            shape=(width, codes), initializer="random_uniform", name="codebook"
        )

    def call(self, x):
        distances = ops.sum(x**2, axis=1, keepdims=True) + ops.sum(self.codebook**2, axis=0)
        distances -= 2 * ops.matmul(x, self.codebook)
        chosen = ops.one_hot(ops.argmin(distances, axis=1), self.codebook.shape[1])
        quantized = ops.matmul(chosen, ops.transpose(self.codebook))
        self.add_loss(self.beta * ops.mean((ops.stop_gradient(quantized) - x) ** 2))
        self.add_loss(ops.mean((quantized - ops.stop_gradient(x)) ** 2))
        return x + ops.stop_gradient(quantized - x)


@script
def vector_quantized_vae(trained_by):
    inputs = keras.Input((4,))
    quantized = VectorQuantizer(5, 2)(layers.Dense(2)(inputs))
    model = keras.Model(inputs, layers.Dense(4)(quantized))
    model.compile(Adam(0.01), "mse", **PLAIN)
    trained_by(model).fit(X, X, **QUIET)
    return [model]


class DiffusionModel(keras.Model):
    """Denoises images; an averaged network is what is evaluated."""

    def __init__(self, network):
        super().__init__()
        self.normalizer = layers.Normalization()
        self.network = network
        self.ema_network = keras.models.clone_model(network)
        self.built = True

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.image_loss_tracker = keras.metrics.Mean(name="i_loss")

    @property
    def metrics(self):
        return [self.noise_loss_tracker, self.image_loss_tracker]

    def schedule(self, times):
        angles = ops.arccos(0.95) + times * (ops.arccos(0.02) - ops.arccos(0.95))
        return ops.sin(angles), ops.cos(angles)

    def denoised(self, images, training):
        images = self.normalizer(images, training=training)
        count = ops.shape(images)[0]
        noises = tf.random.normal(tf.shape(images))
        times = tf.random.uniform((count, 1, 1, 1), minval=0.0, maxval=1.0)
        noise_rates, signal_rates = self.schedule(times)
        noisy = signal_rates * images + noise_rates * noises
        network = self.network if training else self.ema_network
        pred_noises = network([noisy, noise_rates**2], training=training)
        pred_images = (noisy - noise_rates * pred_noises) / signal_rates
        return self.loss(noises, pred_noises), self.loss(images, pred_images)

    def train_step(self, images):
        with tf.GradientTape() as tape:
            noise_loss, image_loss = self.denoised(images, training=True)
        minimize(self.network, tape, noise_loss, self.optimizer)
        self.noise_loss_tracker.update_state(noise_loss)
        self.image_loss_tracker.update_state(image_loss)
        for weight, average in zip(self.network.weights, self.ema_network.weights, strict=True):
            average.assign(0.9 * average + 0.1 * weight)
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, images):
        noise_loss, image_loss = self.denoised(images, training=False)
        self.noise_loss_tracker.update_state(noise_loss)
        self.image_loss_tracker.update_state(image_loss)
        return {metric.name: metric.result() for metric in self.metrics}


@script
def diffusion_with_an_averaged_network(trained_by):
    noisy, variances = keras.Input((8, 8, 1)), keras.Input((1, 1, 1))
    x = layers.Concatenate()([noisy, layers.UpSampling2D(8)(variances)])
    x = layers.Conv2D(3, 3, padding="same", activation="swish")(x)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    network = keras.Model([noisy, variances], layers.Conv2D(1, 1, kernel_initializer="zeros")(x))
    model = DiffusionModel(network)
    model.normalizer.adapt(IMAGES)
    model.compile(
        optimizer=optimizers.AdamW(1e-3, weight_decay=1e-4),
        loss=keras.losses.MeanAbsoluteError(),
        **PLAIN,
    )
    saving = keras.callbacks.ModelCheckpoint(
        "diffusion.weights.h5", save_weights_only=True, monitor="val_n_loss", mode="min"
    )
    trained_by(model).fit(
        batches(IMAGES), validation_data=batches(IMAGES[:9]), callbacks=[saving], **SILENT
    )
    return [model, model.ema_network]


# Representations


class ContrastiveModel(keras.Model):
    """SimCLR: two views of an image agree, and a probe shows what was learnt."""

    def __init__(self):
        super().__init__()
        self.augmenter = keras.Sequential(
            [layers.RandomFlip("horizontal"), layers.RandomTranslation(0.2, 0.2)]
        )
        self.encoder = keras.Sequential(
            [layers.Conv2D(3, 3, strides=2, activation="relu"), layers.Flatten(), layers.Dense(4)]
        )
        self.projection_head = keras.Sequential([layers.Dense(4, activation="relu")])
        self.linear_probe = keras.Sequential([layers.Dense(3)])

    def compile(self, contrastive_optimizer, probe_optimizer, **how):
        super().compile(**how)
        self.contrastive_optimizer = contrastive_optimizer
        self.probe_optimizer = probe_optimizer
        self.probe_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.contrastive_tracker = keras.metrics.Mean(name="c_loss")
        self.probe_tracker = keras.metrics.Mean(name="p_loss")
        self.probe_accuracy = keras.metrics.SparseCategoricalAccuracy(name="p_acc")

    @property
    def metrics(self):
        return [self.contrastive_tracker, self.probe_tracker, self.probe_accuracy]

    def contrastive_loss(self, one, other):
        one, other = ops.normalize(one, axis=1), ops.normalize(other, axis=1)
        similarities = ops.matmul(one, ops.transpose(other)) / 0.1
        targets = ops.arange(ops.shape(one)[0])
        there = keras.losses.sparse_categorical_crossentropy(
            targets, similarities, from_logits=True
        )
        back = keras.losses.sparse_categorical_crossentropy(
            targets, ops.transpose(similarities), from_logits=True
        )
        return ops.mean(there + back) / 2

    def train_step(self, data):
        images, targets = data
        with tf.GradientTape() as tape:
            views = [self.augmenter(images, training=True) for _ in range(2)]
            projected = [self.projection_head(self.encoder(view, training=True)) for view in views]
            loss = self.contrastive_loss(*projected)
        weights = self.encoder.trainable_weights + self.projection_head.trainable_weights
        gradients = tape.gradient(loss, weights)
        self.contrastive_optimizer.apply_gradients(zip(gradients, weights, strict=True))
        self.contrastive_tracker.update_state(loss)
        features = self.encoder(images, training=False)
        with tf.GradientTape() as tape:
            logits = self.linear_probe(features, training=True)
            probe_loss = self.probe_loss(targets, logits)
        minimize(self.linear_probe, tape, probe_loss, self.probe_optimizer)
        self.probe_tracker.update_state(probe_loss)
        self.probe_accuracy.update_state(targets, logits)
        return {metric.name: metric.result() for metric in self.metrics}

    def test_step(self, data):
        images, targets = data
        logits = self.linear_probe(self.encoder(images, training=False), training=False)
        self.probe_tracker.update_state(self.probe_loss(targets, logits))
        self.probe_accuracy.update_state(targets, logits)
        return {metric.name: metric.result() for metric in self.metrics[1:]}


@script
def contrastive_learning_with_a_probe(trained_by):
    model = ContrastiveModel()
    model.compile(contrastive_optimizer=Adam(), probe_optimizer=Adam(), **PLAIN)
    dataset = batches(IMAGES, CLASSES)
    trained_by(model).fit(dataset, validation_data=dataset, **SILENT)
    return [model]


class SiameseModel(keras.Model):
    """Triplets: an anchor is nearer to a positive than to a negative."""

    def __init__(self, embedding, margin=0.5):
        super().__init__()
        self.embedding, self.margin = embedding, margin
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, inputs):
        anchor, positive, negative = map(self.embedding, inputs)
        near = ops.sum(ops.square(anchor - positive), -1)
        return near, ops.sum(ops.square(anchor - negative), -1)

    def loss_of(self, data):
        near, far = self(data)
        return ops.maximum(near - far + self.margin, 0.0)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.loss_of(data)
        minimize(self.embedding, tape, loss, self.optimizer)
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data):
        self.loss_tracker.update_state(self.loss_of(data))
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self):
        return [self.loss_tracker]


@script
def triplets_of_a_siamese_network(trained_by):
    model = SiameseModel(dense_model(3))
    model.compile(optimizer=Adam(1e-3), weighted_metrics=[], **PLAIN)
    triplets = tuple(batches(numbers(ROWS, 4, seed=seed)) for seed in range(3))
    dataset = tf.data.Dataset.zip(triplets)
    trained_by(model).fit(dataset, validation_data=dataset.take(2), **SILENT)
    return [model]


@script
def pairs_of_a_siamese_network(trained_by):
    def contrastive(y_true, y_pred):
        near = (1 - y_true) * ops.square(y_pred)
        return ops.mean(near + y_true * ops.square(ops.maximum(1 - y_pred, 0)))

    one, other = keras.Input((4,)), keras.Input((4,))
    embedding = dense_model(3)
    distance = layers.Lambda(
        lambda pair: ops.sqrt(
            ops.maximum(ops.sum(ops.square(pair[0] - pair[1]), 1, keepdims=True), 1e-7)
        ),
        output_shape=(1,),
    )([embedding(one), embedding(other)])
    outputs = layers.Dense(1, "sigmoid")(layers.BatchNormalization()(distance))
    model = keras.Model([one, other], outputs)
    model.compile("RMSprop", contrastive, metrics=["accuracy"], **PLAIN)
    pairs = [X, numbers(ROWS, 4, seed=2)]
    trained_by(model).fit(pairs, np.float32(Y > 0), validation_split=0.2, **QUIET)
    return [model]


@script
def recommender_of_embeddings(trained_by):
    class Recommender(keras.Model):
        def __init__(self):
            super().__init__()
            how = {"embeddings_initializer": "he_normal", "embeddings_regularizer": "l2"}
            self.users, self.user_bias = layers.Embedding(9, 3, **how), layers.Embedding(9, 1)
            self.movies, self.movie_bias = layers.Embedding(9, 3, **how), layers.Embedding(9, 1)

        def call(self, inputs):
            users, movies = inputs[:, 0], inputs[:, 1]
            dot = ops.sum(self.users(users) * self.movies(movies), axis=1, keepdims=True)
            return ops.sigmoid(dot + self.user_bias(users) + self.movie_bias(movies))

    model = Recommender()
    model.compile(Adam(0.01), keras.losses.BinaryCrossentropy(), **PLAIN)
    pairs, ratings = TOKENS[:, :2], np.float32(Y > 0)
    trained_by(model).fit(pairs, ratings, validation_data=(pairs[:9], ratings[:9]), **QUIET)
    return [model]


class GraphConvolution(layers.Layer):
    def __init__(self, units, edges):
        super().__init__()
        self.edges = edges
        self.prepare, self.update = layers.Dense(units, "relu"), layers.Dense(units)

    def call(self, nodes):
        messages = ops.take(self.prepare(nodes), self.edges[1], axis=0)
        received = tf.math.unsorted_segment_mean(messages, self.edges[0], ROWS)
        return self.update(ops.concatenate([nodes, received], axis=-1))


@script
def graph_network_on_node_numbers(trained_by):
    class NodeClassifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.nodes = tf.constant(X)
            edges = tf.constant(labels(2, 40, classes=ROWS), "int32")
            self.convolutions = [GraphConvolution(4, edges) for _ in range(2)]
            self.logits = layers.Dense(3)

        def call(self, numbers_of_nodes):
            nodes = self.nodes
            for convolution in self.convolutions:
                nodes = ops.relu(convolution(nodes))
            return self.logits(ops.take(nodes, ops.reshape(numbers_of_nodes, [-1]), axis=0))

    model = NodeClassifier()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Adam(0.01), loss, metrics=["acc"], **PLAIN)
    trained_by(model).fit(np.arange(ROWS), CLASSES, validation_split=0.2, **QUIET)
    return [model]


# Networks that are trained already


@script
def fine_tuning_of_frozen_layers(trained_by):
    base = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(3, 3), layers.BatchNormalization(), layers.Flatten()]
    )
    base.trainable = False
    inputs = keras.Input((8, 8, 1))
    x = layers.Dropout(0.2)(base(inputs, training=False))
    model = keras.Model(inputs, layers.Dense(3)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Adam(), loss, metrics=["accuracy"], **PLAIN)
    trainer = trained_by(model)
    first = trainer.fit(IMAGES, CLASSES, **QUIET).history
    base.trainable = True
    model.compile(Adam(1e-5), loss, metrics=["accuracy"], **PLAIN)
    trainer.fit(IMAGES, CLASSES, **{**QUIET, "epochs": 4, "initial_epoch": 2})
    return [first, model]


@script
def low_rank_adaptation(trained_by):
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            layers.Embedding(9, 4),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, **PLAIN)
    trainer = trained_by(model)
    before = trainer.fit(TOKENS, CLASSES, **QUIET).history
    for layer in model.layers:
        if hasattr(layer, "enable_lora"):
            layer.enable_lora(2)
    model.compile("adam", loss, metrics=["accuracy"], **PLAIN)
    trainer.fit(TOKENS, CLASSES, **QUIET)
    return [before, model]


@script
def quantized_and_adapted(trained_by):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, "relu"), layers.Dense(3)])
    model.quantize("int8")
    for layer in model.layers:
        layer.enable_lora(2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Adam(0.01), loss, **PLAIN)
    trainer = trained_by(model)
    trainer.fit(X, CLASSES, **QUIET)
    return [model, trainer.predict(X, verbose=0)]


@tf.custom_gradient
def rounded(x):
    """Rounds to eighths; the gradient goes straight through."""
    return tf.round(x * 8) / 8, lambda upstream: upstream


class RoundedDense(layers.Dense):
    def call(self, inputs):
        return ops.matmul(rounded(inputs), rounded(tf.convert_to_tensor(self.kernel))) + self.bias


@script
def quantization_aware_training(trained_by):
    model = keras.Sequential([keras.Input((4,)), RoundedDense(6), RoundedDense(1)])
    model.compile(SGD(0.05, momentum=0.9), "mse", **PLAIN)
    trained_by(model).fit(X, Y, validation_data=(X, Y), **QUIET)
    return [model]


@script
def saved_loaded_and_trained_further(trained_by):
    model = dense_model()
    model.compile("adam", "mse", metrics=["mae"], **PLAIN)
    first = trained_by(model).fit(X, Y, **QUIET).history
    model.save("model.keras")
    loaded = keras.models.load_model("model.keras")
    trained_by(loaded).fit(X, Y, **QUIET)
    return [first, model, loaded]


# Schedules and callbacks


class WarmUp(optimizers.schedules.LearningRateSchedule):
    def __init__(self, peak, warmup_steps):
        self.peak, self.warmup_steps = peak, warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warm = self.peak * step / self.warmup_steps
        cooled = self.peak * ops.cos(np.pi / 2 * (step - self.warmup_steps) / 10)
        return ops.where(step < self.warmup_steps, warm, cooled)


@script
def warm_up_schedule(trained_by):
    model = dense_model()
    model.compile(Adam(WarmUp(0.05, 3)), "mse", **PLAIN)
    tensorboard = keras.callbacks.TensorBoard("logs", histogram_freq=1)
    trained_by(model).fit(X, Y, callbacks=[tensorboard], validation_data=(X, Y), **QUIET)
    return [model]


class RateFinder(keras.callbacks.Callback):
    """Doubles the learning rate after each batch, until the loss explodes."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        rate = float(self.model.optimizer.learning_rate.numpy())
        self.found.append((rate, logs["loss"]))
        if logs["loss"] > 4 * self.found[0][1]:
            self.model.stop_training = True
        self.model.optimizer.learning_rate.assign(rate * 2)


@script
def search_for_a_learning_rate(trained_by):
    model = dense_model()
    model.compile(SGD(1e-2), "mse", **PLAIN)
    finder = RateFinder()
    trained_by(model).fit(X, Y, callbacks=[finder], **{**QUIET, "batch_size": 4, "epochs": 5})
    return [model, finder.found]


class StopAtMinimum(keras.callbacks.Callback):
    """Keeps the best weights, and stops where the loss no longer falls."""

    def on_train_begin(self, logs=None):
        self.best, self.wait, self.stopped_epoch = np.inf, 0, 0

    def on_epoch_end(self, epoch, logs=None):
        if logs["loss"] < self.best:
            self.best, self.wait, self.best_weights = logs["loss"], 0, self.model.get_weights()
            return
        self.wait += 1
        if self.wait >= 1:
            self.stopped_epoch = epoch
            self.model.stop_training = True
            self.model.set_weights(self.best_weights)


@script
def own_callback_that_stops(trained_by):
    model = dense_model()
    model.compile(SGD(0.8), "mse", **PLAIN)
    stop = StopAtMinimum()
    callbacks = [stop, keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1)]
    trained_by(model).fit(X, Y, callbacks=callbacks, **{**QUIET, "epochs": 6})
    return [model, stop.best, stop.stopped_epoch]


class LossWithWeightOfEpoch(keras.callbacks.Callback):
    """Moves the weight of a loss over the epochs, as KL annealing does."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def on_epoch_begin(self, epoch, logs=None):
        self.weight.assign(0.1 * epoch)


@script
def weight_of_a_loss_moved_by_a_callback(trained_by):
    weight = keras.Variable(0.0, trainable=False)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dense(3)(inputs)))

    def loss(y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred), -1) + weight * ops.mean(ops.abs(y_pred), -1)

    model.compile("sgd", loss, **PLAIN)
    callbacks = [LossWithWeightOfEpoch(weight)]
    trained_by(model).fit(X, Y, callbacks=callbacks, **{**QUIET, "epochs": 3})
    return [model]


@script
def averaged_weights_evaluated(trained_by):
    model = dense_model()
    model.compile(Adam(0.05, use_ema=True, ema_momentum=0.7), "mse", metrics=["mae"], **PLAIN)
    swapping = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    saving = keras.callbacks.ModelCheckpoint("ema.keras", save_best_only=True)
    trainer = trained_by(model)
    trainer.fit(X, Y, validation_data=(X, Y), callbacks=[swapping, saving], **QUIET)
    return [model, trainer.evaluate(X, Y, verbose=0)]


# Loops of one's own around batches


@script
def deep_q_learning(trained_by):
    random = np.random.default_rng(1)
    model, target = dense_model(2), dense_model(2)
    model.compile(Adam(0.01, clipnorm=1.0), keras.losses.Huber(), **PLAIN)
    trainer, state, losses = trained_by(model), X[0], []
    for step in range(6):
        greedy = trainer.predict_on_batch(state[None])[0].argmax()
        action = random.integers(2) if random.random() < 0.3 else greedy
        following = np.tanh(state + (0.1 if action else -0.1)).astype("float32")
        future = np.asarray(target(following[None]))[0].max()
        wanted = trainer.predict_on_batch(state[None])
        wanted[0, action] = following.sum() + 0.9 * future
        losses.append(trainer.train_on_batch(state[None], wanted))
        if step % 2:
            target.set_weights(model.get_weights())
        state = following
    return [model, target, losses]


@script
def policy_gradient_on_batches(trained_by):
    random = np.random.default_rng(1)
    policy = dense_model(2, "softmax")
    policy.compile(Adam(0.01), SCCE, metrics=["accuracy"], **PLAIN)
    trainer, logged = trained_by(policy), []
    for _ in range(3):
        chances = trainer.predict(X[:6], verbose=0)
        actions = np.array([random.choice(2, p=row / row.sum()) for row in chances.astype("f8")])
        advantage = (actions * 2 - 1) * X[:6, 0]
        logs = trainer.train_on_batch(X[:6], actions, sample_weight=advantage, return_dict=True)
        logged.append(logs)
    return [policy, logged]


@script
def gan_of_batches(trained_by):
    generator, critic = dense_model(4), dense_model(1, "sigmoid")
    critic.compile(Adam(0.01), "binary_crossentropy", metrics=["accuracy"], **PLAIN)
    latent = keras.Input((4,))
    judged = critic(generator(latent))
    combined = keras.Model(latent, judged)
    critic.trainable = False
    combined.compile(Adam(0.01), "binary_crossentropy", **PLAIN)
    of_critic, of_both, losses = trained_by(critic), trained_by(combined), []
    for step in range(3):
        made = trained_by(generator).predict(numbers(8, 4, seed=step), verbose=0)
        critic.trainable = True
        losses.append(of_critic.train_on_batch(X[:8], np.ones((8, 1))))
        losses.append(of_critic.train_on_batch(made, np.zeros((8, 1))))
        critic.trainable = False
        losses.append(of_both.train_on_batch(numbers(8, 4, seed=9), np.ones((8, 1))))
    return [generator, critic, combined, losses]


@script
def meta_learning_of_many_tasks(trained_by):
    model = dense_model()
    model.compile(SGD(0.05), "mse", **PLAIN)
    trainer, losses = trained_by(model), []
    for task in range(3):
        before = model.get_weights()
        for _ in range(2):
            losses.append(trainer.train_on_batch(X[:8], (task - 1) * Y[:8]))
        pairs = zip(before, model.get_weights(), strict=True)
        model.set_weights([old + 0.5 * (new - old) for old, new in pairs])
    return [model, losses, trainer.test_on_batch(X, Y)]


@script
def trained_epoch_by_epoch(trained_by):
    model = dense_model()
    model.compile("adam", "mse", **PLAIN)
    trainer, losses = trained_by(model), []
    for epoch in range(3):
        part = rows_of((X, Y), 0, 8 * (epoch + 1))
        history = trainer.fit(*part, **{**QUIET, "epochs": 1})
        losses.append(history.history["loss"] + [trainer.evaluate(X, Y, verbose=0)])
    return [model, losses]
