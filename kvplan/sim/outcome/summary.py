"""From a run's columns to its result."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kvplan import __version__
from kvplan.hardware.spec import Machine
from kvplan.results.simulate import QUANTILE_SHARES, LoadCounts, PromptTokens, Requests, SimResult, Stats, Throughput, TierUse
from kvplan.results.timeline import Timeline
from kvplan.results.traffic import HitPoint
from kvplan.sim.outcome import attribution, slo
from kvplan.sim.outcome.record import Histogram, RunRecord
from kvplan.sim.outcome.timeline import timeline
from kvplan.sim.outcome.uncertainty import interval
from kvplan.sim.outcome.warming import warming
from kvplan.traces import Trace
from kvplan.traces.columns import load
from kvplan.traces.reuse.hit_points import hit_points
from kvplan.traces.reuse.reuse import analyse
from kvplan.units import format_count

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def summarise(record: RunRecord) -> SimResult:
    """The result of a run that has ended, or of the part of it that has."""
    columns, requests = record.columns, len(record.trace)
    status = columns["status"]
    ran, rejected = status == 0, status == 1
    kept = ran & ~record.warm
    duration = max(record.finished_s, 1e-12)
    window = max(duration - record.warm_s, 1e-12)  # of the requests after the warm-up
    tokens = {name: int(columns[f"{name}_tokens"][kept].sum()) for name in ("gpu_hit", "cpu_hit", "disk_hit", "remote_hit", "computed")}
    prompt_tokens = int(columns["prompt_tokens"][kept].sum())
    loads = record.tally
    stats = {name: _stats(columns[f"{name}_s"][kept]) for name in ("ttft", "e2e", "queue")}
    stats["itl"] = _histogram_stats(record.intervals_s)
    checks, goodput, cause = slo.check(record.target, stats), None, ""
    if record.target:
        measured = {name: column[kept] for name, column in columns.items()}
        goodput = slo.goodput(record.target, measured, window)
        cause = attribution.largest(record.target, checks, measured, record.cost, record.slow)
    warm = warming(columns, kept)
    return SimResult(
        name=record.scenario.name,
        requests=Requests(
            total=requests,
            completed=int(ran.sum()),
            rejected=int(rejected.sum()),
            rejected_prompt_tokens=int(columns["prompt_tokens"][rejected].sum()),
            unfinished=requests - int(ran.sum()) - int(rejected.sum()),
            preempted=int((columns["preemptions"] > 0).sum()),
        ),
        ttft_s=stats["ttft"],
        ttft_quantiles_s=quantiles(columns["ttft_s"][kept]),
        itl_s=stats["itl"],
        e2e_s=stats["e2e"],
        queue_s=stats["queue"],
        throughput=Throughput(
            requests_per_s=int(kept.sum()) / window,
            prompt_tokens_per_s=prompt_tokens / window,
            output_tokens_per_s=int(columns["output_tokens"][kept].sum()) / window,
        ),
        prompt_tokens=PromptTokens(total=prompt_tokens, **tokens),
        tiers=_tiers(record, tokens, prompt_tokens, duration),
        loads=LoadCounts(count=loads.count, losing=loads.losing, stall_s=loads.stall_s, losing_s=loads.losing_s),
        interval=interval(record, kept, stats),
        targets=checks,
        goodput=goodput,
        largest_cause=cause,
        ideal_hit_rate=record.ideal_hit_rate,
        gpu_busy=record.used_share,
        overload=overload(stats["queue"].p50, record.finished_s, _span_s(columns)),
        warm_requests=warm[0],
        warm_s=warm[1],
        partial=record.partial,
        timeline=_timeline(record),
        duration_s=duration,
        wall_s=0.0,
        provenance=_provenance(record),
        warnings=_warnings(record),
    )


def overload(queue_p50_s: float | None, duration_s: float, span_s: float) -> float:
    """How many times longer the traffic takes than it arrives, when half of it waits for long; 0 when it keeps up."""
    if not span_s or not queue_p50_s or queue_p50_s < max(10.0, 0.05 * span_s):
        return 0.0
    return duration_s / span_s


def _span_s(columns: dict[str, Any]) -> float:
    arrivals = columns["arrival_s"]
    return float(arrivals.max() - arrivals.min()) if len(arrivals) else 0.0


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _stats(values: Any) -> Stats:
    values = values[~np.isnan(values)]
    if not len(values):
        return Stats(mean=None, max=None, **dict.fromkeys(QUANTILES))
    quantiles = np.quantile(values, list(QUANTILES.values()))
    return Stats(
        mean=float(values.mean()), max=float(values.max()), **{name: float(value) for name, value in zip(QUANTILES, quantiles, strict=True)}
    )


def _timeline(record: RunRecord) -> Timeline | None:
    """What happened when, and what a cache of each size would serve, where the run kept its history."""
    history, trace = record.history, record.trace
    if history is None:
        return None
    warm, lag_s = record.columns["index"][record.warm], record.cost.overhead.first_token_s
    found: tuple[HitPoint, ...] = ()
    if isinstance(trace, Trace) and trace.block_tokens:
        data = load(trace)
        found = hit_points(analyse(data), data.block_tokens * history.token_bytes[1])
    return timeline(history, warm, first_token_s=lag_s, curve=found)


def quantiles(values: Any) -> tuple[float, ...]:
    """A distribution at QUANTILE_SHARES; empty where nothing was measured."""
    values = values[~np.isnan(values)]
    return tuple(np.quantile(values, QUANTILE_SHARES).tolist()) if len(values) else ()


def _histogram_stats(histogram: Histogram) -> Stats:
    if not histogram.count:
        return Stats(mean=None, max=None, **dict.fromkeys(QUANTILES))
    quantiles = {name: _number(histogram.quantile(q)) for name, q in QUANTILES.items()}
    return Stats(mean=histogram.total / histogram.count, max=histogram.largest, **quantiles)


def _tiers(record: RunRecord, tokens: dict[str, int], prompt_tokens: int, duration: float) -> list[TierUse]:
    return [
        TierUse(
            name=tier.name,
            capacity_bytes=tier.capacity_bytes,
            peak_bytes=tier.peak_bytes,
            hit_tokens=tokens[f"{tier.name}_hit"],
            hit_rate=tokens[f"{tier.name}_hit"] / prompt_tokens if prompt_tokens else 0.0,
            loaded_bytes=tier.loaded_bytes,
            stored_bytes=tier.stored_bytes,
            evicted_bytes=tier.evicted_bytes,
            link_busy_fraction=min(1.0, tier.busy_s / duration),
        )
        for tier in record.tiers
    ]


def _provenance(record: RunRecord) -> dict[str, Any]:
    scenario = record.scenario
    return {
        "kvplan": __version__,
        "seed": scenario.run.seed,
        "trace": {"path": scenario.trace, "format": record.trace.format, "block_tokens": record.trace.block_tokens},
        "model": {"name": scenario.model.name, "source": scenario.model.source, "kv_bytes_per_token": record.token_bytes},
        "machine": {
            "name": scenario.machine.name,
            "numbers": {path: source.kind for path, source in sorted(scenario.machine.provenance.items())},
        },
        "engine": {"name": scenario.engine.name, "version": scenario.engine.version},
        **({"experts": {"kind": "assumed", "source": scenario.deployment.routing}} if scenario.deployment.routing else {}),
        **({"defaults": scenario.defaults.provenance()} if scenario.defaults else {}),
        "gpu_pool": {
            "bytes": round(record.pool_bytes),
            "kind": "assumed" if scenario.tiers.gpu_kv_bytes else "derived",
            "source": "given" if scenario.tiers.gpu_kv_bytes else "GPU memory less weights, activations and context, by the engine's rules",
        },
    }


def _warnings(record: RunRecord) -> list[str]:
    trace, stamps, prompts = record.trace, record.stamps, record.columns["prompt_tokens"]
    found = [f"{trace.name}: {text}" for text in trace.report.warnings]
    rejected = record.columns["status"] == 1
    if rejected.any():
        lost = f"{format_count(int(rejected.sum()), 'request')} with {int(prompts[rejected].sum()):,} prompt tokens rejected"
        found.append(f"{lost}: longer than the context of {record.max_context:,} tokens or the GPU pool of {record.pool_tokens:,} tokens")
    if stamps.gap_s and not record.scenario.run.jitter_s:
        found.append(
            f"arrivals are quantised: {stamps.requests:,} requests on {stamps.distinct:,} stamps, {stamps.gap_s:.3g} s apart on average; "
            f"queueing shorter than that is an artefact (spread it with --set run.jitter_s={stamps.gap_s:.3g})"
        )
    if record.clipped:
        found.append(f"the output of {format_count(record.clipped, 'request')} was cut at the end of the context")
    for tier in record.tiers:
        if tier.name != "gpu" and tier.busy_s > BUSY_SHARE * record.finished_s:
            busy = f"the link of the {tier.name} tier is busy {min(1.0, tier.busy_s / record.finished_s):.0%} of the time"
            found.append(f"{busy}: what waits for it holds memory of the GPU")
    if record.unstored_tokens > UNSTORED_SHARE * prompts.sum():
        found.append(
            f"{record.unstored_tokens:,} tokens were not stored when they were offered: what a tier below held was in use, or waited for a "
            "slower one"
        )
    if record.scenario.engine.drafts:
        found.append("engine.drafts: hits are those beside a draft model; its own steps, and the tokens it saves, are not simulated")
    found += record.scenario.model.notes
    found += machine_warnings(record.scenario.machine, int(prompts.max(initial=0)))
    if not trace.block_tokens:
        found.append("the trace names no content: nothing can be shared, every hit rate is 0 by assumption")
    return found


BUSY_SHARE = 0.9
"""Of the time: a link that is busier is what the traffic waits for."""

UNSTORED_SHARE = 0.01
"""Of the prompt tokens: what is refused less often is not worth a word."""


def machine_warnings(machine: Machine, longest_tokens: int) -> list[str]:
    """What a reader must know of a calibrated machine: numbers that were made up, and prompts beyond the contexts of
    `calibration.domain`, where the closed form extrapolates. `longest_tokens`: the longest prompt that ran.
    """
    fake = sum(1 for source in machine.provenance.values() if source.kind == "fake")
    found = [*machine.notes, *([f"{machine.name}: {fake} of its numbers are fake: no hardware was measured"] if fake else [])]
    domain: dict[str, list[int]] = machine.calibration.get("domain", {})  # type: ignore[assignment]
    measured = domain.get("attention_prefill_context", [0, 0])[1] + domain.get("attention_prefill_new", [0, 0])[1]
    if 0 < measured < longest_tokens:
        found.append(
            f"{machine.name}: its attention was measured up to {measured:,} tokens, prompts reach {longest_tokens:,}: "
            "beyond the measured range times are extrapolated"
        )
    return found
