"""Orders by a rank."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from kvplan.sim.cache.eviction.policy import leaf
from kvplan.sim.cache.prefix import Entry


class Ranked:
    """An order by a rank computed when an entry enters and when it is used: the lowest goes first, then the least
    recently used.

    `rank(entry, again)` returns a number and may keep what it needs in `entry.meta`; `floating` ranks are looked at
    again before a victim is named; with `leaves_first` a run waits for the runs that continue it, which are of no use
    without it.
    """

    def __init__(
        self,
        rank: Callable[[Entry, bool], float],
        *,
        evicted: Callable[[float], None] = lambda rank: None,
        floating: bool = False,
        leaves_first: bool = False,
    ) -> None:
        self._rank, self._evicted, self._floating, self._leaves_first = rank, evicted, floating, leaves_first
        self._heap: list[tuple[float, int, Entry]] = []
        self._places: dict[Entry, tuple[float, int]] = {}
        self._clock = 0

    def _place(self, entry: Entry, rank: float) -> None:
        self._clock += 1
        entry.order = self
        self._places[entry] = (rank, self._clock)
        heapq.heappush(self._heap, (rank, self._clock, entry))
        if len(self._heap) > 2 * len(self._places) + 64:
            self._heap = [(*place, entry) for entry, place in self._places.items()]
            heapq.heapify(self._heap)

    def append(self, entry: Entry) -> None:
        self._place(entry, self._rank(entry, entry.meta is not None))

    def touch(self, entry: Entry, again: bool) -> None:
        self._place(entry, self._rank(entry, again))

    def remove(self, entry: Entry) -> None:
        rank, _ = self._places.pop(entry)
        entry.order = None
        if not entry.pins:
            self._evicted(rank)

    def insert_after(self, entry: Entry, above: Entry) -> None:
        self._place(above, self._places[entry][0])

    def victim(self) -> Entry | None:
        while self._heap:
            rank, stamp, entry = self._heap[0]
            if self._places.get(entry) != (rank, stamp):
                heapq.heappop(self._heap)
            elif self._floating and self._rank(entry, True) != rank:
                self._place(entry, self._rank(entry, True))
            else:
                return leaf(entry) if self._leaves_first else entry
        return None
