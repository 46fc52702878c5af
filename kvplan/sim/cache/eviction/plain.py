"""Plain orders of eviction: by time of use, by time of entry."""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.request import RETENTION
from kvplan.sim.cache.eviction.policy import leaf
from kvplan.sim.cache.prefix import Entry


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
        head, before, after = self._head, entry.previous, entry.next
        if after is head:
            return
        before.next, after.previous = after, before  # type: ignore[union-attr]
        newest = head.previous
        newest.next, head.previous = entry, entry  # type: ignore[union-attr]
        entry.previous, entry.next = newest, head

    def insert_after(self, entry: Entry, above: Entry) -> None:
        after = entry.next
        above.previous, above.next, above.order = entry, after, self
        entry.next = after.previous = above  # type: ignore[union-attr]

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

    def victim(self) -> Entry | None:
        oldest = (self._lines[priority].victim() for priority in sorted(self._lines))
        found = next((entry for entry in oldest if entry is not None), None)
        return leaf(found) if found is not None else None


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
