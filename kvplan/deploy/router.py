"""What a router that estimates each replica's prefix cache should assume of its tiers."""

from __future__ import annotations

from typing import Literal

from kvplan.deployment import Deployment
from kvplan.memory.below import below
from kvplan.results.deploy import RouterCapacity
from kvplan.results.placement import Placement


def router_capacities(deployment: Deployment, placement: Placement, pool_bytes: int) -> tuple[RouterCapacity, ...]:
    """Blocks of a prefix that one replica keeps in each tier.

    A block is the engine's unit of reuse in that tier: blocks of the GPU's pool, chunks of the tiers below. The pool is
    counted whole: what running requests hold of it is prefix cache as well. A tier that is swept counts as full as it gets.
    """
    stored, found, rules = below(deployment), [], deployment.engine.offload
    fullest = {"cpu": rules.sweep_full if rules.sweep_s else 1.0}
    made, chunk = stored.layout, stored.chunk_tokens
    if made.unit_tokens and made.unit_blocks and pool_bytes:
        blocks = (made.blocks(pool_bytes) - deployment.engine.null_blocks) // made.unit_blocks
        found.append(RouterCapacity(tier="gpu", block_tokens=made.unit_tokens, blocks=blocks))
    tiers: list[tuple[Literal["cpu", "disk"], int]] = [("cpu", placement.cpu_bytes), ("disk", placement.disk_bytes)]
    for tier, size in tiers:
        if size and chunk and stored.token_bytes:
            found.append(
                RouterCapacity(tier=tier, block_tokens=chunk, blocks=int(size * fullest.get(tier, 1.0) / stored.token_bytes) // chunk)
            )
    return tuple(found)
