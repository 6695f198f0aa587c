"""A digit classifier on several machines, or on several devices of one, by `CustomTrainer`.

The model and the trainer are made under the scope of a strategy; nothing else is changed. The same
script runs on every machine, and finds the others by the environment variable `TF_CONFIG`: the
README shows how two shells, Slurm and Kubernetes set it. Without it the machine is alone.

`--batch-size` is that of all machines together: the loss, the accuracy and the weights are those of
one machine with such batches. With `--snapshots FOLDER`, a folder that all machines see, training
goes on from there when all are started again, after one of them was lost for example.

    python multi_worker.py                          # scikit-learn's digits: offline, some seconds
    python multi_worker.py --data mnist             # MNIST, downloaded the first time
    python multi_worker.py --devices 2              # two devices of this machine
"""

import digits
import keras
import tensorflow as tf

from trainer import CustomTrainer
from trainer.callbacks import Snapshots


def main():
    """Trains, and lets the chief tell the accuracy on the test rows."""
    parser = digits.parser(__doc__, digits_epochs=20, epochs=3)
    digits.add_devices(parser)
    parser.add_argument("--batch-size", type=int, default=64, help="rows a step, of all machines")
    parser.add_argument(
        "--snapshots", metavar="FOLDER", help="save the training there, and go on from there"
    )
    args = digits.parsed(parser)
    if args.devices:
        strategy = digits.strategy_of(args.devices)
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    x, y, x_test, y_test = digits.load_images(args.data)
    keras.utils.set_random_seed(args.seed)
    with strategy.scope():
        trainer = CustomTrainer(
            digits.convnet(),
            optimizer="adam",
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            seed=args.seed,
        )
    callbacks = [Snapshots(args.snapshots, every_seconds=1)] if args.snapshots else []
    trainer.fit(
        x,
        y,
        batch_size=args.batch_size,
        epochs=args.epochs,
        validation_data=(x_test, y_test),
        callbacks=callbacks,
    )

    results = trainer.evaluate(x_test, y_test, verbose=0, return_dict=True)
    if trainer.is_chief:
        print(f"{strategy.num_replicas_in_sync} devices, {trainer.step} steps")
        print(f"Loss on {len(x_test)} held-out digits: {results['loss']:.4f}")
        print(f"Accuracy on {len(x_test)} held-out digits: {results['accuracy']:.4f}")


if __name__ == "__main__":
    main()
