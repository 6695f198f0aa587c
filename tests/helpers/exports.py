"""All that Keras exports to train with: how to make each, data for it, and what is left out."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tests.helpers.data import labels, numbers

layers = keras.layers
losses = keras.losses
metrics = keras.metrics
optimizers = keras.optimizers
SGD = optimizers.SGD

ROWS = 10  # three batches of 4, the last one odd


def exported(module: types.ModuleType, *, functions: bool = False) -> list[str]:
    """Returns the names of the classes that `module` exports, the first of several for one.

    Args:
        module: the module.
        functions: whether its functions are included, but for those that get and serialize.
    """
    by_identity: dict[int, str] = {}
    for name, value in sorted(vars(module).items()):
        is_function = inspect.isfunction(value) and name not in ("deserialize", "get", "serialize")
        if inspect.isclass(value) or (functions and is_function):
            by_identity.setdefault(id(value), name)
    return list(by_identity.values())


# Optimizers and schedules


def _first_and_others() -> optimizers.Optimizer:
    return optimizers.MultiOptimizer(
        optimizers.OptimizerMap(SGD(0.1), {".*/kernel": optimizers.Adam(0.01)})
    )


OPTIMIZERS: dict[str, Callable[[], keras.Optimizer]] = {
    "LossScaleOptimizer": lambda: optimizers.LossScaleOptimizer(SGD(), 4.0, dynamic_growth_steps=2),
    "MultiOptimizer": _first_and_others,
}
NO_OPTIMIZERS = {
    "Optimizer": "abstract",
    "OptimizerMap": "a part of MultiOptimizer",
}
SCHEDULES: dict[str, Callable[[], Any]] = {
    "CosineDecay": lambda: optimizers.schedules.CosineDecay(0.1, 4, warmup_target=0.2),
    "CosineDecayRestarts": lambda: optimizers.schedules.CosineDecayRestarts(0.1, 2),
    "ExponentialDecay": lambda: optimizers.schedules.ExponentialDecay(0.1, 2, 0.5),
    "InverseTimeDecay": lambda: optimizers.schedules.InverseTimeDecay(0.1, 2, 0.5),
    "PiecewiseConstantDecay": lambda: optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.01]),
    "PolynomialDecay": lambda: optimizers.schedules.PolynomialDecay(0.1, 3),
}
NO_SCHEDULES = {"LearningRateSchedule": "abstract"}


# Callbacks: each is given the model; paths are in the working directory.

callbacks = keras.callbacks
CALLBACKS: dict[str, Callable[[keras.Model], keras.callbacks.Callback]] = {
    "BackupAndRestore": lambda _: callbacks.BackupAndRestore("backup"),
    "CSVLogger": lambda _: callbacks.CSVLogger("log.csv"),
    "CallbackList": lambda model: callbacks.CallbackList(
        [callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=100.0)],
        add_history=True,
        model=model,
        epochs=3,
        steps=3,
        verbose=0,
    ),
    "EarlyStopping": lambda _: callbacks.EarlyStopping(
        "loss", min_delta=100.0, patience=1, restore_best_weights=True
    ),
    "LambdaCallback": lambda model: callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: setattr(
            model.optimizer, "learning_rate", 0.1 * logs["loss"]
        )
    ),
    "LearningRateScheduler": lambda _: callbacks.LearningRateScheduler(lambda _, rate: rate / 2),
    "ModelCheckpoint": lambda _: callbacks.ModelCheckpoint("model.keras", save_freq=2),
    "OrbaxCheckpoint": lambda _: callbacks.OrbaxCheckpoint(Path.cwd() / "orbax", save_freq=2),
    "ReduceLROnPlateau": lambda _: callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=100.0),
    "RemoteMonitor": lambda _: callbacks.RemoteMonitor("http://127.0.0.1:9"),  # nobody listens
    "SwapEMAWeights": lambda _: callbacks.SwapEMAWeights(swap_on_epoch=True),
}
LIBRARIES = {"OrbaxCheckpoint": "orbax.checkpoint", "RemoteMonitor": "requests"}


# Losses and metrics


class Pairs(NamedTuple):
    """What a loss or a metric compares.

    Attributes:
        what: the targets, in words.
        y: the targets.
        outputs: numbers that the model returns for each row.
        activation: of the last layer.
    """

    what: str
    y: np.ndarray
    outputs: int | tuple[int, ...] = 3
    activation: str = "softmax"


ONE_HOT = Pairs("one-hot rows", keras.utils.to_categorical(labels(ROWS), 3))
CLASSES = Pairs("class numbers", labels(ROWS))
ANY_SIGN = Pairs("signs", np.sign(numbers(ROWS, 3)), activation="tanh")
NUMBERS = Pairs("positive numbers", np.abs(numbers(ROWS, 3, seed=1)), activation="softplus")
PIXELS = Pairs("class numbers of pixels", labels(ROWS, 1), 1, "sigmoid")
PAIRS = {
    "CTC": Pairs("words", 1 + labels(ROWS, 2), (6, 4), "linear"),
    "CategoricalGeneralizedCrossEntropy": CLASSES,
    "CategoricalHinge": ONE_HOT,
    "Circle": CLASSES,
    "Hinge": ANY_SIGN,
    "KLDivergence": ONE_HOT,
    "Poisson": NUMBERS,
    "SparseCategoricalCrossentropy": CLASSES,
    "SquaredHinge": ANY_SIGN,
    "SparseCategoricalAccuracy": CLASSES,
    "SparseTopKCategoricalAccuracy": CLASSES,
    "IoU": PIXELS,
    "MeanIoU": PIXELS,
}
MEAN_ERRORS = ("Absolute", "AbsolutePercentage", "Squared", "SquaredLogarithmic")
PAIRS |= {f"Mean{kind}Error": NUMBERS for kind in MEAN_ERRORS}


def pairs_of(name: str) -> Pairs:
    """Returns what the loss or metric of a name, a class or a function, compares."""
    by_lower_case = {known.lower(): pairs for known, pairs in PAIRS.items()}
    return by_lower_case.get(name.replace("_", "").lower(), ONE_HOT)


LOSSES: dict[str, Callable[[], Any]] = {
    "categorical_generalized_cross_entropy": lambda: _generalized_cross_entropy
}
NO_LOSSES = {"Loss": "abstract"}


def _generalized_cross_entropy(y_true, y_pred):
    return losses.categorical_generalized_cross_entropy(y_true, y_pred, q=0.5)


class MeanOfOutputs(metrics.Mean):
    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_pred, sample_weight)


class SumOfOutputs(metrics.Sum):
    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_pred, sample_weight)


METRICS: dict[str, Callable[[], Any]] = {
    "IoU": lambda: metrics.IoU(3, [0, 1]),
    "Mean": MeanOfOutputs,
    "MeanIoU": lambda: metrics.MeanIoU(3),
    "MeanMetricWrapper": lambda: metrics.MeanMetricWrapper(losses.mean_absolute_error),
    "OneHotIoU": lambda: metrics.OneHotIoU(3, [0, 1]),
    "OneHotMeanIoU": lambda: metrics.OneHotMeanIoU(3),
    "PrecisionAtRecall": lambda: metrics.PrecisionAtRecall(0.5),
    "RecallAtPrecision": lambda: metrics.RecallAtPrecision(0.5),
    "SensitivityAtSpecificity": lambda: metrics.SensitivityAtSpecificity(0.5),
    "SpecificityAtSensitivity": lambda: metrics.SpecificityAtSensitivity(0.5),
    "Sum": SumOfOutputs,
}
NO_METRICS = {"Metric": "abstract"}


# Layers


class Use(NamedTuple):
    """How a model uses a layer.

    Attributes:
        make: makes the layer.
        x: an array, or a list of arrays, that the layer is given.
        call: calls the layer on the inputs.
    """

    make: Callable[[], keras.Layer]
    x: Any
    call: Callable[[keras.Layer, Any], Any] = lambda layer, inputs: layer(inputs)


ARGUMENTS = {  # of layers that have to be given some
    **dict.fromkeys(("units", "filters", "kernel_size", "pool_size", "output_size", "n"), 2),
    **dict.fromkeys(("height", "width"), 5),
    **dict.fromkeys(("rate", "stddev", "factor", "height_factor", "width_factor", "scale"), 0.3),
    **{"activation": "tanh", "axes": 1, "num_bins": 4, "input_dim": 3, "output_dim": 2},
}
ROW, SEQUENCE = numbers(ROWS, 4), numbers(ROWS, 6, 3)
IMAGES = np.clip(128 + 60 * numbers(ROWS, 8, 8, 3), 0, 255).astype("float32")
IMAGES_TO_ONE = IMAGES / 255
VOLUMES = numbers(ROWS, 4, 4, 4, 2)
FRAMES = {"1D": SEQUENCE[:, None], "2D": IMAGES_TO_ONE[:, None], "3D": VOLUMES[:, None]}
CLASS_NUMBERS = labels(ROWS, 4)
WAVES = numbers(ROWS, 64)
WORDS = tf.gather(["a", "b", "c"], CLASS_NUMBERS)
TWO_SEQUENCES = [SEQUENCE, numbers(ROWS, 6, 3, seed=1)]
TWO_ROWS = [ROW, numbers(ROWS, 4, seed=1)]


def _in_rnn(cell: Callable[[], Any]) -> Use:
    return Use(lambda: layers.RNN(cell()), SEQUENCE)


def _on_itself(make: Callable[[], keras.Layer]) -> Use:
    return Use(make, SEQUENCE, lambda layer, inputs: layer(inputs, inputs))


def _attention_of_groups() -> keras.Layer:
    return layers.GroupQueryAttention(head_dim=2, num_query_heads=2, num_key_value_heads=1)


def _saved_model() -> keras.Layer:
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    inner.export("saved", verbose=False)
    return layers.TFSMLayer("saved", trainable=False)


def _jax_layer() -> keras.Layer:
    return layers.JaxLayer(lambda params, inputs: inputs @ params, params=numbers(4, 2, seed=1))


def _flax_layer() -> keras.Layer:
    from flax import linen

    return layers.FlaxLayer(linen.Dense(2))


def _torch_layer() -> keras.Layer:
    import torch

    return layers.TorchModuleWrapper(torch.nn.Linear(4, 2))


def _boxes(layer: keras.Layer, inputs: list[Any]) -> Any:
    return layer({"images": inputs[0], "bounding_boxes": {"boxes": inputs[1], "labels": inputs[2]}})


LAYERS: dict[str, Use] = {
    **{name: Use(getattr(layers, name), TWO_ROWS) for name in ("Add", "Average", "Concatenate")},
    **{name: Use(getattr(layers, name), TWO_ROWS) for name in ("Maximum", "Minimum", "Multiply")},
    **{name: Use(getattr(layers, name), TWO_SEQUENCES) for name in ("Attention", "Subtract")},
    "AdditiveAttention": Use(layers.AdditiveAttention, TWO_SEQUENCES),
    "Bidirectional": Use(lambda: layers.Bidirectional(layers.LSTM(2)), SEQUENCE),
    "CategoryEncoding": Use(lambda: layers.CategoryEncoding(3), CLASS_NUMBERS),
    **{
        f"ConvLSTM{kind}": Use(lambda kind=kind: getattr(layers, f"ConvLSTM{kind}")(2, 2), frames)
        for kind, frames in FRAMES.items()
    },
    "Discretization": Use(lambda: layers.Discretization([-0.5, 0.5]), ROW),
    "Dot": Use(lambda: layers.Dot(1), TWO_ROWS),
    "EinsumDense": Use(lambda: layers.EinsumDense("ab,bc->ac", 3), ROW),
    "Embedding": Use(lambda: layers.Embedding(3, 2), CLASS_NUMBERS),
    "FlaxLayer": Use(_flax_layer, ROW),
    "GRU": Use(lambda: layers.GRU(2), SEQUENCE),
    "GRUCell": _in_rnn(lambda: layers.GRUCell(2)),
    "GroupNormalization": Use(lambda: layers.GroupNormalization(2), ROW),
    "GroupQueryAttention": _on_itself(_attention_of_groups),
    "HashedCrossing": Use(
        lambda: layers.HashedCrossing(4),
        [CLASS_NUMBERS[:, :1], CLASS_NUMBERS[:, 1:2]],
        lambda layer, inputs: layer(tuple(inputs)),
    ),
    "Hashing": Use(lambda: layers.Hashing(4), WORDS),
    "InputLayer": Use(lambda: layers.InputLayer((4,)), ROW),
    "IntegerLookup": Use(lambda: layers.IntegerLookup(vocabulary=[0, 2]), CLASS_NUMBERS),
    "JaxLayer": Use(_jax_layer, ROW),
    "LSTM": Use(lambda: layers.LSTM(2), SEQUENCE),
    "LSTMCell": _in_rnn(lambda: layers.LSTMCell(2)),
    "Lambda": Use(lambda: layers.Lambda(lambda x: 2 * x), ROW),
    "MaxNumBoundingBoxes": Use(
        lambda: layers.MaxNumBoundingBoxes(2, bounding_box_format="xyxy"),
        [IMAGES, np.abs(numbers(ROWS, 3, 4)), labels(ROWS, 3).astype("float32")],
        _boxes,
    ),
    "MelSpectrogram": Use(
        lambda: layers.MelSpectrogram(fft_length=32, sequence_stride=16, num_mel_bins=4), WAVES
    ),
    "MultiHeadAttention": _on_itself(lambda: layers.MultiHeadAttention(2, 2)),
    "Normalization": Use(lambda: layers.Normalization(mean=0.5, variance=2.0), ROW),
    "Permute": Use(lambda: layers.Permute((2, 1)), SEQUENCE),
    "Pipeline": Use(
        lambda: layers.Pipeline([layers.RandomFlip(), layers.Rescaling(1 / 255)]), IMAGES
    ),
    "RNN": _in_rnn(lambda: layers.SimpleRNNCell(2)),
    "RandomPosterization": Use(lambda: layers.RandomPosterization(4), IMAGES),
    "RepeatVector": Use(lambda: layers.RepeatVector(2), ROW),
    "Reshape": Use(lambda: layers.Reshape((2, 2)), ROW),
    "ReversibleEmbedding": Use(
        lambda: layers.ReversibleEmbedding(3, 2),
        CLASS_NUMBERS,
        lambda layer, inputs: layer(layer(inputs), reverse=True),
    ),
    "STFTSpectrogram": Use(
        lambda: layers.STFTSpectrogram(frame_length=16, frame_step=8, fft_length=16),
        WAVES[..., None],
    ),
    "SimpleRNN": Use(lambda: layers.SimpleRNN(2), SEQUENCE),
    "SimpleRNNCell": _in_rnn(lambda: layers.SimpleRNNCell(2)),
    "SpectralNormalization": Use(lambda: layers.SpectralNormalization(layers.Dense(2)), ROW),
    "StackedRNNCells": _in_rnn(
        lambda: layers.StackedRNNCells([layers.GRUCell(2), layers.LSTMCell(2)])
    ),
    "StringLookup": Use(lambda: layers.StringLookup(vocabulary=["a", "b"]), WORDS),
    "TFSMLayer": Use(_saved_model, ROW),
    "TextVectorization": Use(
        lambda: layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3),
        tf.strings.reduce_join(WORDS, axis=1, separator=" "),
    ),
    "TimeDistributed": Use(lambda: layers.TimeDistributed(layers.Dense(2)), SEQUENCE),
    "TorchModuleWrapper": Use(_torch_layer, ROW),
    "Wrapper": Use(lambda: layers.Wrapper(layers.Dense(2)), ROW),
}
NO_LAYERS = {
    "FlaxLayer": "needs Flax, which no extra of the project installs",
    "InputLayer": "is called by no model: it stands for an input, as in all models here",
    "InputSpec": "describes inputs",
    "Layer": "abstract",
    "TorchModuleWrapper": "needs the backend torch",
    "Wrapper": "abstract",
}
# These train the same where Python's generator gives the same; how often a step is traced, and with
# it how far that generator is, differs.
DRAWN_WHEN_TRACED = {"AugMix": "takes its transformations from Python's `random` when it is traced"}
ALONE = {*DRAWN_WHEN_TRACED, "JaxLayer"}  # in a model; the others share one
IMAGE_LAYERS = (
    *("Aug", "Auto", "Center", "Contrast", "Cut"),
    *("Equal", "Mix", "Rand", "Resiz", "Solar"),
)


def use_of(name: str) -> Use:
    """Returns how a model uses the layer of a name; those not in `LAYERS` by their arguments."""
    if name in LAYERS:
        return LAYERS[name]
    kind = getattr(layers, name)
    required = [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    arguments = {parameter: ARGUMENTS[parameter] for parameter in required}
    shapes = {"1D": SEQUENCE, "2D": IMAGES_TO_ONE, "3D": VOLUMES}
    x = next((array for end, array in shapes.items() if end in name), ROW)
    return Use(lambda: kind(**arguments), IMAGES if name.startswith(IMAGE_LAYERS) else x)
