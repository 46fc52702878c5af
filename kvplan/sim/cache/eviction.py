"""Orders of eviction: what a policy is, and the plain ones: by time of use, by time of entry, by rank.

A tier keeps membership and sizes; a policy keeps order. It sees entries (runs of blocks) enter, being used, change size and leave, and
names the next victim, which the tier trims from its tail.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Protocol

from kvplan.request import RETENTION
from kvplan.sim.cache.prefix import Entry, Node


class Policy(Protocol):
    """The order of eviction of one tier.

    A pinned entry is removed (its `pins` are above zero then) and appended again when its last user has left;
    `entry.meta` is the policy's own and survives that. A policy sets `entry.order` to itself while the entry has a
    place in the order.
    """

    def append(self, entry: Entry) -> None:
        """An entry becomes evictable: it is new (its `meta` is None), or its last user has left."""

    def touch(self, entry: Entry, again: bool) -> None:
        """An entry was used; `again`: by a request that has used it before, which is no new evidence of its worth."""

    def remove(self, entry: Entry) -> None:
        """An entry leaves the order: it is pinned, or gone."""

    def insert_after(self, entry: Entry, above: Entry) -> None:
        """A run was split: `above` is its leading part and must be evicted right after `entry`."""

    def resized(self, entry: Entry, tokens: int) -> None:
        """An entry that is not pinned has become larger, or smaller, by `tokens`; called after the change."""

    def victim(self) -> Entry | None:
        """The entry to give up tokens next, from its tail."""


class Facts:
    """What a policy may ask about the tier and the run it serves."""

    __slots__ = ("capacity_tokens", "recompute_s", "next_use_s")

    def __init__(
        self,
        capacity_tokens: int,
        recompute_s: Callable[[int, int], float] = lambda start, end: float(end - start),
        next_use_s: Callable[[Node], float] = lambda node: math.inf,
    ) -> None:
        self.capacity_tokens = capacity_tokens
        self.recompute_s = recompute_s  # seconds of prefill for tokens [start, end) of a prompt
        self.next_use_s = next_use_s  # when the trace asks for a run again; infinite: never, or not known


class Lru:
    """Least recently used, as a doubly linked list from oldest to newest."""

    def __init__(self) -> None:
        self._head = Entry(None, 0)  # sentinel: head.next is the oldest, head.previous the newest
        self._head.previous = self._head.next = self._head

    def append(self, entry: Entry) -> None:
        head = self._head
        newest = head.previous
        newest.next = entry  # type: ignore[union-attr]
        entry.previous, entry.next, entry.order = newest, head, self
        head.previous = entry

    def remove(self, entry: Entry) -> None:
        before, after = entry.previous, entry.next
        before.next, after.previous = after, before  # type: ignore[union-attr]
        entry.previous = entry.next = entry.order = None

    def touch(self, entry: Entry, again: bool) -> None:
        self.remove(entry)
        self.append(entry)

    def insert_after(self, entry: Entry, above: Entry) -> None:
        after = entry.next
        above.previous, above.next, above.order = entry, after, self
        entry.next = after.previous = above  # type: ignore[union-attr]

    def resized(self, entry: Entry, tokens: int) -> None:
        pass

    def victim(self) -> Entry | None:
        oldest = self._head.next
        return oldest if oldest is not self._head else None

    def __iter__(self) -> Iterator[Entry]:
        entry = self._head.next
        while entry is not self._head:
            assert entry is not None
            yield entry
            entry = entry.next


class Retention:
    """TensorRT-LLM's prioritised LRU: the lowest retention priority first, of equal ones the least recently used, and a run
    only after those that continue it."""

    def __init__(self) -> None:
        self._lines: dict[int, Lru] = {}

    def append(self, entry: Entry) -> None:
        self._lines.setdefault(entry.node.retention if entry.node is not None else RETENTION, Lru()).append(entry)

    def touch(self, entry: Entry, again: bool) -> None:
        entry.order.remove(entry)
        self.append(entry)

    def remove(self, entry: Entry) -> None:
        entry.order.remove(entry)

    def insert_after(self, entry: Entry, above: Entry) -> None:
        entry.order.insert_after(entry, above)

    def resized(self, entry: Entry, tokens: int) -> None:
        pass

    def victim(self) -> Entry | None:
        oldest = (self._lines[priority].victim() for priority in sorted(self._lines))
        found = next((entry for entry in oldest if entry is not None), None)
        return _leaf(found) if found is not None else None


class Fifo:
    """First in, first out: use does not matter, and a pinned entry keeps its place."""

    def __init__(self) -> None:
        self._line = Lru()

    def append(self, entry: Entry) -> None:
        if entry.order is None:
            self._line.append(entry)

    def remove(self, entry: Entry) -> None:
        if not entry.pins:
            self._line.remove(entry)

    def touch(self, entry: Entry, again: bool) -> None:
        pass

    def insert_after(self, entry: Entry, above: Entry) -> None:
        self._line.insert_after(entry, above)

    def resized(self, entry: Entry, tokens: int) -> None:
        pass

    def victim(self) -> Entry | None:
        return first_free(self._line)


class Sieve:
    """SIEVE (Zhang et al., NSDI 2024): a FIFO queue whose hand spares what was used since it last passed."""

    def __init__(self) -> None:
        self._line = Lru()
        self._hand: Entry | None = None

    def append(self, entry: Entry) -> None:
        if entry.order is None:
            entry.meta = False
            self._line.append(entry)

    def touch(self, entry: Entry, again: bool) -> None:
        entry.meta = entry.meta or not again

    def remove(self, entry: Entry) -> None:
        if entry.pins:
            return
        if entry is self._hand:
            self._hand = self._newer(entry)
        self._line.remove(entry)

    def _newer(self, entry: Entry) -> Entry | None:
        newer = entry.next
        return newer if newer is not None and newer.order is not None else None

    def insert_after(self, entry: Entry, above: Entry) -> None:
        self._line.insert_after(entry, above)

    def resized(self, entry: Entry, tokens: int) -> None:
        pass

    def victim(self) -> Entry | None:
        entry = self._hand or self._line.victim()
        for _ in range(3):  # to the newest; a whole round that clears all marks; a round that finds one without
            while entry is not None:
                if not entry.pins and not entry.meta:
                    self._hand = entry
                    return entry
                entry.meta = entry.meta and bool(entry.pins)
                entry = self._newer(entry)
            entry = self._line.victim()
        return None


def first_free(line: Lru) -> Entry | None:
    """The oldest entry of a line that is not pinned."""
    return next((entry for entry in line if not entry.pins), None)


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

    def resized(self, entry: Entry, tokens: int) -> None:
        pass

    def victim(self) -> Entry | None:
        while self._heap:
            rank, stamp, entry = self._heap[0]
            if self._places.get(entry) != (rank, stamp):
                heapq.heappop(self._heap)
            elif self._floating and self._rank(entry, True) != rank:
                self._place(entry, self._rank(entry, True))
            else:
                return _leaf(entry) if self._leaves_first else entry
        return None


def _leaf(entry: Entry) -> Entry:
    """The deepest of the runs in the same tier that continue an entry and are not pinned."""
    while entry.node is not None:
        tier = entry.node.entries.index(entry)
        below = (child.entries[tier] for child in entry.node.children.values())
        deeper = next((found for found in below if found is not None and not found.pins), None)
        if deeper is None:
            break
        entry = deeper
    return entry
