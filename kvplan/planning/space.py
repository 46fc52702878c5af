"""What a plan may choose from: placements, capacities and rules, and what closed forms rule out beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from kvplan.economics.prices import Prices, Used, per_hour
from kvplan.memory.formats import stored_format
from kvplan.memory.pinned import filled, largest_tier
from kvplan.planning.objective import Objective
from kvplan.planning.runs import WINDOW_REQUESTS
from kvplan.planning.traffic import capacity_for, hit_at
from kvplan.results.placement import RULES, Placement
from kvplan.results.plan import Pruned, TierWorth
from kvplan.results.traffic import Traffic
from kvplan.scenario import Scenario
from kvplan.units import GiB, format_bytes, format_rate, format_tokens

LONG_REQUESTS = 6000

LEAST_REUSE = 0.005
"""A cache that serves less than this share of the prompt tokens is not worth a simulation."""

LEAST_STEP, LEAST_STEP_LONG = 0.002, 0.01
"""Nor is a capacity that adds less than this over the one before it; of a long trace, whose simulations take long, the second."""

ALIKE = 1.1
"""Capacities in a smaller ratio are not told apart."""

EIGHT_BITS = "fp8"

DRAM_PER_DISK_PRICE = 20.0
"""A GiB of host memory costs about as much as this many GiB of NVMe; only used to order equal options without
prices.
"""


More = Callable[[float], tuple[str, int]]
"""Factor -> the path of a trace with so many times the users, and how many these are: for traffic that is generated."""


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """One question to plan for. The scenario's GPU pool is set; limits are bytes that one replica may use."""

    base: Scenario
    traffic: Traffic
    token_bytes: float  # what a tier below the GPU takes of one more token, by the engine's connector
    pool_tokens: int  # what the GPU's pool keeps of prefixes
    when: tuple[TierWorth, ...]
    target: Objective
    prices: Prices | None
    cpu_limit_bytes: int
    disk_limit_bytes: int
    allow_wear: bool = False  # may a disk be recommended that is worn out within years
    more: More | None = None

    @property
    def pool_bytes(self) -> int:
        return self.base.tiers.gpu_kv_bytes

    @property
    def is_long(self) -> bool:
        """Are simulations of the whole trace few, and side questions asked of its first requests only."""
        return self.traffic.requests > LONG_REQUESTS

    @property
    def pool_below_bytes(self) -> float:
        """What the content of the GPU's pool takes in a tier below."""
        return self.pool_tokens * self.token_bytes

    def beyond_pool(self, capacity_bytes: float) -> float:
        """Share of the prompt tokens that lies in a cache of a capacity and beyond the GPU's pool."""
        return hit_at(self.traffic, capacity_bytes) - hit_at(self.traffic, self.pool_below_bytes)

    def used(self, placement: Placement) -> Used:
        """What a replica with its tiers takes."""
        spread = self.base.deployment.changed(tp=placement.tp).parallel
        sizes = {name: getattr(placement, name) * spread.dp for name in ("cpu_bytes", "disk_bytes")}
        return Used(gpus=spread.all_gpus, remote_bytes=placement.remote_bytes, **sizes)

    def cost_per_hour(self, placement: Placement) -> float | None:
        """Price of a replica and its tiers; None without prices."""
        return per_hour(self.prices, self.used(placement)).value if self.prices else None

    def expense(self, placement: Placement) -> float:
        """What to save among equals: money when there are prices, else bytes of host memory and a twentieth of those
        on disk.
        """
        cost = self.cost_per_hour(placement)
        return cost if cost is not None else placement.cpu_bytes + placement.disk_bytes / DRAM_PER_DISK_PRICE


Found = tuple[list[Placement], list[Pruned]]


def nothing(space: Space) -> Placement:
    """The placement without any tier below the GPU, by the engine's own rules."""
    deployment, engine = space.base.deployment, space.base.engine
    rules = {name: getattr(engine.offload, name) for name in RULES}
    ranks = {kind: getattr(deployment.parallel, kind) for kind in ("tp", "pp", "dp", "ep")}
    return Placement(model=deployment.model.name, gpu_fraction=engine.gpu_fraction, kv_dtype=deployment.kv_dtype, **ranks, **rules)


