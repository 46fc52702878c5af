"""Many equal decode steps of one batch in closed form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.replica.step import ScheduledStep

if TYPE_CHECKING:
    from kvplan.sim.replica.replica import Replica


class Bulk:
    """Equal decode steps of one batch: step j takes `first + slope*j` seconds while no sequence fills a window."""

    __slots__ = ("replica", "seqs", "start_s", "first_s", "slope_s", "floor_s", "steps")

    def __init__(self, replica: Replica, seqs: list[Sequence], plan: ScheduledStep, steps: int) -> None:
        self.replica, self.seqs, self.start_s = replica, seqs, plan.start_s
        cost = replica.cost
        ahead = len(replica.inflight) - 1  # plans already made count in seq.computed
        contexts = [seq.computed - ahead for seq in seqs]
        slope = 0.0
        for rate, window in cost.decode_rates:
            growing = contexts
            if window:
                growing = [context for context in contexts if context < window]
                if growing:
                    steps = min(steps, window - max(growing) - ahead)
            slope += rate * len(growing)
        count = len(seqs)
        self.first_s = cost.busy_s((), count, cost.decode_attention_s(contexts), count)
        self.slope_s = slope
        self.floor_s = cost.host_s((), count)
        if self.first_s < self.floor_s:  # the host is slower than the GPU; stay on one side of the crossing
            crossing = math.inf if slope == 0 else (self.floor_s - self.first_s) / slope
            steps = min(steps, math.floor(crossing) - 1 if crossing < 1e12 else steps)
        self.steps = steps

    def step_s(self, step: int) -> float:
        return max(self.floor_s, self.first_s + self.slope_s * step)

    def elapsed_s(self, steps: int) -> float:
        """Seconds of the first `steps` steps."""
        if self.first_s < self.floor_s:
            return steps * self.floor_s
        return steps * self.first_s + self.slope_s * steps * (steps - 1) / 2

    def handled_s(self, steps: int) -> float:
        """When the results of the first `steps` steps have been handled."""
        return self.start_s + self.elapsed_s(steps) + self.replica.engine.overhead.collect_s

    def steps_before(self, now: float) -> int:
        """Steps whose results have been handled at `now`, at most all of them."""
        low, high = 0, self.steps
        while low < high:
            middle = (low + high + 1) // 2
            if self.handled_s(middle) <= now:
                low = middle
            else:
                high = middle - 1
        return low

    def apply(self, steps: int) -> None:
        if not steps:
            return
        replica = self.replica
        for seq in self.seqs:
            seq.computed += steps
            seq.planned += steps
            seq.emitted += steps
            if seq.computed > seq.blocks * replica.block:
                allocated = replica.gpu.allocate(seq, seq.computed)
                assert allocated
        replica.recorder.intervals(self.elapsed_s(steps) / steps, steps * len(self.seqs))
