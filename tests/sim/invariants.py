"""What must hold after every event of a run, checked by walking everything."""

from __future__ import annotations

import math
from collections.abc import Iterator

from kvplan.sim.cache.prefix import Entry, Node
from kvplan.sim.cache.tier import Tier
from kvplan.sim.replica.replica import Replica
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.simulate import World


def nodes(root: Node) -> Iterator[Node]:
    for child in root.children.values():
        yield child
        yield from nodes(child)


def check(world: World) -> None:
    for tier in world.tiers:
        everything = list(nodes(tier.tree.root))
        for node in everything:
            assert node.parent is not None and node.start == node.parent.end < node.end
            assert node.entry is not None or node.children or (tier.name == "gpu" and _is_wanted(world, node))
        _check_tier(world, tier, everything)
    replica, block = world.replica, world.replica.gpu.block
    for seq in [*replica.scheduler.running, *replica.scheduler.skipped]:
        assert _blocks(replica, seq) * block >= seq.shared_tokens >= 0
        assert not seq.running or seq.computed <= _blocks(replica, seq) * block
    for seq in replica.scheduler.waiting:
        assert seq.blocks == 0
    _check_batch(replica)


def _blocks(replica: Replica, seq: Sequence) -> int:
    return -(-replica.batch.context(seq) // replica.gpu.block) if seq in replica.batch else seq.blocks


def _held(replica: Replica, seq: Sequence) -> int:
    blocks, footprint = _blocks(replica, seq), replica.gpu.footprint
    return blocks * replica.gpu.block + (footprint.held(blocks) if seq in replica.batch else seq.beside)


def _check_batch(replica: Replica) -> None:
    """What the batch keeps as sums is what its members add up to."""
    batch = replica.batch
    contexts = [batch.context(seq) for seq in batch]
    for each in batch.sums:
        assert each.total == sum(min(context, each.window) if each.window else context for context in contexts)
        assert each.growing == sum(not each.window or context < each.window for context in contexts)
    assert batch.needs(1)[0] == sum(context % batch.block == 0 for context in contexts) * (batch.block + replica.gpu.footprint.slid)
    assert all(seq.joined < batch.ends.next for seq in batch)


def _is_wanted(world: World, node: Node) -> bool:
    """A run that holds nothing is known only while a job that looked it up waits."""
    return any(node in _path(job) for job in (*world.replica.scheduler.skipped, *world.replica.scheduler.waiting))


def _path(job: Sequence) -> list[Node]:
    found, node = [], job.own_tail or job.leaf
    while node is not None:
        found.append(node)
        node = node.parent
    return found


def _check_tier(world: World, tier: Tier, everything: list[Node]) -> None:
    entries = [(node, entry) for node in everything if (entry := node.entry) is not None]
    order: list[Entry] = list(tier.policy)  # type: ignore[call-overload]
    place = {id(entry): at for at, entry in enumerate(order)}
    nameless = sum(entry.tokens for entry in order if entry.node is None)
    held = sum(entry.tokens + entry.coming for _, entry in entries)
    private = 0
    if tier.name == "gpu":
        private = sum(
            _held(world.replica, seq) - seq.shared_tokens for seq in (*world.replica.scheduler.running, *world.replica.scheduler.skipped)
        )
    assert tier.used_tokens == held + nameless + private, tier.name
    assert tier.evictable_tokens == sum(entry.tokens for entry in order)
    assert 0 <= tier.used_tokens <= tier.capacity_tokens
    for node, entry in entries:
        assert entry.node is node
        assert entry.tokens >= 0 and entry.coming >= 0 and entry.pins >= 0
        assert entry.tokens + entry.coming <= node.end - node.start
        assert entry.pins or entry.tokens, "an entry that is neither held nor pinned"
        assert (entry.order is None) == (entry.pins > 0) == (id(entry) not in place)
        above = node.parent
        assert above is not None
        if above.parent is None:
            continue
        upper = above.entry
        assert upper is not None, "an ancestor is missing"
        assert upper.pins >= entry.pins
        if entry.tokens + entry.coming:
            assert upper.tokens + upper.coming == above.end - above.start, "a gap"
        if not upper.pins:
            assert place[id(upper)] > place[id(entry)], "an ancestor is older than its descendant"


def walk(world: World) -> None:
    """Run a world event by event, then drain what is under way; everything is checked after each event."""
    world.clock.process(world.arriving())
    while not world.all_done.triggered:
        world.clock.step()
        check(world)
    while world.clock.peek() < math.inf:
        world.clock.step()
        check(world)
    for tier in world.tiers:
        for node in nodes(tier.tree.root):
            assert node.entry is None or node.entry.pins == node.entry.coming == 0
        assert tier.used_tokens == tier.evictable_tokens
