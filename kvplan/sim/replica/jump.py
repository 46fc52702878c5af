"""Many equal decode steps of one batch in closed form."""

from __future__ import annotations

import math
from typing import Protocol

from kvplan.sim.replica.decode_batch import DecodeBatch
from kvplan.sim.replica.step import ScheduledStep
from kvplan.step_time import StepCost


class Jump:
    """At most `most` equal decode steps of one batch from a step in progress on: step j takes `first + slope*j` seconds.

    Of the steps scheduled, all but the one in progress count in the batch already. The jump ends before a window fills and stays on one
    side of the point where the GPU becomes slower than the host.
    """

    __slots__ = ("start_s", "collect_s", "first_s", "slope_s", "floor_s", "attention_s", "steps")

    def __init__(self, cost: StepCost, batch: DecodeBatch, step: ScheduledStep, most: int) -> None:
        self.start_s, self.collect_s, self.steps = step.start_s, cost.overhead.collect_s, most
        self.slope_s = 0.0
        for rate, each in zip(cost.decode_rates_of(len(batch), step.uneven), batch.sums, strict=True):
            self.slope_s += rate * each.growing
            self.steps = min(self.steps, each.fills.next - batch.steps)
        count = len(batch)
        self.attention_s = step.attention_s
        self.first_s = cost.busy_s((), count, self.attention_s, count)
        self.floor_s = cost.host_s((), count)
        if self.first_s < self.floor_s and self.slope_s:
            self.steps = min(self.steps, math.floor(min((self.floor_s - self.first_s) / self.slope_s, 1e12)) - 1)

    def step_s(self, step: int) -> float:
        return max(self.floor_s, self.first_s + self.slope_s * step)

    def elapsed_s(self, steps: int) -> float:
        """Seconds of the first `steps` steps."""
        if self.first_s < self.floor_s:
            return steps * self.floor_s
        return steps * self.first_s + self.slope_s * steps * (steps - 1) / 2

    def handled_s(self, steps: int) -> float:
        """When the results of the first `steps` steps have been handled."""
        return self.start_s + self.elapsed_s(steps) + self.collect_s

    def launched_s(self, step: int) -> float:
        """When the host has launched a step: it begins when the results of the last but one before it have been handled."""
        return self.handled_s(step - 1) + self.floor_s

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

    def move(self, step: ScheduledStep, steps: int, nth: int) -> None:
        """A step in flight, the `nth` from the one the jump began at, becomes the one `steps` steps later."""
        step.index += steps
        step.duration_s = self.step_s(steps + nth)
        step.attention_s = self.attention_s + self.slope_s * (steps + nth)


class StepWatch(Protocol):
    """Sees the steps of a replica."""

    def stepped(self, step: ScheduledStep, end_s: float) -> None:
        """The GPU has finished a step."""

    def jumped(self, jump: Jump, steps: int, decodes: int) -> None:
        """So many decode steps have been taken at once."""
