"""What is searched for: the least or most of something within limits."""

from __future__ import annotations

import re

import msgspec

from kvplan.errors import InputError, did_you_mean
from kvplan.results.simulate import SimResult
from kvplan.sim.outcome import slo

HIGHER = {"throughput"}
"""Figures of which more is better."""


class SweepGoal(msgspec.Struct, frozen=True, kw_only=True):
    """`min cost: ttft_p95<2s`: smallest, or largest, of a figure or a setting, where the limits are met."""

    sense: str  # min or max
    what: str
    limits: str = ""

    @property
    def text(self) -> str:
        return f"{self.sense} {self.what}{': ' if self.limits else ''}{self.limits}"


def parse_goal(text: str) -> SweepGoal:
    """A goal from its words. Raises InputError."""
    words, _, limits = text.partition(":")
    sense, _, what = words.strip().partition(" ")
    if sense not in ("min", "max") or not what.strip():
        raise InputError(f"--goal {text!r}: write min or max of something", hint='for example --goal "min cost: ttft_p95<2s"')
    slo.parse(limits)
    return SweepGoal(sense=sense, what=what.strip(), limits=limits.strip())


def parse_front(text: str) -> tuple[str, ...]:
    """The figures of a Pareto front. Raises InputError."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if len(found) < 2 or len(set(found)) < len(found):
        raise InputError(f"--pareto {text}: two different figures or more", hint="for example --pareto ttft_p95,cost")
    for what in found:
        figure_named(what)
    return found


_STATISTIC = re.compile(rf"^({'|'.join(slo.METRICS)})_(mean|p50|p90|p95|p99|max)$")
OTHERS = ("cost", "energy", "throughput")


def figure_named(what: str) -> None:
    """Raises InputError for what is no figure of a run."""
    if what not in OTHERS and not _STATISTIC.match(what):
        raise InputError(f"{what!r} is no figure of a run", hint=did_you_mean(what, [*OTHERS, "ttft_p95", "itl_p95", "e2e_p95"]))


def figure(result: SimResult, what: str) -> float:
    """A figure of a run by itself; infinite where nothing was measured."""
    if what == "throughput":
        return result.throughput.requests_per_s
    match = _STATISTIC.match(what)
    assert match is not None
    value = getattr(getattr(result, f"{match[1]}_s"), match[2])
    return float("inf") if value is None else float(value)
