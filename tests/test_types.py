"""What type checkers see of the package from outside, wherever it is installed."""

import re
import sys

import pytest

SCRIPT = """
import numpy as np
import tensorflow as tf

from trainer import CustomTrainer, GANTrainer
from trainer.callbacks import Snapshots


class Mine(CustomTrainer):
    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self.model(x, training=True))
        self.minimize(loss, tape)
        return {"loss": loss}


def run(trainer: Mine, gan: GANTrainer, as_dict: bool) -> None:
    x = np.zeros((100, 20), "float32")
    weights = {0: 1, 1: 2}
    trainer.fit(x, x, epochs=2, class_weight=weights, callbacks=[Snapshots("s")], verbose=False)
    reveal_type(trainer.fit(x, validation_freq=[1, 2]))
    reveal_type(trainer.evaluate(x, x))
    reveal_type(trainer.evaluate(x, x, return_dict=True))
    reveal_type(trainer.evaluate(x, x, return_dict=as_dict))
    reveal_type(trainer.train_on_batch(x, x))
    reveal_type(trainer.test_on_batch(x, x, return_dict=True))
    reveal_type(trainer.predict(x))
    reveal_type(trainer.step)
    reveal_type(gan.generate(10, seed=0))
    trainer.fit(x, x, epoch=2)
    trainer.fit(x, x, epochs="2")
    trainer.predict()
    trainer.sumary
    Snapshots()
"""
PLAIN = "float | list[float]"
REVEALED = [
    "Any",  # a History: Keras comes without types for mypy
    PLAIN,
    "dict[str, float]",
    f"{PLAIN} | dict[str, float]",
    PLAIN,
    "dict[str, float]",
    "Any",
    "int | Any",  # a tensor within a step
    "numpy.ndarray[tuple[Any, ...], numpy.dtype[Any]]",
]
ERRORS = [
    'Unexpected keyword argument "epoch" for "fit" of "CustomTrainer"; did you mean "epochs"?',
    'Argument "epochs" to "fit" of "CustomTrainer" has incompatible type "str"; expected "int"',
    'Missing positional argument "x" in call to "predict" of "CustomTrainer"',
    '"Mine" has no attribute "sumary"',
    'Missing positional argument "directory" in call to "Snapshots"',
]


@pytest.mark.examples
def test_mypy_finds_the_package_and_the_types_of_its_methods(tmp_path):
    mypy = pytest.importorskip("mypy.api", reason="needs mypy, of the extra `test`")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    options = ["--strict", "--disable-error-code=import-untyped"]
    options += ["--cache-dir", str(tmp_path / "cache"), "--python-executable", sys.executable]
    found, problems, _ = mypy.run([*options, str(script)])
    assert not problems
    assert re.findall(r'Revealed type is "(.*)"', found) == REVEALED
    errors = re.findall(r"error: (.*?)  \[", found)
    assert errors == ERRORS
