"""How far off an assumption may be before the verdict is another one: both placements are simulated again with it
moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from kvplan.errors import KvplanError
from kvplan.planning.closed_form import PREFILL, scaled, sigma, source
from kvplan.planning.objective import changed
from kvplan.planning.runs import Outcome, Runner, Simulation, realise
from kvplan.planning.search import gain, option
from kvplan.planning.space import Space, windowed
from kvplan.provenance import SIGMA_REL, Z95, Source
from kvplan.results.placement import Placement
from kvplan.results.plan import Assumption, Option, Range
from kvplan.scenario import Scenario
from kvplan.sim.outcome.uncertainty import model_sigma

LADDER = (2.0, 4.0)
"""Factors by which an assumption is moved against the verdict; of a long trace, the first only."""

LEFT = 2 / 3
"""An assumption that leaves more than this share of the gain when it is moved by one factor is not moved by the next, its square: the loss
would have to be more than twice as steep there to turn the verdict."""

REUSE = Source(kind="derived", source="the traffic to come repeats as much as this trace does")

PAIRED = 0.01
"""Half the 95 % interval of the ratio of two simulated scores that no number explains (assumed: what the time model gets wrong of both
cancels; whole replays come out within 1 to 6 %)."""

LINK = ("machine.link.h2d_Bps", "machine.link.d2h_Bps")
DISK = ("machine.disk.read_Bps", "machine.disk.stream_Bps", "machine.disk.write_Bps")


NETWORK = ("machine.network.Bps",)


class Lever(msgspec.Struct, frozen=True, kw_only=True):
    """An assumption: the numbers that carry it, and whether less of it speaks against offloading."""

    name: str
    paths: tuple[str, ...]  # none: the reuse of the trace
    less_is_worse: bool

    @property
    def moves_without(self) -> bool:
        """Does it matter without a tier below the GPU."""
        return not self.paths or self.paths == PREFILL


def doubts(placement: Placement) -> list[Lever]:
    """What the gain of a placement rests on."""
    found = [
        Lever(name="reuse in the traffic", paths=(), less_is_worse=True),
        Lever(name="prefill speed of the GPU", paths=PREFILL, less_is_worse=False),
        Lever(name="bandwidth between host and GPU", paths=LINK, less_is_worse=True),
    ]
    if placement.disk_bytes:
        found.append(Lever(name="bandwidth of the disk", paths=DISK, less_is_worse=True))
    if placement.remote_bytes:
        found.append(Lever(name="bandwidth to the remote pool", paths=NETWORK, less_is_worse=True))
    return found


class Pair(msgspec.Struct, frozen=True):
    """The option in question and the same without its tiers."""

    offload: Option
    without: Option

    @property
    def gain(self) -> float:
        return gain(self.offload, self.without)


def assumptions(space: Space, run: Runner, goal: str, pair: Pair) -> tuple[list[Assumption], Range]:
    """Each assumption with the factor at which the gain changes its sign, most sensitive first; and the gain's
    interval.
    """
    if pair.offload.placement == pair.without.placement:
        return [], within(0.0, [])
    ladder = LADDER if not space.is_long else LADDER[:1]
    levers = [one for one in doubts(pair.offload.placement) if one.paths or (pair.gain > 0) == one.less_is_worse]
    base = windowed(space)
    factors: dict[str, list[float]] = {one.name: [] for one in doubts(pair.offload.placement)}
    gains: dict[str, list[float]] = {name: [] for name in factors}
    for step in ladder:
        moving = [one for one in levers if not gains[one.name] or gains[one.name][-1] * pair.gain < LEFT * pair.gain**2]
        moves = [(one, _against(one, pair.gain, step)) for one in moving]
        for (one, factor), value in zip(moves, _gains(space, run, goal, pair, base, moves), strict=True):
            factors[one.name].append(factor)
            gains[one.name].append(value)
    found = [_assumption(space, one, factors[one.name], gains[one.name], pair.gain) for one in doubts(pair.offload.placement)]
    found.sort(key=lambda one: abs(math.log(one.flips_at)) / one.sigma_rel if one.flips_at else math.inf)
    return found, within(pair.gain, [one.gain_at_edge for one in found])


def within(value: float, edges: list[float]) -> Range:
    """The interval of a gain from its values at the edge of each assumption: score ratios add up in quadrature as
    logarithms.
    """
    ratio = _log_ratio(value)
    spread = math.sqrt(PAIRED**2 + sum((_log_ratio(edge) - ratio) ** 2 for edge in edges))
    return Range(value=value, lo=1 - math.exp(ratio + spread), hi=1 - math.exp(ratio - spread))


def _log_ratio(gain_share: float) -> float:
    return math.log(max(1e-6, 1 - gain_share))


def _against(doubt: Lever, base_gain: float, step: float) -> float:
    """By what to multiply an assumption to speak against the sign of the gain."""
    return 1 / step if (base_gain > 0) == doubt.less_is_worse else step


def _assumption(space: Space, doubt: Lever, factors: list[float], gains: list[float], base_gain: float) -> Assumption:
    points = [(0.0, base_gain), *((math.log(factor), value) for factor, value in zip(factors, gains, strict=True))]
    where = source(space.base, doubt.paths[0]) if doubt.paths else REUSE
    spread = math.hypot(sigma(space.base, doubt.paths[0]), model_sigma(space.base.model)) if doubt.paths else SIGMA_REL[REUSE.kind]
    edge = Z95 * spread * (-1 if factors and factors[0] < 1 else 1)
    return Assumption(
        name=doubt.name,
        path=doubt.paths[0] if doubt.paths else "trace",
        kind=where.kind,
        source=where.source,
        sigma_rel=spread,
        flips_at=_crossing(points),
        tested_to=factors[-1] if factors else 1.0,
        gain_at_edge=_between(points, edge),
    )


def _gains(space: Space, run: Runner, goal: str, pair: Pair, base: Scenario, moves: Sequence[tuple[Lever, float]]) -> list[float]:
    """The gain with each assumption moved. Without tiers, only prefill and reuse make a difference.

    Of a long trace the moves are made on a window: what they change there, as a ratio of scores, is laid on the whole trace's gain.
    """
    jobs = [Simulation(realise(base, one.placement)) for one in (pair.offload, pair.without)]
    for doubt, factor in moves:
        moved, reuse = scaled(base, doubt.paths, factor), 1.0 if doubt.paths else factor
        bare = moved if doubt.moves_without else base
        jobs.append(Simulation(realise(moved, pair.offload.placement), reuse=reuse))
        jobs.append(Simulation(realise(bare, pair.without.placement), reuse=reuse))
    outcomes = [_scored(space, (pair.offload, pair.without)[at % 2], outcome, goal) for at, outcome in enumerate(run(jobs))]
    there, *found = (_log_ratio(gain(*outcomes[at : at + 2])) for at in range(0, len(outcomes), 2))
    return [1 - math.exp(_log_ratio(pair.gain) - there + one) for one in found]


def _scored(space: Space, chosen: Option, outcome: Outcome, goal: str) -> Option:
    if isinstance(outcome, KvplanError):
        raise outcome
    return option(space, chosen.placement, outcome, goal)


def _crossing(points: list[tuple[float, float]]) -> float | None:
    """The factor at which the gain, straight between points over the factor's logarithm, changes its sign."""
    for (left, before), (right, after) in pairwise(points):
        if (before > 0) != (after > 0):
            return math.exp(left + before / (before - after) * (right - left))
    return None


