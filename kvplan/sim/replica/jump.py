"""Many equal decode steps of one batch in closed form."""

from __future__ import annotations

import math
from typing import Protocol

from kvplan.sim.replica.decode_batch import DecodeBatch
from kvplan.sim.replica.scheduler import Scheduler
from kvplan.sim.replica.step import ScheduledStep, StepsInFlight
from kvplan.step_time import StepCost


class Course(Protocol):
    """Decode steps of one batch that are not taken one by one; the first of them was in progress when it began."""

    start_s: float

    def ended(self, now: float) -> int:
        """It ends: steps whose results have been handled."""

    def elapsed_s(self, steps: int) -> float:
        """Seconds of the first `steps` steps."""

    def begins_s(self, step: int) -> float:
        """When a step begins, counted from 0."""

    def handled_s(self, steps: int) -> float:
        """When the results of the first `steps` steps have been handled."""

    def launched_s(self, step: int) -> float:
        """When the host has launched a step, counted from 0."""

    def under_way(self, step: int, now: float) -> bool:
        """Has a step not ended, the results of those before which have been handled."""

    def move(self, step: ScheduledStep, steps: int, nth: int) -> None:
        """A step in flight, the `nth` from the one it began at, becomes the one `steps` steps later."""


class Jump:
    """At most `steps` equal decode steps from a step in progress on: step j takes `first + slope*j` seconds, at least `floor`.

    It stays on one side of the point where the GPU becomes slower than the host.
    """

    __slots__ = ("start_s", "collect_s", "first_s", "slope_s", "floor_s", "attention_s", "steps")

    def __init__(
        self, start_s: float, steps: int, *, first_s: float, slope_s: float = 0.0, floor_s: float = 0.0, collect_s: float = 0.0
    ) -> None:
        self.start_s, self.steps, self.collect_s = start_s, steps, collect_s
        self.first_s, self.slope_s, self.floor_s, self.attention_s = first_s, slope_s, floor_s, 0.0
        if first_s < floor_s and slope_s:
            self.steps = max(1, min(steps, math.floor(min((floor_s - first_s) / slope_s, 1e12)) - 1))

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

    def begins_s(self, step: int) -> float:
        return self.start_s + self.elapsed_s(step)

    def under_way(self, step: int, now: float) -> bool:
        return self.begins_s(step) + self.step_s(step) > now

    def ended(self, now: float) -> int:
        """Steps whose results have been handled at `now`, at most all of them."""
        low, high = 0, self.steps
        if self.handled_s(high) <= now:
            return high
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


def equal_steps(batch: DecodeBatch, inflight: StepsInFlight, scheduler: Scheduler, now: float) -> int:
    """How many decode steps of a batch, from the one in progress on, nothing can change; 0 where something may."""
    steps, transfers = inflight.steps, scheduler.transfers
    if len(steps) < 2 or steps[0] is not inflight.executing:
        return 0
    first, second = steps
    if first.version != batch.version or second.version != batch.version:
        return 0
    for step in steps:
        if step.chunks or step.begins or step.paused or step.stall_s:
            return 0
    if max(second.ready_s, first.launched_s) > first.start_s + first.duration_s + 1e-12:
        return 0  # the GPU will wait for the host
    if len(batch) != len(scheduler.running) or scheduler.leaving or scheduler.may_admit():
        return 0  # somebody may come
    for each in batch.sums:
        if each.filled > first.index:
            return 0
    if transfers.refused or transfers.settled_s(now) > now:
        return 0  # copies still hold up tokens or inputs
    return batch.steps_within(scheduler.gpu.fits, batch.ends.next - batch.steps)


def jump_of(cost: StepCost, batch: DecodeBatch, step: ScheduledStep, most: int) -> Jump:
    """At most `most` steps of a batch, before a window fills. Of the steps scheduled, all but the one in progress count in it already."""
    count = len(batch)
    slope_s, most = growth(cost, batch, step, most)
    first_s, floor_s = cost.busy_s((), count, step.attention_s, count), cost.host_s((), count)
    jump = Jump(step.start_s, most, first_s=first_s, slope_s=slope_s, floor_s=floor_s, collect_s=cost.overhead.collect_s)
    jump.attention_s = step.attention_s
    return jump


def growth(cost: StepCost, batch: DecodeBatch, step: ScheduledStep, most: int) -> tuple[float, int]:
    """Seconds by which a batch's decode step is longer than the one before it, and for how many steps, at most `most`, that holds."""
    slope_s = cost.reading_s([each.growing for each in batch.sums], step.uneven, len(batch))
    most = min([most, *(each.fills.next - batch.steps for each in batch.sums)])
    return slope_s, most


def gaps_of(jump: Course, steps: int, inflight: StepsInFlight, decodes: int, *, apart: bool) -> list[tuple[float, int]]:
    """Gaps between tokens in the first steps of a jump, in seconds, and how many tokens came after each. Where prompts run `apart` and have
    run before it, the first gap holds them.
    """
    if not (apart and inflight.prompts_ran):
        return [(jump.elapsed_s(steps) / steps, steps * decodes)]
    first_s = jump.handled_s(1)
    found = [(first_s - since_s, count) for since_s, count in inflight.gaps(first_s, decodes)]
    if steps > 1:
        found.append(((jump.handled_s(steps) - first_s) / (steps - 1), (steps - 1) * decodes))
    return found


class StepWatch(Protocol):
    """Sees the steps of a replica."""

    def stepped(self, step: ScheduledStep, end_s: float) -> None:
        """The GPU has finished a step."""

    def jumped(self, jump: Course, steps: int, decodes: int) -> None:
        """So many decode steps have been taken at once."""
