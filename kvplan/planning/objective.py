"""What a plan is for: a target's clauses, and the score by which placements are ranked."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from kvplan.errors import InputError, did_you_mean
from kvplan.results.simulate import SimResult, TargetCheck
from kvplan.sim.outcome import slo as targets


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """Limits to be met, and the goal by which what meets them is ranked."""

    clauses: tuple[targets.Clause, ...] = ()
    goal: str = ""  # a name in GOALS; empty: the plan's choice

    @property
    def saturates(self) -> bool:
        """Is it asked what the machine can do at most: then the arrivals must not be the limit."""
        return self.goal in SATURATED and not self.clauses

    def missed(self, result: SimResult) -> tuple[str, ...]:
        """Names of the clauses that a result misses."""
        return tuple(one.name for one in self._checks(result) if not one.met)

    def farthest(self, result: SimResult) -> float:
        """The clause that is farthest from being met, as a multiple of its limit."""
        return max((one.value_s or 0.0) / one.limit_s for one in self._checks(result))

    def _checks(self, result: SimResult) -> list[TargetCheck]:
        stats = {metric: getattr(result, f"{metric}_s") for metric in targets.METRICS}
        return targets.check(list(self.clauses), stats)


def parse_target(text: str) -> Objective:
    """A target from `ttft_p95<2s,itl_p95<50ms`, `throughput`, `cost` or several of them. Raises InputError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    goals = [part for part in parts if part in ASKED]
    if len(goals) > 1:
        raise InputError(f"--target {text}: {goals[0]} and {goals[1]} are two goals", hint="name one")
    limits = [part for part in parts if part not in ASKED]
    for part in limits:
        if "<" not in part:
            raise InputError(f"--target: {part!r} is not a goal", hint=did_you_mean(part, ASKED))
    return Objective(clauses=tuple(targets.parse(",".join(limits))), goal="".join(goals))


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a goal looks at."""

    result: SimResult
    target: Objective
    cost_per_hour: float | None


def _ttft(judged: Judged) -> float:
    return judged.result.ttft_s.mean or 0.0


def _limits(judged: Judged) -> float:
    return judged.target.farthest(judged.result)


def _throughput(judged: Judged) -> float:
    """Seconds per request: its inverse is what the replica serves."""
    return 1 / max(1e-12, judged.result.throughput.requests_per_s)


def _cost(judged: Judged) -> float:
    """Price of a million output tokens."""
    assert judged.cost_per_hour is not None
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


def changed(goal: str, gain: float) -> str:
    """A gain in what the goal counts, in words: `41% less` time or money, `12% more` requests."""
    word = _direction(goal, gain)
    return f"{_share(goal, gain)} {word}" if word else "no change"


def between(goal: str, low: float, high: float) -> str:
    """The 95 % interval of a gain in words: `95%: 31% to 49%`, with the directions where the ends differ."""
    if (low < 0) != (high < 0):
        return f"95%: {changed(goal, low)} to {changed(goal, high)}"
    first, last = sorted((low, high), key=lambda end: abs(_amount(goal, end)))
    return f"95%: {_share(goal, first)} to {_share(goal, last)}"


def _amount(goal: str, gain: float) -> float:
    """Throughput is scored by the seconds of a request: fewer of these are more requests."""
    if goal != "throughput":
        return gain
    return gain / (1 - gain) if gain < 1 else math.inf


def _share(goal: str, gain: float) -> str:
    size = abs(_amount(goal, gain))
    return f"{size:.0%}" if size >= 0.0995 else f"{size:.1%}"


def _direction(goal: str, gain: float) -> str:
    if abs(_amount(goal, gain)) < 0.0005:
        return ""
    less, more = ("more", "fewer") if goal == "throughput" else ("less", "more")
    return less if gain > 0 else more
