"""From a run's columns to its result."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kvplan import __version__
from kvplan.results.simulate import Loads, PromptTokens, Requests, SimResult, Stats, Throughput, TierUse
from kvplan.sim.outcome import attribution as causes
from kvplan.sim.outcome import slo as targets
from kvplan.sim.outcome.record import Histogram, Recorder
from kvplan.sim.outcome.uncertainty import interval

if TYPE_CHECKING:
    from kvplan.hardware.spec import Machine
    from kvplan.sim.build import Server
    from kvplan.sim.simulate import World

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def summarise(world: World, *, partial: bool) -> SimResult:
    """The result of a run that has ended, or of the part of it that has."""
    columns = arrays(world.recorder)
    status = columns["status"]
    ran = status == 0
    kept = ran & (columns["index"] >= world.scenario.run.warmup * len(world.trace))
    duration = max(world.recorder.finished_s, 1e-12)
    window = max(duration - world.warm_s, 1e-12)  # of the requests after the warm-up
    tokens = {name: int(columns[f"{name}_tokens"][kept].sum()) for name in ("gpu_hit", "cpu_hit", "disk_hit", "remote_hit", "computed")}
    prompt_tokens = int(columns["prompt_tokens"][kept].sum())
    loads = world.tally
    stats = {name: _stats(columns[f"{name}_s"][kept]) for name in ("ttft", "e2e", "queue")} | {
        "itl": _histogram_stats(world.recorder.intervals_s)
    }
    checks, goodput, cause = targets.check(world.target, stats), None, ""
    if world.target:
        measured = {name: column[kept] for name, column in columns.items()}
        goodput = targets.goodput(world.target, measured, window)
        cause = causes.largest(world.target, checks, measured, world.cost, world.recorder.slow)
    return SimResult(
        name=world.scenario.name,
        requests=Requests(
            total=len(world.trace),
            completed=int(ran.sum()),
            rejected=int((status == 1).sum()),
            rejected_prompt_tokens=world.rejected_prompt_tokens,
            unfinished=len(world.trace) - int(ran.sum()) - int((status == 1).sum()),
            preempted=int((columns["preemptions"] > 0).sum()),
        ),
        ttft_s=stats["ttft"],
        itl_s=stats["itl"],
        e2e_s=stats["e2e"],
        queue_s=stats["queue"],
        throughput=Throughput(
            requests_per_s=int(kept.sum()) / window,
            prompt_tokens_per_s=prompt_tokens / window,
            output_tokens_per_s=int(columns["output_tokens"][kept].sum()) / window,
        ),
        prompt_tokens=PromptTokens(total=prompt_tokens, **tokens),
        tiers=_tiers(world, tokens, prompt_tokens, duration),
        loads=Loads(count=loads.count, losing=loads.losing, stall_s=loads.stall_s, losing_s=loads.losing_s),
        interval=interval(world, columns, kept, stats, duration),
        targets=checks,
        goodput=goodput,
        largest_cause=cause,
        ideal_hit_rate=world.arrivals.reuse.rate if world.trace.block_tokens else None,
        partial=partial,
        duration_s=duration,
        wall_s=0.0,
        provenance=_provenance(world),
        warnings=_warnings(world, int(columns["prompt_tokens"].max(initial=0))),
    )


def arrays(recorder: Recorder) -> dict[str, Any]:
    """The recorder's columns as numpy arrays, in the order of the trace."""
    recorded = {**recorder.columns, "status": recorder.status}
    columns = {name: np.frombuffer(column, dtype=column.typecode) for name, column in recorded.items()}
    order = np.argsort(columns["index"], kind="stable")
    return {name: column[order] for name, column in columns.items()}


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


def _histogram_stats(histogram: Histogram) -> Stats:
    if not histogram.count:
        return Stats(mean=None, max=None, **dict.fromkeys(QUANTILES))
    quantiles = {name: _number(histogram.quantile(q)) for name, q in QUANTILES.items()}
    return Stats(mean=histogram.total / histogram.count, max=histogram.largest, **quantiles)


