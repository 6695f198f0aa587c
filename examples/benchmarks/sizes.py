"""The row of what a step costs by the size of the data, up to an array on disk."""

import dataclasses
import math
import pathlib
import statistics
import tempfile

import numpy as np

from benchmarks import networks
from benchmarks.measuring import Line, Measured, alternately, always

FEATURES = 32
BATCH_SIZE = 64
IN_MEMORY = (10_000, 100_000, 1_000_000)
ON_DISK = 10_000_000
WITH_KERAS = 100_000  # rows at most: `model.fit`'s larger epochs would only take longer
LEAST_STEPS = 10_000  # in one measurement


@dataclasses.dataclass(frozen=True)
class Sizes:
    """A row with a line for each size, and a last one: the dearest step beside the cheapest.

    Attributes:
        name: what `--rows` calls it.
        what: what is measured.
        limit: how many times the cheapest size's step the dearest's may cost.
        in_memory: rows of the arrays in memory.
        on_disk: rows of the array on disk.
        least_steps: steps a measurement at least, by as many epochs as that takes.
    """

    name: str
    what: str
    limit: float
    in_memory: tuple[int, ...] = IN_MEMORY
    on_disk: int = ON_DISK
    least_steps: int = LEAST_STEPS

    def lines(self, rounds):
        """Measures all sizes in turn, and yields the lines of the table."""
        with tempfile.TemporaryDirectory() as folder:
            data = {rows: networks.data(rows, FEATURES) for rows in self.in_memory}
            data[self.on_disk] = data_on_disk(self.on_disk, pathlib.Path(folder) / "x")
            sides = {}
            for rows, (x, y) in data.items():
                fit = {"batch_size": BATCH_SIZE, "epochs": self._epochs(rows), "verbose": 0}
                trainer = networks.with_trainer(networks.mlp(FEATURES))
                sides["trainer", rows] = always(trainer.fit, x, y, **fit)
                if rows <= WITH_KERAS:
                    model = networks.compiled(networks.mlp(FEATURES))
                    sides["keras", rows] = always(model.fit, x, y, **fit)
            measured = alternately(sides, rounds)
        costs = {
            (side, rows): [1e6 * value / self._steps(rows) for value in values]
            for (side, rows), values in measured.items()
        }
        yield from self._lines(costs, list(data))

    def _lines(self, costs, sizes):
        for rows in sizes:
            where = " on disk" if rows == self.on_disk else ""
            yield Line(
                f"{self.name}-{rows}",
                f"{self.what}, {rows:,} rows{where}",
                Measured(costs.get(("keras", rows), []), costs["trainer", rows]),
                unit="µs",
            )
        by_cost = sorted(sizes, key=lambda rows: statistics.median(costs["trainer", rows]))
        cheapest, dearest = by_cost[0], by_cost[-1]
        yield Line(
            f"{self.name}-spread",
            f"{self.what}, dearest size beside the cheapest",
            Measured(
                [],
                costs["trainer", dearest],
                {f"trainer at {cheapest:,} rows": costs["trainer", cheapest]},
            ),
            unit="µs",
            limit=self.limit,
        )

    def _epochs(self, rows):
        return math.ceil(self.least_steps / math.ceil(rows / BATCH_SIZE))

    def _steps(self, rows):
        return self._epochs(rows) * math.ceil(rows / BATCH_SIZE)


def data_on_disk(rows, path):
    """Returns inputs as a `numpy.memmap` of a new file, and their class numbers."""
    draws = np.random.default_rng(rows)
    with path.open("wb") as file:
        for start in range(0, rows, 1_000_000):
            shape = (min(1_000_000, rows - start), FEATURES)
            file.write(draws.random(shape, dtype="float32"))
    y = draws.integers(0, networks.CLASSES, rows)
    return np.memmap(path, "float32", "r", shape=(rows, FEATURES)), y


ROWS = [Sizes("sizes", "a step of a small MLP, arrays", limit=1.15)]
