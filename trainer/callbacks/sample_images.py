"""Pictures of what a network makes, while it learns."""

from __future__ import annotations

import os
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from trainer.callbacks.described import DescribedCallback
from trainer.images import grid, write_png


class Generates(Protocol):
    """What makes the images: a `GANTrainer`, or another trainer with such a method."""

    step: int
    epoch: int

    def generate(self, n: int, seed: int | None = None) -> np.ndarray:
        """Returns `n` images of shape `(n, height, width, channels)`, the same for a seed."""


class SampleImages(DescribedCallback):
    """Writes a grid of generated images, from the same latent points each time.

    The files are called `step_0000200.png` by the steps trained, or `epoch_0001.png` by the epochs,
    over all calls of `fit`. A trainer's `generate(n, seed)` makes the images.

    ```python
    gan.fit(images, epochs=20, callbacks=[trainer.callbacks.SampleImages("samples")])
    ```

    Args:
        directory: the folder for the files.
        every: `"epoch"`, or a number of steps.
        grid: rows and columns.
        seed: seed of the latent points.
        labels: what the images show, one a row of a flat list, for a generator that takes labels.
        value_range: the numbers that stand for black and white; by default the trainer's
            `value_range`, or 0 to 1 where it has none.
        tensorboard: a folder to write the grid to for TensorBoard, as the image `samples`.

    Raises:
        ValueError: an argument does not fit; when training begins, if labels are missing or the
            generator makes no pictures.
        TypeError: when training begins, if the trainer has no `generate`.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        every: int | str = "epoch",
        grid: tuple[int, int] = (8, 8),
        *,
        seed: int = 0,
        labels: Any = None,
        value_range: tuple[float, float] | None = None,
        tensorboard: str | os.PathLike | None = None,
    ):
        super().__init__()
        if every != "epoch" and not (isinstance(every, Integral) and every > 0):
            raise ValueError(f"every is {every!r}: expected 'epoch' or a number of steps.")
        if not (isinstance(grid, (tuple, list)) and len(grid) == 2 and min(grid) > 0):
            raise ValueError(f"grid is {grid!r}: expected rows and columns, such as (4, 8).")
        rows, columns = grid
        if labels is not None and not _is_one_for_each(labels, rows * columns):
            raise ValueError(
                f"There are {len(labels)} labels for {rows} by {columns} images: give one for each."
            )
        self.directory = os.fspath(directory)
        self.every = every
        self.grid = (rows, columns)
        self.seed = seed
        self.labels = labels
        self.value_range = value_range
        self.tensorboard = tensorboard
        self._trainer: Generates | None = None
        self._steps_before = 0
        self._drawn = 0
        self._writer: Any = None

    def set_trainer(self, trainer: Generates) -> None:
        """Takes the trainer, from `fit`."""
        if not hasattr(trainer, "generate"):
            raise TypeError(
                f"SampleImages needs a trainer with a method generate(n, seed), but "
                f"{type(trainer).__name__} has none: add one that returns images."
            )
        if getattr(trainer, "takes_labels", False) and self.labels is None:
            raise ValueError(
                "SampleImages needs labels=..., one for each image, as the generator takes labels."
            )
        shape = getattr(getattr(trainer, "generator", None), "output_shape", None)
        if isinstance(shape, tuple) and len(shape) not in (3, 4):
            raise ValueError(
                "SampleImages needs images of shape (height, width) or (height, width, channels), "
                f"but the generator makes {shape[1:]}: end it in keras.layers.Reshape, or write a "
                "callback that calls trainer.generate."
            )
        self._trainer = trainer

    @property
    def _is_chief(self) -> bool:
        return getattr(self._trainer, "is_chief", True)

    def wants_batch(self, step: int) -> bool:
        """Returns whether a picture is due after `step`."""
        if self.every == "epoch":
            return False
        return (self._steps_before + step + 1) // self.every > self._drawn // self.every

    def on_train_begin(self, logs: dict | None = None) -> None:  # noqa: D102
        if self.tensorboard is not None and self._is_chief:
            self._writer = tf.summary.create_file_writer(os.fspath(self.tensorboard))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: D102
        self._steps_before = self._drawn = self._trainer.step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:  # noqa: D102
        # The trainer's count: `batch` runs ahead of it where a last group of steps is a short one.
        if self.every != "epoch" and self._trainer.step // self.every > self._drawn // self.every:
            self._drawn = self._trainer.step
            self._draw(f"step_{self._drawn:07d}", self._drawn)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:  # noqa: D102
        if self.every == "epoch":
            self._draw(f"epoch_{self._trainer.epoch:04d}", self._trainer.epoch)

    def on_train_end(self, logs: dict | None = None) -> None:  # noqa: D102
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _draw(self, name: str, number: int) -> None:
        rows, columns = self.grid
        given = {} if self.labels is None else {"labels": self.labels}
        images = self._trainer.generate(rows * columns, seed=self.seed, **given)
        if not self._is_chief:  # the others take part in what makes the images
            return
        bounds = self.value_range or getattr(self._trainer, "value_range", None) or (0.0, 1.0)
        pixels = grid(images, columns, bounds)
        write_png(os.path.join(self.directory, f"{name}.png"), pixels)
        if self._writer is not None:
            with self._writer.as_default():
                tf.summary.image("samples", pixels[None], step=number)


def _is_one_for_each(labels: Any, count: int) -> bool:
    """Returns whether there are `count` labels, or so many of each kind."""
    if len(labels) == count:
        return True
    kinds = labels.values() if isinstance(labels, dict) else labels
    return all(hasattr(kind, "__len__") and len(kind) == count for kind in kinds)
