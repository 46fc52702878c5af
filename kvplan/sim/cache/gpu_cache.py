"""The KV pool of an engine and its prefix cache: blocks of running sequences, and content that later ones find again."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.sim.cache.footprint import Footprint
from kvplan.sim.cache.prefix import Node, PrefixTree, span
from kvplan.sim.cache.tier import Tier
from kvplan.sim.replica.sequence import Sequence


class GpuCache:
    """Allocates blocks, shares those of equal content, and frees them tail first.

    `reserve_full_prompt`: a sequence is admitted only when its whole prompt fits.
    """

    def __init__(self, tier: Tier, footprint: Footprint, *, prefix_caching: bool = True, reserve_full_prompt: bool = False) -> None:
        self.tier, self.footprint, self.block = tier, footprint, footprint.unit
        self.tree: PrefixTree = tier.tree
        self.prefix_caching, self.reserve_full_prompt = prefix_caching, reserve_full_prompt
        self.output_tokens = 0  # of the pool, kept free for what running sequences may still give
        self.partial_reuse = False  # is a part of a block copied
        self.drafts = False  # is the last block of a hit computed again
        self.reserve_output = False  # and does a new one need room for all of its own
        # of the pool, to sequences that were admitted before: a load that begins leaves so much
        self.promised_tokens: Callable[[Sequence], int] = lambda seq: 0
        self.unsettled_tokens: Callable[[Sequence], int] = lambda seq: 0  # of a prompt, in steps before whose end its windows stay

    # -- looking -----------------------------------------------------------------------------------------------------------

    def find(self, seq: Sequence) -> Node:
        """The end of what there is of the content of a sequence."""
        request = seq.request
        leaf = self.tree.known(request.blocks, request.prompt_tokens)
        self.tree.retain(leaf, 0, request.retention)
        return self._find_generated(seq, leaf) if seq.preemptions else leaf

    def _find_generated(self, seq: Sequence, leaf: Node) -> Node:
        seq.own_tail = None
        for generation in range(seq.preemptions):
            child = leaf.children.get((seq.request.index, generation))
            if child is not None:
                seq.own_tail = leaf = child
        return leaf

    def reach(self, seq: Sequence, leaf: Node) -> int:
        """Cached tokens of a path that a sequence can use: whole blocks, and never its last token."""
        if not self.prefix_caching:
            return 0
        cached = min(self.tier.reach(leaf, 0), (seq.target - 1) // self.block * self.block)
        return max(0, cached - self.block) if self.drafts else cached

    def peek(self, seq: Sequence) -> int:
        """Cached tokens of a sequence's prompt; nothing is marked."""
        if not self.prefix_caching:
            return 0
        return self.tier.reach(self.tree.known(seq.request.blocks, seq.prompt), 0)

    # -- allocating --------------------------------------------------------------------------------------------------------

    def hold(self, seq: Sequence, leaf: Node, reach: int, upto: int, *, loaded: bool = False) -> bool:
        """Pin the path of a sequence, of which `reach` tokens are cached, and allocate up to token `upto`, what is `loaded` beside what
        others were promised.

        False, and nothing done: there is no room.
        """
        tier = self.tier
        if not tier.fits(self._taken(self._wanted(seq, upto), reach) + self.output_tokens, leaf, reach):
            return False
        if loaded and self._taken(upto, reach) > tier.room_tokens - tier.pinnable_tokens(leaf, reach) - self.promised_tokens(seq):
            return False
        seq.computed = max(reach, min(tier.reach(leaf, 0), seq.target - 1)) if self.partial_reuse else reach
        if leaf.parent is not None:
            if not self.footprint.plain and reach:
                self._find_beside(leaf, reach)
            self._unname(leaf, reach)
        seq.leaf = self.tree.path(seq.request.blocks, seq.prompt)
        self.tree.retain(seq.leaf, seq.leaf.start, seq.request.retention)
        tier.pin(seq.own_tail or seq.leaf)
        seq.blocks = reach // self.block
        seq.shared_tokens = reach
        self.allocate(seq, upto, upto - reach)
        return True

    def _unname(self, leaf: Node, reach: int) -> None:
        """What is cached of a path behind the reach is computed again, in blocks of its own; what goes on from there keeps it."""
        node, above = leaf, leaf.parent
        while above is not None and node.end > reach:
            if node.children and any(child.entry is not None for child in node.children.values()):
                break
            if node.entry is not None and not node.entry.pins:
                self.tier.unname(node.entry, node.start + node.entry.tokens - max(reach, node.start))
            node, above = above, above.parent

    def _find_beside(self, leaf: Node, reach: int) -> None:
        """Windows and states at the end of what is cached of a path, as its last user left them: their space is taken again."""
        last = span(leaf, reach - 1)[0]
        if last.entry is not None and last.entry.beside is not None:
            self.tier.reclaim(last.entry.beside)
            last.entry.beside = None

    def _taken(self, upto: int, reach: int) -> int:
        """What a sequence takes of the pool up to token `upto`, of which `reach` are cached."""
        return -(-(upto - reach) // self.block) * self.block + self._beside(upto, upto - reach)

    def _beside(self, upto: int, new: int) -> int:
        plain = self.footprint
        return 0 if plain.plain else plain.held(-(-upto // self.block), min(new, plain.in_flight_tokens))

    def extend(self, seq: Sequence, upto: int) -> bool:
        """Allocate up to token `upto` for a waiting sequence that has blocks; False, and nothing done: no room."""
        wanted = self._wanted(seq, upto)
        beside = max(0, self._beside(wanted, wanted - seq.computed) - seq.beside)
        if self._missing_tokens(seq, wanted) + beside > self.tier.room_tokens - self.output_tokens:
            return False
        return self.allocate(seq, upto, upto - seq.computed)

    def allocate(self, seq: Sequence, upto: int, new: int) -> bool:
        """Blocks for the first `upto` tokens of a sequence, of which a step computes the last `new`; False, and nothing done: they
        cannot be had."""
        missing = self._missing_tokens(seq, upto)
        if self.footprint.plain:
            if missing and not self.tier.take(missing):
                return False
            seq.blocks += missing // self.block
            return True
        beside = self._beside(upto, new + self.unsettled_tokens(seq))
        taken = missing // self.block * self.footprint.slid if seq.beside else beside  # all new units; of a cached prefix, its window
        slid = seq.beside + taken - beside
        if slid < 0:
            taken, slid = taken - slid, 0
        if not self.take(missing + taken, slid):
            return False
        seq.blocks += missing // self.block
        seq.beside = beside
        return True

    def take(self, tokens: int, slid: int = 0) -> bool:
        """Space for sequences that keep their own count, `slid` of which is that of tokens which leave a window: they stay
        cached until it is used again. False, and nothing done: it cannot be had."""
        if not slid:
            return not tokens or self.tier.take(tokens)
        if tokens - slid > self.tier.room_tokens:
            return False
        self.tier.leave(slid)
        return self.tier.take(tokens)

    def decodes(self, seq: Sequence) -> None:
        """The prompt of a sequence is computed: what its last chunk held beside the windows leaves them."""
        if not self.footprint.plain:
            beside = self.footprint.held(seq.blocks)
            self.tier.leave(max(0, seq.beside - beside))
            seq.beside = beside

    def outstanding_tokens(self, seq: Sequence) -> int:
        """What an admitted sequence still takes of the pool until its prompt is computed."""
        return self._missing_tokens(seq, seq.target) + max(0, self._beside(seq.target, seq.target) - seq.beside)

    def _wanted(self, seq: Sequence, upto: int) -> int:
        """Tokens that must fit for a sequence to be admitted."""
        wanted = max(upto, seq.target) if self.reserve_full_prompt else upto
        return wanted + seq.output - seq.emitted - 1 if self.reserve_output else wanted

    def _missing_tokens(self, seq: Sequence, upto: int) -> int:
        return max(0, -(-upto // self.block) - seq.blocks) * self.block

    def fits(self, taken: int, slid: int) -> bool:
        """Can so much be taken at once, without waiting for a copy of what is given up; see take."""
        tier = self.tier
        return taken - slid <= tier.room_tokens if tier.spill is None else taken <= tier.capacity_tokens - tier.used_tokens

    # -- sharing -----------------------------------------------------------------------------------------------------------

    def share(self, seq: Sequence) -> None:
        """Enter the full blocks of a sequence into the prefix index as far as they are scheduled; duplicates stay its own."""
        leaf = seq.own_tail or seq.leaf
        assert leaf is not None
        if not self.prefix_caching:
            return
        done = seq.computed // self.block * self.block
        if done <= seq.shared_tokens:
            return
        for node in span(leaf, seq.shared_tokens):
            end = min(done, node.end)
            entry = node.entry
            assert entry is not None
            held = node.start + entry.tokens
            if end <= held:
                continue
            self.tier.grow(entry, end - held)
            seq.shared_tokens += end - held

    def keep_generated(self, seq: Sequence, emitted: int) -> None:
        """Give the full blocks of what a sequence has `emitted` a place in the prefix index, where it finds them after its preemption."""
        assert seq.leaf is not None
        if not self.prefix_caching:
            return
        end = min(seq.computed, seq.prompt + emitted) // self.block * self.block
        start = seq.own_tail.end if seq.own_tail else seq.leaf.end
        if end <= start or seq.shared_tokens != start:
            return
        parent = seq.own_tail or seq.leaf
        key = (seq.request.index, seq.preemptions)
        node = parent.children[key] = Node(parent, (key,), start, end, key)
        self.tier.pin(node)
        self.tier.unpin(parent)
        entry = node.entry
        assert entry is not None
        self.tier.grow(entry, end - start)
        seq.shared_tokens += end - start
        seq.own_tail = node

    def name_answer(self, seq: Sequence) -> None:
        """Enter an answer into the prefix index under the names that the next turn's prompt gives it, if that goes on from here."""
        following, leaf = seq.following, seq.leaf
        if following is None or leaf is None or seq.own_tail is not None or seq.shared_tokens != leaf.end or not self.prefix_caching:
            return
        end = min((seq.computed - 1) // self.block * self.block, following.prompt_tokens)
        answer = self.tree.path(following.blocks, end)
        added = span(answer, leaf.end)
        if not added or added[0].parent is not leaf or any(node.entry is not None for node in added):
            self.tree.prune(answer)
            return
        self.tier.pin(answer)
        self.tier.unpin(leaf)
        for node in added:
            entry = node.entry
            assert entry is not None
            self.tier.grow(entry, node.end - node.start)
        seq.leaf, seq.shared_tokens = answer, answer.end

    # -- freeing -----------------------------------------------------------------------------------------------------------

    def release(self, seq: Sequence) -> None:
        """Free the blocks of a sequence, the tail first: what nobody can share, then its content from the leaf to the root.

        A block that is not full has no hash and is free at once.
        """
        tier = self.tier
        full = min(seq.blocks, max(seq.computed - 1, 0) // self.block) * self.block
        tier.leave(max(0, full - seq.shared_tokens))
        tier.give_back(seq.blocks * self.block - max(full, seq.shared_tokens))
        leaf = seq.own_tail or seq.leaf
        assert leaf is not None
        path = [] if self.footprint.plain else span(leaf, 0)
        tier.unpin(leaf)
        beside = tier.leave(seq.beside)
        for node in path:
            if node.entry is not None:
                node.entry.beside = beside
        seq.blocks = seq.shared_tokens = seq.beside = 0
        seq.leaf = seq.own_tail = None
