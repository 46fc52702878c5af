"""The prefix index: a radix tree whose nodes are runs of consecutive blocks.

A request costs the runs it touches, not its tokens. The tree names content once for all tiers; what each tier holds of a run is a leading
part of it, kept in an `Entry` (ancestors are never older than descendants, so evicting trims a leaf run from its tail).
"""

from __future__ import annotations

from typing import Any


class Entry:
    """What one tier holds of one run: its first `tokens` tokens. `previous` and `next` belong to the tier's eviction order."""

    __slots__ = ("node", "tokens", "pins", "previous", "next", "order", "meta")

    def __init__(self, node: Node | None, tokens: int) -> None:
        self.node = node
        self.tokens = tokens
        self.pins = 0  # while above zero the entry is not evicted
        self.previous: Entry | None = None
        self.next: Entry | None = None
        self.order: Any = None  # the waiting line the entry is in; None while pinned
        self.meta: Any = None  # what the policy remembers of it


class Node:
    """A run of content from token `start` to token `end`; `keys` are the block keys it covers, `entries` one slot per tier."""

    __slots__ = ("parent", "keys", "start", "end", "children", "entries", "users")

    def __init__(self, parent: Node | None, keys: tuple[int, ...], start: int, end: int, tiers: int) -> None:
        self.parent = parent
        self.keys = keys
        self.start = start
        self.end = end
        self.children: dict[int, Node] = {}
        self.entries: list[Entry | None] = [None] * tiers
        self.users = 0  # requests that run on this content


class PrefixTree:
    """Names the content of requests. `key_tokens` is the trace's block size, `grain_tokens` the engine's: runs end on multiples of it."""

    def __init__(self, *, key_tokens: int, grain_tokens: int, tiers: int) -> None:
        self.key_tokens = max(1, key_tokens)
        self.grain_tokens = grain_tokens
        self.tiers = tiers
        self.root = Node(None, (), 0, 0, tiers)
        self.permanent = False  # are runs kept that nobody holds

    def path(self, keys: tuple[int, ...], tokens: int) -> Node:
        """The deepest node of the path that names the first `tokens` tokens of `keys`, made where it is missing.

        `tokens` is rounded down to whole engine blocks; the root stands for no content. Runs are split so that the path ends on a node.
        """
        key_tokens = self.key_tokens
        tokens = min(tokens, len(keys) * key_tokens) // self.grain_tokens * self.grain_tokens
        node = self.root
        while node.end < tokens:
            position = node.end
            first = position // key_tokens
            child = node.children.get(keys[first])
            if child is None:
                child = Node(node, keys[first : -(-tokens // key_tokens)], position, tokens, self.tiers)
                node.children[keys[first]] = child
                return child
            shared = self._shared_end(child, keys, first, tokens)
            if shared <= position:
                # The keys part inside the first engine block: such a block belongs to nobody else.
                return node
            if shared < child.end:
                child = self._split(child, shared)
            node = child
        return node

    def _shared_end(self, child: Node, keys: tuple[int, ...], first: int, tokens: int) -> int:
        """The token up to which `keys` agrees with a run, in whole engine blocks."""
        ours, theirs = keys[first : first + len(child.keys)], child.keys
        if ours == theirs:
            equal = len(ours)
        else:
            equal, most = 0, min(len(ours), len(theirs))
            step = 256
            while equal < most and ours[equal : equal + step] == theirs[equal : equal + step]:
                equal = min(most, equal + step)
            while equal < most and ours[equal] == theirs[equal]:
                equal += 1
        end = min(tokens, child.end, (first + equal) * self.key_tokens)
        return end // self.grain_tokens * self.grain_tokens

    def _split(self, node: Node, at: int) -> Node:
        """Put a new node for the tokens before `at` above `node`, which keeps its identity for what follows; returns the new one."""
        key_tokens, parent = self.key_tokens, node.parent
        assert parent is not None
        first = node.start // key_tokens
        upper = Node(parent, node.keys[: -(-at // key_tokens) - first], node.start, at, self.tiers)
        upper.users = node.users
        parent.children[node.keys[0]] = upper
        for tier, entry in enumerate(node.entries):
            if entry is not None:
                self._split_entry(tier, entry, upper, at - node.start)
        node.parent = upper
        node.keys = node.keys[at // key_tokens - first :]
        node.start = at
        upper.children[node.keys[0]] = node
        return upper

    @staticmethod
    def _split_entry(tier: int, entry: Entry, upper: Node, length: int) -> None:
        if entry.tokens <= length:  # all that the tier holds lies above the cut
            assert entry.node is not None
            entry.node.entries[tier] = None
            entry.node = upper
            upper.entries[tier] = entry
            return
        above = Entry(upper, length)
        above.pins = entry.pins
        above.meta = entry.meta
        entry.tokens -= length
        upper.entries[tier] = above
        if entry.order is not None:
            entry.order.insert_after(entry, above)

    def prune(self, node: Node) -> None:
        """Forget a run, and its ancestors, once no tier holds it and no request uses it."""
        while node.parent is not None and not self.permanent and not node.users and not node.children and not any(node.entries):
            parent = node.parent
            del parent.children[node.keys[0]]
            node.parent = None
            node = parent