def ruled_out(space: Space) -> str:
    """Why no tier at all can help this traffic; empty when one may."""
    known = space.traffic
    if known.ideal_hit < LEAST_REUSE:
        return f"the traffic repeats {known.ideal_hit:.1%} of its prompt tokens: there is nothing to load"
    everything = known.curve[-1].capacity_bytes
    if everything <= space.pool_below_bytes / 2:
        tokens = format_tokens(everything / space.token_bytes)
        pool = f"{format_tokens(space.pool_tokens)} tokens ({format_bytes(space.pool_bytes)})"
        return f"all that is reused lies within {tokens} tokens, and the GPU's pool of {pool} keeps it"
    return ""


PLACES = {"cpu": "host memory", "disk": "the disk", "remote": "the remote pool"}
"""Tier -> what people call it."""


def loses(space: Space, tier: str) -> str:
    """Why loading from a tier loses against computing again at any length of this traffic; empty when it may win."""
    worth = next((one for one in space.when if one.tier == tier), None)
    longest = space.traffic.longest_prompt_tokens
    if worth is None:
        return f"{space.base.machine.name} describes no such tier"
    least = worth.break_even_tokens.lo
    if least is not None and least <= longest:
        return ""
    needs = worth.break_even_Bps.value
    wanted = (
        f"; at {format_tokens(worth.prefix_tokens)} tokens it needs {format_rate(needs)}, and has {format_rate(worth.Bps)}" if needs else ""
    )
    if least is None:
        return f"loading from {PLACES[tier]} takes longer than computing at any length{wanted}"
    return (
        f"loading from {PLACES[tier]} wins from {format_tokens(least)} tokens on, and the longest prompt has "
        f"{format_tokens(longest)}{wanted}"
    )


def cpu_tiers(space: Space) -> Found:
    """Capacities of a CPU tier: doublings from twice the pool, where the hit-rate curve flattens, and the limit."""
    limit, pool = largest_tier(space.base.deployment, space.cpu_limit_bytes), space.pool_below_bytes
    if why := loses(space, "cpu"):
        return [], [Pruned(what="CPU", why=why)]
    write_through = space.base.engine.offload.store != "on_evict"
    least = 2 * pool if write_through else pool / 2
    if limit < least:
        return [], [Pruned(what="CPU", why=_too_small(limit, space.cpu_limit_bytes, least, pool))]
    if space.beyond_pool(limit) < LEAST_REUSE / 2 and hit_at(space.traffic, limit) < LEAST_REUSE:
        return [], [
            Pruned(
                what="CPU",
                why=f"a cache of {format_bytes(limit)} would serve {hit_at(space.traffic, limit):.1%} of the prompt tokens",
            )
        ]
    knee = capacity_for(space.traffic, 0.95 * hit_at(space.traffic, limit))
    rungs, size = {max(least, knee)}, least
    while size < limit:
        rungs.add(size)
        size *= 2
    if limit > ALIKE * max(rungs):
        rungs.add(limit)
    return _thin(space, sorted({tier_bytes(space, rung) for rung in rungs}))


def _too_small(limit: int, given: int, least: float, pool: float) -> str:
    """Why what a tier can ask for of the host memory that is given does not help."""
    if not limit:
        return "no host memory may be used" if not given else f"no tier can be asked for within {format_bytes(given)} of host memory"
    room = f"the {format_bytes(limit)} of host memory that a tier can have"
    if limit < given:
        room += f" (of {format_bytes(given)}: a larger one is rounded up beyond that)"
    return f"{room} mostly repeats what the GPU's pool holds ({format_bytes(pool)} in a tier), and would help from {format_bytes(least)} on"


def tier_bytes(space: Space, wanted: float) -> int:
    """What to ask for to have a CPU tier of about `wanted` bytes: in the engine's steps, as much as the same host memory holds,
    and never more than the limit holds.
    """
    deployment, step = space.base.deployment, space.base.engine.abilities.cpu_step_bytes * space.base.deployment.parallel.gpus
    limit = largest_tier(deployment, space.cpu_limit_bytes)
    if step:
        above = math.ceil(wanted / step) * step
        return above if above <= limit else limit // step * step
    return min(filled(deployment, _whole(wanted, limit)), limit)


