"""Simulate what closed forms left over, and choose: the best by the goal, the cheapest among equals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from kvplan.errors import KvplanError
from kvplan.planning import rules
from kvplan.planning import space as places
from kvplan.planning.constraints import obstacle
from kvplan.planning.costs import must_wear_out, worn_out
from kvplan.planning.objective import GOALS, Judged, changed
from kvplan.planning.runs import WINDOW_REQUESTS, Runner, Simulation, realise
from kvplan.planning.space import Space, windowed
from kvplan.results.placement import Placement
from kvplan.results.plan import Option, Pruned
from kvplan.results.simulate import SimResult
from kvplan.units import format_bytes

SAME = 0.01
"""Scores this close are equal: the cheaper placement is chosen."""

WIDE = 1.3
"""Neighbouring capacities in a larger ratio than this leave room for one between them."""

NEEDED = 0.05
"""Share of the requests preempted that makes an 8-bit KV needed rather than nice to have."""


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was simulated, the options that count, and what was left out."""

    options: list[Option]
    results: list[SimResult]
    pruned: list[Pruned]
    goal: str

    def of(self, placement: Placement) -> Option:
        """The option of a placement."""
        return next(one for one in self.options if one.placement == placement)


def search(space: Space, run: Runner, goal: str) -> Simulated:
    """Simulate none and the CPU tiers, then disks and the remote pool behind them, then changes of rules and an 8-bit KV on the best."""
    none = places.nothing(space)
    cpus, pruned = places.cpu_tiers(space)
    found = Simulated(options=[], results=[], pruned=pruned, goal=goal)
    _try(space, run, found, [none, *cpus])
    _try(space, run, found, _between(space, found))
    disks, left_out = places.disk_tiers(space, [one.cpu_bytes for one in cpus])
    found.pruned.extend(left_out)
    _try(space, run, found, _lasting(space, found, disks))
    local = [one for one in found.options if one.placement.offloads]
    if local:
        remotes, left_out = places.remote_tiers(space, [choose(space, local).placement])
        found.pruned.extend(left_out)
        _try(space, run, found, remotes)
    offloads = [one for one in found.options if one.placement.offloads]
    best = choose(space, offloads or found.options)
    wanted = _variations(space, found, best) if offloads else []
    if places.can_narrow(space):
        wanted += [_narrow(one) for one in dict.fromkeys((none, best.placement))]
    _try(space, run, found, _promising(space, run, found, best, wanted))
    found.pruned.extend(
        Pruned(what=one.name, why=f"{why} (--allow-wear takes it)") for one in found.options if (why := worn_out(space, one))
    )
    return found


def looked_at(space: Space, run: Runner, goal: str) -> bool:
    """Of a long trace, a first answer from its window; and does that need an 8-bit KV."""
    there = msgspec.structs.replace(space, base=windowed(space))
    seen = Simulated(options=[], results=[], pruned=[], goal=goal)
    cpus, _ = places.cpu_tiers(space)
    wanted = [places.nothing(space), *cpus[:1]]
    narrow = [_narrow(one) for one in wanted] if places.can_narrow(space) else []
    _try(there, run, seen, [*wanted, *narrow])
    return needs_eight_bits(there, seen)


def referred(space: Space, run: Runner, found: Simulated) -> None:
    """What none does with the KV dtype that was asked for, beside what was found for an 8-bit one; its tiers are left out."""
    none = places.nothing(space)
    _try(space, run, found, [none])
    why = f"the first {WINDOW_REQUESTS:,} requests need an 8-bit KV: preempted, refused or too late without it"
    found.pruned.append(Pruned(what=f"tiers with KV of {none.kv_dtype}", why=why))


def _narrow(placement: Placement) -> Placement:
    return msgspec.structs.replace(placement, kv_dtype=places.EIGHT_BITS)


def _try(space: Space, run: Runner, found: Simulated, placements: Sequence[Placement]) -> None:
    placements = [one for one in placements if _possible(space, found, one)]
    outcomes = run([Simulation(realise(space.base, one)) for one in placements])
    for placement, outcome in zip(placements, outcomes, strict=True):
        if isinstance(outcome, KvplanError):
            if not placement.offloads and not run.stopped:
                raise outcome
            found.pruned.append(Pruned(what=name_of(space, placement), why=outcome.message))
            continue
        found.options.append(option(space, placement, outcome, found.goal))
        found.results.append(outcome)
    if not found.options or found.options[0].placement.offloads:
        raise KeyboardInterrupt  # there is nothing yet to compare with
    run.tell(_so_far(space, found))


