"""Which kind of parallelism suits a traffic on the planned GPUs, and what offloading changes about that.

The kinds of a model with experts: tensor-parallel ranks, data-parallel ones that exchange tokens with the experts, and both. All have
the same GPUs, host memory and arrivals; how many distinct tokens a byte holds, who can hit what and how long a step takes differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from kvplan.deployment import Parallel
from kvplan.errors import KvplanError
from kvplan.memory.below import below
from kvplan.planning.prepare import pool_tokens
from kvplan.planning.runs import Runner, Simulation
from kvplan.planning.search import option
from kvplan.planning.space import Space, windowed
from kvplan.planning.widths import impossible, spread_over
from kvplan.results.kinds import Crossing, KindChoice, KindFigures, KindRow
from kvplan.results.placement import Placement
from kvplan.results.plan import Option, Pruned
from kvplan.scenario import Scenario
from kvplan.sim.simulate import opened

CROSSING_REQUESTS = 300
"""Requests from a trace's start that are replayed at other loads to see where two kinds cross."""

LOADS = (0.25, 1.0, 4.0, 16.0)
"""Multiples of the arrivals between which a crossing is looked for, and then twice more in between."""

SATURATED = 1e3
"""Arrivals sped up beyond this are all there at once: there is no load to vary."""


def kinds(space: Space, run: Runner, goal: str, offload: Option, without: Option) -> tuple[KindChoice | None, list[Pruned]]:
    """Each kind on the planned GPUs with the tier and without, and why some were not tried; None where there is only one."""
    planned = space.base.deployment.parallel
    others, pruned = _others(space)
    if not others:
        return None, pruned
    tried, base = (planned, *others), windowed(space)
    placements = tuple(dict.fromkeys((without.placement, offload.placement)))
    outcomes = run([Simulation(spread_over(base, one, kind, kind.all_gpus)) for kind in tried for one in placements])
    found, seen = list[KindRow](), dict[str, Parallel]()
    for at, kind in enumerate(tried):
        sides = []
        for one, result in zip(placements, outcomes[at * len(placements) : (at + 1) * len(placements)], strict=True):
            if isinstance(result, KvplanError):
                pruned.append(Pruned(what=kind.words, why=result.message))
                break
            sides.append(option(space, one, result, goal))
        else:
            found.append(_kind(base, kind, sides[0], sides[-1]))
            seen[kind.words] = kind
    if len(found) < 2:
        return None, pruned
    best, plain = (min(found, key=lambda one: (getattr(one, side).rejected, getattr(one, side).score)) for side in ("offload", "without"))
    other = next((one for one in (best, plain) if one.spread != planned.words), found[1])
    crossings = _crossings(space, run, goal, (planned, seen[other.spread]), placements)
    host_bytes = None
    if best is not plain:
        pair = (seen[plain.spread], seen[best.spread])

        def lead(share: float) -> float:
            """With a share of the tier's host memory."""
            smaller = msgspec.structs.replace(offload.placement, cpu_bytes=int(offload.placement.cpu_bytes * share))
            return _leads(space, run, goal, pair, [(base, smaller)])[0]

        host_bytes = best.host_bytes * share_at_crossing(lead)
    names = {"planned": planned.words, "best": best.spread, "best_without": plain.spread}
    return KindChoice(kinds=tuple(found), **names, crossings=crossings, gpus=planned.all_gpus, host_bytes=host_bytes), pruned


def better(choice: KindChoice | None, space: Space, least: float) -> Parallel | None:
    """The kind that does better than the planned one by at least a share of the objective, with the tier or without."""
    if choice is None or choice.best == choice.planned:
        return None
    by_name = {one.spread: one for one in choice.kinds}
    best, planned = by_name[choice.best].offload, by_name[choice.planned].offload
    if best.rejected == planned.rejected and best.score > planned.score * (1 - least):
        return None
    return next(kind for kind in _others(space)[0] if kind.words == choice.best)


def _others(space: Space) -> tuple[list[Parallel], list[Pruned]]:
    """Other ways to spread a model with experts over the planned GPUs, and why some cannot be."""
    base, planned = space.base, space.base.deployment.parallel
    ranks = planned.tp * planned.dp
    if ranks == 1 or base.cluster.replicas > 1 or base.cluster.prefill_replicas or not any(group.experts for group in base.model.ffn):
        return [], []
    kept, pruned = [], []
    for tp in (one for one in range(1, ranks + 1) if ranks % one == 0 and one & (one - 1) == 0):
        dp = ranks // tp
        kind = msgspec.structs.replace(planned, tp=tp, dp=dp, ep=ranks if dp > 1 else 0)
        if (kind.tp, kind.dp) == (planned.tp, planned.dp):
            continue
        told = base.engine.abilities.tensor_only and kind.dp > 1
        if why := "the configuration that is asked for does not say data-parallel ranks" if told else impossible(base, kind):
            pruned.append(Pruned(what=kind.words, why=why))
        else:
            kept.append(kind)
    return kept, pruned


