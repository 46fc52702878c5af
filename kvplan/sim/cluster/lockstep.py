"""Data-parallel ranks that share their experts take steps together."""

from __future__ import annotations

from kvplan.sim.clock import Clock
from kvplan.sim.replica.replica import Replica
from kvplan.sim.replica.step import ScheduledStep


class LockStep:
    """The ranks of one engine. A step of each begins when all that have work are ready, and lasts as long as the slowest's: its experts see
    the tokens of all. In CUDA graphs every rank is padded to the largest; a rank without work takes part with one token.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ranks: list[Replica] = []
        self._ready: dict[int, tuple[Replica, ScheduledStep]] = {}
        self._running = self._called = False

    def join(self, replica: Replica) -> None:
        """One more rank."""
        self._ranks.append(replica)
        replica.group = self

    def ready(self, replica: Replica, step: ScheduledStep) -> None:
        """A rank's next step could begin."""
        self._ready[id(replica)] = (replica, step)
        self.look()

    def look(self) -> None:
        """A rank is ready, or has found nothing to do: once all have had their say at this moment, the next steps may begin."""
        if self._ready and not self._running and not self._called:
            self._called = True
            self._clock.after(0.0, self._begin)

    def _begin(self) -> None:
        self._called = False
        if self._running or any(rank.inflight.steps and id(rank) not in self._ready for rank in self._ranks):
            return  # whoever still handles a step calls again
        steps = list(self._ready.values())
        self._ready.clear()
        joint = self._joint([step for _, step in steps])
        start_s = max(self._clock.now, *(step.start_s for _, step in steps))
        last_s = max(rank.together_s(step, joint) for rank, step in steps)
        for _, step in steps:
            step.start_s, step.duration_s = start_s, last_s
        self._running = True
        end_s = max(step.end_s for _, step in steps)
        for _, step in steps:
            step.duration_s = end_s - start_s
        self._clock.after(end_s - self._clock.now, lambda: self._end([rank for rank, _ in steps]))

    def _joint(self, steps: list[ScheduledStep]) -> int:
        """Tokens of all ranks."""
        if any(step.chunks for step in steps):
            tokens = sum(step.decodes + sum(new for _, new, _ in step.chunks) for step in steps)
            return tokens + len(self._ranks) - len(steps)
        return len(self._ranks) * max(step.decodes for step in steps)

    def _end(self, ranks: list[Replica]) -> None:
        self._running = False
        for rank in ranks:
            rank.executed()
        self.look()