def _whole(size: float, limit: int) -> int:
    """Whole GiB, as configurations are written, up to the limit; small sizes stay."""
    size = min(size, limit)
    if size < 4 * GiB:
        return int(size)
    above = math.ceil(size / GiB) * GiB
    return above if above <= limit else int(size // GiB * GiB)


def _thin(space: Space, rungs: list[int]) -> Found:
    """Leave out the rungs that the hit-rate curve says add nothing to the one below; the first always stays."""
    kept, pruned, last = rungs[:1], [], rungs[0]
    least = LEAST_STEP_LONG if space.is_long else LEAST_STEP
    for rung in rungs[1:]:
        gain = hit_at(space.traffic, rung) - hit_at(space.traffic, last)
        if gain >= least:
            kept.append(rung)
            last = rung
        elif rung > last:
            pruned.append(
                Pruned(
                    what=f"CPU {format_bytes(rung)}",
                    why=f"{gain:+.1%} of the prompt tokens over {format_bytes(last)} on the hit-rate curve",
                )
            )
    return [msgspec.structs.replace(nothing(space), cpu_bytes=size) for size in kept], pruned


def disk_tiers(space: Space, cpu_sizes: list[int]) -> Found:
    """A disk behind the smallest and the largest CPU tier worth having; alone where the engine can."""
    limit = space.disk_limit_bytes
    pruned = (
        []
        if space.base.engine.abilities.disk_alone
        else [Pruned(what="disk only", why=f"{space.base.engine.name} moves disk blocks through host memory")]
    )
    if why := loses(space, "disk"):
        return [], [*pruned, Pruned(what="disk", why=why)]
    if not cpu_sizes:
        return [], [*pruned, Pruned(what="disk", why="no CPU tier to put in front of it")]
    largest = max(cpu_sizes)
    gain = hit_at(space.traffic, limit) - hit_at(space.traffic, largest)
    if limit <= largest or gain < LEAST_REUSE:
        why = (
            f"{format_bytes(limit)} of disk would serve {max(0.0, gain):.1%} of the prompt tokens more than "
            f"{format_bytes(largest)} of host memory"
        )
        return [], [*pruned, Pruned(what="CPU+disk", why=why)]
    enough = min(limit, capacity_for(space.traffic, 0.99 * hit_at(space.traffic, limit)))
    bounded = space.base.engine.abilities.disk_bounded  # else a larger one is the same to the engine
    sizes = sorted({_whole(size, limit) for size in (enough, limit)[: 1 + bounded]})
    return [
        msgspec.structs.replace(nothing(space), cpu_bytes=cpu, disk_bytes=disk)
        for cpu in sorted({min(cpu_sizes), min(cpu_sizes) if space.is_long else largest})
        for disk in sizes
        if disk > cpu
    ], pruned


def remote_tiers(space: Space, local: Sequence[Placement]) -> Found:
    """The remote pool that the scenario has, behind each of these placements."""
    size = space.base.tiers.remote_bytes
    if why := loses(space, "remote"):
        return [], [Pruned(what="remote", why=why)]
    if not size:
        return [], [Pruned(what="remote", why="the scenario has no remote pool (--set tiers.remote_bytes=10TiB adds one)")]
    wanted, pruned = [], []
    for one in local:
        gain = hit_at(space.traffic, size) - hit_at(space.traffic, max(one.cpu_bytes, one.disk_bytes))
        if gain >= LEAST_REUSE:
            wanted.append(msgspec.structs.replace(one, remote_bytes=size))
        else:
            behind = format_bytes(max(one.cpu_bytes, one.disk_bytes))
            why = f"{format_bytes(size)} would serve {max(0.0, gain):.1%} of the prompt tokens more than the {behind} before it"
            pruned.append(Pruned(what=f"remote behind {behind}", why=why))
    return wanted, pruned


def can_narrow(space: Space) -> bool:
    """Does the KV have more than 8 bits."""
    base = space.base
    return stored_format(base.deployment).element_bits > 8


def windowed(space: Space) -> Scenario:
    """The scenario for side questions: of a long trace, its first requests."""
    if not space.is_long:
        return space.base
    return space.base.changed(run=msgspec.structs.replace(space.base.run, limit=WINDOW_REQUESTS))
