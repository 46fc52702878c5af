"""`kvplan.plan`: traffic, model, machine and engine in; when, where and how much out."""

from __future__ import annotations

import math

import msgspec

from kvplan import __version__
from kvplan.deployment import Parallel
from kvplan.economics.prices import Prices
from kvplan.economics.wear import too_short
from kvplan.executor import Watch
from kvplan.memory.layout import layout
from kvplan.memory.pinned import HostMemory, host_memory
from kvplan.planning import closed_form
from kvplan.planning import space as places
from kvplan.planning import verdict as verdicts
from kvplan.planning.capacity import capacity
from kvplan.planning.costs import costs_of, wear_of
from kvplan.planning.kinds import better, kinds
from kvplan.planning.objective import Objective, changed
from kvplan.planning.prepare import narrowed, space_of
from kvplan.planning.runs import Runner, Simulation, realise, runner, unwatched
from kvplan.planning.search import Simulated, contender, looked_at, needs_eight_bits, referred, rescored, search
from kvplan.planning.sensitivity import Pair, assumptions, at_loads, from_window, within
from kvplan.planning.space import Space
from kvplan.planning.traps import Case, Workload, warnings
from kvplan.planning.widths import splits
from kvplan.provenance import Z95
from kvplan.results.kinds import KindChoice
from kvplan.results.placement import Notice, Placement
from kvplan.results.plan import Assumption, Claim, Option, PlanResult, Step, Verdict
from kvplan.scenario import Scenario
from kvplan.step_time import StepCost

HEADLINES = (3.0, 10.0, 14.0)
"""Times that first tokens are said to come sooner: 3 to 10 (LMCache), up to 14 on an H100 (TensorRT-LLM)."""

ABOUT_RUNS = 24
"""Simulations of a usual plan, for those who wait."""

STOPPED = "interrupted: the best of what had been simulated, and what the answer rests on was not looked at"

SIMULATED = ("small_tier",)
"""Traps that a plan has looked at by simulation: what the tier repeats is in its figures."""


