"""`kvplan.plan`: traffic, model, machine and engine in; when, where and how much out."""

from __future__ import annotations

import msgspec

from kvplan import __version__
from kvplan.errors import InputError
from kvplan.plan import closed_form, space as places, verdict as verdicts
from kvplan.plan.emit import emit
from kvplan.plan.objective import SATURATED, Prices, Target
from kvplan.plan.runs import Runner, runner
from kvplan.plan.search import Simulated, contender, gain, option, overload, search
from kvplan.plan.sensitivity import assumptions, at_loads
from kvplan.plan.space import Space
from kvplan.plan.traffic import hit_at, traffic
from kvplan.plan.warnings import Case, Workload, warnings
from kvplan.results.plan import Notice, Placement
from kvplan.results.plan_result import Option, PlanResult, Range, Step, Traffic, Verdict
from kvplan.scenario import Scenario
from kvplan.sim.run import bytes_per_token
from kvplan.sizing.pool import kv_pool
from kvplan.traces import open_trace

SECONDS_PER_YEAR = 365.25 * 86400


def plan(
    scenario: Scenario,
    *,
    target: Target = Target(),
    prices: Prices | None = None,
    max_cpu_bytes: int | None = None,
    max_disk_bytes: int | None = None,
    emit_for: str = "",
    disk_path: str = "/mnt/kv",
) -> PlanResult:
    """When to move KV cache out of GPU memory, where to, and how much.

    Without limits these are the replica's share of the machine's host memory and disk. Raises InputError when the
    scenario cannot be used.
    """
    space, notes = _space(scenario, target, prices, max_cpu_bytes, max_disk_bytes)
    early = _without_simulation(space)
    if early:
        return _finish(space, None, notes, verdict=early, objective=target.goal or "none", placement=places.nothing(space))
    with runner(space.traffic.requests) as run:
        return _simulated(space, run, notes, emit_for, disk_path)


def _space(scenario: Scenario, target: Target, prices: Prices | None, max_cpu: int | None, max_disk: int | None) -> tuple[Space, list[str]]:
    base, notes = _with_pool(scenario)
    run, machine = base.run, base.machine
    trace = open_trace(base.trace, limit=run.limit or None, max_input=run.max_input_tokens or None)
    token_bytes = bytes_per_token(base)
    known = traffic(trace, token_bytes)
    share = run.tp / machine.gpus
    prefix = known.reused_prefix_tokens or known.median_prompt_tokens
    tiers = [tier for tier in closed_form.WAY if tier != "remote" or machine.network]
    goal = target.goal
    if goal in SATURATED and known.span_s:
        base = msgspec.structs.replace(base, run=msgspec.structs.replace(run, speedup=run.speedup * known.span_s))
        notes.append("arrivals are compressed until the machine is the limit: what is compared is what it can serve")
    return Space(
        base=base,
        traffic=known,
        token_bytes=token_bytes,
        when=tuple(closed_form.worth(base, tier, prefix) for tier in tiers),
        target=target,
        prices=prices,
        cpu_limit_bytes=int(machine.host.memory_bytes * machine.host.usable_fraction * share) if max_cpu is None else max_cpu,
        disk_limit_bytes=int(machine.disk.capacity_bytes * share) if max_disk is None else max_disk,
    ), [*notes, *trace.report.warnings]


def _with_pool(scenario: Scenario) -> tuple[Scenario, list[str]]:
    """The scenario with its GPU pool, on as many ranks as the weights need."""
    if scenario.tiers.gpu_kv_bytes:
        return scenario, []
    tp, machine = scenario.run.tp, scenario.machine
    while tp <= machine.gpus:
        pool = kv_pool(scenario.model, machine, scenario.engine, tp=tp).kv_bytes
        if pool > 0:
            notes = [] if tp == scenario.run.tp else [f"the weights need {tp} GPUs: planned with run.tp={tp}"]
            tiers = msgspec.structs.replace(scenario.tiers, gpu_kv_bytes=pool)
            return msgspec.structs.replace(scenario, tiers=tiers, run=msgspec.structs.replace(scenario.run, tp=tp)), notes
        tp *= 2
    raise InputError(
        f"the weights of {scenario.model.name} leave no room for KV on {machine.gpus} GPU(s) of {machine.name}",
        hint="name a larger machine, or a model with narrower weights",
    )


def _without_simulation(space: Space) -> Verdict | None:
    """The verdict where closed forms suffice."""
    known = space.traffic
    longest = known.longest_prompt_tokens
    if known.median_prompt_tokens * space.token_bytes > space.pool_bytes:
        off = longest * space.token_bytes - space.pool_bytes
        return verdicts.too_long(space, _streamed_s(space.base, longest, off), longest, off)
    if not known.named:
        return verdicts.unnamed(space.base.name)
    reason = places.ruled_out(space)
    if reason:
        return verdicts.refused(reason)
    cpus, pruned = places.cpu_tiers(space)
    return None if cpus else verdicts.all_pruned(pruned)


def _streamed_s(base: Scenario, context_tokens: int, off_bytes: float) -> float:
    """Seconds of a decode step of one sequence that reads `off_bytes` of its KV over the links."""
    cost, overhead = closed_form.step_cost(base), base.engine.overhead
    step = cost.step_s([], 1, cost.decode_attention_s([context_tokens]), 1)
    return overhead.step_s + step + off_bytes / base.run.tp / base.machine.link.h2d_Bps


