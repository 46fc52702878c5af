"""How far off an assumption may be before the verdict is another one: both placements are simulated again with it moved."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec

from kvplan.errors import KvplanError
from kvplan.plan.closed_form import PREFILL, Z95, scaled, sigma, source
from kvplan.plan.runs import Job, Runner, realise
from kvplan.plan.search import gain, option
from kvplan.plan.space import Space
from kvplan.provenance import Source
from kvplan.results.plan import Placement
from kvplan.results.plan_result import Assumption, Range

LADDER = (2.0, 4.0)
"""Factors by which an assumption is moved against the verdict."""

REUSE = Source(kind="derived", source="the traffic to come repeats as much as this trace does")

LINK = ("machine.link.h2d_Bps", "machine.link.d2h_Bps")
DISK = ("machine.disk.read_Bps", "machine.disk.stream_Bps", "machine.disk.write_Bps")


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """An assumption: the numbers that carry it, and whether less of it speaks against offloading."""

    name: str
    paths: tuple[str, ...]  # none: the reuse of the trace
    less_is_worse: bool


def doubts(placement: Placement) -> list[Doubt]:
    """What the gain of a placement rests on."""
    found = [
        Doubt(name="reuse in the traffic", paths=(), less_is_worse=True),
        Doubt(name="prefill speed of the GPU", paths=PREFILL, less_is_worse=False),
        Doubt(name="bandwidth between host and GPU", paths=LINK, less_is_worse=True),
    ]
    if placement.disk_bytes:
        found.append(Doubt(name="bandwidth of the disk", paths=DISK, less_is_worse=True))
    return found


def assumptions(
    space: Space, run: Runner, goal: str, with_: Placement, without: Placement, base_gain: float, threshold: float
) -> tuple[list[Assumption], Range]:
    """Each assumption with the factor at which the gain crosses `threshold`, most sensitive first; and the gain's interval."""
    found = [_assumption(space, run, goal, (with_, without), doubt, base_gain, threshold) for doubt in doubts(with_)]
    found.sort(key=lambda one: abs(math.log(one.flips_at)) / one.sigma_rel if one.flips_at else math.inf)
    spread = math.sqrt(sum((one.gain_at_edge - base_gain) ** 2 for one in found))
    return found, Range(value=base_gain, lo=base_gain - spread, hi=base_gain + spread)


def _assumption(
    space: Space, run: Runner, goal: str, pair: tuple[Placement, Placement], doubt: Doubt, base_gain: float, threshold: float
) -> Assumption:
    wins = base_gain > threshold
    down = wins == doubt.less_is_worse  # the direction that speaks against the verdict
    factors = [1 / step if down else step for step in LADDER]
    if not doubt.paths and not down:
        factors = []  # more reuse than there is cannot be simulated
    gains = _gains(space, run, goal, pair, doubt, factors)
    points = [(0.0, base_gain), *((math.log(factor), value) for factor, value in zip(factors, gains, strict=True))]
    where = source(space.base, doubt.paths[0]) if doubt.paths else REUSE
    spread = sigma(space.base, doubt.paths[0]) if doubt.paths else 0.10
    edge = Z95 * spread * (-1 if down else 1)
    return Assumption(
        name=doubt.name,
        path=doubt.paths[0] if doubt.paths else "trace",
        kind=where.kind,
        source=where.source,
        sigma_rel=spread,
        flips_at=_crossing(points, threshold),
        tested_to=factors[-1] if factors else 1.0,
        gain_at_edge=_between(points, edge),
    )


def _gains(
    space: Space, run: Runner, goal: str, pair: tuple[Placement, Placement], doubt: Doubt, factors: list[float]
) -> list[float]:
    jobs = []
    for factor in factors:
        base = scaled(space.base, doubt.paths, factor)
        jobs += [Job(realise(base, one), reuse=1.0 if doubt.paths else factor) for one in pair]
    outcomes = run(jobs)
    found = []
    for at in range(0, len(outcomes), 2):
        both = outcomes[at : at + 2]
        for outcome in both:
            if isinstance(outcome, KvplanError):
                raise outcome
        scored = [option(space, one, result, goal) for one, result in zip(pair, both, strict=True)]  # type: ignore[arg-type]
        found.append(gain(*scored))
    return found


def _crossing(points: list[tuple[float, float]], threshold: float) -> float | None:
    """The factor at which the gain, straight between points over the factor's logarithm, crosses the threshold."""
    for (left, before), (right, after) in pairwise(points):
        if (before > threshold) != (after > threshold):
            share = (before - threshold) / (before - after)
            return math.exp(left + share * (right - left))
    return None


def _between(points: list[tuple[float, float]], at: float) -> float:
    """The gain at a logarithm of the factor: between the points, or along the last line."""
    if len(points) < 2:
        return points[0][1]
    for (left, before), (right, after) in pairwise(points):
        if min(left, right) <= at <= max(left, right) or (right, after) == points[-1]:
            return before + (after - before) * (at - left) / (right - left)
    return points[-1][1]


def at_loads(space: Space, run: Runner, goal: str, pair: tuple[Placement, Placement], speedups: list[float]) -> dict[str, float]:
    """The gain when the same traffic arrives faster or slower."""
    jobs = []
    for speedup in speedups:
        settings = msgspec.structs.replace(space.base.run, speedup=space.base.run.speedup * speedup)
        base = msgspec.structs.replace(space.base, run=settings)
        jobs += [Job(realise(base, one)) for one in pair]
    outcomes = run(jobs)
    found = {}
    for position, speedup in enumerate(speedups):
        both = outcomes[2 * position : 2 * position + 2]
        if any(isinstance(outcome, KvplanError) for outcome in both):
            continue
        scored = [option(space, one, result, goal) for one, result in zip(pair, both, strict=True)]  # type: ignore[arg-type]
        found[f"{speedup:.3g}"] = gain(*scored)
    return found
