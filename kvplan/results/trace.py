"""What reading, inspecting and replaying a trace through caches gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kvplan.figures import curves
from kvplan.figures.base import Figure
from kvplan.results import frames, notebook

if TYPE_CHECKING:
    from pandas import DataFrame

NoteKind = Literal["dropped", "clipped", "reordered", "quirk"]


class RowCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows something happened to, and the line of the first."""

    kind: NoteKind
    what: str
    rows: int
    first_line: int


class ReadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What reading a trace did to its rows."""

    rows_read: int
    requests: int
    counts: tuple[RowCount, ...] = ()
    warnings: tuple[str, ...] = ()

    def rows(self, kind: NoteKind) -> int:
        """Rows dropped, clipped, reordered, or with a quirk."""
        return sum(count.rows for count in self.counts if count.kind == kind)

    def sentences(self) -> list[str]:
        """One sentence for each thing that the user should know."""
        counts = (
            f"{count.rows:,} row{'s' if count.rows != 1 else ''} {count.kind}: {count.what} (first on line {count.first_line})"
            for count in self.counts
            if count.kind != "quirk"
        )
        return [*counts, *self.warnings]


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Hit rates: hit blocks of all named blocks, and hit tokens of all prompt tokens."""

    block_hit: float
    token_hit: float


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Hit rates of a cache of one capacity. `error` is the half width of a 95 % interval where blocks were sampled."""

    capacity_blocks: int
    block_hit: float
    token_hit: float
    capacity_bytes: int | None = None
    error: float | None = None


class TierShare(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one tier serves, in a hierarchy where each tier also holds what the tiers above it hold."""

    capacity_blocks: int
    block_hit: float  # served by this tier, not by one above
    token_hit: float
    capacity_bytes: int | None = None


class CurveResult(msgspec.Struct, frozen=True, kw_only=True):
    """Hit rate against capacity.

    Rates are of the requests after the first `warmup_requests`. `ideal` is a cache without end. `knee` is where the
    LRU curve bends most. `sampled_one_in` above 1: only that share of the blocks was followed. `bytes_per_block` is
    given when a model is named.
    """

    schema: str = "kvplan.curve/1"
    trace: str
    format: str
    block_tokens: int
    requests: int
    warmup_requests: int
    blocks: int
    unique_blocks: int
    ideal: Rates
    curves: dict[str, tuple[CurvePoint, ...]]
    knee: CurvePoint | None = None
    share_of_ideal: dict[str, int] = {}  # share of the ideal token hit rate -> LRU capacity in blocks
    tiers: tuple[TierShare, ...] = ()
    sampled_one_in: int = 1
    model: str = ""
    bytes_per_block: int | None = None
    provenance: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()

    def to_frame(self) -> DataFrame:
        """One row a policy and capacity."""
        return frames.rows({"policy": policy, **frames.flat(point)} for policy, points in self.curves.items() for point in points)

    def _repr_html_(self) -> str:
        points = zip(*self.curves.values(), strict=True)
        rows = [[f"{row[0].capacity_blocks:,}", *(f"{point.token_hit:.1%}" for point in row)] for row in points]
        title = f"{self.trace}: a cache without end hits {self.ideal.token_hit:.1%} of the prompt tokens"
        return notebook.tables(title, (("capacity, blocks", *self.curves), rows))

    def figures(self) -> dict[str, Figure]:
        """What `--html` draws of it, as plotly figures by name. Raises MissingError without the extra `kvplan[report]`."""
        scale = self.bytes_per_block or 1
        lines = {policy: [(point.capacity_blocks * scale, point.token_hit) for point in points] for policy, points in self.curves.items()}
        marks = [("where it bends", self.knee.capacity_blocks * scale, self.knee.token_hit)] if self.knee else []
        within, share = [], 0.0
        for number, tier in enumerate(self.tiers, start=1):
            share += tier.token_hit
            within.append((f"tier {number}", tier.capacity_blocks * scale, share))
        hit = curves.hit_curve(lines, ideal=self.ideal.token_hit, marks=within or marks, in_blocks=not self.bytes_per_block)
        return {"hit_rate": hit}


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """Nearest-rank percentiles (the smallest value with at least that share below it), in the unit of the field that
    holds it.
    """

    count: int
    total: float
    mean: float
    min: float
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    p95: float
    p99: float
    max: float


class ArrivalStats(msgspec.Struct, frozen=True, kw_only=True):
    """When requests come. `dispersion_1s` is variance over mean of the counts per second: 1 for a Poisson process,
    more for bursts.
    """

    span_s: float
    mean_per_s: float
    peak_1s_per_s: int
    peak_10s_per_s: float
    dispersion_1s: float
    interarrival_cv: float
    distinct_stamps: int
    largest_batch: int
    counts: tuple[int, ...]  # requests in equal parts of the span


class SessionStats(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions and their turns; `inferred` from shared prefixes where the file does not name them."""

    inferred: bool
    sessions: int
    turns: Distribution
    gap_s: Distribution | None  # between arrivals of a session's consecutive requests


class WorkingSet(msgspec.Struct, frozen=True, kw_only=True):
    """Distinct blocks that are used within windows of one length."""

    window_s: float
    mean_blocks: float
    max_blocks: int


class Sharing(msgspec.Struct, frozen=True, kw_only=True):
    """What prompts have in common. Hit rates are of a cache without end, blocks visible to the next request."""

    blocks: int
    unique_blocks: int
    used_once: float  # share of the unique blocks
    ideal: Rates
    ideal_warm: Rates  # over the second half of the requests
    ideal_request_mean: float  # mean over requests of the share of their blocks that hit
    requests_with_hit: float
    requests_with_hit_beyond_first: float
    hit_prefix_blocks: Distribution
    reuse_s: Distribution | None  # since the block's last use, per hit block
    reuse_within: dict[str, float]  # seconds -> share of the hit blocks
    top_1pct_share: float  # of the hits, from the most-hit 1 % of the unique blocks
    top_10pct_share: float
    common_prefix_blocks: int  # leading blocks that at least half of the requests share
    working_sets: tuple[WorkingSet, ...]
    unique_over_time: tuple[int, ...]  # distinct blocks seen by the end of each tenth of the span


class InspectResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace holds, what is odd about it, and what it cannot say."""

    schema: str = "kvplan.inspect/1"
    trace: str
    format: str
    block_tokens: int
    requests: int
    reading: ReadReport
    arrivals: ArrivalStats
    prompt_tokens: Distribution
    output_tokens: Distribution
    sessions: SessionStats | None
    sharing: Sharing | None
    quirks: tuple[str, ...]
    cannot_say: tuple[str, ...]
    provenance: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()

    def to_frame(self) -> DataFrame:
        """One row with all figures by dotted names, such as `prompt_tokens.p90` or `sharing.ideal.token_hit`."""
        return frames.rows([frames.flat(self)])
