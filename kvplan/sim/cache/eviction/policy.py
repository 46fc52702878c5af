"""What an eviction policy is, and what it may ask.

A tier keeps membership and sizes; a policy keeps order. It sees entries (runs of blocks) enter, being used and leave, and names the next
victim, which the tier trims from its tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

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

    def victim(self) -> Entry | None:
        """The entry to give up tokens next, from its tail."""


class Sized(Protocol):
    """What a policy that keeps account of sizes is told as well."""

    def resized(self, entry: Entry, tokens: int) -> None:
        """An entry that is not pinned has become larger, or smaller, by `tokens`; called after the change."""


class Facts:
    """What a policy may ask about the tier and the run it serves."""

    __slots__ = ("capacity_tokens", "recompute_s", "next_use_s", "every_touch")

    def __init__(
        self,
        capacity_tokens: int,
        recompute_s: Callable[[int, int], float] = lambda start, end: float(end - start),
        next_use_s: Callable[[Node], float] = lambda node: math.inf,
    ) -> None:
        self.capacity_tokens = capacity_tokens
        self.every_touch = False  # ARC: is every later touch a reuse, a request's own too, and a name that comes back as new as any
        self.recompute_s = recompute_s  # seconds of prefill for tokens [start, end) of a prompt
        self.next_use_s = next_use_s  # when the trace asks for a run again; infinite: never, or not known


def leaf(entry: Entry) -> Entry:
    """The deepest of the runs that continue an entry and are not pinned."""
    while entry.node is not None:
        below = (child.entry for child in entry.node.children.values())
        deeper = next((found for found in below if found is not None and not found.pins), None)
        if deeper is None:
            break
        entry = deeper
    return entry
