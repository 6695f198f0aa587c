"""Small models and data, ways of giving data, and what the tests compare bit by bit."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer import CustomTrainer

BATCH = 16
ROWS = 50  # three batches and an odd one


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns the same normally distributed float32 numbers each time."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class Slices(keras.utils.PyDataset):
    """Batches cut out of arrays in their order; of one array they are no tuples."""

    def __init__(self, *arrays: np.ndarray, batch_size: int):
        super().__init__()
        self.arrays, self.batch_size = arrays, batch_size

    def __len__(self):
        return -(-len(self.arrays[0]) // self.batch_size)

    def __getitem__(self, number):
        rows = slice(number * self.batch_size, (number + 1) * self.batch_size)
        batch = tuple(array[rows] for array in self.arrays)
        return batch if len(batch) > 1 else batch[0]


def labels(*shape: int, classes: int = 3) -> np.ndarray:
    """Returns the same class numbers each time."""
    return np.random.default_rng(1).integers(0, classes, shape)


def rows_of(data: Any, start: int | None = None, stop: int | None = None) -> Any:
    """Returns some rows of a structure of arrays."""
    return keras.tree.map_structure(lambda array: array[start:stop], data)


def two_like_batches(data: Any) -> Any:
    """Returns the first batch twice: Keras gives those it looked at to each validation again."""
    return keras.tree.map_structure(lambda array: np.concatenate([array[:BATCH]] * 2), data)


def mlp(*layers: keras.Layer, outputs: int = 1, activation: str | None = None) -> keras.Model:
    """Returns a dense model on rows of four numbers, with `layers` before the last one."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh"),
            *layers,
            keras.layers.Dense(outputs, activation=activation),
        ]
    )


def compiled(
    model: keras.Model, optimizer: Any = "sgd", loss: Any = "mse", **settings: Any
) -> keras.Model:
    """Returns `model`, compiled without XLA."""
    model.compile(optimizer, loss, **{"metrics": ["mae"], "jit_compile": False, **settings})
    return model


def seeded(build: Callable[[], keras.Model]) -> keras.Model:
    """Returns what `build` makes: the same weights, seeds and names each time."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(7)
    return build()


@contextlib.contextmanager
def dtype_policy(name: str) -> Iterator[None]:
    """Makes models created in it have the dtype policy `name`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


class Twins:
    """Two models of the same bits: one to train under Keras, one under a trainer."""

    def __init__(self, build: Callable[[], keras.Model]):
        self.theirs, self.ours = seeded(build), seeded(build)
        self.trainer = CustomTrainer(self.ours)


def untrained(build: Callable[[], keras.Model]) -> Twins:
    """Returns twins, the same for all tests of a process, so that their steps are compiled once.

    Args:
        build: makes a compiled model whose weights exist at once; a function of a module.
    """
    twins, values = twins_and_values(build)
    twins.theirs.reset_metrics()
    twins.ours.reset_metrics()
    for variable, value in values:
        variable.assign(value)
    return twins


@functools.cache
def twins_and_values(build: Callable[[], keras.Model]) -> tuple[Twins, list[tuple]]:
    twins = Twins(build)
    for model in (twins.theirs, twins.ours):
        model.optimizer.build(model.trainable_variables)
    variables = [*variables_of(twins.theirs), *variables_of(twins.ours)]
    return twins, [(variable, variable.numpy()) for variable in variables]


