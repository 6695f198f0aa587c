"""Rows of models that nothing was compiled for yet.

The unmeasured first call of each side is on a model of its own, too: it takes what the first call
of all costs in a process, and leaves what each new model costs.
"""

from benchmarks import networks
from benchmarks.measuring import Row, Sides
from trainer import CustomTrainer


def fit_of_new_model(rows):
    """Returns what makes the sides of an epoch of a new model on so many rows."""

    def sides():
        x, y = networks.data(rows, networks.PIXELS)
        fit = {"x": x, "y": y, "batch_size": 64, "verbose": 0}

        def keras():
            model = networks.compiled(networks.mlp())
            return lambda: model.fit(**fit)

        def trainer():
            model = networks.compiled(networks.mlp())
            return lambda: CustomTrainer(model).fit(**fit)

        return Sides(keras, trainer)

    return sides


ROWS = [
    Row("cold-step", "MLP, arrays, a new model's first step", fit_of_new_model(64), target=1),
    Row(
        "cold-epoch",
        "MLP, arrays, a new model's first epoch, 2,000 rows",
        fit_of_new_model(2_000),
        target=1,
    ),
]
