"""Rows of `evaluate` and `predict`, and of calls that have one batch."""

from benchmarks import networks
from benchmarks.measuring import Row, both

CALLS = 10  # measured as one


def evaluate():
    """Returns an evaluation of the held-out data."""
    x, y = networks.mnist_held_out()
    return both(networks.mlp, lambda side: side.evaluate(x, y, verbose=0))


def predict():
    """Returns a prediction of the training data."""
    x, _ = networks.mnist()
    return both(networks.mlp, lambda side: side.predict(x, verbose=0))


def one_batch(method):
    """Returns what makes the sides of `CALLS` calls of a method on 64 rows."""

    def sides():
        x, y = networks.data(64, networks.PIXELS)
        data = {"x": x} if method == "predict" else {"x": x, "y": y}

        def run(side):
            for _ in range(CALLS):
                getattr(side, method)(**data, batch_size=64, verbose=0)

        return both(networks.mlp, run)

    return sides


ROWS = [
    Row("evaluate", "MLP, evaluate 10,000 rows, batch 32", evaluate, target=8),
    Row("predict", "MLP, predict 50,000 rows, batch 32", predict, target=15),
    Row("predict-batch", f"MLP, predict one batch, {CALLS} times", one_batch("predict"), 30),
    Row("evaluate-batch", f"MLP, evaluate one batch, {CALLS} times", one_batch("evaluate"), 15),
    Row("fit-batch", f"MLP, fit one batch, {CALLS} times", one_batch("fit"), 15),
]
