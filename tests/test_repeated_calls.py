"""A second call of `fit`, `evaluate` or `predict` costs what a call costs, and leaves nothing."""

from __future__ import annotations

import gc
import json
import threading
from typing import Any

import keras
import psutil
import pytest
import tensorflow as tf

from tests.helpers import processes
from tests.helpers.data import numbers, rows_of
from tests.helpers.feeds import eventually
from tests.helpers.models import compiled
from tests.helpers.tables import each, names_of
from tests.helpers.ways import as_arrays, as_dataset, as_dataset_of_unknown_length, as_py_dataset
from trainer import CustomTrainer

DATA = (numbers(50, 4), numbers(50, 1, seed=1))


@keras.saving.register_keras_serializable("tests")
class CountsCalls(keras.layers.Dense):
    """Counts how often Python calls it: once for each trace."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.calls = 0

    def call(self, inputs):
        self.calls += 1
        return super().call(inputs)


def counted(**settings: Any) -> tuple[CustomTrainer, CountsCalls]:
    layer = CountsCalls(1)
    model = compiled(keras.Sequential([keras.Input((4,)), layer]), "adam", **settings)
    return CustomTrainer(model), layer


GIVE = {
    "arrays": as_arrays,
    "tf.data": as_dataset,
    "tf.data of unknown length": as_dataset_of_unknown_length,
    "PyDataset": as_py_dataset,
}


def call_all(trainer: CustomTrainer, give: Any, data: tuple) -> None:
    trainer.fit(**give(data), epochs=2, validation_data=rows_of(data, 0, 20), verbose=0)
    trainer.evaluate(**give(data), verbose=0)
    trainer.predict(**give(data[:1]), verbose=0)


@pytest.mark.parametrize(
    ("give", "budget"),
    [(as_arrays, 0), *((give, None) for give in GIVE.values())],
    ids=["streamed arrays", *GIVE],
)
def test_a_second_call_traces_nothing(give, budget):
    trainer, layer = counted()
    trainer.array_budget = budget
    call_all(trainer, give, DATA)
    before = layer.calls
    for _ in range(2):
        call_all(trainer, give, DATA)
    assert layer.calls == before


@pytest.mark.parametrize("jit_compile", **each({"graph": False, "XLA": True}, ["graph"]))
def test_other_numbers_of_rows_need_few_traces(jit_compile):
    trainer, layer = counted(jit_compile=jit_compile)

    def fit_and_evaluate(rows: int) -> None:
        some = as_arrays(rows_of(DATA, 0, rows))
        trainer.fit(**some, verbose=0)
        trainer.evaluate(**some, verbose=0)

    for rows in (50, 48, 7):  # with an odd last batch, without one, and less than a batch
        fit_and_evaluate(rows)
    known = layer.calls
    for rows in (49, 16, 20, 5, 50, 32):
        fit_and_evaluate(rows)
    assert layer.calls <= known + 2, "numbers of rows are traced anew"


def test_alternating_calls_trace_nothing_new():
    trainer, layer = counted()
    call_all(trainer, as_arrays, DATA)
    call_all(trainer, as_dataset, DATA)
    before = layer.calls
    for give in (as_arrays, as_dataset) * 3:
        call_all(trainer, give, DATA)
    assert layer.calls == before


TIMES = {"predict": 1000, "fit": 300, "evaluate": 300, "predict tf.data": 300}


def repeat_call(name: str) -> None:
    """Prints the memory and the threads of this process before and after many calls."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    trainer = CustomTrainer(model, optimizer="adam", loss="mse", jit_compile=False)
    x, y = numbers(16, 8), numbers(16, 1)
    dataset = tf.data.Dataset.from_tensor_slices(x).batch(16)
    call = {
        "predict": lambda: trainer.predict(x, verbose=0),
        "fit": lambda: trainer.fit(x, y, verbose=0),
        "evaluate": lambda: trainer.evaluate(x, y, verbose=0),
        "predict tf.data": lambda: trainer.predict(dataset, verbose=0),
    }[name]
    for _ in range(200):
        call()
    before = resources()
    for _ in range(TIMES[name]):
        call()
    print(json.dumps([before, resources()]))


def resources() -> dict[str, float]:
    eventually(lambda: threading.active_count() == 1)  # threads that end an iterator take a moment
    gc.collect()
    process = psutil.Process()
    return {
        "mib": process.memory_info().rss / 2**20,
        "threads": process.num_threads(),
        "python_threads": threading.active_count(),
    }


@pytest.mark.parametrize("name", names_of(TIMES, ("fit", "predict")))
def test_calls_leave_neither_memory_nor_threads(name):
    before, after = json.loads(processes.run(repeat_call, name).splitlines()[-1])
    assert after["mib"] - before["mib"] < 4, (before, after)
    assert after["threads"] - before["threads"] <= 2, (before, after)
    assert after["python_threads"] == 1, (before, after)
