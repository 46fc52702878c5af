"""Sequences that the scheduler has set aside: they load, or wait for somebody's load."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from operator import attrgetter

from kvplan.sim.replica.sequence import Sequence

place = attrgetter("place")


class Aside:
    """In the order in which they were set aside; `ready` are those that may be asked for again."""

    __slots__ = ("ready", "_members", "_places")

    def __init__(self) -> None:
        self.ready: list[Sequence] = []
        self._members: dict[Sequence, None] = {}
        self._places = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._members)

    def __reversed__(self) -> Iterator[Sequence]:
        return reversed(self._members)

    def __contains__(self, seq: object) -> bool:
        return seq in self._members

    def add(self, seq: Sequence) -> None:
        """Unless it waits for something that happens it is asked for in the next pass."""
        seq.place, self._places = self._places, self._places + 1
        self._members[seq] = None
        self.wake([seq])

    def wake(self, seqs: Iterable[Sequence]) -> None:
        """What sequences waited for has happened."""
        for seq in seqs:
            if seq in self._members and not seq.waiting_for_remote_kv:
                at = bisect_left(self.ready, seq.place, key=place)
                if self.ready[at : at + 1] != [seq]:
                    self.ready.insert(at, seq)

    def asked(self, seq: Sequence, *, admitted: bool) -> None:
        """One that was ready has been asked for: it is admitted, waits once more, or is asked for again."""
        if admitted or seq.waiting_for_remote_kv:
            del self.ready[bisect_left(self.ready, seq.place, key=place)]
        if admitted:
            del self._members[seq]

    def ready_before(self, seq: Sequence | None) -> bool:
        """Is one ready that was set aside before another; before none: at all."""
        return bool(self.ready) and (seq is None or seq not in self._members or self.ready[0].place < seq.place)