def variables_of(model: keras.Model) -> list[keras.Variable]:
    """Returns the weights, the states of random seeds and the optimizer's variables."""
    return [*model.variables, *(model.optimizer.variables if model.optimizer is not None else [])]


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the values of `variables_of` by a name of their own."""
    return {f"{number}:{v.path}": v.numpy() for number, v in enumerate(variables_of(model))}


def assert_same(ours: Any, theirs: Any, at: str = "result") -> None:
    """Asserts that two values agree in types, order of keys and every bit."""
    assert type(ours) is type(theirs), f"{at}: {type(ours)} where Keras has {type(theirs)}"
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), at
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{at}[{key!r}]")
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), f"{at}: {ours} where Keras has {theirs}"
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(our, their, f"{at}[{number}]")
    elif isinstance(theirs, tf.RaggedTensor):
        assert_same(ours.flat_values, theirs.flat_values, f"{at}.flat_values")
        assert_same(ours.nested_row_splits, theirs.nested_row_splits, f"{at}.row_splits")
    elif isinstance(theirs, tf.SparseTensor):
        for part in ("indices", "values", "dense_shape"):
            assert_same(getattr(ours, part), getattr(theirs, part), f"{at}.{part}")
    elif isinstance(theirs, (float, np.ndarray, np.generic, tf.Tensor)):
        _assert_same_array(np.asarray(ours), np.asarray(theirs), at)
    else:
        assert ours == theirs, at


def _assert_same_array(ours: np.ndarray, theirs: np.ndarray, at: str) -> None:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), at
    if ours.tobytes() != theirs.tobytes():
        pytest.fail(f"{at}: ours is\n{ours}\nwhere Keras has\n{theirs}")


def assert_same_training(ours: keras.Model, theirs: keras.Model, at: str = "") -> None:
    """Asserts that two models have the same history and weights."""
    for part in ("history", "epoch", "params"):
        assert_same(getattr(ours.history, part), getattr(theirs.history, part), f"{at}{part}")
    assert_same(weights_of(ours), weights_of(theirs), f"{at}weights")


class Batches(keras.utils.PyDataset):
    """Batches of arrays, `data` being (x,), (x, y) or (x, y, sample_weight)."""

    def __init__(self, data: tuple, **workers: Any):
        super().__init__(**workers)
        self._data = data

    def __len__(self) -> int:
        return -(-len(keras.tree.flatten(self._data)[0]) // BATCH)

    def __getitem__(self, number: int) -> tuple:
        return rows_of(self._data, number * BATCH, (number + 1) * BATCH)


def batches_of(data: tuple) -> list[tuple]:
    """Returns `data` cut into batches."""
    dataset = Batches(data)
    return [dataset[number] for number in range(len(dataset))]


Give = Callable[[tuple], dict[str, Any]]  # makes arguments of (x,), (x, y) or (x, y, weights)


class Way(NamedTuple):
    """A way of giving data to `fit`, `evaluate` or `predict`.

    Attributes:
        give: makes what is given as `x`, `y`, ...
        needs_steps: whether steps must be told, for the data never end.
        lives_once: whether the data can be gone through only once.
        ends_unannounced: whether only asking for a batch tells that there is none. There
            `model.fit` counts a step in `optimizer.iterations` more, if a thread is quick enough.
    """

    give: Give
    needs_steps: bool = False
    lives_once: bool = False
    ends_unannounced: bool = False


def as_arrays(data: tuple) -> dict[str, Any]:
    names = ("x", "y", "sample_weight")
    return {**dict(zip(names, data, strict=False)), "batch_size": BATCH}


def as_tensors(data: tuple) -> dict[str, Any]:
    return as_arrays(keras.tree.map_structure(tf.convert_to_tensor, data))


def dataset_of(data: tuple) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(keras.tree.lists_to_tuples(data)).batch(BATCH)


def as_dataset(data: tuple) -> dict[str, Any]:
    return {"x": dataset_of(data)}


def as_dataset_of_unknown_length(data: tuple) -> dict[str, Any]:
    return {"x": dataset_of(data).filter(lambda *_: True)}


def as_infinite_dataset(data: tuple) -> dict[str, Any]:
    return {"x": dataset_of(data).repeat()}


def as_generator(data: tuple) -> dict[str, Any]:
    return {"x": (batch for batch in batches_of(data))}


def as_infinite_generator(data: tuple) -> dict[str, Any]:
    return {"x": (batch for _ in itertools.count() for batch in batches_of(data))}


def as_py_dataset(data: tuple) -> dict[str, Any]:
    return {"x": Batches(data)}


def as_py_dataset_of_two_workers(data: tuple) -> dict[str, Any]:
    return {"x": Batches(data, workers=2)}


def as_torch_loader(data: tuple) -> dict[str, Any]:
    torch = pytest.importorskip("torch", reason="torch comes with the extra `conformance`")
    parts = torch.utils.data.TensorDataset(*map(torch.as_tensor, data))
    return {"x": torch.utils.data.DataLoader(parts, batch_size=BATCH)}


def as_grain_dataset(data: tuple) -> dict[str, Any]:
    grain = pytest.importorskip("grain", reason="grain comes with the extra `conformance`")
    rows = list(zip(*data, strict=True))
    return {"x": grain.MapDataset.source(rows).batch(BATCH)}


def as_grain_stream(data: tuple) -> dict[str, Any]:
    grain = pytest.importorskip("grain", reason="grain comes with the extra `conformance`")
    rows = list(zip(*data, strict=True))
    return {"x": grain.MapDataset.source(rows).to_iter_dataset().batch(BATCH)}


WAYS = {
    "arrays": Way(as_arrays),
    "tensors": Way(as_tensors),
    "tf.data": Way(as_dataset),
    "tf.data of unknown length": Way(as_dataset_of_unknown_length, ends_unannounced=True),
    "infinite tf.data": Way(as_infinite_dataset, needs_steps=True),
    "generator": Way(as_generator, lives_once=True, ends_unannounced=True),
    "infinite generator": Way(as_infinite_generator, needs_steps=True),
    "PyDataset": Way(as_py_dataset),
    "PyDataset of two workers": Way(as_py_dataset_of_two_workers),
    "torch DataLoader": Way(as_torch_loader),
    "grain MapDataset": Way(as_grain_dataset, ends_unannounced=True),
    "grain IterDataset": Way(as_grain_stream, ends_unannounced=True),
}


def each(table: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments that make `pytest.mark.parametrize` go through a table by name."""
    return {"argvalues": list(table.values()), "ids": list(table)}


def as_validation(given: dict[str, Any]) -> dict[str, Any]:
    """Returns what a way gives for `fit` as validation data instead."""
    if "y" not in given:
        return {"validation_data": given["x"]}
    parts = tuple(value for key, value in given.items() if key != "batch_size")
    return {"validation_data": parts}
