"""What a plan is for: a target's clauses, and the score by which placements are ranked."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from kvplan.errors import InputError, did_you_mean
from kvplan.results.simulate import SimResult
from kvplan.units import parse_seconds

METRICS = ("ttft", "itl", "e2e", "queue")
STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")
_CLAUSE = re.compile(r"^(?P<metric>[a-z0-9]+)_(?P<statistic>[a-z0-9]+)\s*<=?\s*(?P<limit>.+)$")


class Clause(msgspec.Struct, frozen=True, kw_only=True):
    """One limit of a target: a statistic of a time that must stay below so many seconds."""

    metric: str
    statistic: str
    limit_s: float

    @property
    def name(self) -> str:
        return f"{self.metric}_{self.statistic}"

    def value_s(self, result: SimResult) -> float | None:
        """What came out."""
        value: float | None = getattr(getattr(result, f"{self.metric}_s"), self.statistic)
        return value


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Per hour: of one GPU, of one GiB of host memory, of one GiB of disk. In any one currency."""

    gpu: float = 0.0
    cpu: float = 0.0
    disk: float = 0.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Limits to be met, and the goal by which what meets them is ranked."""

    clauses: tuple[Clause, ...] = ()
    goal: str = ""  # a name in GOALS; empty: the plan's choice

    @property
    def saturates(self) -> bool:
        """Is it asked what the machine can do at most: then the arrivals must not be the limit."""
        return self.goal in SATURATED and not self.clauses

    def missed(self, result: SimResult) -> tuple[str, ...]:
        """Names of the clauses that a result misses."""
        return tuple(one.name for one in self.clauses if (value := one.value_s(result)) is None or value > one.limit_s)


def parse_target(text: str) -> Target:
    """A target from `ttft_p95<2s,itl_p95<50ms`, `throughput`, `cost` or several of them. Raises InputError."""
    clauses, goal = [], ""
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part in ASKED:
            if goal:
                raise InputError(f"--target {text}: {goal} and {part} are two goals", hint="name one")
            goal = part
            continue
        match = _CLAUSE.match(part)
        if not match:
            raise InputError(
                f"--target: {part!r} is not a limit or a goal",
                hint=f"write ttft_p95<2s, or one of {', '.join(ASKED)}; {did_you_mean(part, ASKED)}",
            )
        for given, known in ((match["metric"], METRICS), (match["statistic"], STATISTICS)):
            if given not in known:
                raise InputError(
                    f"--target: {given!r} is not one of {', '.join(known)}", hint=did_you_mean(given, known)
                )
        limit_s = parse_seconds(match["limit"].strip())
        if not limit_s:
            raise InputError(f"--target: {part!r} cannot be met: the limit is 0 s")
        clauses.append(Clause(metric=match["metric"], statistic=match["statistic"], limit_s=limit_s))
    return Target(clauses=tuple(clauses), goal=goal)


def parse_prices(text: str) -> Prices:
    """Prices per hour from `gpu=2.5,cpu=0.004,disk=0.0001` (per GPU and per GiB). Raises InputError."""
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"--price: {part!r} is not a price", hint="write gpu=2.5,cpu=0.004,disk=0.0001") from None
        if name not in Prices.__struct_fields__ or found[name] < 0:
            raise InputError(f"--price: {part!r} is not a price", hint="gpu, cpu and disk have prices, none below 0")
    return Prices(**found)


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a goal looks at."""

    result: SimResult
    target: Target
    cost_per_hour: float | None


def _ttft(judged: Judged) -> float:
    return judged.result.ttft_s.mean or 0.0


def _limits(judged: Judged) -> float:
    """The clause that is farthest from being met, as a multiple of its limit."""
    values = [(one.value_s(judged.result), one.limit_s) for one in judged.target.clauses]
    return max(float("inf") if value is None else value / limit_s for value, limit_s in values)


def _throughput(judged: Judged) -> float:
    """Seconds per request: its inverse is what the replica serves."""
    return 1 / max(1e-12, judged.result.throughput.requests_per_s)


def _cost(judged: Judged) -> float:
    """Price of a million output tokens."""
    if judged.cost_per_hour is None:
        raise InputError("the goal `cost` needs prices", hint="add --price gpu=2.5,cpu=0.004,disk=0.0001")
    return judged.cost_per_hour / 3600 / max(1e-12, judged.result.throughput.output_tokens_per_s) * 1e6


GOALS: dict[str, Callable[[Judged], float]] = {
    "ttft": _ttft,
    "limits": _limits,
    "throughput": _throughput,
    "cost": _cost,
}
"""Goal -> score of a result, smaller is better."""

ASKED = ("ttft", "throughput", "cost")
"""Goals that a user can name; `limits` is the goal of a target with limits and none of these."""

SATURATED = ("throughput", "cost")
"""Goals that compare what the machine can do at most, when no limits are to be met at the traffic's own load."""

WORDS = {
    "ttft": "mean time to first token",
    "limits": "the limit of the target that is farthest from being met",
    "throughput": "requests served per second",
    "cost": "price per million output tokens",
}
