"""What the loads of a run came to."""

from __future__ import annotations


class Tally:
    """Loads of a run: how many, how many lost against computing again, seconds waited and lost."""

    def __init__(self) -> None:
        self.count = self.losing = 0
        self.stall_s = self.losing_s = 0.0

    def weigh(self, seconds: float, recompute_s: float) -> None:
        """A load took so long, its way through host memory included, and computing its tokens again would have taken so long."""
        self.count += 1
        self.stall_s += seconds
        if seconds > recompute_s:
            self.losing += 1
            self.losing_s += seconds - recompute_s
