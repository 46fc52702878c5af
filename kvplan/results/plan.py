"""What `kvplan plan` answers; its JSON is this record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kvplan.figures import bars, curves, points
from kvplan.figures.base import TIER_COLOURS, Figure, size_unit, time_unit
from kvplan.memory.pinned import HostMemory
from kvplan.provenance import Z95, plus_minus
from kvplan.results import frames, notebook
from kvplan.results.deploy import Emission
from kvplan.results.economics import Costs
from kvplan.results.kinds import KindChoice
from kvplan.results.placement import Notice, Placement
from kvplan.results.simulate import QUANTILE_SHARES, LoadCounts, Stats
from kvplan.results.traffic import Traffic
from kvplan.units import format_bytes, format_rate, format_seconds

if TYPE_CHECKING:
    from pandas import DataFrame

Kind = Literal["offload", "do_not_offload", "tie", "stream", "cannot_say"]


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """A number with its 95 % interval; null stands for `never` (no value, however large, will do)."""

    value: float | None
    lo: float | None
    hi: float | None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer in one sentence, and why. `missing` says what would have to be known for an answer."""

    kind: Kind
    sentence: str
    reason: str = ""
    missing: str = ""
    reservations: tuple[str, ...] = ()  # what speaks against an advice that the numbers favour


class TierWorth(msgspec.Struct, frozen=True, kw_only=True):
    """When loading from one tier beats computing again, for one request on an idle machine.

    At a prefix of `prefix_tokens` (the median one that is reused in the traffic), `load_s` against `recompute_s`;
    the prefix from which loading wins, and the bandwidth that the tier needs to win at the median prefix.
    """

    tier: str
    prefix_tokens: int
    load_s: float
    recompute_s: float
    load_s_per_token: float  # of a longer prefix
    recompute_s_per_token: float
    break_even_tokens: Range
    break_even_Bps: Range
    Bps: float  # of the slowest link on the way
    source: str  # how that bandwidth is known
    set_by: str = ""  # what the break-even length hangs on where no rate moves it, so that its interval has no width


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """From which prompt length on a shorter time to first token is possible at all, with a share of the prompt in a
    tier.

    Null: at no length that the model can take.
    """

    tier: str
    speedup: float
    hit: float
    prompt_tokens: int | None


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A placement that was simulated, and what came out."""

    name: str
    placement: Placement
    score: float  # of the objective: smaller is better
    completed: int
    rejected: int
    ttft_s: Stats
    ttft_quantiles_s: tuple[float, ...] = ()  # at results.simulate.QUANTILE_SHARES
    itl_s: Stats
    requests_per_s: float
    output_tokens_per_s: float
    duration_s: float
    hit: dict[str, float]  # tier -> share of the prompt tokens
    computed: float
    loads: LoadCounts
    missed: tuple[str, ...] = ()  # clauses of the target that it misses
    stored_bytes: dict[str, int] = {}  # tier below the GPU -> bytes written to it
    cost_per_hour: float | None = None
    goodput_per_s: float | None = None  # requests that meet every limit of the target
    warm_requests: int | None = None  # until an empty tier serves 90 % of its steady share
    warm_s: float | None = None

    def row(self) -> list[str]:
        """Its name and main figures, as a notebook's table shows them."""
        times = map(notebook.seconds, (self.ttft_s.mean, self.ttft_s.p95, self.itl_s.p95))
        return [self.name, *times, f"{self.requests_per_s:,.3g}", f"{self.computed:.1%}"]


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """A placement or rule that was not simulated, and why."""

    what: str
    why: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What the next larger or smaller capacity of a tier gains (positive) or costs, as a share of the objective."""

    tier: str
    capacity_bytes: int
    change: float
    hit_change: float


class ServedLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The most of a traffic that a replica serves within limits."""

    factor: float  # of the arrivals as they are; 0: not even the least that was tried
    requests_per_s: float
    users: int = 0  # sessions open at once, where the traffic is generated from a number of them
    at_least: bool = False  # the search ended here: more may be served


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """Load within limits, without tiers and with what was chosen: within the target, or at the time to first token as it is without."""

    ttft_p95_s: float | None = None  # the limit where no target was given
    without: ServedLoad
    chosen: ServedLoad | None = None  # null: no tier was chosen


class ReplicaLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Some GPUs as replicas of one kind of parallelism, and what came out."""

    tp: int
    replicas: int
    spread: str = ""  # in words, such as TP 1 x DP 8, EP 8
    ttft_s: float | None  # mean
    itl_s: float | None  # mean
    requests_per_s_per_gpu: float


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """Another kind on `gpus` GPUs against as many GPUs as replicas of the planned kind, at the plan's load per GPU."""

    gpus: int
    other: ReplicaLayout
    planned: ReplicaLayout
    gain: float  # of the other over the planned, as a share of the objective


class Assumption(msgspec.Struct, frozen=True, kw_only=True):
    """A number the verdict rests on: its interval as factors, and the factor from which the verdict is another one.

    `flips_at` null: not up to `tested_to`.
    """

    name: str
    path: str
    kind: str
    source: str
    sigma_rel: float
    flips_at: float | None
    tested_to: float
    gain_at_edge: float  # gain when it is off by its 95 % interval in the bad direction

    def drawn(self) -> tuple[str, float, float | None, float, str]:
        """Name, half the width of its interval, from where the verdict flips, how far was tested, and words."""
        ends = f"the verdict flips at {self.flips_at:.2g} times" if self.flips_at is not None else f"it holds to {self.tested_to:.2g} times"
        return (
            self.name,
            Z95 * self.sigma_rel,
            self.flips_at,
            self.tested_to,
            f"{self.name} ({self.kind}, {plus_minus(self.sigma_rel)}): {ends}",
        )


class EngineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan came to on an engine: mean time to first token without and with what it chose."""

    engine: str
    verdict: Verdict
    gain: Range | None = None
    ttft_without_s: float | None = None
    ttft_s: float | None = None


class PlanResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `kvplan plan`, in the order in which it is told."""

    schema: str = "kvplan.plan/1"
    name: str
    model: str
    machine: str
    engine: str
    sessions: str = ""  # the numbers that the traffic was generated from, as --sessions takes them
    assumed: str = ""  # which of model and machine nobody named
    verdict: Verdict
    objective: str
    gain: Range | None = None  # of the chosen placement over none, as a share of the objective
    traffic: Traffic
    pool_bytes: int
    pool_tokens: int  # of prefixes that it keeps
    bytes_per_token: float  # below the GPU
    when: tuple[TierWorth, ...] = ()
    claims: tuple[Claim, ...] = ()
    placement: Placement
    steps: tuple[Step, ...] = ()
    without: Option | None = None
    chosen: Option | None = None
    options: tuple[Option, ...] = ()
    pruned: tuple[Pruned, ...] = ()
    simulated: int = 0
    partial: bool = False  # an interrupt came first
    at_load: dict[str, float] = {}  # speed-up of the arrivals -> gain
    overload: float = 0.0  # offered over served work where the arrivals are more than the machine can serve
    capacity: Capacity | None = None
    splits: tuple[Split, ...] = ()
    kinds: KindChoice | None = None
    assumptions: tuple[Assumption, ...] = ()
    pin_s: float = 0.0
    host: HostMemory | None = None  # what the CPU tier really takes, and the memory limit that a container needs
    disk_life_years: float | None = None
    costs: Costs = Costs()
    notices: tuple[Notice, ...] = ()
    emission: Emission | None = None
    asked: EngineFigures | None = None  # the scenario's engine, where the configuration is for another
    target_met: bool = True
    provenance: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()

    def to_frame(self) -> DataFrame:
        """One row a placement that was simulated, by dotted names."""
        return frames.rows(frames.flat(option) for option in self.options)

    def _repr_html_(self) -> str:
        heads = ("placement", "first token, mean", "p95", "between tokens, p95", "requests/s", "computed")
        return notebook.tables(f"{self.name}: {self.verdict.sentence}", (heads, [one.row() for one in self.options]))

    def figures(self) -> dict[str, Figure]:
        """What `--html` draws of it, as plotly figures by name. Raises MissingError without the extra `kvplan[report]`."""
        found: dict[str, Figure] = {}
        sides = {option.name: option.ttft_quantiles_s for option in (self.without, self.chosen) if option is not None}
        if any(sides.values()):
            found["ttft"] = curves.distribution(sides, QUANTILE_SHARES, what="time to first token")
        if self.traffic.curve:
            line = [(point.capacity_bytes, point.token_hit) for point in self.traffic.curve]
            found["hit_rate"] = curves.hit_curve({"LRU": line}, ideal=self.traffic.ideal_hit, sizes=self.sizes())
        if len(self.options) > 1:
            found["options"] = _options(self)
        if self.when:
            found["when"] = _when(self.when)
        if self.assumptions:
            found["flips"] = bars.flips([one.drawn() for one in self.assumptions])
        if self.at_load:
            loads = {f"{float(speed):g} times the arrivals": gain for speed, gain in self.at_load.items()}
            found["at_load"] = bars.gains(loads, what="gain of offloading")
        return found

    def sizes(self) -> list[tuple[str, float]]:
        """The capacities for prefixes that the plan speaks of, by name, in bytes."""
        sizes = [("GPU pool", self.pool_tokens * self.bytes_per_token)]
        tiers = (("CPU", self.placement.cpu_bytes), ("disk", self.placement.disk_bytes), ("remote", self.placement.remote_bytes))
        sizes += [(name, float(size)) for name, size in tiers if size]
        return [(f"{name} {format_bytes(size)}", size) for name, size in sizes if size]


