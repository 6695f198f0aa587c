"""Callbacks: each a plain `keras.callbacks.Callback`."""

from trainer.callbacks.progress_bar import ProgressBar

__all__ = ["ProgressBar"]
