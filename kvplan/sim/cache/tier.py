"""What a tier holds: runs of content up to a capacity, given up in the order of its policy."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.sim.cache.draws import Draws
from kvplan.sim.cache.eviction.policy import Policy
from kvplan.sim.cache.prefix import Entry, Node, PrefixTree

Gap = tuple[Node, int, int]
"""A run, the token up to which a tier holds it, and the token up to which it should."""


class Tier:
    """A cache of runs with a capacity in tokens.

    `grain_tokens` is the granularity of lookup and eviction. Counters are in tokens.
    """

    def __init__(self, name: str, *, tree: PrefixTree, policy: Policy, capacity_tokens: int, grain_tokens: int, seed: int = 0) -> None:
        self.name = name
        self.tree = tree
        self.policy = policy
        self._resized: Callable[[Entry, int], None] | None = getattr(policy, "resized", None)
        self.grain_tokens = grain_tokens
        self.capacity_tokens = capacity_tokens // grain_tokens * grain_tokens
        self.used_tokens = 0
        self.peak_tokens = 0
        self.evictable_tokens = 0
        self.stored_tokens = 0
        self.evicted_tokens = 0
        self.hit_tokens = 0
        self.loaded_tokens = 0
        self.reused: Callable[[Node, int, int], None] | None = None  # the same, where that costs nothing but perhaps time
        self.spill: Callable[[Node, int, int], None] | None = None  # called with the part of a run that is being evicted
        self.evicts = True  # does what comes push out what is there; if not, it finds room or none
        self.draws = Draws(seed)
        self.spill_tokens = 0  # at least so much of a run is evicted at once

    # -- looking -----------------------------------------------------------------------------------------------------------

    def reach(self, leaf: Node, start: int) -> int:
        """How far the tier holds the path to `leaf` without a gap from token `start` on, in whole grains."""
        end, node, above = start, leaf, leaf.parent
        while above is not None and node.end > start:
            entry = node.entry
            held = node.start + entry.tokens if entry is not None else node.start
            if held < node.end or end < held:  # a gap, or the end of what is held behind the last
                end = held
            node, above = above, above.parent
        end = end // self.grain_tokens * self.grain_tokens
        return end if end > start else start

    @property
    def room_tokens(self) -> int:
        """Tokens that could be taken now, evicting all that may be evicted."""
        return self.capacity_tokens - self.used_tokens + (self.evictable_tokens if self.evicts else 0)

    # -- holding -----------------------------------------------------------------------------------------------------------

    def take(self, tokens: int) -> bool:
        """Make room for `tokens`, evicting in the policy's order; False, and nothing changed, when that much is not evictable."""
        shortage = self.used_tokens + tokens - self.capacity_tokens
        if shortage > (self.evictable_tokens if self.evicts else 0):
            return False
        if shortage > 0:
            self._evict(shortage)
        self.used_tokens += tokens
        if self.used_tokens > self.peak_tokens:
            self.peak_tokens = self.used_tokens
        return True

    def give_up(self, tokens: int) -> None:
        """Evict so many tokens, which must be evictable."""
        if tokens > 0:
            self._evict(tokens)

    def _evict(self, tokens: int) -> None:
        while tokens > 0:
            entry = self.policy.victim()
            assert entry is not None
            if entry.shuffled or entry.loose:
                tokens -= self._scatter(entry, tokens)
                continue
            taken, before = tokens if tokens > self.spill_tokens else self.spill_tokens, entry.tokens
            if taken > before:
                taken = before
            tokens -= taken
            self.used_tokens -= taken
            self.evictable_tokens -= taken
            left = entry.tokens = before - taken
            if self._resized is not None:
                self._resized(entry, -taken)
            if not left:
                self.policy.remove(entry)
            node = entry.node
            if node is not None:
                self.evicted_tokens += taken
                if self.spill is not None:
                    self.spill(node, node.start + left, node.start + before)
                if self.reused is not None:
                    self.reused(node, node.start + left, node.start + before)
                if not left:
                    self._forget(entry)

    def _scatter(self, entry: Entry, tokens: int) -> int:
        """Evict blocks of an entry that does not go from its tail: any of them, or first those behind a hole."""
        grain = self.grain_tokens
        leading, loose = entry.tokens // grain, entry.loose // grain
        count = min(-(-tokens // grain), leading + loose)
        if not entry.shuffled:
            first = min(leading, leading + loose - count)
        elif count == leading + loose:
            first = 0
        else:
            first = min(leading, self.draws.first(count, leading + loose))
        entry.tokens, entry.loose = first * grain, (leading + loose - count - first) * grain
        taken = count * grain
        self.used_tokens -= taken
        self.evictable_tokens -= taken
        self.evicted_tokens += taken
        if not entry.tokens and not entry.loose:
            self.forget(entry)
        return taken

    def drop(self, entry: Entry) -> None:
        """Forget an entry that is not pinned: its content has moved elsewhere."""
        self.used_tokens -= entry.tokens + entry.loose
        self.evictable_tokens -= entry.tokens + entry.loose
        self.forget(entry)

    def forget(self, entry: Entry) -> None:
        """Nobody finds an entry any more that is not pinned; what it takes is still counted."""
        self.policy.remove(entry)
        self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        node = entry.node
        if node is not None:
            node.entry = None
            self.tree.prune(node)

    def unname(self, entry: Entry, tokens: int) -> None:
        """The last `tokens` of a run that is not pinned will be written anew elsewhere: nobody finds them here any more. Their space keeps
        its place in the order."""
        if tokens <= 0:
            return
        self.policy.insert_after(entry, Entry(None, tokens))
        entry.tokens -= tokens
        if self._resized is not None:
            self._resized(entry, -tokens)
        if not entry.tokens and entry.node is not None:
            self.policy.remove(entry)
            entry.node.entry = None

    def grow(self, entry: Entry, tokens: int) -> None:
        """Hold `tokens` more of a pinned run; their space was taken before."""
        assert entry.pins
        entry.tokens += tokens

    def leave(self, tokens: int) -> Entry | None:
        """Leave `tokens` of content in the order of eviction that only its entry can find again."""
        if not tokens:
            return None
        entry = Entry(None, tokens)
        self.policy.append(entry)
        self.evictable_tokens += tokens
        return entry

    def reclaim(self, entry: Entry) -> None:
        """Give back what is still there of content that was left."""
        if entry.order is not None:
            self.policy.remove(entry)
            self.used_tokens -= entry.tokens
            self.evictable_tokens -= entry.tokens

    def give_back(self, tokens: int) -> None:
        """Return tokens that were taken and never filled."""
        self.used_tokens -= tokens

    # -- using -------------------------------------------------------------------------------------------------------------

    def pin(self, leaf: Node, start: int = 0) -> None:
        """Keep a run and its ancestors behind token `start` from eviction, as far as the tier holds them, until it is unpinned as often.

        A pin survives a split: `leaf` stays the last part of its run.
        """
        node = leaf
        while node.parent is not None and node.end > start:
            entry = node.entry
            if entry is None:
                entry = node.entry = Entry(node, 0)
                entry.pins = 1
            else:
                entry.pins += 1
                if entry.pins == 1:
                    self.evictable_tokens -= entry.tokens + entry.loose
                    self.policy.remove(entry)
            node = node.parent

    def unpin(self, leaf: Node, start: int = 0, *, shuffled: bool = False) -> None:
        """Undo a pin. What nobody else has pinned becomes the most recently used, the root last; `shuffled`: in arbitrary order."""
        node = leaf
        while node.parent is not None and node.end > start:
            above, entry = node.parent, node.entry
            assert entry is not None and entry.pins > 0
            entry.pins -= 1
            if not entry.pins:
                if entry.tokens or entry.loose:
                    entry.shuffled = shuffled
                    self.policy.append(entry)
                    self.evictable_tokens += entry.tokens + entry.loose
                else:
                    if entry.order is not None:  # the policy has kept its place, and a split has emptied it
                        self.policy.remove(entry)
                    self._forget(entry)
            node = above

    def pinnable_tokens(self, leaf: Node, upto: int, start: int = 0) -> int:
        """What pinning a path behind token `start` would keep from eviction of its first `upto` tokens."""
        total, node, above = 0, leaf, leaf.parent
        while above is not None and node.end > start:
            entry = node.entry
            if entry is not None and not entry.pins and node.start < upto:
                total += (entry.tokens if node.start + entry.tokens < upto else upto - node.start) + entry.loose
            node, above = above, above.parent
        return total if self.evicts else 0

    def fits(self, tokens: int, leaf: Node, upto: int, gaps: list[Gap] | None = None) -> bool:
        """Is there room for so many tokens while the first `upto` tokens of a path are kept, or of its runs only those with `gaps`."""
        room = self.room_tokens
        if tokens + upto <= room or tokens > room:
            return tokens <= room
        if gaps is None:
            return tokens <= room - self.pinnable_tokens(leaf, upto)
        return tokens <= room - sum([self.pinnable_tokens(node, upto, node.start) for node, _, _ in gaps])

    # -- filling from another tier -----------------------------------------------------------------------------------------

    def lacking(self, leaf: Node, upto: int, start: int = 0) -> list[Gap]:
        """The parts of a path before token `upto` that the tier neither holds nor expects and that begin behind token `start`."""
        gaps, node, above = [], leaf, leaf.parent
        while above is not None and node.end > start:
            entry, want = node.entry, node.end if node.end < upto else upto
            have = node.start + entry.tokens + entry.coming if entry is not None else node.start
            if start <= have < want:
                gaps.append((node, have, want))
            node, above = above, above.parent
        gaps.reverse()
        return gaps

    def expect(self, gaps: list[Gap]) -> None:
        """Note that these parts of a pinned path are on their way; their space was taken before."""
        for node, have, want in gaps:
            entry = node.entry
            assert entry is not None and entry.pins
            entry.coming += want - have
            entry.loose = 0  # part of what comes

    def arrived(self, gaps: list[Gap]) -> int:
        """What was expected is here; returns how many tokens. Runs may have been split meanwhile."""
        total = 0
        for node, have, want in gaps:
            total += want - have
            while node.end > have:
                entry, parent = node.entry, node.parent
                assert entry is not None and parent is not None
                tokens = (node.end if node.end < want else want) - (node.start if node.start > have else have)
                if tokens > 0:
                    entry.coming -= tokens
                    entry.tokens += tokens
                node = parent
        return total

    def abandoned(self, gaps: list[Gap]) -> None:
        """What was expected does not come; its space is free again."""
        for leaf, have, want in gaps:
            node = leaf
            while node.end > have:
                entry, parent = node.entry, node.parent
                assert entry is not None and parent is not None
                entry.coming -= max(0, min(node.end, want) - max(node.start, have))
                node = parent
        self.give_back(sum(want - have for _, have, want in gaps))

    def touch(self, leaf: Node, start: int = 0, *, again: bool = False) -> None:
        """Mark a path behind token `start` as used, deepest run first, so that an ancestor is always newer than its descendants.

        `again`: by a request that has used it before.
        """
        touch, node, above = self.policy.touch, leaf, leaf.parent
        while above is not None and node.end > start:
            entry = node.entry
            if entry is not None and not entry.pins:
                entry.shuffled = False
                touch(entry, again)
            node, above = above, above.parent

    def touch_all(self, leaves: list[Node]) -> None:
        """Mark paths as used once more, one after the other; a run that several share counts with the last of them."""
        seen: set[Node] = set()
        fresh: list[tuple[Node, int]] = []
        for leaf in reversed(leaves):
            node, above, evictable = leaf, leaf.parent, False
            while above is not None and node not in seen:
                seen.add(node)
                evictable = evictable or (node.entry is not None and not node.entry.pins)
                node, above = above, above.parent
            if evictable:
                fresh.append((leaf, node.end))
        for leaf, start in reversed(fresh):
            self.touch(leaf, start, again=True)