def _so_far(space: Space, found: Simulated) -> str:
    """The best of what has been simulated against nothing, in a few words."""
    best, without = choose(space, found.options), found.options[0]
    if not best.placement.offloads:
        return "so far: no tier gains"
    return f"so far: {best.name}, {changed(found.goal, gain(best, without))}"


def _possible(space: Space, found: Simulated, placement: Placement) -> bool:
    """Can the engine be told to do it; what it cannot is left out, with the reason."""
    plain = msgspec.structs.replace(placement, load_rule=space.base.engine.offload.load_rule)
    limit = obstacle(space.base.engine, plain)
    if limit and placement.offloads:
        found.pruned.append(Pruned(what=name_of(space, placement), why=f"{space.base.engine.label} cannot {limit.what}"))
    return limit is None or not placement.offloads


def _between(space: Space, found: Simulated) -> list[Placement]:
    """The CPU capacity halfway, in ratio, between the one to choose and the next smaller one that does worse; where it is the smallest,
    half of it, as long as that is more than the GPU's pool.
    """
    tiers = sorted((one for one in found.options if one.placement.offloads), key=lambda one: one.placement.cpu_bytes)
    if not tiers:
        return []
    best = choose(space, tiers)
    at = tiers.index(best)
    if not at:
        half = places.tier_bytes(space, best.placement.cpu_bytes / 2)
        smaller = space.pool_below_bytes < half < best.placement.cpu_bytes
        return [msgspec.structs.replace(best.placement, cpu_bytes=half)] if smaller else []
    low, high = tiers[at - 1].placement.cpu_bytes, best.placement.cpu_bytes
    if not at or high < WIDE * low or best.score > tiers[at - 1].score * (1 - SAME):
        return []
    middle = places.tier_bytes(space, (low * high) ** 0.5)
    return [msgspec.structs.replace(best.placement, cpu_bytes=middle)] if low < middle < high else []


def _lasting(space: Space, found: Simulated, disks: list[Placement]) -> list[Placement]:
    """Of a long trace, the disks that what must be written at least does not wear out."""
    if not space.is_long:
        return disks
    kept = []
    for one in disks:
        if why := must_wear_out(space, one, found.options[0]):
            found.pruned.append(Pruned(what=name_of(space, one), why=f"at least {why} (--allow-wear takes it)"))
        else:
            kept.append(one)
    return kept


def _variations(space: Space, found: Simulated, best: Option) -> list[Placement]:
    wanted: list[Placement] = []
    for what, vary in rules.VARIATIONS.items():
        changed = vary(space, best)
        if isinstance(changed, Pruned):
            found.pruned.append(changed)
        elif what not in rules.ONLY_TRIED and (limit := obstacle(space.base.engine, changed)):
            found.pruned.append(Pruned(what=what, why=f"{space.base.engine.label} cannot {limit.what}"))
        else:
            wanted.append(changed)
    return wanted


def _promising(space: Space, run: Runner, found: Simulated, best: Option, changed: list[Placement]) -> list[Placement]:
    """Of a long trace, the changes that gain anything on its window; of others, all."""
    base = windowed(space)
    if base is space.base or not changed or run.stopped:
        return changed
    outcomes = run([Simulation(realise(base, one)) for one in (best.placement, *changed)])
    scores = [math.inf if isinstance(one, KvplanError) else option(space, best.placement, one, found.goal).score for one in outcomes]
    kept = []
    for placement, score in zip(changed, scores[1:], strict=True):
        if score < scores[0] * (1 - SAME):
            kept.append(placement)
        else:
            why = f"no gain in the first {WINDOW_REQUESTS:,} requests ({1 - score / scores[0]:+.1%})"
            found.pruned.append(Pruned(what=name_of(space, placement), why=why))
    return kept


