"""What is simulated of an engine, fact by fact, and how each is known."""

from __future__ import annotations

from typing import Any

import msgspec

from kvplan.engine.spec import EngineSpec


def facts(engine: EngineSpec) -> list[dict[str, str]]:
    """Each number and rule that is simulated of an engine at its version, with its value, how it is known and the source.

    What another rule switches off is left out: it is not simulated.
    """
    found = []
    for path, value in _flat("", engine):
        if not _in_play(engine, path, value):
            continue
        source = engine.provenance.get(path)
        kind, words = (source.kind, source.source) if source else ("assumed", "kvplan's default: nothing is known of this version")
        found.append({"fact": path, "value": str(value), "kind": kind, "source": words})
    return found


def known_share(engine: EngineSpec, prefix: str = "") -> tuple[int, int]:
    """How many of the simulated facts are known rather than assumed, and how many there are; of those whose path begins with `prefix`."""
    kinds = [one["kind"] for one in facts(engine) if one["fact"].startswith(prefix)]
    return len(kinds) - kinds.count("assumed"), len(kinds)


_NOT_FACTS = ("name", "title", "version", "base", "connector", "provenance", "memory", "abilities", "kv_formats")

_SETTINGS = ("max_batch", "max_context_tokens", "gpu_fraction", "drafts")
"""What a user sets, and emitted configurations say."""

_ABSENT: dict[str, tuple[object, ...]] = {
    "offload.streamed_share": (0.0,),
    "offload.exclusive": (),
    "offload.remote_store": ("",),
    "whole_nodes": (False,),
    "ranks_share_budget": (False,),
    "prefill_apart": (False,),
    "partial_reuse": (False,),
    "reserve_output": (0.0,),
    "offload.stores_again": (False,),
    "offload.spill_min_retention": (0,),
    "offload.lower_direct": (False,),
    "offload.loads_in_turn": (False,),
    "offload.waits_for_prompts": (False,),
    "offload.spill_waits": (False,),
    "offload.store_copies": ("",),
    "offload.load_share": (1.0,),
    "offload.kernel_piece_bytes": (0,),
    "offload.batch_copies": (0,),
    "offload.stores_before_launch": (False,),
    "launches_first": (False,),
    "offload.spills_behind_step": (False,),
    "overhead.disk_byte_s": (0.0,),
    "offload.lower_loads_first": (False,),
    "offload.lookup_passes": (0,),
    "offload.promotes_for_one": (False,),
    "offload.sweep_s": (0.0,),
    "offload.one_copy_at_a_time": (False,),
    "overhead.empty_pass_s": (0.0,),
    "overhead.load_chunk_s": (0.0,),
    "offload.stores_gpu_hits": (True,),
    "offload.keeps_gpu_content": (False,),
    "offload.lower_counts_tick_s": (0.0,),
    "second_runner": ((),),
    "first_runner": ({},),
    "captured_tokens_of": ({},),
    "overhead.remote_byte_s": (0.0,),
    "overhead.remote_host_byte_s": (0.0,),
    "host_pool.ratio": (0.0,),
    "host_pool.ratio_share": (1.0,),
    "host_pool.ratio_spare_bytes": (0,),
}
"""Facts that are absent at these values."""


def _in_play(engine: EngineSpec, path: str, value: object) -> bool:
    """Does a fact change anything, given the others."""
    rules = engine.offload
    off = {
        "rank_stale_s": engine.rank_router != "least_loaded",
        "offload.prefetch_": rules.prefetch == "none",
        "offload.prefetch_timeout": rules.prefetch != "timeout",
        "offload.store_after_lookups": rules.store != "selective",
        "offload.store_counts": rules.store != "selective",
        "offload.lower_store_after_lookups": rules.lower_store != "selective",
        "offload.lower_counts": rules.lower_store != "selective",
        "offload.draft_": not engine.drafts,
        "offload.arc_": rules.policy != "arc",
        "offload.disk_": not engine.abilities.disk,
        "offload.disk_policy": not engine.abilities.disk_bounded,
        "offload.sweep_": not rules.sweep_s,
        "offload.spill_": "on_evict" not in (rules.store, rules.lower_store),
        "offload.copy_layers": rules.copies != "engine",
        "overhead.store_": not rules.store_in_step,
        "overhead.load_byte_s": rules.copies != "host",
        "overhead.store_byte_s": rules.copies != "host",
    }
    if path in _SETTINGS or value in _ABSENT.get(path, ()):
        return False
    return not any(path.startswith(start) and switched for start, switched in off.items())


def _flat(prefix: str, record: msgspec.Struct) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if not prefix and name in _NOT_FACTS:
            continue
        rows += _flat(f"{name}.", value) if isinstance(value, msgspec.Struct) else [(f"{prefix}{name}", value)]
    return rows
