"""A digit classifier on two workers that Ray Train starts, and starts anew when one is lost.

Ray's `TensorflowTrainer` runs `train` in each worker and sets `TF_CONFIG`, by which TensorFlow's
strategy finds the other one; `fit` does the rest. Ray's own callback reports each epoch to Ray.
`Snapshots` keeps the whole training in a folder that all workers see: when one of them is lost, Ray
starts both anew, and training goes on to the same numbers. Each run has a folder of its own.

    python ray_train.py                             # scikit-learn's digits: offline, some minutes
    python ray_train.py --data FILE.npz             # arrays x_train, y_train, x_test, y_test
    python ray_train.py --lose-worker-at 100        # kills a worker after so many steps, once

It needs Ray: pip install "keras-custom-trainer[examples,ray]".
"""

import os
import pathlib
import signal
import time

import digits
import keras
import tensorflow as tf
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer
from ray.train.tensorflow.keras import ReportCheckpointCallback

from trainer import CustomTrainer
from trainer.callbacks import Snapshots

WORKERS = 2
BATCH_SIZE = 64  # of both workers together


class LosesWorker(keras.callbacks.Callback):
    """Kills the second worker after a step, once, as a machine that breaks down would.

    Args:
        step: the step.
        mark: a file that is made then, and that stands for having done it.
    """

    def __init__(self, step, mark):
        super().__init__()
        self.step = step
        self.mark = mark

    def set_trainer(self, trainer):
        """Takes the trainer, from `fit`."""
        self.trainer = trainer

    def on_train_batch_end(self, batch, logs=None):
        """Kills this process, if it is the one and the step has come."""
        if not self.trainer.is_chief and self.trainer.step == self.step and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def train(config):
    """Trains, in one of the workers."""
    x, y, x_test, y_test = digits.load_images(config["data"])
    keras.utils.set_random_seed(config["seed"])
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        trainer = CustomTrainer(
            digits.convnet(),
            optimizer="adam",
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            seed=config["seed"],
        )
    folder = pathlib.Path(config["output"])
    callbacks = [ReportCheckpointCallback(), Snapshots(folder / "snapshots", every_steps=20)]
    if config["lose_worker_at"]:
        callbacks.append(LosesWorker(config["lose_worker_at"], folder / "lost"))
    trainer.fit(
        x,
        y,
        batch_size=BATCH_SIZE,
        epochs=config["epochs"],
        validation_data=(x_test, y_test),
        callbacks=callbacks,
        verbose=0,
    )


def main():
    """Lets Ray run both workers, and tells what they reported last."""
    parser = digits.parser(__doc__, digits_epochs=20, epochs=3)
    parser.add_argument("--lose-worker-at", type=int, metavar="STEP", help="kill a worker, once")
    digits.add_output(parser, __file__)
    args = digits.parsed(parser)
    run = time.strftime("%Y-%m-%d_%H-%M-%S")
    folder = args.output.absolute() / run

    result = TensorflowTrainer(
        train,
        train_loop_config={**vars(args), "output": str(folder)},
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(
            name=run,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=3),
        ),
    ).fit()

    print(f"Snapshots and Ray's checkpoints are in {folder}.")
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        print(f"{name} after {args.epochs} epochs: {result.metrics[name]:.6f}")


if __name__ == "__main__":
    main()
