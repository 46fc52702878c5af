"""Runs in a radix tree and a tier against a cache of single blocks, whatever is split, pinned or on its way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.sim.cache.eviction.plain import Lru
from kvplan.sim.cache.prefix import Node, PrefixTree
from kvplan.sim.cache.tier import Tier
from tests.sim.oracle import Blocks, Name

BLOCK = 16


def names_of(keys: tuple[int, ...], key_tokens: int, tokens: int) -> list[Name]:
    full = min(tokens, len(keys) * key_tokens) // BLOCK
    return [(i, keys[: (BLOCK * (i + 1) - 1) // key_tokens + 1]) for i in range(full)]


def in_order(tier: Tier, keys_above: dict[int, tuple[int, ...]], key_tokens: int) -> list[Name]:
    """The tier's blocks from the first to be given up to the last, by name."""
    found: list[Name] = []
    for entry in tier.policy:  # type: ignore[attr-defined]
        node = entry.node
        keys = keys_above[id(node)]
        for block in reversed(range(entry.tokens // BLOCK)):
            i = node.start // BLOCK + block
            found.append((i, keys[: (BLOCK * (i + 1) - 1) // key_tokens + 1]))
    return found


def keys_by_node(root: Node, key_tokens: int) -> dict[int, tuple[int, ...]]:
    """All keys from the root to the end of each run."""
    found: dict[int, tuple[int, ...]] = {id(root): ()}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for child in node.children.values():
            found[id(child)] = found[id(node)][: child.start // key_tokens] + child.keys
            waiting.append(child)
    return found


operation = st.tuples(
    st.sampled_from(["begin", "begin", "begin", "end", "touch"]),
    st.integers(0, 50),  # which earlier prompt, or which fill under way
    st.integers(0, 12),  # keys kept of it
    st.integers(0, 6),  # keys added
    st.integers(0, 60),  # tokens cut from its end
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(operation, max_size=60),
    st.sampled_from([8, 16, 24, 32, 48]),
    st.integers(1, 24),
)
def test_a_tier_of_runs_is_a_cache_of_blocks(operations: list[tuple[str, int, int, int, int]], key_tokens: int, capacity: int) -> None:
    tree = PrefixTree(key_tokens=key_tokens, grain_tokens=BLOCK)
    tier = Tier("t", tree=tree, policy=Lru(), capacity_tokens=capacity * BLOCK, grain_tokens=BLOCK)
    naive = Blocks(capacity)
    prompts: list[tuple[int, ...]] = [()]
    under_way = []
    fresh = iter(range(1, 10**6))
    for what, which, kept, added, cut in operations:
        if what == "end":
            if under_way:
                leaf, gaps, names, lacking = under_way.pop(which % len(under_way))
                tier.arrived(gaps)
                tier.unpin(leaf)
                naive.arrived(lacking)
                naive.unpin(names)
            continue
        keys = prompts[which % len(prompts)][:kept] + tuple(next(fresh) for _ in range(added))
        prompts.append(keys)
        tokens = max(0, len(keys) * key_tokens - cut)
        leaf, names = tree.path(keys, tokens), names_of(keys, key_tokens, tokens)
        assert leaf.end == len(names) * BLOCK
        assert tier.reach(leaf, 0) == naive.reach(names, 0) * BLOCK
        if what == "touch":
            tier.touch(leaf)
            naive.touch(names)
            tree.prune(leaf)
            continue
        tier.pin(leaf)
        naive.pin(names)
        gaps, lacking = tier.lacking(leaf, leaf.end), naive.lacking(names)
        assert sum(want - have for _, have, want in gaps) == len(lacking) * BLOCK
        fits = tier.take(len(lacking) * BLOCK)
        assert fits == naive.take(len(lacking))
        if fits:
            tier.expect(gaps)
            naive.coming |= set(lacking)
            under_way.append((leaf, gaps, names, lacking))
        else:
            tier.unpin(leaf)
            naive.unpin(names)
        assert in_order(tier, keys_by_node(tree.root, key_tokens), key_tokens) == naive.order
        assert tier.room_tokens == naive.room() * BLOCK
        assert tier.capacity_tokens - tier.used_tokens == naive.empty * BLOCK


def test_a_split_divides_what_a_tier_holds_and_expects() -> None:
    tree = PrefixTree(key_tokens=16, grain_tokens=16)
    tier = Tier("t", tree=tree, policy=Lru(), capacity_tokens=160, grain_tokens=16)
    leaf = tree.path((1, 2, 3, 4, 5, 6), 96)
    tier.pin(leaf)
    tier.take(96)
    first, second = tier.lacking(leaf, 32), [(leaf, 32, 96)]
    tier.expect(first)
    tier.arrived(first)  # 32 tokens are here
    tier.expect(second)  # 64 more are coming
    upper = tree.path((1, 2, 3, 9), 64).parent  # the run is cut at 48
    assert upper is not None and (upper.start, upper.end, leaf.start, leaf.end) == (0, 48, 48, 96)
    above, below = upper.entry, leaf.entry
    assert above is not None and below is not None
    assert (above.tokens, above.coming, above.pins) == (32, 16, 1)
    assert (below.tokens, below.coming, below.pins) == (0, 48, 1)
    tier.arrived(second)
    tier.unpin(leaf)
    assert (above.tokens, below.tokens, tier.evictable_tokens) == (48, 48, 96)


@pytest.mark.parametrize("key_tokens", [8, 24, 48])
def test_blocks_that_share_a_key_in_part_are_shared_only_whole(key_tokens: int) -> None:
    # Two prompts agree on the first key only: 8 tokens share no block of 16, 24 share one, 48 share three.
    tree = PrefixTree(key_tokens=key_tokens, grain_tokens=16)
    tree.path((1, 2, 3, 4), key_tokens * 4)
    other = tree.path((1, 5, 6, 7), key_tokens * 4)
    shared = key_tokens // 16 * 16
    assert other.start == shared
