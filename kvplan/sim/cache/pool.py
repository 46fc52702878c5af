"""A tier below the GPU, with an index of its own: what it holds of some content, what it lacks, and what must stay
meanwhile.

Content is named by a request's keys and by token positions, so that replicas with trees of their own can share one
pool.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from kvplan.request import RETENTION
from kvplan.sim.cache.prefix import Node, retain
from kvplan.sim.cache.tier import Gap, Tier

Keys = tuple[Hashable, ...]


class Reservation:
    """Space taken in a tier for content that is on its way, whose path is pinned until it is committed."""

    __slots__ = ("tokens", "leaf", "_tier", "_gaps")

    def __init__(self, tier: Tier, leaf: Node, gaps: list[Gap]) -> None:
        self.leaf, self._tier, self._gaps = leaf, tier, gaps
        self.tokens = sum(want - have for _, have, want in gaps)

    @property
    def start(self) -> int:
        """The first token that is on its way."""
        return self._gaps[0][1]

    @property
    def end(self) -> int:
        return self._gaps[-1][2]

    def commit(self, tokens: int | None = None) -> int:
        """All of it is in place, or only its first `tokens` tokens in whole grains and no more will come; returns how many."""
        if tokens is None or tokens >= self.tokens:
            came, lost = self._gaps, list[Gap]()
        else:
            came, lost = self._divided(tokens // self._tier.grain_tokens * self._tier.grain_tokens)
        self._tier.arrived(came)
        self._tier.abandoned(lost)
        self._tier.unpin(self.leaf)
        return sum(want - have for _, have, want in came)

    def _divided(self, left: int) -> tuple[list[Gap], list[Gap]]:
        came: list[Gap] = []
        lost: list[Gap] = []
        for node, have, want in self._gaps:
            middle = min(want, have + left)
            left -= middle - have
            came.append((node, have, middle))
            lost.append((node, middle, want))
        return came, lost


class Pool:
    """Host memory, a disk or a remote store. Lookups are counted for the last `tracked` block names, as engines bound
    their trackers."""

    def __init__(self, tier: Tier, *, tracked: int = 64_000) -> None:
        self.tier, self.tree, self.grain_tokens = tier, tier.tree, tier.grain_tokens
        self._lookups: OrderedDict[Hashable, int] = OrderedDict()
        self._tracked = tracked

    def look(self, keys: Keys, start: int, limit: int, *, again: bool, retention: int = RETENTION) -> int:
        """How far the pool goes on from token `start` of some content, at most to `limit`. What it has of it counts as
        used."""
        limit = limit // self.grain_tokens * self.grain_tokens
        leaf = self.tree.path(keys, limit)  # type: ignore[arg-type]
        path = span(leaf, 0)
        retain(path, retention)
        self.tier.touch(path, again=again)
        end = min(limit, self.tier.reach(path, start))
        self.tree.prune(leaf)
        return max(start, end)

    def count(self, keys: Keys) -> None:
        """One more request asks for this content."""
        lookups = self._lookups
        for key in keys:
            lookups[key] = lookups.pop(key, 0) + 1
        while len(lookups) > self._tracked:
            lookups.popitem(last=False)

    def asked_for(self, keys: Keys, times: int) -> int:
        """Leading tokens of some content that were asked for at least so often."""
        count = 0
        for key in keys:
            if self._lookups.get(key, 0) < times:
                break
            count += 1
        return count * self.tree.key_tokens

    def store(self, keys: Keys, start: int, end: int, *, keep: int = 0, retention: int = RETENTION) -> Reservation | None:
        """`reserve` for content that comes from the tier above."""
        reserved = self.reserve(keys, start, end, keep=keep)
        if reserved is not None:
            retain(span(reserved.leaf, start), retention)
            self.tier.stored_tokens += reserved.tokens
        return reserved

    def reserve(self, keys: Keys, start: int, end: int, *, keep: int = 0) -> Reservation | None:
        """Take place for what the pool lacks of tokens [start, end); None when there is none. Ends with its
        commit.

        What it has of the first `keep` tokens of the content stays as long.
        """
        end = end // self.grain_tokens * self.grain_tokens
        if start:
            self.tree.path(keys, start)  # type: ignore[arg-type]  # a run ends here: a tier holds leading parts of runs
        leaf = self.tree.path(keys, max(end, keep))  # type: ignore[arg-type]
        path = span(leaf, 0)
        self.tier.touch(path, again=True)
        gaps = [gap for gap in self.tier.lacking(leaf, end) if gap[1] >= start]
        reserved = Reservation(self.tier, leaf, gaps)
        if reserved.tokens > self.tier.room_tokens - self.tier.pinnable_tokens(path, leaf.end):
            self.tree.prune(leaf)
            return None
        self.tier.pin(leaf)
        self.tier.take(reserved.tokens)
        self.tier.expect(gaps)
        return reserved

    def pin(self, keys: Keys, end: int) -> Node:
        """Keep the first `end` tokens of some content, as far as the pool has them; undo with `unpin` of the node."""
        leaf = self.tree.path(keys, end)  # type: ignore[arg-type]
        self.tier.pin(leaf)
        return leaf

    def unpin(self, leaf: Node, *, moved_from: int | None = None) -> None:
        """Undo a pin; what lies after token `moved_from` has moved up and leaves the pool."""
        self.tier.unpin(leaf)
        for node in reversed(span(leaf, moved_from) if moved_from is not None else []):
            entry = node.entry
            if entry is not None and not entry.pins:
                self.tier.drop(entry)


def span(leaf: Node, start: int) -> list[Node]:
    """The runs that cover the content from token `start` to the end of `leaf`, in order. Splits since then are
    followed."""
    found: list[Node] = []
    node: Node | None = leaf
    while node is not None and node.parent is not None and node.end > start:
        found.append(node)
        node = node.parent
    found.reverse()
    return found


def keys_of(leaf: Node, key_tokens: int) -> Keys:
    """The keys of the content from the root to the end of a run."""
    keys: list[Hashable] = []
    for node in span(leaf, 0):
        del keys[node.start // key_tokens :]  # a block that two runs share is named by both
        keys.extend(node.keys)
    return tuple(keys)