def _tiers(world: World, tokens: dict[str, int], prompt_tokens: int, duration: float) -> list[TierUse]:
    """Tiers by name, added up over the replicas; the busiest link counts."""
    servers = [*world.prefillers, *world.servers]
    found = []
    for name in ("gpu", "cpu", "disk", "remote"):
        tiers = {id(tier): tier for server in servers for tier in server.tiers if tier.name == name}.values()
        if not tiers:
            continue
        hits = tokens[f"{name}_hit"]
        size = world.token_bytes if name == "gpu" else world.host_token_bytes
        found.append(
            TierUse(
                name=name,
                capacity_bytes=round(sum(tier.capacity_tokens for tier in tiers) * size),
                peak_bytes=round(sum(tier.peak_tokens for tier in tiers) * size),
                hit_tokens=hits,
                hit_rate=hits / prompt_tokens if prompt_tokens else 0.0,
                loaded_bytes=round(sum(tier.loaded_tokens for tier in tiers) * size),
                stored_bytes=round(sum(tier.stored_tokens for tier in tiers) * size),
                evicted_bytes=round(sum(tier.evicted_tokens for tier in tiers) * size),
                link_busy_fraction=min(1.0, max(_busy_s(server, name) for server in servers) / duration),
            )
        )
    return found


def _busy_s(server: Server, name: str) -> float:
    """Seconds that the link or device between a tier and the one above was busy."""
    if name == "cpu":
        return max(server.link.busy_s)
    if name == "disk" and server.disk is not None:
        return sum(server.disk.busy_s)
    if name == "remote" and server.remote is not None:
        return max(server.remote.busy_s)
    return 0.0


def _provenance(world: World) -> dict[str, Any]:
    scenario = world.scenario
    return {
        "kvplan": __version__,
        "seed": scenario.run.seed,
        "trace": {"path": scenario.trace, "format": world.trace.format, "block_tokens": world.trace.block_tokens},
        "model": {"name": scenario.model.name, "source": scenario.model.source, "kv_bytes_per_token": world.token_bytes},
        "machine": {
            "name": scenario.machine.name,
            "numbers": {path: source.kind for path, source in sorted(scenario.machine.provenance.items())},
        },
        "engine": {"name": scenario.engine.name, "version": scenario.engine.version},
        "gpu_pool": {
            "bytes": round(world.pool_bytes),
            "kind": "assumed" if scenario.tiers.gpu_kv_bytes else "derived",
            "source": "given" if scenario.tiers.gpu_kv_bytes else "GPU memory less weights, activations and context, by the engine's rules",
        },
    }


def _warnings(world: World, longest_prompt: int) -> list[str]:
    found = [f"{world.trace.name}: {text}" for text in world.trace.report.warnings]
    rejected = sum(1 for status in world.recorder.status if status == 1)
    if rejected:
        found.append(
            f"{rejected} requests with {world.rejected_prompt_tokens:,} prompt tokens were rejected: longer than the context of "
            f"{world.max_context:,} tokens or the GPU pool of {world.tiers[0].capacity_tokens:,} tokens"
        )
    gap_s = world.arrivals.stamps.gap_s
    if gap_s and not world.scenario.run.jitter_s:
        stamps = world.arrivals.stamps
        found.append(
            f"arrivals are quantised: {stamps.requests:,} requests on {stamps.distinct:,} stamps, {gap_s:.3g} s apart on average; "
            f"queueing shorter than that is an artefact (spread it with --set run.jitter_s={gap_s:.3g})"
        )
    if world.clipped:
        found.append(f"{world.clipped} requests reach the end of the context: their output was cut there")
    found += machine_warnings(world.scenario.machine, longest_prompt)
    if not world.trace.block_tokens:
        found.append("the trace names no content: nothing can be shared, every hit rate is 0 by assumption")
    return found


def machine_warnings(machine: Machine, longest_tokens: int) -> list[str]:
    """What a reader must know of a calibrated machine: numbers that were made up, and prompts beyond the contexts of
    `calibration.domain`, where the closed form extrapolates. `longest_tokens`: the longest prompt that ran.
    """
    fake = sum(1 for source in machine.provenance.values() if source.kind == "fake")
    found = [f"{machine.name}: {fake} of its numbers are fake: no hardware was measured"] if fake else []
    domain: dict[str, list[int]] = machine.calibration.get("domain", {})  # type: ignore[assignment]
    measured = domain.get("attention_prefill_context", [0, 0])[1] + domain.get("attention_prefill_new", [0, 0])[1]
    if 0 < measured < longest_tokens:
        found.append(
            f"{machine.name}: its attention was measured up to {measured:,} tokens, prompts reach {longest_tokens:,}: "
            "beyond the measured range times are extrapolated"
        )
    return found