def option(space: Space, placement: Placement, result: SimResult, goal: str) -> Option:
    """What came out of a placement, with its score."""
    total = max(1, result.prompt_tokens.total)
    below = [tier for tier in result.tiers if tier.name != "gpu"]
    cost = space.cost_per_hour(placement)
    return Option(
        name=name_of(space, placement),
        placement=placement,
        score=GOALS[goal](Judged(result=result, target=space.target, cost_per_hour=cost)),
        completed=result.requests.completed,
        rejected=result.requests.rejected,
        ttft_s=result.ttft_s,
        ttft_quantiles_s=result.ttft_quantiles_s,
        itl_s=result.itl_s,
        requests_per_s=result.throughput.requests_per_s,
        output_tokens_per_s=result.throughput.output_tokens_per_s,
        duration_s=result.duration_s,
        hit={tier.name: tier.hit_rate for tier in result.tiers},
        computed=result.prompt_tokens.computed / total,
        loads=result.loads,
        missed=space.target.missed(result),
        stored_bytes={tier.name: tier.stored_bytes for tier in below},
        cost_per_hour=cost,
        goodput_per_s=result.goodput.requests_per_s if result.goodput else None,
        warm_requests=result.warm_requests,
        warm_s=result.warm_s,
    )


def name_of(space: Space, placement: Placement) -> str:
    """A placement in a few words: its tiers, and the rules that are not the engine's own."""
    plain = places.nothing(space)
    tiers = [(placement.cpu_bytes, "CPU"), (placement.disk_bytes, "disk"), (placement.remote_bytes, "remote")]
    words = " + ".join(f"{what} {_short(size)}" for size, what in tiers if size) or "GPU only"
    if placement.kv_dtype != "auto":
        words += f", {placement.kv_dtype} KV"
    if not placement.offloads:
        return words
    if placement.store != plain.store and placement.store == "selective":
        words += f", stored at the {_ordinal(placement.store_after_lookups)} lookup"
    if placement.load_rule != plain.load_rule and placement.load_rule == "break_even":
        words += ", loads weighed"
    if placement.load_min_tokens != plain.load_min_tokens:
        words += f", loads from {placement.load_min_tokens:,} tokens"
    if placement.chunk_tokens != plain.chunk_tokens:
        words += f", chunks of {placement.chunk_tokens}"
    return words


def _short(size: int) -> str:
    """A size without a zero behind the point."""
    return format_bytes(size).replace(".0 ", " ")


def _ordinal(number: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(number, f"{number}th")


def choose(space: Space, options: Sequence[Option]) -> Option:
    """The best by requests served, limits met and score; among equals the cheapest, then the plainest."""
    least = min((one.rejected, len(one.missed)) for one in options)
    candidates = [one for one in options if (one.rejected, len(one.missed)) == least]
    best = min(one.score for one in candidates)
    near = [one for one in candidates if one.score <= best * (1 + SAME)]
    return min(near, key=lambda one: (space.expense(one.placement), len(one.name), one.score))


def contender(space: Space, found: Simulated) -> tuple[Option, Option]:
    """The best placement that offloads (or none, when no tier is left), and the same without its tiers; KV dtype as
    asked for.
    """
    asked = [one for one in found.options if one.placement.kv_dtype == space.base.deployment.kv_dtype]
    plain = [one for one in asked if rules.within_reach(space, one.placement) and not worn_out(space, one)]
    best = choose(space, [one for one in plain if one.placement.offloads] or plain)
    return best, found.of(places.nothing(space))


def needs_eight_bits(space: Space, found: Simulated) -> bool:
    """Is the target missed, or the pool too small for the traffic, with the KV dtype as it is; and an 8-bit KV
    better.
    """
    best, _ = contender(space, found)
    narrow = [one for one in found.options if one.placement.kv_dtype != space.base.deployment.kv_dtype]
    if not narrow:
        return False
    better = choose(space, narrow)
    requests = found.results[found.options.index(best)].requests
    pressed = requests.preempted > NEEDED * requests.total or better.rejected < best.rejected
    return (pressed or bool(best.missed)) and (better.rejected, better.score) < (best.rejected, best.score * (1 - SAME))


def gain(offload: Option, without: Option) -> float:
    """What an option gains over another, as a share of the score; 1 when only it serves all requests that can be."""
    if offload.rejected < without.rejected:
        return 1.0
    return 1 - offload.score / without.score if without.score else 0.0


def rescored(space: Space, found: Simulated, goal: str) -> Simulated:
    """The same simulations, seen with another goal."""
    pairs = zip(found.options, found.results, strict=True)
    options = [option(space, one.placement, result, goal) for one, result in pairs]
    return msgspec.structs.replace(found, options=options, goal=goal)
