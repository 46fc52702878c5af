"""Eviction policies by name.

A new one is a class or maker and one entry of POLICIES; a user's own is a class in a file (see user_policy).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from kvplan.sim.cache.eviction.ghosts import Arc, S3Fifo
from kvplan.sim.cache.eviction.plain import Fifo, Lru, Retention, Sieve
from kvplan.sim.cache.eviction.policy import Facts, Policy
from kvplan.sim.cache.eviction.ranked import Ranked
from kvplan.sim.cache.prefix import Entry


def lfu(facts: Facts) -> Policy:
    """Least frequently used; of equal ones the least recently used."""

    def rank(entry: Entry, again: bool) -> float:
        entry.meta = (entry.meta or 0) + (not again)
        return float(entry.meta)

    return Ranked(rank)


def mru(facts: Facts) -> Policy:
    """Most recently used first: right for loops over more content than fits."""
    uses = itertools.count()
    return Ranked(lambda entry, again: -float(next(uses)), leaves_first=True)


def cost_aware(facts: Facts) -> Policy:
    """GreedyDual (Cao & Irani, USITS 1997) with recompute seconds per token, hence per byte: what is dear to compute
    again stays longer."""
    level = 0.0

    def rank(entry: Entry, again: bool) -> float:
        node = entry.node
        entry.meta = True
        if node is None:
            return level
        return level + facts.recompute_s(node.start, node.end) / (node.end - node.start)

    def evicted(rank: float) -> None:
        nonlocal level
        level = max(level, rank)

    return Ranked(rank, evicted=evicted, leaves_first=True)


def belady(facts: Facts) -> Policy:
    """The bound: what the trace asks for last goes first (Belady, 1966). Needs a trace whose arrivals are known
    beforehand."""

    def rank(entry: Entry, again: bool) -> float:
        entry.meta = True
        return -facts.next_use_s(entry.node) if entry.node is not None else -math.inf

    return Ranked(rank, floating=True)


def _plain(kind: Callable[[], Policy]) -> Callable[[Facts], Policy]:
    """The maker of a policy that needs to know nothing."""

    def make(facts: Facts) -> Policy:
        return kind()

    make.__doc__ = kind.__doc__
    return make


POLICIES: dict[str, Callable[[Facts], Policy]] = {
    "lru": _plain(Lru),
    "retention": _plain(Retention),
    "arc": Arc,
    "lfu": lfu,
    "fifo": _plain(Fifo),
    "s3fifo": S3Fifo,
    "sieve": _plain(Sieve),
    "mru": mru,
    "cost": cost_aware,
    "belady": belady,
}
"""Policy name -> its maker."""
