"""How many steps a compiled call should have, by the clock."""

from __future__ import annotations

_SECONDS_A_CALL = 0.1  # long beside what a call costs, short for a bar and for Ctrl-C
_GROWTH = 8


class Pace:
    """Finds how many steps take about a tenth of a second; the first calls are short.

    Attributes:
        steps: how many steps the next call should have.
        longest: how many steps a call has had at most, of those since this was set to 0.
    """

    def __init__(self) -> None:
        self.steps = 1
        self.longest = 0
        self._is_warm = False

    def took(self, steps: int, seconds: float) -> None:
        """Learns that a call of `steps` steps took `seconds`."""
        self.longest = max(self.longest, steps)
        if not self._is_warm:
            self._is_warm = True  # the first call compiles: it tells nothing
            return
        was_cut_short = steps < self.steps
        if was_cut_short and seconds < _SECONDS_A_CALL / 2:
            return  # what ended it early was not the clock, and of so short a call much is overhead
        wanted = int(steps * _SECONDS_A_CALL / max(seconds, 1e-9))
        if was_cut_short:  # it may have been an odd last batch that had to be traced
            wanted = max(wanted, self.steps // _GROWTH)
        self.steps = max(1, min(wanted, max(steps, self.steps) * _GROWTH))
