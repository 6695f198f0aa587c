"""Ctrl-C leaves the model with the weights of the last whole step."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.data import numbers
from tests.helpers.models import compiled, dense, mlp, seeded
from tests.helpers.processes import Process
from trainer import CustomTrainer
from trainer.program import Program


def reporting_loss(optimizer: keras.Optimizer, at: Any) -> Callable:
    """Returns the mean squared error, which prints "ready" in the graph, at step `at`."""

    def loss(y, y_pred):
        is_due = tf.equal(optimizer.iterations.value, tf.cast(at, optimizer.iterations.dtype))
        tf.cond(is_due, lambda: tf.print("ready"), tf.no_op)
        return keras.losses.mean_squared_error(y, y_pred)

    return loss


def fit_until_interrupted(trainer: CustomTrainer, **arguments: Any) -> None:
    # A shell that starts the tests in its background has made them ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(**arguments)


ROWS, STEPS = 3200, 800  # of an epoch
READY = 6 * STEPS + 300  # groups are long by then


def interrupt_and_compare(group: int) -> None:
    """Trains until Ctrl-C, then for as many steps without; prints how the two compare."""

    def trainer() -> CustomTrainer:
        optimizer = keras.optimizers.Adam()
        network = seeded(lambda: mlp(keras.layers.BatchNormalization()))
        loss = reporting_loss(optimizer, READY)
        return CustomTrainer(compiled(network, optimizer, loss, steps_per_execution=group), seed=1)

    data = {"x": numbers(ROWS, 4), "y": numbers(ROWS, 1, seed=1)}
    data |= {"batch_size": ROWS // STEPS, "verbose": 0}
    interrupted = trainer()
    fit_until_interrupted(interrupted, **data, epochs=100_000)
    steps, counted = int(interrupted.optimizer.iterations), interrupted.step
    epochs, rest = divmod(steps, STEPS)
    whole = trainer()
    whole.fit(**data, epochs=epochs)
    if rest:
        whole.fit(**data, epochs=1, steps_per_epoch=rest)
    weights = interrupted.model.get_weights()
    is_same = all(map(np.array_equal, weights, whole.model.get_weights()))
    history = interrupted.fit(**data, epochs=1).history
    print(steps, steps - counted, is_same, np.isfinite(history["loss"][0]))


@pytest.mark.parametrize("group", [1, pytest.param(5, marks=pytest.mark.processes)])
def test_ctrl_c_keeps_whole_steps(group):
    process = Process(interrupt_and_compare, group)
    process.wait_for("ready")
    process.send_signal(signal.SIGINT)
    ended = process.wait()
    assert ended.code == 0, ended.printed
    steps, uncounted, is_same, can_resume = ended.printed.splitlines()[-1].split()
    assert int(steps) >= READY
    assert int(uncounted) in (0, group)
    assert is_same == can_resume == "True"


class ReportsLongGroups(keras.callbacks.Callback):
    """Prints the length of the longest group once there were twenty that are long.

    Attributes:
        ready_at: the step that is then to print "ready", in the next group.
    """

    batch_hooks = "show"

    def __init__(self):
        super().__init__()
        self.ready_at = tf.Variable(-1, dtype=tf.int64)

    def on_epoch_begin(self, epoch, logs=None):
        self.last, self.lengths = 0, []

    def on_train_batch_end(self, batch, logs=None):
        self.lengths.append(batch - self.last)
        self.last = batch
        long = sum(length > 100 for length in self.lengths)
        if long == 20 and self.lengths[-1] > 100:
            print(max(self.lengths), flush=True)
            self.ready_at.assign(int(self.model.optimizer.iterations) + 100)


def arrays() -> dict[str, Any]:
    rows = 6_000_000
    return {"x": numbers(rows, 2), "y": numbers(rows, 1), "batch_size": 1, "shuffle": False}


def dataset() -> dict[str, Any]:
    batch = (numbers(1, 2), numbers(1, 1))
    return {"x": tf.data.Dataset.from_tensors(batch).repeat(), "steps_per_epoch": 10**8}


def answer_interrupts(give: Callable[[], dict[str, Any]]) -> None:
    """Prints when an epoch of long groups was left by Ctrl-C, and its steps, three times."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    optimizer, reports = keras.optimizers.SGD(), ReportsLongGroups()
    loss = reporting_loss(optimizer, reports.ready_at)
    trainer = CustomTrainer(model, optimizer=optimizer, loss=loss, jit_compile=False)
    data = give()
    for _ in range(3):
        fit_until_interrupted(trainer, **data, verbose=0, callbacks=[reports])
        print(time.time(), trainer.step, int(trainer.optimizer.iterations), flush=True)


@pytest.mark.processes
@pytest.mark.parametrize("give", [arrays, dataset])
def test_ctrl_c_is_answered_soon(give):
    """Groups are long by then, but not in seconds."""
    process = Process(answer_interrupts, give)

    def seconds_to_answer() -> float:
        longest = int(process.read_line())
        process.wait_for("ready")
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


def test_an_interrupt_before_a_group_begins_counts_no_step(monkeypatch):
    trainer, run, calls = CustomTrainer(seeded(dense)), Program.run, itertools.count(1)

    def interrupted(*args, **kwargs):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    monkeypatch.setattr(Program, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(numbers(64, 4), numbers(64, 1), batch_size=8, verbose=0)
    assert trainer.step == int(trainer.optimizer.iterations) > 0