def _simulated(space: Space, run: Runner, notes: list[str], emit_for: str, disk_path: str) -> PlanResult:
    goal = space.target.goal or ("limits" if space.target.clauses else "ttft")
    found = search(space, run, goal)
    best, without = contender(space, found)
    over = min(overload(one, space.traffic.span_s, result.queue_s.p50) for one, result in zip(found.options, found.results, strict=True))
    if (over or not space.traffic.span_s) and not space.target.goal and not space.target.clauses:
        goal = "throughput"
        rescored = [option(space, one.placement, result, goal) for one, result in zip(found.options, found.results, strict=True)]
        found = Simulated(options=rescored, results=found.results, pruned=found.pruned, goal=goal)
        best, without = contender(space, found)
    base_gain = gain(best, without)
    pair = (best.placement, without.placement)
    doubts, interval = assumptions(space, run, goal, *pair, base_gain, 0.0)
    loads = _speedups(over, goal)
    at_load = at_loads(space, run, "ttft" if over else goal, pair, loads)
    flips = any(one.flips_at is not None and abs(_log(one.flips_at)) < 1.96 * one.sigma_rel for one in doubts)
    answer = verdicts.judged(space, goal, best, without, interval, flips)
    chosen = best if answer.kind != "do_not_offload" else without
    placement = msgspec.structs.replace(best.placement, disk_path=disk_path) if best.placement.disk_bytes else best.placement
    placement = placement if chosen is best else without.placement
    return _finish(
        space, best, notes,
        verdict=answer, objective=goal, placement=placement, gain=interval, steps=_steps(space, found, best), without=without, chosen=best,
        options=tuple(sorted(found.options, key=lambda one: (one.rejected, one.score))), pruned=tuple(found.pruned),
        simulated=len(found.options) + 2 * (sum(len(one.path) > 0 for one in doubts) * 2 + len(loads)),
        at_load=at_load, overload=over, assumptions=tuple(doubts), target_met=not chosen.missed,
        emission=emit(placement, emit_for) if emit_for else None,
    )  # fmt: skip


def _log(factor: float) -> float:
    import math

    return math.log(factor)


def _speedups(over: float, goal: str) -> list[float]:
    """Loads to look at beside the trace's own: half and twice; or what the machine can serve, where the trace is too much."""
    if goal in SATURATED and not over:
        return []
    return [0.5 / over, 0.9 / over] if over else [0.5, 2.0]


def _steps(space: Space, found: Simulated, best: Option) -> tuple[Step, ...]:
    """The CPU capacities next to the chosen one, all else equal."""
    alike = [
        one for one in found.options if msgspec.structs.replace(one.placement, cpu_bytes=0) == msgspec.structs.replace(best.placement, cpu_bytes=0)
    ]
    alike.sort(key=lambda one: one.placement.cpu_bytes)
    at = alike.index(best)
    found_steps = []
    for one in alike[max(0, at - 1) : at] + alike[at + 1 : at + 2]:
        sizes = one.placement.cpu_bytes, best.placement.cpu_bytes
        hit = hit_at(space.traffic, sizes[0]) - hit_at(space.traffic, sizes[1])
        found_steps.append(Step(tier="cpu", capacity_bytes=sizes[0], change=1 - one.score / best.score, hit_change=hit))
    return tuple(found_steps)


def _finish(space: Space, best: Option | None, notes: list[str], *, placement: Placement, **answer: object) -> PlanResult:
    """The result with what every answer carries."""
    base = space.base
    return PlanResult(
        name=base.name,
        model=base.model.name,
        machine=base.machine.name,
        engine=f"{base.engine.name} {base.engine.version}",
        traffic=space.traffic,
        pool_bytes=space.pool_bytes,
        bytes_per_token=space.token_bytes,
        when=space.when,
        placement=placement,
        pin_s=placement.cpu_bytes * base.machine.host.pin_s_per_byte,
        disk_life_years=_disk_life(space, best),
        notices=_notices(space, placement),
        provenance=_provenance(space),
        warnings=tuple(notes),
        **answer,  # type: ignore[arg-type]
    )


def _disk_life(space: Space, best: Option | None) -> float | None:
    """Years until the disk's share for this replica has been written as often as it endures."""
    disk = space.base.machine.disk
    written = best.stored_bytes.get("disk", 0) if best else 0
    if not written or not disk.endurance_bytes or best is None:
        return None
    share = space.base.run.tp / space.base.machine.gpus
    return disk.endurance_bytes * share / (written / best.duration_s) / SECONDS_PER_YEAR


def _notices(space: Space, placement: Placement) -> tuple[Notice, ...]:
    known: Traffic = space.traffic
    workload = Workload(
        longest_prompt_tokens=known.longest_prompt_tokens,
        reused_prefix_tokens=known.reused_prefix_tokens,
        prefix_sharers=known.prefix_sharers,
        shared_prefix_tokens=known.shared_prefix_tokens,
    )
    base = space.base
    return warnings(
        Case(
            model=base.model, machine=base.machine, engine=base.engine, placement=placement, workload=workload,
            pool_bytes=space.pool_bytes, token_bytes=space.token_bytes, replicas=base.machine.gpus // placement.tp,
        )
    )  # fmt: skip


def _provenance(space: Space) -> dict[str, object]:
    base = space.base
    return {
        "kvplan": __version__,
        "seed": base.run.seed,
        "trace": base.trace,
        "model": {"name": base.model.name, "source": base.model.source},
        "machine": {"name": base.machine.name, "numbers": {path: one.kind for path, one in sorted(base.machine.provenance.items())}},
        "engine": {"name": base.engine.name, "version": base.engine.version},
        "limits": {"cpu_bytes": space.cpu_limit_bytes, "disk_bytes": space.disk_limit_bytes},
    }


__all__ = ["Range", "plan"]