def _between(points: list[tuple[float, float]], at: float) -> float:
    """The gain at a logarithm of the factor: between the points, or along the last line."""
    if len(points) < 2:
        return points[0][1]
    for (left, before), (right, after) in pairwise(points):
        if min(left, right) <= at <= max(left, right) or (right, after) == points[-1]:
            return before + (after - before) * (at - left) / (right - left)
    return points[-1][1]


def at_loads(space: Space, run: Runner, goal: str, pair: Pair, speedups: list[float]) -> dict[str, float]:
    """The gain when the same traffic arrives faster or slower."""
    if pair.offload.placement == pair.without.placement:
        return {}
    bases = []
    looked_at = windowed(space)
    for speedup in speedups:
        settings = msgspec.structs.replace(looked_at.run, speedup=looked_at.run.speedup * speedup)
        bases.append(looked_at.changed(run=settings))
    outcomes = run([Simulation(realise(base, one.placement)) for base in bases for one in (pair.offload, pair.without)])
    found = {}
    for at, speedup in enumerate(speedups):
        scored = Pair(
            _scored(space, pair.offload, outcomes[2 * at], goal),
            _scored(space, pair.without, outcomes[2 * at + 1], goal),
        )
        found[f"{speedup:.2g}"] = scored.gain
    return found


def from_window(space: Space, run: Runner, goal: str, pair: Pair) -> list[str]:
    """Of a long trace, that side questions were asked of its window, and how far the gain there is from the whole trace's."""
    base = windowed(space)
    if base is space.base or pair.offload.placement == pair.without.placement:
        return []
    outcomes = run([Simulation(realise(base, one.placement)) for one in (pair.offload, pair.without)])
    there = Pair(*(_scored(space, one, outcome, goal) for one, outcome in zip((pair.offload, pair.without), outcomes, strict=True)))
    return [
        f"what the answer rests on, other loads and other numbers of GPUs: from the first {base.run.limit:,} of {space.traffic.requests:,} "
        f"requests, where the tier's effect is {changed(goal, there.gain)} instead of {changed(goal, pair.gain)}"
    ]
