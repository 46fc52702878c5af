"""How much of this traffic a replica serves within limits, with a tier and without: its arrivals are replayed faster and slower, or it
is generated with more and fewer users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from kvplan.errors import KvplanError
from kvplan.planning.objective import Objective
from kvplan.planning.runs import Runner, Simulation, realise
from kvplan.planning.sensitivity import Pair
from kvplan.planning.space import Space, windowed
from kvplan.results.placement import Placement
from kvplan.results.plan import Capacity, ServedLoad
from kvplan.results.simulate import SimResult
from kvplan.sim.outcome.slo import Clause

LEAST, MOST = 2.0**-5, 2.0**4
"""Speeds of the arrivals between which is searched."""

CLOSE = 2.0 ** (1 / 4)
"""Of the slowest arrivals that missed the limits to the fastest that met them: the answer lies between, where they would be just met."""

KEPT = 1.02
"""Without a target, the time to first token that counts as kept, over what it is without a tier."""


def capacity(space: Space, run: Runner, pair: Pair) -> Capacity | None:
    """The load within the target; or, without one, at the 95th percentile of the time to first token that the traffic has without tiers.

    None where there is neither a tier nor a target, and where the arrivals are not what is asked about. Assumes that more load never makes
    the limits easier to meet.
    """
    bare, tiered = pair.without.placement, pair.offload.placement
    if not space.traffic.span_s or space.target.saturates or (bare == tiered and not space.target.clauses):
        return None
    limits = space.target
    if not limits.clauses:
        now = run([_at(space, bare, 1.0)[0]])[0]
        if isinstance(now, KvplanError) or not now.ttft_s.p95 or now.overload:
            return None
        limits = Objective(clauses=(Clause(metric="ttft", statistic="p95", limit_s=KEPT * now.ttft_s.p95),))
        without = ServedLoad(factor=1.0, requests_per_s=now.throughput.requests_per_s, users=_at(space, bare, 1.0)[1])
        chosen = _most(space, run, limits, [tiered])[tiered]
    else:
        found = _most(space, run, limits, list(dict.fromkeys((bare, tiered))))
        without, chosen = found[bare], found[tiered]
    return Capacity(
        ttft_p95_s=None if space.target.clauses else limits.clauses[0].limit_s,
        without=without,
        chosen=chosen if tiered != bare else None,
    )


class _Seen(NamedTuple):
    """What came out at a speed of the arrivals."""

    factor: float
    room: float  # the limit over what it limits: 1 is just met; 0: not all requests were served
    requests_per_s: float = 0.0
    users: int = 0


class _Bracket:
    """The fastest arrivals that met the limits, and the slowest that did not."""

    def __init__(self) -> None:
        self.met: _Seen | None = None
        self.missed: _Seen | None = None

    def next(self) -> float:
        """The speed to try next; 0 when the answer is close enough or the search ends."""
        if self.met is None:
            factor = self.missed.factor / 2 if self.missed else 1.0
            return factor if factor >= LEAST else 0.0
        if self.missed is None:
            return 2 * self.met.factor if self.met.factor < MOST else 0.0
        close = self.missed.factor <= 1.001 * CLOSE * self.met.factor
        return 0.0 if close else math.sqrt(self.met.factor * self.missed.factor)

    def tell(self, factor: float, users: int, result: SimResult | KvplanError, limits: Objective) -> None:
        """What came out at a speed."""
        if isinstance(result, KvplanError):
            self.missed = _Seen(factor, 0.0)
            return
        room = 0.0 if result.requests.rejected else 1 / max(1e-9, limits.farthest(result))
        seen = _Seen(factor, room, result.throughput.requests_per_s, users)
        if not room or limits.missed(result):
            self.missed = seen
        else:
            self.met = seen

    def load(self) -> ServedLoad:
        """The answer: a wait grows as 1 / (1 - load), so that its inverse falls in a straight line between the two."""
        met, missed = self.met, self.missed
        if met is None:
            return ServedLoad(factor=0.0, requests_per_s=0.0)
        if missed is None or not missed.room:
            return ServedLoad(factor=met.factor, requests_per_s=met.requests_per_s, users=met.users, at_least=missed is None)
        share = (met.room - 1) / max(1e-9, met.room - missed.room)
        ends = zip((met.factor, met.requests_per_s, met.users), (missed.factor, missed.requests_per_s, missed.users), strict=True)
        factor, rate, users = (low + share * (high - low) for low, high in ends)
        return ServedLoad(factor=factor, requests_per_s=rate, users=int(users))


def _most(space: Space, run: Runner, limits: Objective, placements: Sequence[Placement]) -> dict[Placement, ServedLoad]:
    """The most load that each placement serves within the limits."""
    brackets = {one: _Bracket() for one in placements}
    while wanted := [(one, factor) for one, bracket in brackets.items() if (factor := bracket.next())]:
        jobs = [_at(space, *one) for one in wanted]
        for (one, factor), (_, users), result in zip(wanted, jobs, run([job for job, _ in jobs]), strict=True):
            brackets[one].tell(factor, users, result, limits)
    return {one: bracket.load() for one, bracket in brackets.items()}


def _at(space: Space, placement: Placement, factor: float) -> tuple[Simulation, int]:
    """The traffic with its arrivals, or where it was generated its users, times `factor`; and how many users these are."""
    base = windowed(space)
    if space.more:
        trace, users = space.more(factor)
        return Simulation(realise(base.changed(trace=trace), placement)), users
    settings = msgspec.structs.replace(base.run, speedup=base.run.speedup * factor)
    return Simulation(realise(base.changed(run=settings), placement)), 0
