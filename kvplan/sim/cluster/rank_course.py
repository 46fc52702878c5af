"""A rank of a group in lock-step that decodes, while nothing happens to it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kvplan.sim.replica.jump import Jump, growth
from kvplan.sim.replica.replica import Replica
from kvplan.sim.replica.step import ScheduledStep
from kvplan.spread_time import passes


class Mark(NamedTuple):
    """A step of a group that has ended: when it began and ended, and seconds of all steps so far."""

    begins_s: float
    end_s: float
    busy_s: float


class Together(Protocol):
    """The group of a rank."""

    passed: int
    busy_s: float
    marks: list[Mark]
    running: Jump | None

    def leave(self, course: RankCourse) -> None:
        """Something happens to a rank."""


class RankCourse:
    """Decode steps of a rank, at most `steps`, from the group's step in progress on; its own part of them grows along a line."""

    __slots__ = (
        "_group", "replica", "steps", "decodes", "tokens", "collect_s", "floor_s", "slope_s", "start_s",
        "_own_s", "_attention_s", "_from", "_busy_s",
    )  # fmt: skip

    def __init__(self, group: Together, replica: Replica, step: ScheduledStep, most: int) -> None:
        cost, count = replica.cost, len(replica.batch)
        self._group, self.replica, self.decodes = group, replica, count
        self.tokens = passes(cost.spread, count, count, cost.engine.step_tokens)[1]
        self.collect_s, self.floor_s = cost.overhead.collect_s, cost.host_s((), count)
        self.slope_s, self.steps = growth(cost, replica.batch, step, most)
        self._own_s = cost.busy_s((), count, step.attention_s, count, 0.0)
        self._attention_s, self.start_s = step.attention_s, step.start_s
        self._from, self._busy_s = group.passed, group.busy_s

    def own_s(self, passed: int) -> float:
        """Seconds of its own part of the group's step after so many."""
        return self._own_s + self.slope_s * (passed - self._from)

    def over(self) -> None:
        """The last of its steps has been handled."""
        self.replica.stops(self)

    # -- as the rank sees it: see Course -----------------------------------------------------------------------------------

    def ended(self, now: float) -> int:
        self._group.leave(self)
        last = self._group.passed - self._from
        return max(0, last if now >= self._mark(last - 1).end_s + self.collect_s else last - 1) if last else 0

    def _mark(self, step: int) -> Mark:
        """Of one of the last steps that have ended."""
        return self._group.marks[self._group.passed - self._from - 1 - step]

    def elapsed_s(self, steps: int) -> float:
        return self._mark(steps - 1).busy_s - self._busy_s if steps else 0.0

    def begins_s(self, step: int) -> float:
        if not self.under_way(step, 0.0):
            return self._mark(step).begins_s
        running = self._group.running
        return running.start_s if running is not None else self._group.marks[0].end_s

    def handled_s(self, steps: int) -> float:
        return self._mark(steps - 1).end_s + self.collect_s

    def launched_s(self, step: int) -> float:
        return self.handled_s(step - 1) + self.floor_s

    def under_way(self, step: int, now: float) -> bool:
        return step >= self._group.passed - self._from

    def move(self, step: ScheduledStep, steps: int, nth: int) -> None:
        step.index += steps
        step.attention_s = self._attention_s + self.slope_s * (steps + nth)
        running, left = self._group.running, steps + nth - (self._group.passed - self._from)
        if left < 0:
            mark = self._mark(steps + nth)
            step.duration_s = mark.end_s - mark.begins_s
        elif left == 0 and running is not None:
            step.duration_s = running.first_s
