"""Rows of `evaluate` and `predict`, and of calls that have one batch."""

from benchmarks import networks
from benchmarks.by_hand import EvaluationLoop, PredictionLoop
from benchmarks.measuring import Row, always, both

BATCH_SIZE = 32  # where a call has many
CALLS = 10  # measured as one


def evaluate():
    """Returns an evaluation of the held-out data, and the same by hand."""
    x, y = networks.mnist_held_out()
    loop = EvaluationLoop(networks.mlp(), x, y, BATCH_SIZE)
    return both(
        networks.mlp, lambda side: side.evaluate(x, y, batch_size=BATCH_SIZE, verbose=0)
    )._replace(by_hand={"one graph, arrays on the device": always(loop.epoch)})


def predict():
    """Returns a prediction of the training data, and the same by hand."""
    x, _ = networks.mnist()
    loop = PredictionLoop(networks.mlp(), x, BATCH_SIZE)
    return both(
        networks.mlp, lambda side: side.predict(x, batch_size=BATCH_SIZE, verbose=0)
    )._replace(by_hand={"one graph, arrays on the device": always(loop.predict)})


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
    Row("evaluate", f"MLP, evaluate 10,000 rows, batch {BATCH_SIZE}", evaluate, target=8),
    Row("predict", f"MLP, predict 50,000 rows, batch {BATCH_SIZE}", predict, target=15),
    Row("predict-batch", f"MLP, predict one batch, {CALLS} times", one_batch("predict"), 30),
    Row("evaluate-batch", f"MLP, evaluate one batch, {CALLS} times", one_batch("evaluate"), 15),
    Row("fit-batch", f"MLP, fit one batch, {CALLS} times", one_batch("fit"), 15),
]
