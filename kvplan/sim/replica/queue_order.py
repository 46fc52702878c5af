"""Who is admitted first and who is preempted first."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from kvplan.sim.replica.sequence import Sequence


class QueueOrder(Protocol):
    """The order of the waiting queue, and the victim of a preemption."""

    def join(self, waiting: deque[Sequence], seq: Sequence) -> None:
        """A sequence has arrived."""

    def rejoin(self, waiting: deque[Sequence], seq: Sequence) -> None:
        """A sequence was preempted and waits again."""

    def overtakes(self, seq: Sequence, other: Sequence) -> bool:
        """Is a waiting sequence admitted before another that was there first."""

    def skipped(self, seqs: list[Sequence]) -> Iterable[Sequence]:
        """Sequences that were set aside, in the order of admission; who is admitted meanwhile leaves the list."""

    def victim(self, running: list[Sequence]) -> Sequence:
        """The running sequence to preempt."""


class Fcfs:
    """First come, first served; the newest admission is preempted."""

    def join(self, waiting: deque[Sequence], seq: Sequence) -> None:
        waiting.append(seq)

    def rejoin(self, waiting: deque[Sequence], seq: Sequence) -> None:
        waiting.appendleft(seq)

    def overtakes(self, seq: Sequence, other: Sequence) -> bool:
        return False

    def skipped(self, seqs: list[Sequence]) -> Iterable[Sequence]:
        at = 0
        while at < len(seqs):
            seq = seqs[at]
            yield seq
            at += at < len(seqs) and seqs[at] is seq

    def victim(self, running: list[Sequence]) -> Sequence:
        return running[-1]


class ByPriority:
    """The lowest number first, then the earliest arrival; the highest number, then the latest arrival is preempted (vLLM,
    --scheduling-policy priority)."""

    def join(self, waiting: deque[Sequence], seq: Sequence) -> None:
        insort(waiting, seq, key=urgency)

    rejoin = join

    def overtakes(self, seq: Sequence, other: Sequence) -> bool:
        return urgency(seq) < urgency(other)

    def skipped(self, seqs: list[Sequence]) -> Iterable[Sequence]:
        return sorted(seqs, key=urgency)

    def victim(self, running: list[Sequence]) -> Sequence:
        return max(running, key=urgency)


def urgency(seq: Sequence) -> tuple[int, float, int]:
    """Smaller is more urgent."""
    return seq.request.priority, seq.enter_s, seq.request.index


QUEUE_ORDERS: dict[str, QueueOrder] = {"fcfs": Fcfs(), "priority": ByPriority()}
"""engine.scheduling -> its rules."""