def plan(
    scenario: Scenario,
    *,
    target: Objective = Objective(),
    prices: Prices | None = None,
    max_cpu_bytes: int | None = None,
    max_disk_bytes: int | None = None,
    more: places.More | None = None,
    allow_wear: bool = False,
    watch: Watch = unwatched,
) -> PlanResult:
    """When to move KV cache out of GPU memory, where to, and how much.

    Limits that are not given are the replica's share of the machine's host memory and disk; `allow_wear` lets a disk be recommended
    that is worn out within three years; `more` gives generated traffic of more
    users. Raises InputError when the scenario cannot be used.
    """
    space, notes = space_of(scenario, target, prices, max_cpu_bytes, max_disk_bytes, more=more, allow_wear=allow_wear)
    early = _without_simulation(space)
    if early:
        placement = places.nothing(space)
        return _finish(
            space,
            notes,
            verdict=early,
            objective=target.goal or "none",
            placement=placement,
            notices=_notices(space, placement),
        )
    run = runner(space.traffic.requests, watch, ABOUT_RUNS)
    found = _simulated(space, run, notes)
    free = scenario.deployment.parallel == Parallel() and not scenario.tiers.gpu_kv_bytes
    kind = better(found.kinds, space, verdicts.WORTH) if free else None
    if kind is None or found.kinds is None:
        return found
    limits = [size and size * kind.gpus // space.base.deployment.parallel.gpus for size in (max_cpu_bytes, max_disk_bytes)]
    space, _ = space_of(scenario.changed(parallel=kind), target, prices, *limits, more=more, allow_wear=allow_wear)
    notes = [*notes, f"nobody named a kind of parallelism: {kind.words} is planned, which does better here than {found.kinds.planned}"]
    return _simulated(space, run, notes, found.kinds)


def _without_simulation(space: Space) -> Verdict | None:
    """The verdict where closed forms suffice."""
    known = space.traffic
    longest = known.longest_prompt_tokens
    made = layout(space.base.deployment)
    if made.request_blocks(known.median_prompt_tokens) > made.blocks(space.pool_bytes):
        off = made.reserved_bytes(longest) - space.pool_bytes
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
    cost = StepCost(base.deployment)
    step = cost.step_s([], 1, cost.decode_attention_s([context_tokens]), 1)
    return step + off_bytes / base.deployment.tp / base.machine.link.h2d_Bps


def _simulated(space: Space, run: Runner, notes: list[str], choice: KindChoice | None = None) -> PlanResult:
    space, found, over = _searched(space, run)
    best, without = contender(space, found)
    if space.target.clauses and len(best.missed) < len(without.missed):
        found = rescored(space, found, "limits")  # chosen by its price, worth it because it meets the limits
    pair = Pair(found.of(best.placement), found.of(without.placement))
    doubts, interval = run.unless_stopped(lambda: assumptions(space, run, found.goal, pair)) or ([], within(pair.gain, []))
    notes = [*notes, *(run.unless_stopped(lambda: from_window(space, run, found.goal, pair)) or [])]
    speedups = _speedups(space, over)
    answer = verdicts.judged(space, found.goal, pair.offload, pair.without, interval, _flips(doubts), whole=not run.stopped)
    if answer.kind == "offload" and (narrow := _narrow_instead(found, pair.offload)):
        answer = msgspec.structs.replace(answer, reservations=(*answer.reservations, narrow))
    if run.stopped:
        notes = [*notes, STOPPED]
        answer = msgspec.structs.replace(answer, reservations=(*answer.reservations, STOPPED))
    worn = too_short(wear_of(space, pair.offload))
    if answer.kind == "offload" and worn:
        answer = msgspec.structs.replace(answer, reservations=(*answer.reservations, worn))
    chosen = pair.without if answer.kind == "do_not_offload" else pair.offload
    placement = chosen.placement
    beside = costs_of(space, pair.offload, pair.without, chosen, found.options, found.results[found.options.index(chosen)])
    spread, unspread = run.unless_stopped(lambda: splits(space, run, found.goal, chosen)) or ((), [])
    if choice is None:
        choice, unlike = run.unless_stopped(lambda: kinds(space, run, found.goal, pair.offload, pair.without)) or (None, [])
        unspread = [*unspread, *unlike]
    answer = verdicts.spread(answer, choice, space.base.deployment.parallel.words, found.goal)
    return _finish(
        space,
        [*notes, *found.results[found.options.index(chosen)].warnings],
        verdict=answer,
        objective=found.goal,
        gain=None if run.stopped else interval,
        placement=placement,
        steps=_steps(found, chosen),
        without=pair.without,
        chosen=chosen,
        options=tuple(sorted(found.options, key=lambda one: (one.rejected, one.score))),
        pruned=(*found.pruned, *unspread),
        splits=spread,
        kinds=choice,
        at_load=run.unless_stopped(lambda: at_loads(space, run, "ttft" if over else found.goal, pair, speedups)) or {},
        capacity=run.unless_stopped(lambda: capacity(space, run, Pair(chosen, pair.without))),
        simulated=run.runs,
        partial=run.stopped,
        overload=over,
        assumptions=tuple(doubts),
        target_met=not chosen.missed,
        disk_life_years=beside.wear.years.value if beside.wear and beside.wear.years else None,
        costs=beside,
        notices=_notices(space, placement),
    )


def _searched(space: Space, run: Runner) -> tuple[Space, Simulated, float]:
    """What was simulated, with an 8-bit KV where the traffic needs it; and by how much the traffic overloads the
    machine.
    """
    goal = space.target.goal or ("limits" if space.target.clauses else "ttft")
    wide = space
    if space.is_long and looked_at(space, run, goal):
        space = narrowed(wide)
        run.ahead(Simulation(realise(wide.base, places.nothing(wide))))
        found = search(space, run, goal)
        referred(wide, run, found)
    elif needs_eight_bits(wide, found := search(wide, run, goal)) and not run.stopped:
        space, before = narrowed(wide), found
        found = search(space, run, goal)
        kept = [at for at, one in enumerate(before.options) if one.placement not in [other.placement for other in found.options]]
        found.options.extend(before.options[at] for at in kept)
        found.results.extend(before.results[at] for at in kept)
    span_s = 0.0 if space.target.saturates else space.traffic.span_s / space.base.run.speedup
    asked = space.base.deployment.kv_dtype
    results = zip(found.options, found.results, strict=True)
    over = min(result.overload for one, result in results if one.placement.kv_dtype == asked) if span_s else 0.0
    if (over or not span_s) and not space.target.goal and not space.target.clauses:
        found = rescored(space, found, "throughput")
    return space, found, over


def _narrow_instead(found: Simulated, best: Option) -> str:
    """That an 8-bit KV does more without any tier; empty where it does not, or where the KV has 8 bits already."""
    for one in found.options:
        gain = 1 - one.score / best.score if best.score else 0.0
        alone = one.placement.kv_dtype == places.EIGHT_BITS != best.placement.kv_dtype and not one.placement.offloads
        if alone and not one.missed and one.rejected <= best.rejected and gain > verdicts.WORTH:
            return (
                f"an 8-bit KV without any tier does better at this load: another {changed(found.goal, gain)}, at the price of some accuracy"
            )
    return ""


def _flips(doubts: list[Assumption]) -> bool:
    """Does any single assumption change the sign of the gain within its own 95 % interval."""
    return any(one.flips_at is not None and abs(math.log(one.flips_at)) < Z95 * one.sigma_rel for one in doubts)


def _speedups(space: Space, over: float) -> list[float]:
    """Loads to look at beside the trace's own: half and twice, or what the machine can serve where the trace is too
    much.
    """
    if over:
        return [0.5 / over, 0.9 / over]
    return [] if space.target.saturates or not space.traffic.span_s else [0.5, 2.0]


def _steps(found: Simulated, chosen: Option) -> tuple[Step, ...]:
    """The CPU capacities next to the chosen one, all else equal."""
    if not chosen.placement.cpu_bytes:
        return ()
    alike = [
        one
        for one in found.options
        if one.placement.cpu_bytes and msgspec.structs.replace(one.placement, cpu_bytes=chosen.placement.cpu_bytes) == chosen.placement
    ]
    alike.sort(key=lambda one: one.placement.cpu_bytes)
    at = alike.index(chosen)
    return tuple(
        Step(
            tier="cpu",
            capacity_bytes=one.placement.cpu_bytes,
            change=1 - one.score / chosen.score,
            hit_change=chosen.computed - one.computed,
        )
        for one in alike[max(0, at - 1) : at] + alike[at + 1 : at + 2]
    )


def _finish(space: Space, notes: list[str], *, placement: Placement, **answer: object) -> PlanResult:
    """The result with what every answer carries."""
    base = space.base
    return PlanResult(
        name=base.name,
        model=base.model.name,
        machine=base.machine.name,
        engine=base.engine.label,
        assumed=base.assumed,
        traffic=space.traffic,
        pool_bytes=space.pool_bytes,
        pool_tokens=space.pool_tokens,
        bytes_per_token=space.token_bytes,
        when=space.when,
        claims=_claims(base),
        placement=placement,
        pin_s=placement.cpu_bytes * base.machine.host.pin_s_per_byte,
        host=_host(base, placement),
        provenance=_provenance(space),
        warnings=tuple(dict.fromkeys((*base.notes, *base.model.notes, *notes))),
        **answer,  # type: ignore[arg-type]
    )


def _host(base: Scenario, placement: Placement) -> HostMemory | None:
    """What the CPU tier takes; None without one."""
    if not placement.cpu_bytes:
        return None
    placed = base.deployment.changed(tp=placement.tp, kv_dtype=placement.kv_dtype)
    return host_memory(placed, placement.cpu_bytes, lower_tier=bool(placement.disk_bytes or placement.remote_bytes))


def _claims(base: Scenario) -> tuple[Claim, ...]:
    """Where the speed-ups that vendors quote can be true, with host memory."""
    return tuple(
        Claim(tier="cpu", speedup=speedup, hit=hit, prompt_tokens=closed_form.prompt_for(base, "cpu", speedup, hit))
        for speedup in HEADLINES
        for hit in (1.0, 0.9)
    )


def _notices(space: Space, placement: Placement) -> tuple[Notice, ...]:
    known, base = space.traffic, space.base
    workload = Workload(
        longest_prompt_tokens=known.longest_prompt_tokens,
        reused_prefix_tokens=known.reused_prefix_tokens,
        prefix_sharers=known.prefix_sharers,
        shared_prefix_tokens=known.shared_prefix_tokens,
    )
    found = warnings(
        Case(
            deployment=realise(base, placement).deployment,
            placement=placement,
            workload=workload,
            pool_bytes=space.pool_bytes,
            pool_tokens=space.pool_tokens,
            token_bytes=space.token_bytes,
            replicas=max(1, base.machine.gpus // base.deployment.changed(tp=placement.tp).parallel.all_gpus),
        )
    )
    return tuple(one for one in found if one.code not in SIMULATED)


def _provenance(space: Space) -> dict[str, object]:
    base = space.base
    return {
        "kvplan": __version__,
        "seed": base.run.seed,
        "trace": base.trace,
        "model": {"name": base.model.name, "source": base.model.source},
        "machine": {
            "name": base.machine.name,
            "numbers": {path: one.kind for path, one in sorted(base.machine.provenance.items())},
        },
        "engine": {"name": base.engine.name, "version": base.engine.version},
        **({"defaults": base.defaults.provenance()} if base.defaults else {}),
        "limits": {"cpu_bytes": space.cpu_limit_bytes, "disk_bytes": space.disk_limit_bytes},
    }
