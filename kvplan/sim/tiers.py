"""What a tier holds: runs of content up to a capacity, given up in the order of its policy."""

from __future__ import annotations

from kvplan.sim.policies import Policy
from kvplan.sim.prefix import Entry, Node, PrefixTree


class Tier:
    """A cache of runs with a capacity in tokens.

    `index` is its slot in `Node.entries`; `grain_tokens` the granularity of lookup and eviction. Counters are in tokens.
    """

    def __init__(
        self, name: str, index: int, *, tree: PrefixTree, policy: Policy, capacity_tokens: int, grain_tokens: int
    ) -> None:
        self.name = name
        self.index = index
        self.tree = tree
        self.policy = policy
        self.grain_tokens = grain_tokens
        self.capacity_tokens = capacity_tokens // grain_tokens * grain_tokens
        self.used_tokens = 0
        self.peak_tokens = 0
        self.evictable_tokens = 0
        self.stored_tokens = 0
        self.evicted_tokens = 0
        self.hit_tokens = 0
        self.loaded_tokens = 0

    # -- looking -----------------------------------------------------------------------------------------------------------

    def reach(self, path: list[Node], start: int) -> int:
        """How far the tier holds a path (root to leaf) without a gap from token `start` on, in whole grains."""
        end = start
        for node in path:
            if node.end <= end:
                continue
            entry = node.entries[self.index]
            held = node.start + entry.tokens if entry is not None else node.start
            if held <= end:
                break
            end = held
            if held < node.end:
                break
        return max(start, end // self.grain_tokens * self.grain_tokens)

    @property
    def room_tokens(self) -> int:
        """Tokens that could be taken now, evicting all that may be evicted."""
        return self.capacity_tokens - self.used_tokens + self.evictable_tokens

    # -- holding -----------------------------------------------------------------------------------------------------------

    def take(self, tokens: int) -> bool:
        """Make room for `tokens`, evicting in the policy's order; False, and nothing changed, when that much is not evictable."""
        shortage = self.used_tokens + tokens - self.capacity_tokens
        if shortage > self.evictable_tokens:
            return False
        if shortage > 0:
            self._evict(shortage)
        self.used_tokens += tokens
        if self.used_tokens > self.peak_tokens:
            self.peak_tokens = self.used_tokens
        return True

    def _evict(self, tokens: int) -> None:
        while tokens > 0:
            entry = self.policy.victim()
            assert entry is not None
            taken = min(tokens, entry.tokens)
            tokens -= taken
            self.used_tokens -= taken
            self.evictable_tokens -= taken
            entry.tokens -= taken
            if entry.node is not None:
                self.evicted_tokens += taken
            self.policy.resized(entry, -taken)
            if not entry.tokens:
                self.policy.remove(entry)
                self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        node = entry.node
        if node is not None:
            node.entries[self.index] = None
            self.tree.prune(node)

    def grow(self, node: Node, tokens: int) -> None:
        """Hold `tokens` more of a run whose space was taken before. A new entry starts evictable unless pinned by the caller."""
        entry = node.entries[self.index]
        if entry is None:
            entry = node.entries[self.index] = Entry(node, tokens)
            self.policy.append(entry)
            self.evictable_tokens += tokens
        else:
            entry.tokens += tokens
            if not entry.pins:
                self.evictable_tokens += tokens
                self.policy.resized(entry, tokens)

    def leave(self, tokens: int) -> None:
        """Leave `tokens` of content that nobody can find again in the order of eviction, as an engine does with blocks freed without a hash."""
        if tokens:
            self.policy.append(Entry(None, tokens))
            self.evictable_tokens += tokens

    def give_back(self, tokens: int) -> None:
        """Return tokens that were taken and never filled."""
        self.used_tokens -= tokens

    # -- using -------------------------------------------------------------------------------------------------------------

    def pin(self, entry: Entry) -> None:
        """Keep an entry from eviction until it is unpinned as often."""
        entry.pins += 1
        if entry.pins == 1:
            self.policy.remove(entry)
            self.evictable_tokens -= entry.tokens

    def unpin(self, entry: Entry) -> None:
        """Undo one pin; the entry becomes the most recently used when it was the last."""
        entry.pins -= 1
        if not entry.pins:
            self.policy.append(entry)
            self.evictable_tokens += entry.tokens

    def touch(self, path: list[Node], *, again: bool = False) -> None:
        """Mark a path as used, deepest run first, so that an ancestor is always newer than its descendants.

        `again`: by a request that has used it before.
        """
        index, policy = self.index, self.policy
        for node in reversed(path):
            entry = node.entries[index]
            if entry is not None and not entry.pins:
                policy.touch(entry, again)
