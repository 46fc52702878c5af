"""Fewer replicas on more GPUs each, or more on fewer: the same GPUs, host memory and load per GPU, spread otherwise."""

from __future__ import annotations

import msgspec

from kvplan.errors import InputError, KvplanError
from kvplan.memory.pool import kv_pool
from kvplan.planning.runs import Runner, Simulation, realise
from kvplan.planning.search import option
from kvplan.planning.space import Space, windowed
from kvplan.results.placement import Placement
from kvplan.results.plan import Option, Pruned, ReplicaLayout, Split
from kvplan.scenario import Scenario
from kvplan.units import format_count

WIDTHS = (1, 2, 4, 8)


def splits(space: Space, run: Runner, goal: str, chosen: Option) -> tuple[tuple[Split, ...], list[Pruned]]:
    """Every other width in WIDTHS against the planned one, and why some were not tried.

    Both layouts have the GPUs of the wider one, and host memory and disk in proportion to a replica's GPUs. The traffic
    arrives as many times faster as there are more GPUs than the plan's replica has: the load of each GPU stays. Several
    replicas get their requests from a router that knows what each has cached.
    """
    widths, pruned = _widths(space)
    planned = chosen.placement.tp
    pairs = [(tp, max(tp, planned)) for tp in widths]
    base = windowed(space)
    jobs = [Simulation(_spread(base, chosen.placement, width, gpus)) for tp, gpus in pairs for width in (tp, planned)]
    outcomes = run(jobs)
    found = []
    for at, (tp, gpus) in enumerate(pairs):
        layouts = []
        for width, outcome in zip((tp, planned), outcomes[2 * at : 2 * at + 2], strict=True):
            if isinstance(outcome, KvplanError):
                pruned.append(Pruned(what=f"TP {tp}", why=outcome.message))
                break
            seen = option(space, chosen.placement, outcome, goal)
            layouts.append((seen, _layout(seen, width, gpus)))
        else:
            (other, theirs), (same, ours) = layouts
            gain = 1 - other.score / same.score if same.score else 0.0
            found.append(Split(gpus=gpus, other=theirs, planned=ours, gain=gain))
    return tuple(found), pruned


def _layout(seen: Option, tp: int, gpus: int) -> ReplicaLayout:
    return ReplicaLayout(
        tp=tp,
        replicas=gpus // tp,
        ttft_s=seen.ttft_s.mean,
        itl_s=seen.itl_s.mean,
        requests_per_s_per_gpu=seen.requests_per_s / gpus,
    )


def _widths(space: Space) -> tuple[list[int], list[Pruned]]:
    """Widths worth a simulation beside the planned one."""
    base = space.base
    if base.cluster.replicas > 1 or base.cluster.prefill_replicas:
        return [], [Pruned(what="other TP", why="the scenario says how many replicas there are")]
    kept, pruned = [], []
    for tp in WIDTHS:
        if tp == base.deployment.tp:
            continue
        if why := _impossible(base, tp) or _far(space, tp):
            pruned.append(Pruned(what=f"TP {tp}", why=why))
        else:
            kept.append(tp)
    return kept, pruned


def _impossible(base: Scenario, tp: int) -> str:
    if tp > base.machine.gpus:
        return f"{base.machine.name} has {format_count(base.machine.gpus, 'GPU')}"
    try:
        base.deployment.changed(tp=tp).check_ranks()
    except InputError as error:
        return error.message
    return "" if _pool_bytes(base, tp) > 0 else f"the weights leave no room for KV on {format_count(tp, 'GPU')}"


def _far(space: Space, tp: int) -> str:
    near = (2 * space.base.deployment.tp, space.base.deployment.tp // 2)
    if not space.is_long or tp in near:
        return ""
    return f"of a trace of {space.traffic.requests:,} requests only the next widths are simulated"


def _pool_bytes(base: Scenario, tp: int) -> int:
    """The KV pool of a width: the scenario's, and by how much more or less the engine leaves on so many GPUs."""
    if tp == base.deployment.tp:
        return base.tiers.gpu_kv_bytes
    wide, planned = (kv_pool(base.deployment.changed(tp=width)).kv_bytes for width in (tp, base.deployment.tp))
    return base.tiers.gpu_kv_bytes + wide - planned if wide else 0


def _spread(base: Scenario, placement: Placement, tp: int, gpus: int) -> Scenario:
    """The scenario of as many replicas of a width as there are GPUs for."""
    share = tp / placement.tp
    sized = {name: int(getattr(placement, name) * share) for name in ("cpu_bytes", "disk_bytes")}
    scenario = realise(base, msgspec.structs.replace(placement, tp=tp, **sized))
    run = msgspec.structs.replace(scenario.run, speedup=scenario.run.speedup * gpus / placement.tp)
    tiers = msgspec.structs.replace(scenario.tiers, gpu_kv_bytes=_pool_bytes(base, tp))
    cluster = msgspec.structs.replace(scenario.cluster, replicas=gpus // tp, router="prefix_aware")
    return scenario.changed(run=run, tiers=tiers, cluster=cluster)
