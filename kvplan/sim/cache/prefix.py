"""The prefix index: a radix tree whose nodes are runs of consecutive blocks.

A request costs the runs it touches, not its tokens. What a tier holds of a run is kept in its `Entry`: a leading part (ancestors are never
older than descendants, so evicting trims a leaf run from its tail).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from kvplan.request import RETENTION

Keys = tuple[Hashable, ...]
"""The names of a request's blocks: a trace's."""


class Entry:
    """What one tier holds of one run: its first `tokens` tokens, and `coming` more that are on their way.

    Where an engine gives up the blocks of a job in arbitrary order (`shuffled`), `loose` tokens behind the first hole are still there.

    A pinned entry stays even when it holds nothing. `previous` and `next` belong to the tier's eviction order.
    """

    __slots__ = ("node", "tokens", "coming", "loose", "shuffled", "load", "pins", "previous", "next", "order", "meta", "beside", "inserts")

    def __init__(self, node: Node | None, tokens: int) -> None:
        self.node = node
        self.tokens = tokens
        self.coming = self.loose = 0
        self.shuffled = False
        self.load: Any = None  # what brings tokens from a tier below, for others to wait for
        self.pins = 0  # while above zero the entry is not evicted
        self.previous: Entry | None = None
        self.next: Entry | None = None
        self.order: Any = None  # the waiting line the entry is in; None while pinned
        self.meta: Any = None  # what the policy remembers of it
        self.inserts = 0  # requests that went through it, where stores go by that
        self.beside: Entry | None = None  # space of windows and states that its last user left, for the next one to find


class Node:
    """A run of content from token `start` to token `end`; `keys` are the block keys it covers, `entry` what the tier holds."""

    __slots__ = ("parent", "keys", "start", "end", "children", "entry", "retention", "name")

    def __init__(self, parent: Node | None, keys: Keys, start: int, end: int, name: Hashable = None) -> None:
        self.parent = parent
        self.keys = keys
        self.name = name  # by which its parent knows it: the key that covers the end of its first engine block, and so all before it
        self.start = start
        self.end = end
        self.children: dict[Hashable, Node] = {}  # by the key of their first engine block
        self.entry: Entry | None = None
        self.retention = RETENTION  # of the request that used it last


LATELY = 512
"""Requests whose paths a tree remembers."""


class Walk:
    """The path that was walked last for a request's keys: its end."""

    __slots__ = ("keys", "node")

    def __init__(self, keys: Keys, node: Node) -> None:
        self.keys, self.node = keys, node


