"""Replay requests through one tier without time: what a policy alone does."""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.request import Request
from kvplan.sim.cache.eviction.belady import Future
from kvplan.sim.cache.eviction.policy import Facts
from kvplan.sim.cache.eviction.user_policy import maker
from kvplan.sim.cache.prefix import Node, PrefixTree
from kvplan.sim.cache.tier import Gap, Tier


class Clock:
    now = 0.0


def missed_blocks(policy: str, requests: Iterable[Request], capacity: int) -> int:
    """Blocks of one token that were not found in a tier of `capacity` of them; what is missing is then stored, leading
    part first."""
    tree = PrefixTree(key_tokens=1, grain_tokens=1)
    requests, facts, clock = (
        list(requests),
        Facts(capacity, lambda start, end: (end - start) + (end**2 - start**2) / 200),
        Clock(),
    )
    if policy == "belady":
        facts.next_use_s = Future(tree, requests, clock).next_use_s
    tier = Tier("cpu", tree=tree, policy=maker(policy)(facts), capacity_tokens=capacity, grain_tokens=1)
    missed = 0
    for request in requests:
        clock.now = request.arrival_s
        leaf = tree.path(request.blocks, len(request.blocks))
        missed += len(request.blocks) - tier.reach(leaf, 0)
        tier.touch(leaf)
        store(tier, leaf)
        check(tier)
    return missed


def store(tier: Tier, leaf: Node) -> None:
    """Put a path in place: what it has is kept meanwhile, what does not fit is left out at its end."""
    room = tier.room_tokens - tier.pinnable_tokens(leaf, leaf.end)
    tier.pin(leaf)
    gaps: list[Gap] = []
    for node, have, want in tier.lacking(leaf, leaf.end):
        came = min(want - have, room)
        room -= came
        if came:
            gaps.append((node, have, have + came))
        if have + came < want:
            break
    assert tier.take(sum(want - have for _, have, want in gaps))
    tier.expect(gaps)
    tier.arrived(gaps)
    tier.unpin(leaf)


def check(tier: Tier) -> None:
    """Membership, sizes and what may be evicted agree."""
    held = evictable = 0
    waiting = [tier.tree.root]
    while waiting:
        node = waiting.pop()
        waiting.extend(node.children.values())
        entry = node.entry
        if entry is not None:
            assert entry.node is node and 0 < entry.tokens <= node.end - node.start
            held += entry.tokens
            evictable += entry.tokens if not entry.pins else 0
    assert held == tier.used_tokens <= tier.capacity_tokens
    assert evictable == tier.evictable_tokens
