"""What placements cost beside time: money, wear of the disk, energy."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.economics.energy import energy
from kvplan.economics.prices import by_name, flips, money
from kvplan.economics.wear import too_short, wear, with_alternatives
from kvplan.planning.runs import realise
from kvplan.planning.space import Space
from kvplan.results.economics import Costs, Flip, Money, Wear
from kvplan.results.placement import Placement
from kvplan.results.plan import Option
from kvplan.results.simulate import SimResult


def money_for(space: Space, option: Option) -> Money | None:
    """What serving the traffic costs with a placement; None without prices."""
    if space.prices is None:
        return None
    prompts_per_s = space.traffic.prompt_tokens / max(1e-9, option.duration_s)
    return money(
        space.prices, space.used(option.placement), prompt_tokens_per_s=prompts_per_s, output_tokens_per_s=option.output_tokens_per_s
    )


def price_flips(space: Space, chosen: Option, other: Option) -> tuple[Flip, ...]:
    """Which price makes the other placement the cheaper one per output token."""
    mine, its = money_for(space, chosen), money_for(space, other)
    if space.prices is None or mine is None or its is None or chosen.placement == other.placement:
        return ()
    each = {
        one.name: {name: part / max(1e-12, one.output_tokens_per_s) for name, part in found.parts_per_hour.items()}
        for one, found in ((chosen, mine), (other, its))
    }
    return flips(by_name(space.prices), each[chosen.name], {other.name: each[other.name]})


def wear_of(space: Space, option: Option) -> Wear | None:
    """Wear of this replica's share of the disk; None where no disk is written."""
    base, written = space.base, option.stored_bytes.get("disk", 0)
    if not written:
        return None
    return wear(base.machine.disk, share=base.deployment.parallel.gpus / base.machine.gpus, written_Bps=written / option.duration_s)


def wear_beside(space: Space, option: Option, options: Sequence[Option]) -> Wear | None:
    """The same with what other rules for the same tiers would write."""
    found = wear_of(space, option)
    if found is None:
        return None
    sizes = ("cpu_bytes", "disk_bytes", "remote_bytes", "kv_dtype")
    alike = [
        one for one in options if one != option and all(getattr(one.placement, name) == getattr(option.placement, name) for name in sizes)
    ]
    others = {one.name: worn for one in alike if (worn := wear_of(space, one))}
    return with_alternatives(
        found, {name: worn for name, worn in others.items() if worn.written_bytes_per_day != found.written_bytes_per_day}
    )


def worn_out(space: Space, option: Option) -> str:
    """Why an option is not recommended: its disk does not last. Empty where it does, or the user asked for it all the same."""
    return "" if space.allow_wear else too_short(wear_of(space, option))


def must_wear_out(space: Space, placement: Placement, without: Option) -> str:
    """Why a placement's disk cannot last, whatever a simulation would say: everything that is new in the traffic is written to it once, in
    the time that it takes `without` tiers. Empty where it may last, where the user asked for it all the same, or the rules write less.
    """
    rules, known = realise(space.base, placement).engine.offload, space.traffic
    if space.allow_wear or rules.store != "write_through" or rules.lower_store != "write_through":
        return ""
    new_bytes = known.prompt_tokens * (1 - known.ideal_hit) * space.token_bytes
    share = space.base.deployment.parallel.gpus / space.base.machine.gpus
    return too_short(wear(space.base.machine.disk, share=share, written_Bps=new_bytes / max(1e-9, without.duration_s)))


def costs_of(space: Space, offload: Option, without: Option, chosen: Option, options: Sequence[Option], result: SimResult) -> Costs:
    """What the chosen of two placements costs; `result` is its run."""
    costs = [(space.cost_per_hour(one.placement) or 0.0) / max(1e-12, one.output_tokens_per_s) for one in (offload, without)]
    cheaper, other = (offload, without) if costs[0] <= costs[1] else (without, offload)
    return Costs(
        money=money_for(space, chosen),
        money_without=money_for(space, without),
        price_flips=price_flips(space, cheaper, other),
        wear=wear_beside(space, chosen, options),
        energy=energy(realise(space.base, chosen.placement), result),
    )
