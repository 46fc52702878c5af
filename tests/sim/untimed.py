"""Replay requests through one tier without time: what a policy alone does."""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.sim.future import Future
from kvplan.sim.policies import Facts
from kvplan.sim.prefix import Node, PrefixTree
from kvplan.sim.tiers import Tier
from kvplan.sim.transfers import span
from kvplan.sim.user_policy import maker
from kvplan.workload import Request


class Clock:
    now = 0.0


def missed_blocks(policy: str, requests: Iterable[Request], capacity: int) -> int:
    """Blocks of one token that were not found in a tier of `capacity` of them; what is missing is then stored, leading part first."""
    tree = PrefixTree(key_tokens=1, grain_tokens=1, tiers=1)
    requests, facts, clock = (
        list(requests),
        Facts(capacity, lambda start, end: (end - start) + (end**2 - start**2) / 200),
        Clock(),
    )
    if policy == "belady":
        facts.next_use_s = Future(tree, requests, clock).next_use_s
    tier = Tier("cpu", 0, tree=tree, policy=maker(policy)(facts), capacity_tokens=capacity, grain_tokens=1)
    missed = 0
    for request in requests:
        clock.now = request.arrival_s
        path = span(tree.path(request.blocks, len(request.blocks)), 0)
        missed += len(request.blocks) - tier.reach(path, 0)
        tier.touch(path)
        store(tier, path)
        check(tier)
    return missed


def store(tier: Tier, path: list[Node]) -> None:
    """Put a path in place: what it has is kept meanwhile, what does not fit is left out at its end."""
    for node in path:
        entry = node.entries[tier.index]
        if entry is not None:
            tier.pin(entry)
    for node in path:
        entry = node.entries[tier.index]
        wanted = node.end - node.start - (entry.tokens if entry is not None else 0)
        room = min(wanted, tier.room_tokens)
        if room:
            assert tier.take(room)
            tier.grow(node, room)
            if entry is None:
                new = node.entries[tier.index]
                assert new is not None
                tier.pin(new)
        if room < wanted:
            break
    for node in reversed(path):
        entry = node.entries[tier.index]
        if entry is not None and entry.pins:
            tier.unpin(entry)
    for node in reversed(path):
        tier.tree.prune(node)


def check(tier: Tier) -> None:
    """Membership, sizes and what may be evicted agree."""
    held = evictable = 0
    waiting = [tier.tree.root]
    while waiting:
        node = waiting.pop()
        waiting.extend(node.children.values())
        entry = node.entries[tier.index]
        if entry is not None:
            assert entry.node is node and 0 < entry.tokens <= node.end - node.start
            held += entry.tokens
            evictable += entry.tokens if not entry.pins else 0
    assert held == tier.used_tokens <= tier.capacity_tokens
    assert evictable == tier.evictable_tokens
