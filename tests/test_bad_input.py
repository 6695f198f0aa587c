"""Each kind of bad input gets one clear sentence, before any weight changes."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.helpers.tables import each, names_of
from trainer import CustomTrainer

ROWS = np.random.default_rng(0).random((40, 4), dtype=np.float32)
LABELS = np.arange(40) % 3
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
slices = tf.data.Dataset.from_tensor_slices


def classifier(**settings):
    """A classifier of 3 classes with weights that a forward pass changes."""
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    )
    model.compile("sgd", SPARSE, metrics=["accuracy"], **settings)
    return model


def for_sixteen_rows():
    model = keras.Sequential(
        [keras.Input(batch_shape=(16, 2, 2)), keras.layers.GRU(3, stateful=True)]
    )
    model.compile("sgd", "mse")
    return model


def fit(model, *data, trainer=CustomTrainer, **arguments):
    return trainer(model).fit(*data, **{"verbose": 0, "batch_size": 8, **arguments})


def fit_source(model, source, **arguments):
    return fit(model, source, batch_size=None, **arguments)


def batches_then(*last):
    """A generator function: two good batches, then `last`."""

    def generate():
        for _ in range(2):
            yield ROWS[:8], LABELS[:8]
        yield from last

    return generate


def dataset_then(*last):
    """The same as a dataset whose shapes are not known beforehand."""
    spec = (tf.TensorSpec((None, None), tf.float32), tf.TensorSpec((None,), tf.int64))
    return tf.data.Dataset.from_generator(batches_then(*last), output_signature=spec)


class BurningDataset(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, number):
        if number == 3:
            raise OSError("disk on fire")
        return ROWS[:8], LABELS[:8]


class FailsAt(keras.callbacks.Callback):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            raise RuntimeError("the callback broke")


class ReturnsNothing(CustomTrainer):
    def train_step(self, data):
        return None


class TakesFromNothing(CustomTrainer):
    def train_step(self, data):
        return next(iter(()))


class OfThreeNumbers(keras.Model):
    def call(self, x):
        return tf.matmul(x, tf.ones((3, 1)))


def compiled(model):
    model.compile("sgd", "mse")
    return model


NARROW = (ROWS[:8, :3], LABELS[:8])
TEXT = np.full((40, 4), "three")

BEFORE_TRAINING = {
    "no loss": (
        lambda m: CustomTrainer(m, optimizer="sgd", loss=None, metrics=[]) and fit(unlossy(), ROWS),
        ValueError,
        "compiled without a loss.*give CustomTrainer a loss",
    ),
    "not compiled": (
        lambda m: fit(keras.Sequential([keras.layers.Dense(1)]), ROWS, LABELS),
        ValueError,
        "fit needs a compiled model: give CustomTrainer an optimizer and a loss",
    ),
    "no model": (
        lambda m: CustomTrainer("model.keras"),
        TypeError,
        "model is of type str: expected a keras.Model",
    ),
    "lengths": (
        lambda m: fit(m, ROWS, LABELS[:30]),
        ValueError,
        "x has 40 rows, y has 30 rows: every array needs a row for each sample",
    ),
    "lengths of one of several": (
        lambda m: fit(m, {"a": ROWS, "b": ROWS[:7]}, LABELS),
        ValueError,
        "x/a has 40 rows, x/b has 7 rows, y has 40 rows",
    ),
    "empty arrays": (lambda m: fit(m, ROWS[:0], LABELS[:0]), ValueError, "x has no rows"),
    "empty dataset": (
        lambda m: fit_source(m, slices((ROWS, LABELS)).batch(8).take(0)),
        ValueError,
        "dataset is empty: expected at least one batch",
    ),
    "empty dataset of unknown length": (
        lambda m: fit_source(m, slices((ROWS, LABELS)).batch(8).filter(lambda *_: False)),
        ValueError,
        "gave no batch: expected at least one",
    ),
    "empty generator": (
        lambda m: fit_source(m, iter([])),
        ValueError,
        "gave no batch: expected at least one",
    ),
    "unbatched dataset": (
        lambda m: fit_source(m, slices((ROWS, LABELS))),
        ValueError,
        r"single rows of shape \(4,\).*batches of them, \(None, 4\): call dataset.batch",
    ),
    "shape": (
        lambda m: fit(m, ROWS[:, :3], LABELS),
        ValueError,
        r"expected axis -1 of input shape to have value 4.*"
        r"The batch was x: float32 \((8|None), 3\); y: int64 \((8|None),\).*epoch 0, step 0",
    ),
    "rows": (
        lambda m: fit(for_sixteen_rows(), ROWS.reshape(40, 2, 2), ROWS[:, :3]),
        ValueError,
        r"Expected batch size: 16.*The batch was x: float32 \(8, 2, 2\).*epoch 0, step 0",
    ),
    "dtype": (
        lambda m: fit(m, TEXT, LABELS),
        tf.errors.UnimplementedError,
        "x holds strings: turn them into numbers, with keras.layers.StringLookup",
    ),
    "number of inputs": (
        lambda m: fit(two_inputs(), ROWS, LABELS),
        ValueError,
        r"expects 2 named input\(s\).*but it received 1 .*The batch was x: float32",
    ),
    "labels outside the classes": (
        lambda m: fit(m, ROWS, LABELS + 1),
        ValueError,
        "label 3, but the output has 3 classes: number labels from 0 to 2, or give the output",
    ),
    "negative labels": (lambda m: fit(m, ROWS, LABELS - 1), ValueError, "got the label -1"),
    "labels outside the classes, dataset": (
        lambda m: fit_source(m, slices((ROWS, LABELS + 1)).batch(8)),
        tf.errors.InvalidArgumentError,
        "label 3, but the output has 3 classes.*The batch was x.*step 0",
    ),
    "unknown argument": (
        lambda m: fit(m, ROWS, LABELS, epoch=3),
        TypeError,
        "fit has no argument 'epoch': did you mean 'epochs'?",
    ),
    "unlike any argument": (
        lambda m: CustomTrainer(m).predict(ROWS, zzz=1),
        TypeError,
        "predict has no argument 'zzz': it takes x, batch_size",
    ),
    "metric name": (
        lambda m: CustomTrainer(m, metrics=["acuracy"]).fit(ROWS, LABELS, verbose=0),
        ValueError,
        "no metric 'acuracy': did you mean 'accuracy'?",
    ),
    "loss name": (
        lambda m: CustomTrainer(m, loss="mean_square_error").fit(ROWS, LABELS, verbose=0),
        ValueError,
        "no loss 'mean_square_error': did you mean 'mean_squared_error'?",
    ),
    "loss of another library": (
        lambda m: CustomTrainer(m, loss="sparse_crossentropy").fit(ROWS, LABELS, verbose=0),
        ValueError,
        "no loss 'sparse_crossentropy': did you mean .*'sparse_categorical_crossentropy'",
    ),
    "optimizer name": (
        lambda m: CustomTrainer(m, optimizer="adm", loss="mse"),
        ValueError,
        "no optimizer 'adm': did you mean 'Adam'",
    ),
    "class of no optimizer": (
        lambda m: CustomTrainer(m, optimizer=keras.losses.MeanSquaredError, loss="mse"),
        ValueError,
        r"The optimizer is a class: expected an object of it, such as MeanSquaredError\(\)",
    ),
    "argument of the trainer": (
        lambda m: CustomTrainer(m, optimiser="adam"),
        TypeError,
        "CustomTrainer has no argument 'optimiser': did you mean 'optimizer'?",
    ),
    "one-hot rows for class numbers": (
        lambda m: fit(m, ROWS, np.eye(3, dtype="float32")[LABELS]),
        ValueError,
        r"as one-hot rows have.*give y.argmax\(-1\), or use CategoricalCrossentropy",
    ),
    "class numbers for one-hot rows": (
        lambda m: CustomTrainer(m, loss="categorical_crossentropy").fit(ROWS, LABELS, verbose=0),
        ValueError,
        "for class numbers, use SparseCategoricalCrossentropy",
    ),
    "shapes within a class of one's own": (
        lambda m: CustomTrainer(compiled(OfThreeNumbers())).fit(ROWS, LABELS, verbose=0),
        ValueError,
        r"Exception encountered when calling OfThreeNumbers.*The batch was x: float32",
    ),
    "end of an iterator of one's own": (
        lambda m: fit(m, ROWS, LABELS, trainer=TakesFromNothing),
        RuntimeError,
        r"A step raised StopIteration",
    ),
    "train_step without logs": (
        lambda m: fit(m, ROWS, LABELS, trainer=ReturnsNothing),
        TypeError,
        "train_step returned NoneType: expected a dict of scalars by log key",
    ),
    "Python numbers": (
        lambda m: fit(m, [[1, 2, 3, 4]], [0]),
        ValueError,
        "x is of type list: expected arrays.*call numpy.array",
    ),
    "no data": (lambda m: fit(m), ValueError, "x is missing: give arrays"),
    "targets beside a dataset": (
        lambda m: fit(m, slices((ROWS, LABELS)).batch(8), LABELS),
        ValueError,
        r"y was given beside a tf.data.Dataset: let the tf.data.Dataset yield \(x, y\)",
    ),
    "two kinds of weights": (
        lambda m: fit(m, ROWS, LABELS, class_weight={0: 2.0}, sample_weight=np.ones(40)),
        ValueError,
        "class_weight and sample_weight were both given: give one",
    ),
    "validation split of a dataset": (
        lambda m: fit(m, slices((ROWS, LABELS)).batch(8), validation_split=0.2),
        ValueError,
        "validation_split is for arrays, but x is a tf.data.Dataset: give validation_data",
    ),
    "validation split of a generator": (
        lambda m: fit(m, batches_then()(), validation_split=0.2),
        ValueError,
        "validation_split is for arrays, but x is a generator",
    ),
    "validation split of a PyDataset": (
        lambda m: fit(m, BurningDataset(), validation_split=0.2),
        ValueError,
        "validation_split is for arrays, but x is a PyDataset",
    ),
    "validation split, text": (
        lambda m: fit(m, ROWS, LABELS, validation_split="0.2"),
        TypeError,
        "validation_split is '0.2': expected a number between 0 and 1",
    ),
    "epochs, text": (
        lambda m: fit(m, ROWS, LABELS, epochs="2"),
        TypeError,
        "epochs is '2', of type str: expected a whole number",
    ),
    "epochs, float": (
        lambda m: fit(m, ROWS, LABELS, epochs=2.0),
        TypeError,
        "epochs is 2.0, of type float: expected a whole number",
    ),
    "initial epoch": (
        lambda m: fit(m, ROWS, LABELS, initial_epoch=None),
        TypeError,
        "initial_epoch is None, of type NoneType: expected a whole number",
    ),
    "steps": (
        lambda m: fit(m, ROWS, LABELS, steps_per_epoch=40 / 8),
        TypeError,
        "steps_per_epoch is 5.0, of type float: expected a whole number",
    ),
    "validation steps": (
        lambda m: fit(m, ROWS, LABELS, validation_data=(ROWS, LABELS), validation_steps="1"),
        TypeError,
        "validation_steps is '1'",
    ),
    "batch size, float": (
        lambda m: fit(m, ROWS, LABELS, batch_size=32.0),
        TypeError,
        "batch_size is 32.0, of type float: expected a whole number",
    ),
    "batch size below 0": (
        lambda m: CustomTrainer(m).predict(ROWS, batch_size=-4),
        ValueError,
        "batch_size is -4: expected a number of rows, 1 or more",
    ),
    "validation batch size below 0": (
        lambda m: fit(m, ROWS, LABELS, validation_split=0.2, validation_batch_size=-4),
        ValueError,
        "validation_batch_size is -4: expected a number of rows",
    ),
    "callback class": (
        lambda m: fit(m, ROWS, LABELS, callbacks=[keras.callbacks.EarlyStopping]),
        TypeError,
        r"callbacks has the class EarlyStopping: give an object of it, EarlyStopping\(...\)",
    ),
    "callback function": (
        lambda m: fit(m, ROWS, LABELS, callbacks=[print]),
        ValueError,
        "callbacks has <built-in function print>.*as in keras.callbacks.LambdaCallback",
    ),
    "callback name": (
        lambda m: CustomTrainer(m).evaluate(ROWS, LABELS, verbose=0, callbacks="EarlyStopping"),
        ValueError,
        "callbacks has 'EarlyStopping', of type str: expected keras.callbacks.Callback objects",
    ),
    "class weight": (
        lambda m: fit(m, ROWS, LABELS, class_weight="balanced"),
        ValueError,
        "class_weight is 'balanced': expected a dict of weights by class number",
    ),
    "class weight of a dataset": (
        lambda m: fit(m, slices((ROWS, LABELS)).batch(8), class_weight=[1.0, 2.0, 3.0]),
        ValueError,
        r"class_weight is \[1.0, 2.0, 3.0\]: expected a dict",
    ),
    "class weight of a batch": (
        lambda m: CustomTrainer(m).train_on_batch(ROWS, LABELS, class_weight="balanced"),
        ValueError,
        "class_weight is 'balanced': expected a dict",
    ),
    "labels, text": (
        lambda m: fit(m, ROWS, np.array(["cat", "dog", "owl"])[LABELS]),
        ValueError,
        "y holds strings, such as 'cat', but the loss takes numbers: number the classes",
    ),
    "labels, text, evaluation": (
        lambda m: CustomTrainer(m).evaluate(ROWS, pd.Series(["cat", "dog"] * 20), verbose=0),
        ValueError,
        "y holds strings, such as 'cat', but the loss takes numbers: number the classes",
    ),
    "labels, text, one batch": (
        lambda m: CustomTrainer(m).train_on_batch(ROWS, np.full(40, "cat", object)),
        ValueError,
        "y holds strings, such as 'cat', but the loss takes numbers: number the classes",
    ),
    "column of strings": (
        lambda m: fit(m, frame_with(["red"] * 40), LABELS),
        ValueError,
        "Row 0 of the column 'colour' of x is 'red', which is no number: turn strings into",
    ),
    "column of strings, split": (
        lambda m: fit(m, frame_with(["red"] * 40), LABELS, validation_split=0.2),
        ValueError,
        "Row 0 of the column 'colour' of x is 'red'",
    ),
    "column with a gap": (
        lambda m: fit(m, frame_with(pd.array([1, 2, None, 4] * 10, dtype="Int64")), LABELS),
        ValueError,
        "Row 2 of the column 'colour' of x is <NA>, which is no number: fill in what is missing",
    ),
    "None among objects": (
        lambda m: fit(m, {"a": np.where(ROWS[3, 2] == ROWS, None, ROWS)}, LABELS),
        ValueError,
        r"x/a\[3, 2\] is None, which is no number: fill in what is missing",
    ),
    "dates": (
        lambda m: fit(m, np.full((40, 4), np.datetime64("2020-01-01")), LABELS),
        ValueError,
        r"x has the dtype datetime64\[D\]: expected numbers or strings",
    ),
    "single row": (
        lambda m: CustomTrainer(m).predict(ROWS[0], verbose=0),
        ValueError,
        r"x comes in single rows.* or give a single row as x\[None\]",
    ),
    "rows in a list": (
        lambda m: fit(m, [(x, y) for x, y in zip(ROWS, LABELS, strict=True)]),
        ValueError,
        "x/0/1 is a single number.*for a list of rows, call numpy.stack on those of x",
    ),
    "rows of x in a list": (
        lambda m: fit(m, list(ROWS), LABELS),
        ValueError,
        "x/0 has 4 rows.*y has 40 rows.*for a list of rows, call numpy.stack on those of x",
    ),
    "generator function": (
        lambda m: fit(m, batches_then()),
        ValueError,
        r"x is a generator function: call it, as in generate\(\)",
    ),
    "class of a PyDataset": (
        lambda m: fit(m, BurningDataset),
        ValueError,
        "x is the class BurningDataset: expected an object of it",
    ),
    "class of a model": (
        lambda m: CustomTrainer(keras.Sequential),
        TypeError,
        r"model is the class Sequential: expected an object of it, such as Sequential\(...\)",
    ),
    "no snapshot": (
        lambda m: CustomTrainer(m).restore_snapshot("nowhere"),
        ValueError,
        "no folder nowhere: give one that save_snapshot or Snapshots wrote",
    ),
    "no record": (
        lambda m: CustomTrainer(m).replay("nowhere"),
        ValueError,
        "no folder nowhere: give one that NaNGuard wrote",
    ),
    "validation split": (
        lambda m: fit(m, ROWS, LABELS, validation_split=0.999),
        ValueError,
        "validation_split=0.999 of 40 rows leaves one side empty",
    ),
}


def frame_with(colours):
    frame = pd.DataFrame(ROWS[:, :3], columns=["a", "b", "c"])
    return frame.assign(colour=colours)


def two_inputs():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], keras.layers.Dense(3)(keras.layers.Add()([a, b])))
    model.compile("sgd", SPARSE)
    return model


def unlossy():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd")
    return model


@pytest.mark.parametrize("case", BEFORE_TRAINING)
def test_bad_input_is_told_before_any_weight_changes(case):
    provoke, kind, message = BEFORE_TRAINING[case]
    model = classifier()
    before = model.get_weights()
    with pytest.raises(kind) as caught:
        provoke(model)
    assert re.search(message, told(caught.value), re.DOTALL)
    for weights, weights_before in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, weights_before)


AT_A_BATCH = {
    "shape, generator": (
        lambda m: fit_source(m, batches_then(NARROW)()),
        (tf.errors.InvalidArgumentError, ValueError),
        r"batch was x: float32 \(8, 3\).*epoch 0, step 2",
    ),
    "shape, dataset": (
        lambda m: fit_source(m, dataset_then(NARROW)),
        (tf.errors.InvalidArgumentError, ValueError),
        r"batch was x: float32 \((None, None|8, 3)\).*epoch 0, step 2",
    ),
    "labels, dataset": (
        lambda m: fit_source(m, dataset_then((ROWS[:8], LABELS[:8] + 7))),
        tf.errors.InvalidArgumentError,
        "got the label 9, but the output has 3 classes.*epoch 0, step 2",
    ),
    "labels, generator": (
        lambda m: fit_source(m, batches_then((ROWS[:8], LABELS[:8] - 4))()),
        tf.errors.InvalidArgumentError,
        "got the label -[234], but the output has 3 classes.*epoch 0, step 2",
    ),
    "an assertion of one's own": (
        lambda m: fit_source(m, dataset_then((ROWS[:8], LABELS[:8] + 50))),
        tf.errors.InvalidArgumentError,
        "labels are below 50.*epoch 0, step 2",
    ),
}


def checked_loss(y, y_pred):
    check = tf.debugging.Assert(tf.reduce_max(y) < 50, ["labels are below 50"])
    with tf.control_dependencies([] if check is None else [check]):
        y = tf.identity(y)
    return keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)


def drawing_classifier(**settings):
    """A classifier whose forward pass changes averages and seeds before the loss may fail."""
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=1)]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(3)])
    model.compile("sgd", checked_loss, metrics=["accuracy"], **settings)
    return model


@pytest.mark.parametrize("eager", **each({"compiled": False, "eager": True}, ["compiled"]))
@pytest.mark.parametrize("case", names_of(AT_A_BATCH, ["shape, generator", "labels, dataset"]))
def test_a_bad_batch_leaves_the_weights_of_the_last_whole_step(case, eager):
    provoke, kind, message = AT_A_BATCH[case]
    model, twin = drawing_classifier(run_eagerly=eager), drawing_classifier(run_eagerly=eager)
    twin.set_weights(model.get_weights())
    fit_source(twin, batches_then()())
    with pytest.raises(kind) as caught:
        provoke(model)
    assert re.search(message, told(caught.value), re.DOTALL)
    for weights, whole in zip(model.variables, twin.variables, strict=True):
        np.testing.assert_array_equal(weights, whole)
    fit(model, ROWS, LABELS)


def test_batches_of_unknown_rank_take_the_rank_that_the_model_has():
    spec = (tf.TensorSpec(None, tf.float32), tf.TensorSpec((None,), tf.int64))
    data = tf.data.Dataset.from_generator(batches_then(), output_signature=spec)
    model, twin = classifier(), classifier()
    twin.set_weights(model.get_weights())
    assert fit_source(model, data).history == fit_source(twin, batches_then()()).history


def generator_that_raises():
    yield ROWS[:8], LABELS[:8]
    raise KeyError("no such file")


FAILING_CODE = {
    "generator": (
        lambda m: fit_source(m, generator_that_raises()),
        KeyError,
        "no such file",
        "step 1",
        "generator_that_raises",
    ),
    "PyDataset": (
        lambda m: fit_source(m, BurningDataset(), shuffle=False),
        OSError,
        "disk on fire",
        "step 3",
        "__getitem__",
    ),
    "PyDataset in threads": (
        lambda m: fit_source(m, BurningDataset(workers=2), shuffle=False),
        OSError,
        "disk on fire",
        "step 3",
        "__getitem__",
    ),
    "callback": (
        lambda m: fit(m, ROWS, LABELS, callbacks=[FailsAt(4)]),
        RuntimeError,
        "the callback broke",
        "step 4",
        "on_train_batch_end",
    ),
}


@pytest.mark.parametrize("case", FAILING_CODE)
def test_a_users_own_error_keeps_its_traceback_and_gains_the_place(case):
    provoke, kind, message, place, function = FAILING_CODE[case]
    with pytest.raises(kind, match=message) as caught:
        provoke(classifier())
    assert f"(while training, epoch 0, {place})" in told(caught.value)
    assert function in [entry.name for entry in caught.traceback]


def test_an_error_of_a_worker_process_keeps_its_type_and_gains_the_place():
    data = BurningDataset(workers=1, use_multiprocessing=True)
    with pytest.raises(OSError, match="disk on fire") as caught:
        fit_source(classifier(), data, shuffle=False)
    assert "(while training, epoch 0, step 3)" in told(caught.value)
    assert "__getitem__" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"steps_per_epoch": 7},
            "steps_per_epoch=7, but a pass through the data has 5 batches, so epochs end early, "
            "after 5 steps: give steps_per_epoch=5, or a dataset with .repeat()",
        ),
        (
            {"validation_data": (ROWS, LABELS), "validation_steps": 9},
            "validation_steps=9, but a pass through the data has 5 batches",
        ),
    ],
    ids=["steps_per_epoch", "validation_steps"],
)
def test_what_training_can_go_on_with_is_a_warning_before_the_first_step(arguments, message):
    class NotesWarnings(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                self.told = [str(warning.message) for warning in warned]

    noted = NotesWarnings()
    with pytest.warns(UserWarning, match=re.escape(message)) as warned:
        fit(classifier(), ROWS, LABELS, callbacks=[noted], **arguments)
    assert any(message in text for text in noted.told)


def test_a_spent_generator_ends_training_with_a_warning():
    with pytest.warns(
        UserWarning, match="no batch in epoch 1.*a generator yields its batches once"
    ):
        history = fit_source(classifier(), batches_then()(), epochs=3)
    assert history.epoch == [0]


def test_a_spent_validation_generator_ends_validation_with_a_warning():
    with pytest.warns(UserWarning, match="validation data gave no batch after epoch 1.*goes on"):
        history = fit(classifier(), ROWS, LABELS, epochs=3, validation_data=batches_then()())
    assert history.epoch == [0, 1, 2]
    assert len(history.history["loss"]) == 3
    assert len(history.history["val_loss"]) == 1


@pytest.mark.processes
def test_another_keras_backend_ends_the_import_in_one_sentence():
    pytest.importorskip("jax", reason="needs the extra `conformance`: Keras runs on JAX here")
    result = subprocess.run(
        [sys.executable, "-c", "import trainer"],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == (
        "ImportError: trainer needs Keras on TensorFlow, but its backend is 'jax': set the "
        "environment variable KERAS_BACKEND=tensorflow before keras is first imported."
    )


def told(error):
    """What Python prints of an error after its traceback."""
    return "\n".join([f"{error}", *getattr(error, "__notes__", [])])
