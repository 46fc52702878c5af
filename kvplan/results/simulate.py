"""What a simulation answers; its JSON is this record."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from kvplan.figures import bars, curves, times
from kvplan.figures.base import Figure
from kvplan.provenance import Z95, plus_minus
from kvplan.results import frames, notebook
from kvplan.results.timeline import Timeline
from kvplan.units import format_bytes

if TYPE_CHECKING:
    from pandas import DataFrame


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution in seconds; null where nothing was measured."""

    mean: float | None
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    max: float | None


QUANTILE_SHARES = (*(at / 50 for at in range(50)), 0.99, 0.995, 0.999, 1.0)
"""Shares of the requests at which a distribution is given where it is drawn."""


BOUNDLESS = 100.0
"""A capacity so many times the most that was used bounds nothing."""


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests there were, and what became of them."""

    total: int
    completed: int
    rejected: int
    rejected_prompt_tokens: int
    unfinished: int = 0
    preempted: int = 0


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """Rates over the time from the first arrival to the last token."""

    requests_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float


class PromptTokens(msgspec.Struct, frozen=True, kw_only=True):
    """Where the prompt tokens of the requests that ran came from; hits and computed sum to the total."""

    total: int
    gpu_hit: int
    cpu_hit: int
    disk_hit: int
    remote_hit: int
    computed: int


UNBOUNDED_BYTES = 10**18
"""The capacity of a disk from which the engine never deletes."""


class TierUse(msgspec.Struct, frozen=True, kw_only=True):
    """One tier: capacity, use, hits and traffic. `link_busy_fraction` is of the link or device that feeds the GPU from it."""

    name: str
    capacity_bytes: int
    peak_bytes: int
    hit_tokens: int
    hit_rate: float  # of all prompt tokens
    loaded_bytes: int
    stored_bytes: int
    evicted_bytes: int
    link_busy_fraction: float

    @property
    def capacity(self) -> str:
        """Its size in words."""
        return "no bound" if self.capacity_bytes > 0.99 * UNBOUNDED_BYTES else format_bytes(self.capacity_bytes)

    @property
    def used(self) -> str:
        """The most that lay in it: the share of a bounded tier, the size in one without a bound."""
        return f"{self.peak_bytes / max(1, self.capacity_bytes):.0%}" if self.capacity != "no bound" else format_bytes(self.peak_bytes)


class LoadCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Loads from lower tiers: how many, how many took longer than computing again would have, and the seconds spent and lost."""

    count: int
    losing: int
    stall_s: float
    losing_s: float


class TargetCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One clause of the target, and what came out."""

    name: str
    limit_s: float
    value_s: float | None
    met: bool


class Goodput(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that meet every limit of the target themselves."""

    requests: int
    share: float
    requests_per_s: float


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """One number that the times rest on: how uncertain it is, and how much of the mean time to first token it moves."""

    what: str
    kind: str  # measured, derived, datasheet, assumed
    sigma_rel: float
    share: float


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """95 % intervals of the means, from how well the numbers behind them are known; null where nothing was measured."""

    ttft_mean_s: tuple[float, float] | None = None
    itl_mean_s: tuple[float, float] | None = None
    rests_on: list[Doubt] = []


class SimResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `kvplan simulate`."""

    schema: str = "kvplan.simulate/1"
    name: str
    requests: Requests
    ttft_s: Stats
    ttft_quantiles_s: tuple[float, ...] = ()  # at QUANTILE_SHARES: 0, 0.02, ..., 0.98, 0.99, 0.995, 0.999, 1
    itl_s: Stats
    e2e_s: Stats
    queue_s: Stats
    throughput: Throughput
    prompt_tokens: PromptTokens
    tiers: list[TierUse]
    loads: LoadCounts
    interval: Interval
    targets: list[TargetCheck] = []
    goodput: Goodput | None = None
    largest_cause: str = ""
    ideal_hit_rate: float | None = None  # of all prompt tokens, with memory for everything; the ceiling of the tiers' hit rates together
    gpu_busy: float = 0.0  # share of the replicas' time in steps
    overload: float = 0.0  # time that serving takes over the time of arrival, where the queue grows all along; 0: it keeps up
    warm_requests: int | None = None  # until the tiers below the GPU serve 90 % of their steady share
    warm_s: float | None = None
    partial: bool = False
    timeline: Timeline | None = None  # where it was asked for
    duration_s: float
    wall_s: float
    provenance: dict[str, Any]
    warnings: list[str]

    def to_frame(self) -> DataFrame:
        """One row with all figures by dotted names; concatenate those of several runs to compare them."""
        return frames.rows([frames.flat(self)])

    def _repr_html_(self) -> str:
        times = (
            ("time to first token", self.ttft_s),
            ("between tokens", self.itl_s),
            ("queueing", self.queue_s),
            ("whole request", self.e2e_s),
        )
        rows = [[name, *map(notebook.seconds, (one.mean, one.p50, one.p90, one.p95, one.p99))] for name, one in times]
        places = [[one.name, one.capacity, f"{one.hit_rate:.1%}"] for one in self.tiers]
        places.append(["computed", "", f"{self.token_shares()['computed']:.1%}"])
        return notebook.tables(
            f"{self.name}: {self.requests.completed:,} of {self.requests.total:,} requests",
            (("", "mean", "p50", "p90", "p95", "p99"), rows),
            (("place", "capacity", "of the prompt tokens"), places),
        )

    def figures(self) -> dict[str, Figure]:
        """What `--html` draws of it, as plotly figures by name; those over time where the run was asked to remember it.

        Raises MissingError without the extra `kvplan[report]`.
        """
        limits = {f"target {one.name}": one.limit_s for one in self.targets if one.name.startswith("ttft")}
        found = {
            "ttft": curves.distribution({self.name: self.ttft_quantiles_s}, QUANTILE_SHARES, what="time to first token", limits_s=limits),
            "tokens": bars.token_sources({self.name: self.token_shares()}, ideal=self._ideal()),
        }
        if self.timeline is not None:
            found |= times.figures(self.timeline)
            if self.timeline.hit_curve:
                line = [(point.capacity_bytes, point.token_hit) for point in self.timeline.hit_curve]
                found["hit_rate"] = curves.hit_curve({"LRU": line}, ideal=self.ideal_hit_rate, sizes=self.sizes())
        doubts = self.doubts()
        if doubts:
            found["doubts"] = bars.tornado(doubts, what="change of the mean time to first token")
        return found

    def sizes(self) -> list[tuple[str, float]]:
        """The tiers by name and capacity, those without a bound left out."""
        bounded = [one for one in self.tiers if one.capacity_bytes < BOUNDLESS * max(1, one.peak_bytes)]
        return [(f"{one.name} {format_bytes(one.capacity_bytes)}", float(one.capacity_bytes)) for one in bounded]

    def token_shares(self) -> dict[str, float]:
        """Shares of the prompt tokens by where they came from: tiers, and `computed`."""
        total = max(1, self.prompt_tokens.total)
        return {tier.name: tier.hit_tokens / total for tier in self.tiers} | {"computed": self.prompt_tokens.computed / total}

    def _ideal(self) -> dict[str, float]:
        return {} if self.ideal_hit_rate is None else {self.name: self.ideal_hit_rate}

    def doubts(self) -> list[tuple[str, float, float, str]]:
        """What the mean time to first token rests on, the most moving first: name, percent down and up at the ends of its 95 % interval,
        and the same in words."""
        found = []
        for one in self.interval.rests_on:
            down, up = (100 * math.expm1(side * one.share * Z95 * one.sigma_rel) for side in (-1, 1))
            words = f"{one.what} ({one.kind}, {plus_minus(one.sigma_rel)}): {down:+.1f} % to {up:+.1f} %"
            found.append((f"{one.what} ({one.kind})", down, up, words))
        return sorted(found, key=lambda row: -row[2])
