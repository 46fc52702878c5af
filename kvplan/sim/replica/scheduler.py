"""Who is admitted first and who is preempted first."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kvplan.sim.replica.sequence import Job


class Scheduling(Protocol):
    """The order of a waiting line, and the victim of a preemption."""

    def join(self, line: deque[Job], job: Job) -> None:
        """A job has arrived."""

    def rejoin(self, line: deque[Job], job: Job) -> None:
        """A job was preempted and waits again."""

    def overtakes(self, job: Job, other: Job) -> bool:
        """Is a waiting job admitted before another that was there first."""

    def held(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """Held jobs in the order of admission."""

    def victim(self, running: Sequence[Job]) -> Job:
        """The running job to preempt."""


class Fcfs:
    """First come, first served; the newest admission is preempted."""

    def join(self, line: deque[Job], job: Job) -> None:
        line.append(job)

    def rejoin(self, line: deque[Job], job: Job) -> None:
        line.appendleft(job)

    def overtakes(self, job: Job, other: Job) -> bool:
        return False

    def held(self, jobs: Sequence[Job]) -> Sequence[Job]:
        return tuple(jobs)

    def victim(self, running: Sequence[Job]) -> Job:
        return running[-1]


class ByPriority:
    """The lowest number first, then the earliest arrival; the highest number, then the latest arrival is preempted (vLLM,
    --scheduling-policy priority)."""

    def join(self, line: deque[Job], job: Job) -> None:
        insort(line, job, key=urgency)

    rejoin = join

    def overtakes(self, job: Job, other: Job) -> bool:
        return urgency(job) < urgency(other)

    def held(self, jobs: Sequence[Job]) -> Sequence[Job]:
        return sorted(jobs, key=urgency)

    def victim(self, running: Sequence[Job]) -> Job:
        return max(running, key=urgency)


def urgency(job: Job) -> tuple[int, float, int]:
    """Smaller is more urgent."""
    return job.request.priority, job.enter_s, job.request.index


SCHEDULING: dict[str, Scheduling] = {"fcfs": Fcfs(), "priority": ByPriority()}
"""engine.scheduling -> its rules."""
