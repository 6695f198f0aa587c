"""Callbacks: each a plain `keras.callbacks.Callback`."""

from trainer.callbacks.for_network import ForNetwork
from trainer.callbacks.nan_guard import NaNGuard
from trainer.callbacks.progress_bar import ProgressBar
from trainer.callbacks.sample_images import SampleImages
from trainer.callbacks.snapshots import Snapshots

__all__ = ["ForNetwork", "NaNGuard", "ProgressBar", "SampleImages", "Snapshots"]
