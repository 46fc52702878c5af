"""Changes of rules that a plan tries on the best placement, and why some are not tried."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kvplan.planning.space import Space
from kvplan.results.placement import Placement
from kvplan.results.plan import Option, Pruned

Variation = Callable[[Space, Option], Placement | Pruned]


def _selective(space: Space, best: Option) -> Placement | Pruned:
    """Store a block from its second lookup on: what is asked for once is not written."""
    if best.placement.store == "selective":
        return Pruned(what="selective stores", why=f"{space.base.engine.name} stores selectively as it is")
    return msgspec.structs.replace(best.placement, store="selective", store_after_lookups=2)


def _weighed(space: Space, best: Option) -> Placement | Pruned:
    """Load a hit only when that is sooner than computing it, the queues in front of the links included."""
    what = "loading by break-even"
    if best.placement.load_rule != "always":
        return Pruned(what=what, why=f"{space.base.engine.name} does so as it is")
    if not best.loads.losing:
        return Pruned(what=what, why=f"none of {best.loads.count:,} loads took longer than computing")
    return msgspec.structs.replace(best.placement, load_rule="break_even")


def _least_load(space: Space, best: Option) -> Placement | Pruned:
    """Leave hits unloaded that are shorter than the break-even."""
    placement = best.placement
    tier = "disk" if placement.disk_bytes else "cpu"
    tokens = next((one.break_even_tokens.value for one in space.when if one.tier == tier), None)
    if tokens is None or tokens <= space.base.engine.block_tokens:
        return Pruned(what="least length for loading", why="loading wins from the first block on")
    return msgspec.structs.replace(placement, load_min_tokens=int(tokens))


def _chunks(space: Space, best: Option) -> Placement | Pruned:
    """Larger pieces below the GPU: fewer, longer reads of a disk."""
    placement = best.placement
    wanted = 16 * space.base.engine.block_tokens
    what = f"chunks of {wanted} tokens"
    if not placement.disk_bytes:
        return Pruned(what=what, why="a CPU tier is as fast with chunks of 64 as of 1,024 tokens (published by GPUStack)")
    if placement.chunk_tokens >= wanted:
        return Pruned(what=what, why=f"{space.base.engine.name} stores chunks of {placement.chunk_tokens} as it is")
    return msgspec.structs.replace(placement, chunk_tokens=wanted)


VARIATIONS: dict[str, Variation] = {
    "selective stores": _selective,
    "loading by break-even": _weighed,
    "least length for loading": _least_load,
    "larger chunks": _chunks,
}
"""A change of rules -> the placement with it, or why it is not tried."""

ONLY_TRIED = ("loading by break-even",)
"""Rules that are simulated though no engine may have them, to say what they would do; `within_reach` keeps them from the advice."""


def within_reach(space: Space, placement: Placement) -> bool:
    """Can the engine be told to follow the placement's rule for loads."""
    base = space.base.engine
    return placement.load_rule == base.offload.load_rule or "load_rule" not in base.abilities.fixed
