"""Fewer replicas on more GPUs each, or more on fewer: the same GPUs, host memory and load per GPU, spread otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kvplan.deployment import Parallel
from kvplan.errors import InputError, KvplanError
from kvplan.memory.pool import kv_pool
from kvplan.planning.runs import Outcome, Runner, Simulation, realise
from kvplan.planning.search import gain, option
from kvplan.planning.space import Space, windowed
from kvplan.results.placement import Placement
from kvplan.results.plan import Option, Pruned, ReplicaLayout, Split
from kvplan.scenario import Scenario
from kvplan.units import format_count

WIDTHS = (1, 2, 4, 8)


def splits(space: Space, run: Runner, goal: str, chosen: Option) -> tuple[tuple[Split, ...], list[Pruned]]:
    """Other widths against the planned one, and why some were not tried: one farther off is where the nearer one gains.

    Both layouts have the GPUs of the larger one, and host memory and disk in proportion to a replica's GPUs. The traffic
    arrives as many times faster as there are more GPUs than the plan's replica has: the load of each GPU stays. Several
    replicas get their requests from a router that knows what each has cached; data-parallel ranks from the engine's own.
    """
    kinds, pruned = _kinds(space)
    found: list[Split] = []
    paths = _outward(space.base.deployment.parallel, kinds)
    while nearest := [path.pop(0) for path in paths]:
        for path, kind, seen in zip(tuple(paths), nearest, _compared(space, run, goal, chosen, nearest), strict=True):
            if isinstance(seen, str):
                pruned.append(Pruned(what=kind.words, why=seen))
            else:
                found.append(seen)
                if seen.gain <= 0:
                    pruned += [Pruned(what=one.words, why=f"{kind.words} does worse already") for one in path]
                    path.clear()
        paths = [path for path in paths if path]
    return tuple(found), pruned


def _outward(planned: Parallel, kinds: Sequence[Parallel]) -> list[list[Parallel]]:
    """Widths in the order in which they are tried, the nearest first: wider ones, and narrower ones."""
    wider = sorted((one for one in kinds if one.tp > planned.tp), key=lambda one: one.tp)
    narrower = sorted((one for one in kinds if one.tp < planned.tp), key=lambda one: -one.tp)
    return [path for path in (wider, narrower) if path]


def _compared(space: Space, run: Runner, goal: str, chosen: Option, kinds: Sequence[Parallel]) -> list[Split | str]:
    """Each kind against the planned one; or why it cannot be compared."""
    planned = space.base.deployment.parallel
    pairs = [(kind, max(kind.all_gpus, planned.all_gpus)) for kind in kinds]
    base = windowed(space)
    outcomes = run([Simulation(spread_over(base, chosen.placement, one, gpus)) for kind, gpus in pairs for one in (kind, planned)])
    return [_split(space, goal, chosen, kind, gpus, outcomes[2 * at : 2 * at + 2]) for at, (kind, gpus) in enumerate(pairs)]


def _split(space: Space, goal: str, chosen: Option, kind: Parallel, gpus: int, outcomes: Sequence[Outcome]) -> Split | str:
    layouts = []
    for one, outcome in zip((kind, space.base.deployment.parallel), outcomes, strict=True):
        if isinstance(outcome, KvplanError):
            return outcome.message
        seen = option(space, chosen.placement, outcome, goal)
        layouts.append((seen, _layout(seen, one, gpus)))
    (other, theirs), (same, ours) = layouts
    if other.rejected > same.rejected:
        return f"{format_count(other.rejected - same.rejected, 'request')} more would not fit"
    return Split(gpus=gpus, other=theirs, planned=ours, gain=gain(other, same))


def _layout(seen: Option, kind: Parallel, gpus: int) -> ReplicaLayout:
    return ReplicaLayout(
        tp=kind.tp,
        replicas=gpus // kind.all_gpus,
        spread=kind.words,
        ttft_s=seen.ttft_s.mean,
        itl_s=seen.itl_s.mean,
        requests_per_s_per_gpu=seen.requests_per_s / gpus,
    )


def _kinds(space: Space) -> tuple[list[Parallel], list[Pruned]]:
    """Other widths that are worth a simulation beside the planned one."""
    base = space.base
    if base.cluster.replicas > 1 or base.cluster.prefill_replicas:
        return [], [Pruned(what="other TP", why="the scenario says how many replicas there are")]
    kept, pruned, planned = [], [], base.deployment.parallel
    for tp in WIDTHS:
        if tp == planned.tp:
            continue
        kind = base.deployment.changed(tp=tp).parallel
        if why := impossible(base, kind) or _far(space, tp):
            pruned.append(Pruned(what=kind.words, why=why))
        else:
            kept.append(kind)
    return kept, pruned


def impossible(base: Scenario, kind: Parallel) -> str:
    """Why a scenario cannot be spread so; empty where it can."""
    if kind.all_gpus > base.machine.gpus * base.deployment.nodes:
        return f"{base.machine.name} has {format_count(base.machine.gpus, 'GPU')}"
    try:
        base.deployment.changed(parallel=kind).check_ranks()
    except InputError as error:
        return error.message
    return "" if _pool_bytes(base, kind) > 0 else f"the weights leave no room for KV on {format_count(kind.all_gpus, 'GPU')}"


def _far(space: Space, tp: int) -> str:
    near = (2 * space.base.deployment.tp, space.base.deployment.tp // 2)
    if not space.is_long or tp in near:
        return ""
    return f"of a trace of {space.traffic.requests:,} requests only the next widths are simulated"


def _pool_bytes(base: Scenario, kind: Parallel) -> int:
    """The KV pool of a kind: the scenario's, and by how much more or less the engine leaves on so many GPUs; of data-parallel ranks, which
    have a pool each, the same share of what it leaves."""
    planned = base.deployment.parallel
    if kind == planned:
        return base.tiers.gpu_kv_bytes
    wide, own = (kv_pool(base.deployment.changed(parallel=one)).kv_bytes for one in (kind, planned))
    if kind.dp != planned.dp:
        return base.tiers.gpu_kv_bytes * wide // own
    return base.tiers.gpu_kv_bytes + wide - own if wide else 0


def spread_over(base: Scenario, placement: Placement, kind: Parallel, gpus: int) -> Scenario:
    """The scenario of as many replicas of a kind as there are GPUs for; sizes are of one data-parallel rank."""
    planned = base.deployment.parallel
    share = kind.gpus / planned.gpus
    sized = {name: int(getattr(placement, name) * share) for name in ("cpu_bytes", "disk_bytes")}
    scenario = realise(base, msgspec.structs.replace(placement, **sized)).changed(parallel=kind)
    run = msgspec.structs.replace(scenario.run, speedup=scenario.run.speedup * gpus / planned.all_gpus)
    tiers = msgspec.structs.replace(scenario.tiers, gpu_kv_bytes=_pool_bytes(base, kind))
    replicas = gpus // kind.all_gpus
    router = scenario.cluster.router if replicas == 1 else "prefix_aware" if kind.dp == 1 else "round_robin"
    cluster = msgspec.structs.replace(scenario.cluster, replicas=replicas, router=router)
    return scenario.changed(run=run, tiers=tiers, cluster=cluster)
