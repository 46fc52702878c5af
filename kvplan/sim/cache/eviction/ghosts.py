"""Policies that remember what has left: S3-FIFO and ARC."""

from __future__ import annotations

from collections.abc import Hashable

from kvplan.sim.cache.eviction.plain import Lru, first_free
from kvplan.sim.cache.eviction.policy import Facts
from kvplan.sim.cache.prefix import Entry


class S3Fifo:
    """S3-FIFO (Yang et al., SOSP 2023): a small queue for what is new, a main queue for what was used again, a list of
    what left early."""

    SMALL_SHARE = 0.1
    MOST_USES = 3

    def __init__(self, facts: Facts) -> None:
        self._small, self._main = Lru(), Lru()
        self._small_tokens = 0
        self._small_limit = self.SMALL_SHARE * facts.capacity_tokens
        self._ghosts = Ghosts(facts.capacity_tokens - self._small_limit)

    def append(self, entry: Entry) -> None:
        if entry.order is not None:  # was pinned and has kept its place
            if entry.order is self._small:
                self._small_tokens += entry.tokens
            return
        entry.meta = 0
        if self._ghosts.take(entry):
            self._main.append(entry)
        else:
            self._small.append(entry)
            self._small_tokens += entry.tokens

    def touch(self, entry: Entry, again: bool) -> None:
        if not again:
            entry.meta = min(self.MOST_USES, entry.meta + 1)

    def remove(self, entry: Entry) -> None:
        line = entry.order
        if line is self._small:
            self._small_tokens -= entry.tokens
        if entry.pins:
            return
        line.remove(entry)
        if line is self._small:
            self._ghosts.add(entry)

    def insert_after(self, entry: Entry, above: Entry) -> None:
        entry.order.insert_after(entry, above)

    def resized(self, entry: Entry, tokens: int) -> None:
        if entry.order is self._small:
            self._small_tokens += tokens

    def victim(self) -> Entry | None:
        """Queues move on first: a used entry of the small queue goes to the main one, one of the main queue round
        again."""
        while True:
            small = first_free(self._small)
            main = first_free(self._main)
            if small is not None and (main is None or self._small_tokens > self._small_limit):
                if small.meta <= 1:
                    return small
                self._small_tokens -= small.tokens
                self._small.remove(small)
                small.meta = 0
                self._main.append(small)
            elif main is not None and main.meta:
                main.meta -= 1
                self._main.remove(main)
                self._main.append(main)
            else:
                return main


class Ghosts:
    """Names of content that left lately, oldest first, up to `limit` tokens."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.tokens = 0.0
        self._names: dict[Hashable, float] = {}

    def add(self, entry: Entry) -> None:
        """Remember a run that was evicted to its last token."""
        node = entry.node
        if node is None or not node.keys:
            return
        share = (node.end - node.start) / len(node.keys)
        for key in node.keys:
            self._drop(key)
            self._names[key] = share
            self.tokens += share
        while self.tokens > self.limit and self._names:
            self._drop(next(iter(self._names)))

    def take(self, entry: Entry) -> bool:
        """Was this run here lately; its name is forgotten."""
        node = entry.node
        return node is not None and sum([self._drop(key) for key in node.keys]) > 0

    def _drop(self, key: Hashable) -> bool:
        share = self._names.pop(key, None)
        if share is None:
            return False
        self.tokens -= share
        return True


class Arc:
    """Adaptive replacement (Megiddo & Modha, FAST 2003): what was used once, what was used more, and a balance moved by
    early leavers."""

    def __init__(self, facts: Facts) -> None:
        self._once, self._more, self._every_touch = Lru(), Lru(), facts.every_touch
        self._once_tokens = 0
        self._target = 0.0  # tokens that entries used once may have
        self._capacity = facts.capacity_tokens
        self._once_ghosts, self._more_ghosts = Ghosts(self._capacity), Ghosts(self._capacity)

    def append(self, entry: Entry) -> None:
        if entry.meta is None:
            entry.meta = self._more if self._adapt(entry) and not self._every_touch else self._once
        entry.meta.append(entry)
        if entry.order is self._once:
            self._once_tokens += entry.tokens

    def _adapt(self, entry: Entry) -> bool:
        once, more = self._once_ghosts, self._more_ghosts
        ahead, behind = (
            more.tokens / once.tokens if once.tokens else 1.0,
            once.tokens / more.tokens if more.tokens else 1.0,
        )
        if once.take(entry):
            self._target = min(self._capacity, self._target + max(1.0, ahead) * entry.tokens)
        elif more.take(entry):
            self._target = max(0.0, self._target - max(1.0, behind) * entry.tokens)
        else:
            return False
        return True

    def touch(self, entry: Entry, again: bool) -> None:
        line = entry.order
        line.remove(entry)
        if line is self._once and (self._every_touch or not again):
            self._once_tokens -= entry.tokens
            line = entry.meta = self._more
        line.append(entry)

    def remove(self, entry: Entry) -> None:
        line = entry.order
        line.remove(entry)
        if line is self._once:
            self._once_tokens -= entry.tokens
        if not entry.pins:
            (self._once_ghosts if line is self._once else self._more_ghosts).add(entry)

    def insert_after(self, entry: Entry, above: Entry) -> None:
        entry.order.insert_after(entry, above)

    def resized(self, entry: Entry, tokens: int) -> None:
        if entry.order is self._once:
            self._once_tokens += tokens

    def victim(self) -> Entry | None:
        once, more = self._once.victim(), self._more.victim()
        return once if once is not None and (more is None or self._once_tokens > self._target) else more
