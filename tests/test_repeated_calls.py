"""A second call of `fit`, `evaluate` or `predict` costs what a call costs, and leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import keras
import pytest

from tests.helpers.data import numbers, rows_of
from tests.helpers.models import compiled
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


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "XLA"])
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


SCRIPT = """
import gc, json, os, sys, threading, time
import keras, numpy as np, psutil, tensorflow as tf
from trainer import CustomTrainer

model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)])
trainer = CustomTrainer(model, optimizer="adam", loss="mse", jit_compile=False)
x, y = np.ones((16, 8), "float32"), np.ones((16, 1), "float32")
process = psutil.Process()

def state():
    deadline = time.monotonic() + 5  # threads that end an iterator take a moment
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    gc.collect()
    return {"mib": process.memory_info().rss / 2**20, "threads": process.num_threads(),
            "python_threads": threading.active_count()}

CALLS = {
    "predict": (lambda: trainer.predict(x, verbose=0), 1000),
    "fit": (lambda: trainer.fit(x, y, verbose=0), 300),
    "evaluate": (lambda: trainer.evaluate(x, y, verbose=0), 300),
    "predict tf.data": (lambda: trainer.predict(data, verbose=0), 300),
}
data = tf.data.Dataset.from_tensor_slices(x).batch(16)
found = {}
for name, (call, times) in CALLS.items():
    for _ in range(200):
        call()
    before = state()
    for _ in range(times):
        call()
    found[name] = [before, state()]
print(json.dumps(found))
"""


def test_calls_leave_neither_memory_nor_threads():
    pytest.importorskip("psutil")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for name, (before, after) in json.loads(done.stdout.splitlines()[-1]).items():
        told = f"{name}: {before} -> {after}"
        assert after["mib"] - before["mib"] < 4, told
        assert after["threads"] - before["threads"] <= 2, told
        assert after["python_threads"] == 1, told
