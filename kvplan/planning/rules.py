"""Changes of rules that a plan tries on the best placement, and why some are not tried."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kvplan.deploy.dialects import TARGETS
from kvplan.planning.space import Space
from kvplan.results.placement import Placement
from kvplan.results.plan import Option, Pruned

Variation = Callable[[Space, Option], Placement | Pruned]


def _selective(space: Space, best: Option) -> Placement | Pruned:
    """Store a block from its second lookup on: what is asked for once is not written."""
    what, placement, engine = "selective stores", best.placement, space.base.engine
    target = TARGETS.get(engine.name)
    if placement.store == "selective":
        return Pruned(what=what, why=f"{engine.name} stores selectively as it is")
    if target is not None and "selective" not in target.stores:
        return Pruned(what=what, why=f"{target.title} has no such rule")
    if target is not None and placement.disk_bytes and not target.selective_disk:
        return Pruned(what=what, why=f"{target.title} refuses a threshold for stores together with a disk tier")
    return msgspec.structs.replace(placement, store="selective", store_after_lookups=2)


def _weighed(space: Space, best: Option) -> Placement | Pruned:
    """Load a hit only when that is sooner than computing it, the queues in front of the links included."""
    what = "loading by break-even"
    if best.placement.load_rule != "always":
        return Pruned(what=what, why=f"{space.base.engine.name} does so as it is")
    if not best.loads.losing:
        return Pruned(what=what, why=f"none of {best.loads.count:,} loads took longer than computing")
    return msgspec.structs.replace(best.placement, load_rule="break_even")


def _least_load(space: Space, best: Option) -> Placement | Pruned:
    placement, engine = best.placement, space.base.engine
    target = TARGETS.get(engine.name)
    if target is not None and not target.min_load:
        return Pruned(what="least length for loading", why=f"{engine.name} has no such setting")
    tier = "disk" if placement.disk_bytes else "cpu"
    tokens = next((one.break_even_tokens.value for one in space.when if one.tier == tier), None)
    if tokens is None or tokens <= engine.block_tokens:
        return Pruned(what="least length for loading", why="loading wins from the first block on")
    return msgspec.structs.replace(placement, load_min_tokens=int(tokens))


def _chunks(space: Space, best: Option) -> Placement | Pruned:
    placement, engine = best.placement, space.base.engine
    target = TARGETS.get(engine.name)
    wanted = 16 * engine.block_tokens
    if not placement.disk_bytes:
        return Pruned(
            what=f"chunks of {wanted} tokens",
            why="chunk sizes of 64 to 1,024 tokens make no difference to a CPU tier (gpustack)",
        )
    if (target is not None and not target.own_chunks) or placement.chunk_tokens >= wanted:
        return Pruned(what=f"chunks of {wanted} tokens", why=f"{engine.name} stores whole blocks of its own size")
    return msgspec.structs.replace(placement, chunk_tokens=wanted)


VARIATIONS: dict[str, Variation] = {
    "selective stores": _selective,
    "loading by break-even": _weighed,
    "least length for loading": _least_load,
    "larger chunks": _chunks,
}
"""A change of rules -> the placement with it, or why it is not tried."""


def within_reach(space: Space, placement: Placement) -> bool:
    """Can the engine be told to follow the placement's rule for loads; an engine of the user's own can do anything."""
    base = space.base.engine
    return placement.load_rule == base.offload.load_rule or base.name not in TARGETS
