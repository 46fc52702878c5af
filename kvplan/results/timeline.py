"""What happened when, in a simulation that was asked to remember it: series over time, loads, and where the time of requests went."""

from __future__ import annotations

import msgspec

from kvplan.results.traffic import HitPoint


class TimeSeries(msgspec.Struct, frozen=True, kw_only=True):
    """A number in equal parts of the time: its largest value in each, so that no peak is lost, and its mean; `most` is what it cannot
    exceed, where there is such a bound."""

    name: str
    unit: str  # bytes, share, requests
    values: tuple[float, ...]
    means: tuple[float, ...]
    most: float | None = None


WHYS = {
    "faster": "faster than computing again",
    "rate": "moving the bytes alone took longer than computing",
    "link": "it waited behind other transfers",
    "below": "it came from below host memory first",
    "steps": "it waited for running steps and the engine's own handling",
}
"""Why of a load -> its meaning."""


class LoadPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One load from below the GPU against computing its tokens again; `why`: of WHYS, what most of its time went to."""

    index: int  # of the request
    at_s: float
    tier: str
    tokens: int
    load_s: float
    recompute_s: float
    why: str


class PhaseShare(msgspec.Struct, frozen=True, kw_only=True):
    """Mean seconds that some requests spent in each phase, from arrival to the last token."""

    group: str
    requests: int
    seconds: dict[str, float]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """What happened when. `loads` holds every losing load up to a bound and a sample of the others; counts are in `loads` of the result."""

    span_s: float
    tiers: tuple[TimeSeries, ...]
    links: tuple[TimeSeries, ...]
    queues: tuple[TimeSeries, ...]
    loads: tuple[LoadPoint, ...]
    loads_left_out: int
    phases: tuple[PhaseShare, ...]
    hit_curve: tuple[HitPoint, ...] = ()  # of an LRU cache, without regard to time: from the trace alone
