"""Who is admitted first and who is preempted first."""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import Protocol

from kvplan.sim.replica.sequence import Sequence


class Scheduling(Protocol):
    """The order of a waiting line, and the victim of a preemption."""

    def join(self, line: deque[Sequence], seq: Sequence) -> None:
        """A seq has arrived."""

    def rejoin(self, line: deque[Sequence], seq: Sequence) -> None:
        """A seq was preempted and waits again."""

    def overtakes(self, seq: Sequence, other: Sequence) -> bool:
        """Is a waiting seq admitted before another that was there first."""

    def held(self, seqs: list[Sequence]) -> list[Sequence]:
        """Held seqs in the order of admission."""

    def victim(self, running: list[Sequence]) -> Sequence:
        """The running seq to preempt."""


class Fcfs:
    """First come, first served; the newest admission is preempted."""

    def join(self, line: deque[Sequence], seq: Sequence) -> None:
        line.append(seq)

    def rejoin(self, line: deque[Sequence], seq: Sequence) -> None:
        line.appendleft(seq)

    def overtakes(self, seq: Sequence, other: Sequence) -> bool:
        return False

    def held(self, seqs: list[Sequence]) -> list[Sequence]:
        return list(seqs)

    def victim(self, running: list[Sequence]) -> Sequence:
        return running[-1]


class ByPriority:
    """The lowest number first, then the earliest arrival; the highest number, then the latest arrival is preempted (vLLM,
    --scheduling-policy priority)."""

    def join(self, line: deque[Sequence], seq: Sequence) -> None:
        insort(line, seq, key=urgency)

    rejoin = join

    def overtakes(self, seq: Sequence, other: Sequence) -> bool:
        return urgency(seq) < urgency(other)

    def held(self, seqs: list[Sequence]) -> list[Sequence]:
        return sorted(seqs, key=urgency)

    def victim(self, running: list[Sequence]) -> Sequence:
        return max(running, key=urgency)


def urgency(seq: Sequence) -> tuple[int, float, int]:
    """Smaller is more urgent."""
    return seq.request.priority, seq.enter_s, seq.request.index


SCHEDULING: dict[str, Scheduling] = {"fcfs": Fcfs(), "priority": ByPriority()}
"""engine.scheduling -> its rules."""
