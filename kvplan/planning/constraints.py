"""What an engine cannot be told to do: the restrictions in its file, held against a placement."""

from __future__ import annotations

from typing import NamedTuple

from kvplan.engine.spec import EngineSpec
from kvplan.results.placement import Placement


class Obstacle(NamedTuple):
    """What a placement asks for and an engine cannot do, and what to do instead."""

    what: str
    instead: str


_FIXED = {
    "load_rule": Obstacle("weigh each load against computing", "--set engine.offload.load_rule=always"),
    "load_min_tokens": Obstacle("leave short hits unloaded", "lmcache can"),
    "store_generated": Obstacle("leave generated tokens out", "it stores every full block: --set engine.offload.store_generated=true"),
    "store_after_lookups": Obstacle("choose the lookup from which it stores", "its selective rule is the second"),
    "chunk_tokens": Obstacle("use chunks that differ from its blocks", "--set engine.offload.chunk_tokens=0"),
}


def obstacle(engine: EngineSpec, placement: Placement) -> Obstacle | None:
    """The first thing that the engine cannot do of what a placement decides; None when it can carry it out."""
    able = engine.abilities
    if able.kv_dtypes and placement.kv_dtype not in able.kv_dtypes:
        return Obstacle(f"keep KV as {placement.kv_dtype}", f"it offers {', '.join(able.kv_dtypes)}")
    if not placement.offloads:
        return None
    for what, field, offered in (("store", "store", able.stores), ("evict", "policy", able.policies)):
        value = getattr(placement, field)
        if offered and value not in (*offered, getattr(engine.offload, field)):
            return Obstacle(f"{what} by the rule {value}", f"it offers {', '.join(offered)}")
    if placement.disk_bytes and not able.disk:
        return Obstacle("keep KV on disk", "emit dynamo, lmcache, sglang or vllm, or drop the disk tier")
    if placement.disk_bytes and placement.store == "selective" and not able.disk_selective:
        return Obstacle("store selectively with a disk tier", "store everything, or drop the disk tier")
    if (placement.disk_bytes or placement.remote_url) and not placement.cpu_bytes and not able.disk_alone:
        return Obstacle("use a lower tier without CPU memory", "its transfers pass through CPU memory: give it a CPU tier")
    if placement.remote_url and not able.remote:
        return Obstacle("use a remote tier by its address alone", "emit lmcache, or set its remote store up by hand")
    if 0 < placement.cpu_bytes < able.cpu_step_bytes * placement.ranks:
        return Obstacle("use so small a CPU tier", f"it takes steps of {able.cpu_step_bytes:,} bytes on each rank")
    field = next((field for field in _FIXED if field in able.fixed and not _stays(engine, placement, field)), "")
    if field == "store_generated" and placement.store_generated:
        return Obstacle("store generated tokens", "--set engine.offload.store_generated=false")
    return _FIXED.get(field)


def _stays(engine: EngineSpec, placement: Placement, field: str) -> bool:
    """Does a placement leave a rule as the engine has it, or not use it."""
    value = getattr(placement, field)
    if field == "store_after_lookups" and placement.store != "selective":
        return True
    if field == "chunk_tokens" and value in (0, placement.block_tokens):
        return True
    return value == getattr(engine.offload, field) or (field == "load_min_tokens" and not value)
