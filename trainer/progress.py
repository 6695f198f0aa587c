"""How far training has come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """How far training has come, over all calls of `fit`.

    Attributes:
        step: steps taken.
        epoch: epochs trained.
    """

    step: int = 0
    epoch: int = 0

    def count(self, steps: int) -> None:
        """Adds `steps` to the steps taken."""
        self.step += steps
