"""A tier below the GPU, with an index of its own: what it holds of some content, what it lacks, and what must stay
meanwhile.

Content is named by a request's keys and by token positions, so that replicas with trees of their own can share one
pool.
"""

from __future__ import annotations

from collections.abc import Hashable

from kvplan.request import RETENTION
from kvplan.sim.cache.counts import Counts
from kvplan.sim.cache.prefix import Keys, Node, span
from kvplan.sim.cache.sweep import Sweep
from kvplan.sim.cache.tier import Gap, Tier


class Reservation:
    """Space taken in a tier for content that is on its way, whose path is pinned until it is committed."""

    __slots__ = ("tokens", "leaf", "_tier", "_gaps", "_pinned", "_shuffled", "_ranked_from")

    def __init__(
        self,
        tier: Tier,
        leaf: Node,
        gaps: list[Gap],
        tokens: int,
        pinned: list[tuple[Node, int]],  # ends of runs, and from which token on
        *,
        shuffled: bool = False,
        ranked_from: int = -1,  # what the request offers from here on has one rank; -1: it has none
    ) -> None:
        self.leaf, self.tokens, self._tier, self._gaps, self._pinned = leaf, tokens, tier, gaps, pinned
        self._shuffled, self._ranked_from = shuffled, ranked_from

    @property
    def start(self) -> int:
        """The first token that is on its way."""
        return self._gaps[0][1]

    @property
    def end(self) -> int:
        return self._gaps[-1][2]

    def commit(self, tokens: int | None = None) -> int:
        """All of it is in place, or only its first `tokens` tokens in whole grains and no more will come; returns how many."""
        came = self._gaps
        if tokens is not None and tokens < self.tokens:
            came, lost = self._divided(tokens // self._tier.grain_tokens * self._tier.grain_tokens)
            self._tier.abandoned(lost)
        arrived = self._tier.arrived(came)
        for node, start in self._pinned:
            self._tier.unpin(node, start, shuffled=self._shuffled)
        if self._ranked_from >= 0:
            self._tier.touch(self.leaf, self._ranked_from, again=True)
        return arrived

    def _divided(self, left: int) -> tuple[list[Gap], list[Gap]]:
        came: list[Gap] = []
        lost: list[Gap] = []
        for node, have, want in self._gaps:
            middle = min(want, have + left)
            left -= middle - have
            came.append((node, have, middle))
            lost.append((node, middle, want))
        return came, lost


class Pin:
    """Content of a tier that is kept, from token `start` to the end of `leaf`."""

    __slots__ = ("_tier", "_leaf", "_start", "_shuffled")

    def __init__(self, tier: Tier, leaf: Node, start: int = 0, *, shuffled: bool = False) -> None:
        self._tier, self._leaf, self._start, self._shuffled = tier, leaf, start, shuffled

    def release(self, *, moved_from: int | None = None) -> None:
        """Keep it no longer; what lies after token `moved_from` has moved up and leaves the tier."""
        self._tier.unpin(self._leaf, self._start, shuffled=self._shuffled)
        for node in reversed(span(self._leaf, moved_from) if moved_from is not None else []):
            if node.entry is not None and not node.entry.pins:
                self._tier.drop(node.entry)


class Pool:
    """Host memory, a disk or a remote store. `counting`: what of its content is counted, and `counts` how often that came."""

    def __init__(self, tier: Tier, *, order: str = "position", counting: str = "", tick_s: float = 0.0) -> None:
        self.order = order
        self.tier, self.tree, self.grain_tokens = tier, tier.tree, tier.grain_tokens
        self.counting, self.counts = counting, Counts(tick_s=tick_s)
        self.sweep: Sweep | None = None
        self.endless = False  # is there room for all that ever comes

    def look(self, keys: Keys, start: int, limit: int, *, again: bool, retention: int = RETENTION) -> int:
        """How far the pool goes on from token `start` of some content, at most to `limit`. What it has of it counts as
        used."""
        return self.held(self.walk(keys, limit, again=again, retention=retention), start, limit)

    def walk(self, keys: Keys, limit: int, *, again: bool, retention: int = RETENTION) -> Node:
        """The end of what the pool knows of some content up to token `limit`; what it has of it counts as used."""
        leaf = self.tree.known(keys, limit)
        self.tree.retain(leaf, 0, retention)
        if self.order != "rank":
            self.tier.touch(leaf, again=again)
        return leaf

    def held(self, leaf: Node, start: int, limit: int) -> int:
        """How far the pool has a path from token `start` on, at most to `limit`, in whole blocks."""
        limit = limit // self.grain_tokens * self.grain_tokens
        held = self.tier.reach(leaf, start)
        return max(start, limit) if held > limit else held

    def tend(self, now: float) -> None:
        """Do what the pool does by itself and was due by now."""
        if self.sweep is not None:
            self.sweep.upto(now)

    def asked(self, keys: Keys) -> None:
        """One more request asks for this content."""
        if self.counting == "requests":
            self.counts.add(keys)

    def missed(self, keys: Keys, held: int, limit: int) -> None:
        """A lookup has found the content up to token `held` and stopped at the block behind it."""
        if self.counting == "misses" and held + self.grain_tokens <= limit:
            self.counts.add([self._grain(keys, held)])

    def stored(self, keys: Keys, start: int, end: int, now: float) -> None:
        """Tokens [start, end) of this content have come into the tier above."""
        size = self.tree.key_tokens
        self.counts.add(keys[start // size : -(-end // size)], now)

    def asked_for(self, keys: Keys, start: int, end: int, times: int) -> int:
        """Up to which token, at most `end`, content from token `start` on was counted at least so often."""
        size, grain = self.tree.key_tokens, self.grain_tokens
        if self.counting == "misses":
            return start + grain * self.counts.leading((self._grain(keys, at) for at in range(start, end - grain + 1, grain)), times)
        first = start // size
        return max(start, min(end, (first + self.counts.leading(keys[first : -(-end // size)], times)) * size))

    def _grain(self, keys: Keys, start: int) -> tuple[Hashable, int]:
        """The name of the block that begins at a token: blocks of a trace may be longer."""
        last = start + self.grain_tokens - 1
        return keys[min(last // self.tree.key_tokens, len(keys) - 1)], start

    def store(self, keys: Keys, start: int, end: int, *, keep: int = 0, since: int = 0, retention: int = RETENTION) -> Reservation | None:
        """`reserve` for content that comes from the tier above."""
        reserved = self.reserve(keys, start, end, keep=keep, since=since)
        if reserved is not None:
            self.tree.retain(reserved.leaf, start, retention)
            self.tier.stored_tokens += reserved.tokens
        return reserved

    def reserve(self, keys: Keys, start: int, end: int, *, keep: int = 0, since: int = 0) -> Reservation | None:
        """Take place for what the pool lacks of tokens [start, end); None when there is none. Ends with its commit.

        What it has of the first `keep` tokens of the content stays as long, unless the engine keeps only what it writes: what the same
        request has offered `since` that token on then only counts as used.
        """
        end = end // self.grain_tokens * self.grain_tokens
        if self.order != "position":
            return self._reserve_job(keys, start, end, since)
        tier, leaf = self.tier, self.tree.path(keys, max(end, keep), start)  # a run ends at the start: a tier holds leading parts of runs
        tier.touch(leaf, again=True)
        gaps = tier.lacking(leaf, end, start)
        tokens = _lacking_tokens(gaps)
        if not tier.fits(tokens, leaf, leaf.end):
            self.tree.prune(leaf)
            return None
        tier.pin(leaf)
        tier.take(tokens)
        tier.expect(gaps)
        return Reservation(tier, leaf, gaps, tokens, [(leaf, 0)])

    def fitting(self, keys: Keys, start: int, held: int, below: int, *, keep: int) -> int:
        """Up to which token, at most `below`, there is room for what the pool lacks of tokens [start, below), of which it has `held`."""
        leaf = self.tree.path(keys, max(below, keep))
        room = self.tier.room_tokens - self.tier.pinnable_tokens(leaf, leaf.end)
        room -= _lacking_tokens(self.tier.lacking(leaf, held, start))
        self.tree.prune(leaf)
        return min(below, held + max(0, room) // self.grain_tokens * self.grain_tokens)

    def _reserve_job(self, keys: Keys, start: int, end: int, since: int) -> Reservation | None:
        """The same for a job that protects only its own blocks: others of the request may be evicted for them.

        All of the request counts as used after the eviction where the order within a job is arbitrary, else what it has offered before it.
        """
        tier, leaf = self.tier, self.tree.path(keys, end, start)
        gaps = tier.lacking(leaf, end, start)
        tokens = _lacking_tokens(gaps)
        if not tier.fits(tokens, leaf, end, gaps):
            self.tree.prune(leaf)
            return None
        shuffled = self.order == "arbitrary"
        if not shuffled:
            tier.touch(leaf, since, again=True)
        pinned = [(node, node.start) for node, _, _ in reversed(gaps)]
        for node, first in pinned:
            tier.pin(node, first)
        tier.take(tokens)
        if shuffled:
            tier.touch(leaf, again=True)
        tier.expect(gaps)
        return Reservation(tier, leaf, gaps, tokens, pinned, shuffled=shuffled, ranked_from=-1 if shuffled else since)

    def pin(self, keys: Keys, end: int, *, used: tuple[int, int] | None = None) -> Pin:
        """Keep the first `end` tokens of some content, as far as the pool has them, until the pin is released; where the engine keeps only
        what it uses, tokens [start, end) of `used`."""
        if used is None or self.order == "position":
            leaf = self.tree.path(keys, end)
            self.tier.pin(leaf)
            return Pin(self.tier, leaf)
        start, end = used
        return self.pin_part(keys, start, end, shuffled=self.order == "arbitrary")

    def pin_part(self, keys: Keys, start: int, end: int, *, shuffled: bool = False) -> Pin:
        """Keep tokens [start, end) of some content, as far as the pool has them, until the pin is released."""
        leaf = self.tree.path(keys, end, start)
        self.tier.pin(leaf, start)
        return Pin(self.tier, leaf, start, shuffled=shuffled)


def _lacking_tokens(gaps: list[Gap]) -> int:
    tokens = 0
    for node, have, want in gaps:
        tokens += want - have
        if node.entry is not None:
            tokens -= node.entry.loose
    return tokens


def keys_of(leaf: Node, key_tokens: int) -> Keys:
    """The keys of the content from the root to the end of a run."""
    keys: list[Hashable] = []
    for node in span(leaf, 0):
        del keys[node.start // key_tokens :]  # a block that two runs share is named by both
        keys.extend(node.keys)
    return tuple(keys)
