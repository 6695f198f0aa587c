"""The row of memory: arrays of 1 GB, each side in a process of its own."""

import os
import subprocess
import sys

from benchmarks.measuring import Row, Sides, always

MEGABYTES = 1024


def peak_of(side, size=MEGABYTES):
    """Returns the peak memory, in MB, of a process where a side trains on arrays of `size` MB."""
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak", side, str(size)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(process.stdout.splitlines()[-1])


def processes():
    """Returns a process of each side; the call returns what it measures."""
    return Sides(always(peak_of, "keras"), always(peak_of, "trainer"))


ROWS = [
    Row(
        "memory",
        "peak memory, arrays of 1 GB, batch 1,024",
        processes,
        target=1,
        unit="MB",
        measure=lambda call: call(),
        warm=False,
        most_rounds=2,  # it hardly varies
    )
]