def _kind(base: Scenario, kind: Parallel, without: Option, offload: Option) -> KindRow:
    """A kind with what its memory holds; the placement's sizes are those of one of the planned ranks."""
    placed = spread_over(base, offload.placement, kind, kind.all_gpus)
    host = placed.tiers.cpu_bytes * kind.dp
    return KindRow(
        spread=kind.words,
        pool_tokens=pool_tokens(placed) * kind.dp,
        host_bytes=host,
        host_tokens=int(host / below(placed.deployment).token_bytes),
        without=_served(without),
        offload=_served(offload),
    )


def _served(option: Option) -> KindFigures:
    times = {"ttft_s": option.ttft_s.mean, "itl_s": option.itl_s.mean}
    return KindFigures(score=option.score, rejected=option.rejected, requests_per_s=option.requests_per_s, **times)


def _crossings(
    space: Space, run: Runner, goal: str, pair: tuple[Parallel, Parallel], placements: Sequence[Placement]
) -> tuple[Crossing, ...]:
    """Where two kinds cross with each placement, in load."""
    if space.base.run.speedup > SATURATED or goal in ("throughput", "cost") or not space.traffic.span_s:
        return ()
    limit = min(filter(None, (space.base.run.limit, CROSSING_REQUESTS)))
    base = space.base.changed(run=msgspec.structs.replace(space.base.run, limit=limit))
    arrivals = [request.arrival_s for request in opened(base)]
    rate = (len(arrivals) - 1) / max(1e-9, arrivals[-1] - arrivals[0]) * base.run.speedup

    def at_loads(loads: Sequence[float], among: Sequence[Placement]) -> list[float]:
        speeds = [base.changed(run=msgspec.structs.replace(base.run, speedup=base.run.speedup * load)) for load in loads]
        return _leads(space, run, goal, pair, [(at, one) for one in among for at in speeds])

    leads = at_loads(LOADS, placements)
    found = []
    for place, placement in enumerate(placements):
        lead = leads[place * len(LOADS) : (place + 1) * len(LOADS)]
        at = next((at for at in range(len(LOADS) - 1) if lead[at] * lead[at + 1] < 0), None)
        if at is None:
            found.append(Crossing(cpu_bytes=placement.cpu_bytes, below=_winner(pair, lead[0]), above=_winner(pair, lead[-1])))
            continue
        low, high, first, last = LOADS[at], LOADS[at + 1], lead[at], lead[at + 1]
        for _ in range(2):
            middle = math.sqrt(low * high)
            (value,) = at_loads([middle], [placement])
            low, high, first, last = (middle, high, value, last) if value * first > 0 else (low, middle, first, value)
        load = low * (high / low) ** (first / (first - last))
        found.append(
            Crossing(
                cpu_bytes=placement.cpu_bytes,
                below=_winner(pair, first),
                above=_winner(pair, last),
                requests_per_s=rate * load,
                factor=load,
            )
        )
    return tuple(found)


def _leads(
    space: Space, run: Runner, goal: str, pair: tuple[Parallel, Parallel], worlds: Sequence[tuple[Scenario, Placement]]
) -> list[float]:
    """Logarithm of the first kind's score over the second's, for each placement in its scenario; negative: the first is better."""
    outcomes = run([Simulation(spread_over(base, one, kind, kind.all_gpus)) for base, one in worlds for kind in pair])
    found = []
    for at, (_, one) in enumerate(worlds):
        sides = outcomes[2 * at : 2 * at + 2]
        mine, theirs = (math.inf if isinstance(out, KvplanError) else option(space, one, out, goal).score for out in sides)
        found.append(math.log(max(mine, 1e-12) / max(theirs, 1e-12)))
    return found


def share_at_crossing(lead: Callable[[float], float]) -> float:
    """The share of a tier from which on the second of two kinds does better, which it does with all of it and not with nothing; to an
    eighth of the tier."""
    low, high = 0.0, 1.0
    for _ in range(3):
        middle = (low + high) / 2
        low, high = (low, middle) if lead(middle) > 0 else (middle, high)
    return (low + high) / 2


def _winner(pair: tuple[Parallel, Parallel], lead: float) -> str:
    return pair[0 if lead <= 0 else 1].words