def _options(plan: PlanResult) -> Figure:
    """Mean time to first token of each placement against what it takes below the GPU; the front joins those that no cheaper one beats."""
    shown = [option for option in plan.options if option.ttft_s.mean is not None]
    unit, scale = size_unit(max((_below(option) for option in shown), default=1.0))
    time, seconds = time_unit(max((option.ttft_s.mean or 0.0 for option in shown), default=1.0))
    drawn = []
    for option in shown:
        took = f"below the GPU {format_bytes(_below(option))}, computed {option.computed:.1%}"
        words = f"mean {format_seconds(option.ttft_s.mean or 0.0)}, {took}"
        group = "KV in 8 bits" if option.placement.kv_dtype == "fp8" else "KV as the model stores it"
        drawn.append(points.Dot(option.name, _below(option), option.ttft_s.mean or 0.0, words, group, option == plan.chosen))
    front: list[points.Dot] = []
    for one in sorted(drawn, key=lambda one: (one.x, one.y)):
        if not front or one.y < front[-1].y:
            front.append(one)
    across = points.Ruler(f"memory below the GPU, {unit}", scale)
    return points.scatter(drawn, across, points.Ruler(f"mean time to first token, {time}", seconds), front=front)


def _below(option: Option) -> float:
    placement = option.placement
    return float(placement.cpu_bytes + placement.disk_bytes + placement.remote_bytes)


def _when(tiers: tuple[TierWorth, ...]) -> Figure:
    """Seconds to have a prefix of the median length: loaded from each tier, or computed."""
    rows = []
    for one in tiers:
        words = f"{one.prefix_tokens:,} tokens from {one.tier} in {format_seconds(one.load_s)} at {format_rate(one.Bps)} ({one.source})"
        rows.append((f"load from {one.tier}", one.load_s, TIER_COLOURS.get(one.tier, TIER_COLOURS["computed"]), words))
    again = tiers[0]
    words = f"{again.prefix_tokens:,} tokens computed in {format_seconds(again.recompute_s)}"
    rows.append(("compute again", again.recompute_s, TIER_COLOURS["computed"], words))
    return bars.seconds_each(rows, what=f"to have {again.prefix_tokens:,} tokens of a prefix")


class PlanTable(msgspec.Struct, frozen=True, kw_only=True):
    """Plans of the same traffic for several models, machines, engines or widths."""

    schema: str = "kvplan.plan-table/1"
    rows: tuple[PlanResult, ...]

    def to_frame(self) -> DataFrame:
        """One row a plan: what was planned for, and the chosen placement by dotted names."""
        return frames.rows(frames.flat(row) for row in self.rows)

    def _repr_html_(self) -> str:
        rows = [[row.name, row.verdict.kind.replace("_", " "), row.verdict.sentence] for row in self.rows]
        return notebook.tables("Plans for the same traffic", (("plan", "verdict", "in words"), rows))

    def figures(self) -> dict[str, Figure]:
        """What `--html` draws of it, as plotly figures by name. Raises MissingError without the extra `kvplan[report]`."""
        found: dict[str, Figure] = {}
        sides = {row.name: row.chosen.ttft_quantiles_s for row in self.rows if row.chosen is not None}
        if any(sides.values()):
            found["ttft"] = curves.distribution(sides, QUANTILE_SHARES, what="time to first token")
        gains = {row.name: row.gain.value for row in self.rows if row.gain is not None and row.gain.value is not None}
        if gains:
            found["gain"] = bars.gains(gains, what="gain of offloading")
        return found