class PrefixTree:
    """Names the content of requests. `key_tokens` is the trace's block size, `grain_tokens` the engine's: runs end on multiples of it."""

    def __init__(self, *, key_tokens: int, grain_tokens: int) -> None:
        self.key_tokens = max(1, key_tokens)
        self.grain_tokens = grain_tokens
        self.root = Node(None, (), 0, 0)
        self.permanent = False  # are runs kept that nobody holds
        self.retained = False  # has a request asked for a retention priority of its own
        self._lately: dict[int, Walk] = {}  # by the identity of keys

    def path(self, keys: Keys, tokens: int, start: int = 0) -> Node:
        """The deepest node of the path that names the first `tokens` tokens of `keys`, made where it is missing.

        `tokens` is rounded down to whole engine blocks; the root stands for no content. Runs are split so that one ends on this node, and
        one at token `start`.
        """
        grain, most = self.grain_tokens, len(keys) * self.key_tokens
        end = (tokens if tokens < most else most) // grain * grain
        walk = self._last(keys, end)
        node = walk.node
        if start:
            cut = (start if start < end else end) // grain * grain
            node = self._cut(node, cut) if node.end > cut else self._gone_on(node, keys, cut)
        if node.end < end:
            node = self._gone_on(node, keys, end)
        walk.node = node
        return node

    def known(self, keys: Keys, tokens: int) -> Node:
        """The end of what is there of the path; runs are split as `path` does, and none is made. A last one that nobody holds is
        forgotten."""
        grain, most = self.grain_tokens, len(keys) * self.key_tokens
        end = (tokens if tokens < most else most) // grain * grain
        walk = self._last(keys, end)
        node = walk.node
        if node.end < end and node.children:
            node = self._walked(node, keys, end)
        if node.entry is None:
            node = self.prune(node)
        walk.node = node
        return node

    def _last(self, keys: Keys, tokens: int) -> Walk:
        """The last walk for these keys, or the part of it within `tokens`: the next one goes on there."""
        walk = self._lately.get(id(keys))
        if walk is None or walk.keys is not keys:
            if len(self._lately) >= LATELY:
                self._lately.clear()
            walk = self._lately[id(keys)] = Walk(keys, self.root)
            return walk
        node = walk.node
        if node.parent is None:  # forgotten since
            node = self.root
        while node.end > tokens:
            assert node.parent is not None
            node = node.parent
        walk.node = node
        return walk

    def _walked(self, node: Node, keys: Keys, tokens: int) -> Node:
        """The end of what is there of a path behind one of its runs, up to token `tokens`."""
        grain, key_tokens = self.grain_tokens, self.key_tokens
        while node.end < tokens:
            position = node.end
            child = node.children.get(keys[(position + grain - 1) // key_tokens])
            if child is None:
                break
            first, theirs = position // key_tokens, child.keys
            if child.end > tokens or keys[first : first + len(theirs)] != theirs:
                shared = self._shared_end(child, keys, first, tokens)
                if shared <= position:  # a damaged trace: the last key of an engine block agrees and an earlier one does not
                    break
                if shared < child.end:
                    child = self._split(child, shared)
            node = child
        return node

    def _gone_on(self, node: Node, keys: Keys, tokens: int) -> Node:
        """The end of a path behind one of its runs, at token `tokens`, made where it is missing."""
        if node.children:
            node = self._walked(node, keys, tokens)
        return self._made(node, keys, tokens) if node.end < tokens else node

    def _made(self, node: Node, keys: Keys, tokens: int) -> Node:
        """A new run behind one, up to token `tokens`; the node itself where its name is taken, in a damaged trace."""
        key_tokens, start = self.key_tokens, node.end
        name = keys[(start + self.grain_tokens - 1) // key_tokens]
        if name in node.children:
            return node
        node.children[name] = made = Node(node, keys[start // key_tokens : -(-tokens // key_tokens)], start, tokens, name)
        return made

    def _cut(self, leaf: Node, at: int) -> Node:
        """Let a run of the path to `leaf` end at token `at`; returns the end of the path, of which nothing may be left behind the cut."""
        node = leaf
        while node.start > at:
            assert node.parent is not None
            node = node.parent
        if node.start < at < node.end:
            upper = self._split(node, at)
            if node.parent is None:
                return upper
        return leaf

    def _name(self, node: Node) -> Hashable:
        start = node.start
        return node.keys[min((start + self.grain_tokens - 1) // self.key_tokens - start // self.key_tokens, len(node.keys) - 1)]

    def _shared_end(self, child: Node, keys: Keys, first: int, tokens: int) -> int:
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
        upper = Node(parent, node.keys[: -(-at // key_tokens) - first], node.start, at, node.name)
        upper.retention = node.retention
        parent.children[node.name] = upper
        if node.entry is not None:
            _split_entry(node.entry, upper, at - node.start, self.grain_tokens)
        node.parent = upper
        node.keys = node.keys[at // key_tokens - first :]
        node.start = at
        node.name = self._name(node)
        if node.children or self.permanent or node.entry is not None:
            upper.children[node.name] = node
        else:  # evicted to before the cut
            node.parent = None
        return upper

    def retain(self, leaf: Node, start: int, retention: int) -> None:
        """The runs of a path behind token `start` take the retention priority of the request that uses them."""
        if retention == RETENTION and not self.retained:
            return
        self.retained = True
        for node in span(leaf, start):
            node.retention = retention

    def prune(self, node: Node) -> Node:
        """Forget a run, and its ancestors, once the tier does not hold it and nothing uses it; returns what is left of the path."""
        while node.parent is not None and not self.permanent and not node.children and node.entry is None:
            parent = node.parent
            del parent.children[node.name]
            node.parent = None
            node = parent
        return node


def span(leaf: Node, start: int) -> list[Node]:
    """The runs that cover the content from token `start` to the end of `leaf`, in order. Splits since then are followed."""
    found: list[Node] = []
    node, above = leaf, leaf.parent
    while above is not None and node.end > start:
        found.append(node)
        node, above = above, above.parent
    found.reverse()
    return found


def _split_entry(entry: Entry, upper: Node, length: int, grain: int) -> None:
    """Divide what a tier holds of a run: `upper` gets the first `length` tokens, whoever uses the run uses both parts."""
    node = entry.node
    assert node is not None
    if entry.tokens + entry.coming <= length and not entry.pins and not entry.loose:  # all that the tier holds lies above the cut
        node.entry = None
        entry.node = upper
        upper.entry = entry
        return
    above = upper.entry = Entry(upper, min(entry.tokens, length))
    above.coming = min(entry.coming, length - above.tokens)
    above.pins, above.load, above.meta, above.shuffled = entry.pins, entry.load, entry.meta, entry.shuffled
    above.inserts = entry.inserts
    entry.tokens -= above.tokens
    entry.coming -= above.coming
    if entry.loose and above.tokens < length:  # spread evenly, as far as is known
        rest = node.end - node.start - above.tokens
        above.loose = min(entry.loose * (length - above.tokens) // (rest * grain) * grain, entry.loose)
        entry.loose -= above.loose
    if entry.order is not None:
        entry.order.insert_after(entry, above)
