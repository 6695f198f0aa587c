"""Ctrl-C leaves the model with the weights of the last whole step."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import numbers
from tests.helpers.models import compiled, mlp, seeded
from tests.helpers.processes import Process
from trainer import CustomTrainer


def interrupt_and_compare(group: int) -> None:
    """Trains until Ctrl-C, then for as many steps without; prints how the two compare."""

    def trainer() -> CustomTrainer:
        network = seeded(lambda: mlp(keras.layers.BatchNormalization()))
        return CustomTrainer(compiled(network, "adam", steps_per_execution=group), seed=1)

    class Reports(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                print("training", flush=True)

    class Stops(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = int(self.model.optimizer.iterations) >= steps

    data = {"x": numbers(3200, 4), "y": numbers(3200, 1, seed=1), "verbose": 0}
    interrupted = trainer()
    fit_until_interrupted(interrupted, **data, epochs=100_000, callbacks=[Reports()])
    steps = int(interrupted.optimizer.iterations)
    epochs, rest = divmod(steps, 100)
    whole = trainer()
    whole.fit(**data, epochs=epochs)
    if rest:
        whole.fit(**data, epochs=1, callbacks=[Stops()])
    weights = interrupted.model.get_weights()
    is_same = all(map(np.array_equal, weights, whole.model.get_weights()))
    counted = interrupted.step
    history = interrupted.fit(**data, epochs=1).history
    print(steps, steps - counted, is_same, np.isfinite(history["loss"][0]))


def fit_until_interrupted(trainer: CustomTrainer, **arguments: Any) -> None:
    # A shell that starts the tests in its background has made them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(**arguments)


@pytest.mark.parametrize("group", [1, pytest.param(5, marks=pytest.mark.processes)])
def test_ctrl_c_keeps_whole_steps(group):
    process = Process(interrupt_and_compare, group)
    process.wait_for("training")
    process.send_signal(signal.SIGINT)
    ended = process.wait()
    assert ended.code == 0, ended.printed
    steps, uncounted, is_same, can_resume = ended.printed.split()
    assert int(steps) > 100
    assert int(uncounted) in (0, group)
    assert is_same == can_resume == "True"


class ReportsLongGroups(keras.callbacks.Callback):
    """Prints the length of the longest group once there were twenty that are long."""

    batch_hooks = "show"

    def on_epoch_begin(self, epoch, logs=None):
        self.last, self.lengths = 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.lengths.append(batch - self.last)
        self.last = batch
        long = sum(length > 100 for length in self.lengths)
        if long == 20 and self.lengths[-1] > 100:
            print(max(self.lengths), flush=True)


ROWS = 6_000_000


def arrays() -> dict[str, Any]:
    return {"x": numbers(ROWS, 2), "y": numbers(ROWS, 1), "batch_size": 1, "shuffle": False}


def dataset() -> dict[str, Any]:
    batch = (numbers(1, 2), numbers(1, 1))
    return {"x": tf.data.Dataset.from_tensors(batch).repeat(), "steps_per_epoch": 10**8}


def answer_interrupts(give: Callable[[], dict[str, Any]]) -> None:
    """Prints when an epoch of long groups was left by Ctrl-C, and its steps, three times."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    trainer = CustomTrainer(model, optimizer="sgd", loss="mse", jit_compile=False)
    data = give()
    for _ in range(3):
        fit_until_interrupted(trainer, **data, verbose=0, callbacks=[ReportsLongGroups()])
        print(time.time(), trainer.step, int(trainer.optimizer.iterations), flush=True)


@pytest.mark.processes
@pytest.mark.parametrize("give", [arrays, dataset])
def test_ctrl_c_is_answered_soon(give):
    """Groups are long by then, but not in seconds."""
    process = Process(answer_interrupts, give)

    def seconds_to_answer() -> float:
        longest = int(process.read_line())
        sent = time.time()
        process.send_signal(signal.SIGINT)
        answered, step, iterations = process.read_line().split()
        assert int(step) == int(iterations) > longest > 100
        return float(answered) - sent

    try:
        seconds = [seconds_to_answer()]
        while seconds[-1] >= 0.5 and len(seconds) < 3:  # on a busy machine
            seconds.append(seconds_to_answer())
    finally:
        process.kill()
        process.wait()
    assert seconds[-1] < 0.5, seconds
