"""What the loads of a run came to."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.sim.replica.sequence import Sequence


class Tally:
    """Loads of a run: how many, how many lost against computing again, seconds waited and lost."""

    def __init__(self) -> None:
        self.count = self.losing = 0
        self.stall_s = self.losing_s = 0.0
        self.weighed: Callable[[Sequence, int, float, float, float], None] | None = None  # told of each load

    def weigh(self, seq: Sequence, tokens: int, seconds: float, recompute_s: float, sent_s: float) -> None:
        """A load took so long, its way through host memory included, and computing its tokens again would have taken so long; its last
        bytes came at `sent_s`."""
        self.count += 1
        self.stall_s += seconds
        if seconds > recompute_s:
            self.losing += 1
            self.losing_s += seconds - recompute_s
        if self.weighed is not None:
            self.weighed(seq, tokens, seconds, recompute_s, sent_s)
