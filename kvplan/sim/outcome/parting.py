"""Which rules make engines differ: the first of some scenarios takes over another engine's rules, one kind after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kvplan.engine.spec import EngineSpec, Offload
from kvplan.results.compare import Parting, RuleEffect
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario

RULES: dict[str, tuple[str, ...]] = {
    "the host's time, by chunks of its size": ("overhead", "first_runner", "second_runner", "launches_first", "offload.chunk_tokens"),
    "its kernels": ("kernel_share", "expert_share", "absorbed_tokens", "graph_tokens", "captured_tokens_of"),
    "how bytes are copied and named": (
        "offload.copies", "offload.store_copies", "offload.copy_layers", "offload.latent_per_rank", "offload.whole_rows",
        "offload.row_multiple_bytes", "offload.disk_read_threads", "offload.disk_write_threads", "offload.disk_per_rank",
        "offload.disk_request_reads", "offload.load_share", "offload.kernel_piece_bytes", "offload.batch_copies",
    ),
    "memory beside the KV pool": ("memory", "gpu_fraction"),
    "blocks and reuse on the GPU": ("block_tokens", "null_blocks", "gpu_policy", "whole_nodes", "partial_reuse", "prefix_caching"),
    "who is admitted, and who gives way": (
        "max_batch", "step_tokens", "steps_on", "scheduling", "reserve_full_prompt", "reserve_in_flight", "reserve_output",
        "offload.blocks_in_flight",
    ),
    "prompts in steps of their own": ("prefill_apart", "plan_ahead"),
    "what is stored below, and when": (
        "offload.store", "offload.store_after_lookups", "offload.store_counts", "offload.stores_again",
        "offload.stores_gpu_hits", "offload.offers_again", "offload.streams_stores", "offload.spill_blocks", "offload.spill_min_retention",
        "offload.lower_store", "offload.lower_store_after_lookups", "offload.lower_counts", "offload.lower_counts_tick_s",
        "offload.remote_store",
    ),
    "answers stored below": ("offload.store_generated",),
    "what host memory gives up": (
        "offload.policy", "offload.disk_policy", "offload.job_order", "offload.keeps_gpu_content", "offload.sweep_s", "offload.sweep_full",
        "offload.sweep_lost", "offload.arc_every_touch", "offload.exclusive", "offload.promotes_for_one",
    ),
    "when a load runs, and who waits for it": (
        "offload.load", "offload.load_start", "offload.load_rule", "offload.load_min_tokens", "offload.load_last_block",
        "offload.load_whole_chunks", "offload.loads_exclude_steps", "offload.loads_seen_after_step", "offload.loads_in_turn",
        "offload.lookup_passes", "offload.prefetch", "offload.prefetch_min_tokens", "offload.prefetch_batch_blocks",
        "offload.prefetch_share", "offload.prefetch_timeout_s", "offload.prefetch_timeout_token_s", "offload.prefetch_timeout_most_s",
        "offload.lower_direct", "offload.lower_loads_first", "offload.promotes_part", "offload.waits_for_stores",
    ),
    "what a store holds up": (
        "offload.stores_before_launch", "offload.store_in_step", "offload.store_start", "offload.store_holds_blocks",
        "offload.outputs_behind_stores", "offload.spills_behind_step",
        "offload.spill_waits", "offload.waits_for_prompts", "offload.one_copy_at_a_time",
    ),
}  # fmt: skip
"""Kind of rule -> the fields of an engine, in the order in which they are taken over."""

Runs = Callable[[Sequence[Scenario]], Sequence[SimResult | None]]
"""Results of some scenarios in their order; None: it cannot be run."""


def partings(names: Sequence[str], scenarios: Sequence[Scenario], results: Sequence[SimResult], run_all: Runs) -> list[Parting]:
    """Each scenario with an engine of its own against the first: what each kind of its rules changes, those before it taken over."""
    first, tried = scenarios[0], list[tuple[int, str, list[str], Scenario]]()
    for at, other in enumerate(scenarios):
        engine = first.engine
        for rule, paths in RULES.items() if other.engine.name != engine.name else ():
            engine, changed = _with(engine, other.engine, paths)
            if changed:
                tried.append((at, rule, changed, first.changed(engine=engine)))
    outcomes = run_all([scenario for _, _, _, scenario in tried])
    found: dict[int, list[RuleEffect]] = {}
    before = {at: results[0].ttft_s.mean for at, _, _, _ in tried}
    for (at, rule, changed, _), outcome in zip(tried, outcomes, strict=True):
        effects, then = found.setdefault(at, []), before[at]
        after = outcome.ttft_s.mean if outcome is not None else None
        if after is not None and then is not None:
            effects.append(RuleEffect(rule=rule, settings=changed, change_s=after - then))
            before[at] = after
    return [
        Parting(
            name=names[at],
            against=names[0],
            ttft_mean_s=results[at].ttft_s.mean,
            against_ttft_mean_s=results[0].ttft_s.mean,
            rules=sorted(effects, key=lambda one: -abs(one.change_s)),
        )
        for at, effects in found.items()
    ]


def _with(ours: EngineSpec, theirs: EngineSpec, paths: Sequence[str]) -> tuple[EngineSpec, list[str]]:
    """An engine with some of another's rules, and which of them differ."""
    own: dict[str, Any] = {}
    below: dict[str, Any] = {}
    for path in paths:
        name = path.removeprefix("offload.")
        changed, mine, other = (own, ours, theirs) if name == path else (below, ours.offload, theirs.offload)
        if getattr(mine, name) != getattr(other, name):
            changed[name] = getattr(other, name)
    offload: Offload = msgspec.structs.replace(ours.offload, **below)
    return msgspec.structs.replace(ours, offload=offload, **own), [*own, *(f"offload.{name}" for name in below)]
