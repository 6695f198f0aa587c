"""A process of its own that trains on large arrays and prints its peak memory in MB.

python -m benchmarks.peak {keras,trainer} MB_OF_ARRAYS
"""

import pathlib
import resource
import sys

import numpy as np

from benchmarks import networks
from trainer import CustomTrainer

FEATURES = 256
STATUS = pathlib.Path("/proc/self/status")


def peak():
    """Returns the most memory, in MB, that this process has had at a time."""
    if STATUS.exists():
        # On Linux `getrusage` counts the process that started this one, too: it is asked elsewhere.
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)


def main():
    """Trains for an epoch and prints the peak."""
    side, size = sys.argv[1], int(sys.argv[2])
    rows = size * 2**20 // (4 * FEATURES)
    draws = np.random.default_rng(0)
    x = np.empty((rows, FEATURES), "float32")
    draws.random(dtype="float32", out=x)
    y = draws.integers(0, networks.CLASSES, rows, dtype="int32")
    model = networks.compiled(networks.mlp(FEATURES))
    subject = model if side == "keras" else CustomTrainer(model)
    subject.fit(x, y, batch_size=1024, verbose=0)
    print(peak())


if __name__ == "__main__":
    main()
