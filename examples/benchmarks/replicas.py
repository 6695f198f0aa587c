"""Rows of what a step costs on several devices and in several processes.

Two cores show what it costs to train together, and nothing of what more machines gain: two replicas
share them with one another. A group is one compiled call; that of one step has all that comes once
a call, the collective by which processes agree on it among that.

    python -m benchmarks.replicas 2 600 100          # a process of two devices: 600 and 100 steps
"""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

import keras
import tensorflow as tf

from benchmarks import networks
from benchmarks.measuring import Line, Measured, alternately, always

SETUPS = {  # devices of a process, and processes
    "one device": (1, 1),
    "two devices": (2, 1),
    "two processes": (1, 2),
}
BATCH_SIZE = 64  # of all replicas together
STEPS = 600
SINGLE_STEPS = 100
KINDS = {
    "step": f"a step of the MLP, arrays, in long groups, batch {BATCH_SIZE}",
    "group": "a group of one step of the same",
}


@dataclasses.dataclass(frozen=True)
class Replicas:
    """A row with a line for each kind of cost and each of `SETUPS`.

    Attributes:
        name: what `--rows` calls it.
        what: what is measured.
        steps: steps in long groups, in one measurement.
        single_steps: steps in groups of one, in one measurement.
        most_rounds: rounds at most: each starts processes anew.
    """

    name: str
    what: str
    steps: int = STEPS
    single_steps: int = SINGLE_STEPS
    most_rounds: int = 3

    def lines(self, rounds):
        """Measures all setups in turn, and yields the lines of the table."""
        sides = {name: always(self._milliseconds, *setup) for name, setup in SETUPS.items()}
        measured = alternately(
            sides, min(rounds, self.most_rounds), lambda call: call(), warm=False
        )
        for kind, what in KINDS.items():
            costs = {name: [one[kind] for one in found] for name, found in measured.items()}
            alone = {"one device": costs["one device"]}
            for name, milliseconds in costs.items():
                keras_costs = [one["Keras"] for one in measured[name] if kind == "step"]
                yield Line(
                    f"{self.name}-{kind}-{name.replace(' ', '-')}",
                    f"{what}, {name}",
                    Measured(
                        [cost for cost in keras_costs if cost is not None],
                        milliseconds,
                        {} if name == "one device" else alone,
                    ),
                    unit="ms",
                )

    def _milliseconds(self, devices, processes):
        """Returns what the first process of a setup measured."""
        command = [sys.executable, "-m", "benchmarks.replicas"]
        command += map(str, (devices, self.steps, self.single_steps))
        addresses = free_addresses(processes)
        with contextlib.ExitStack() as stack:
            started = []
            for number in range(processes):
                settings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
                if processes > 1:
                    task = {"type": "worker", "index": number}
                    cluster = {"worker": addresses}
                    settings["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
                process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE)
                started.append(stack.enter_context(process))
                stack.callback(process.kill)
            printed = [process.communicate()[0] for process in started]
        return json.loads(printed[0].splitlines()[-1])


def free_addresses(count):
    """Returns so many addresses of this machine that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [f"localhost:{one.getsockname()[1]}" for one in sockets]


class SeesEachBatch(keras.callbacks.Callback):
    """Holds groups at one step."""

    def on_train_batch_end(self, batch, logs=None):
        """Does nothing."""


def milliseconds_a_step(fit, steps, **settings):
    """Returns what a step of an epoch of so many costs, after one such epoch unmeasured."""
    x, y = (array[: steps * BATCH_SIZE] for array in networks.mnist())
    settings |= {"batch_size": BATCH_SIZE, "verbose": 0}
    fit(x, y, **settings)
    start = time.perf_counter()
    fit(x, y, **settings)
    return 1e3 * (time.perf_counter() - start) / steps


def measured(strategy, steps, single_steps):
    """Returns milliseconds: of a step, of a group of one step, and of a step of `model.fit`."""
    with strategy.scope():
        trainer = networks.with_trainer(networks.mlp())
        model = networks.compiled(networks.mlp())
    found = {"step": milliseconds_a_step(trainer.fit, steps)}
    found["group"] = milliseconds_a_step(trainer.fit, single_steps, callbacks=[SeesEachBatch()])
    alone = "TF_CONFIG" not in os.environ  # Keras's fails there
    found["Keras"] = milliseconds_a_step(model.fit, steps) if alone else None
    return found


def strategy_of(devices):
    """Returns the strategy of all processes, or of so many parts of this machine's processor."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if devices == 1:
        return tf.distribute.get_strategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration() for _ in range(devices)]
    tf.config.set_logical_device_configuration(cpu, parts)
    return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(devices)])


ROWS = [Replicas("replicas", "a step on several devices and in several processes")]


if __name__ == "__main__":
    print(json.dumps(measured(strategy_of(int(sys.argv[1])), *map(int, sys.argv[2:]))))
