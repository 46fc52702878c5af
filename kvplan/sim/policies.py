"""Eviction policies: the order in which a tier gives up what it holds.

A tier keeps membership and sizes; a policy keeps order. It sees entries (runs of blocks) enter, being used and leave, and names the
next victim. A new policy is one class and one entry of POLICIES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from kvplan.sim.prefix import Entry


class Policy(Protocol):
    """The order of eviction of one tier. Only entries that are not pinned are in it."""

    def append(self, entry: Entry) -> None:
        """An entry becomes evictable: it is new, or its last user has left."""

    def touch(self, entry: Entry) -> None:
        """An entry in the order was used."""

    def remove(self, entry: Entry) -> None:
        """An entry leaves the order: it is pinned, or gone."""

    def insert_after(self, entry: Entry, above: Entry) -> None:
        """A run was split: `above` is its leading part and must be evicted right after `entry`."""

    def victim(self) -> Entry | None:
        """The entry to give up tokens next, from its tail."""


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

    def touch(self, entry: Entry) -> None:
        self.remove(entry)
        self.append(entry)

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


class Fifo(Lru):
    """First in, first out: use does not matter."""

    def touch(self, entry: Entry) -> None:
        pass


POLICIES: dict[str, Callable[[], Policy]] = {"lru": Lru, "fifo": Fifo}
