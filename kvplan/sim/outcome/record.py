"""What a run leaves behind: columns, one row a request, and a histogram of the time between tokens."""

from __future__ import annotations

import math
from array import array
from typing import Any

import msgspec
import numpy as np

from kvplan.request import Request
from kvplan.scenario import Scenario
from kvplan.sim.cluster.arrivals import Stamps
from kvplan.sim.outcome.history import History
from kvplan.sim.outcome.slo import Clause
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.tally import Tally
from kvplan.step_time import StepCost
from kvplan.traces.trace import RequestSource

INTEGERS = (
    "index", "prompt_tokens", "output_tokens", "gpu_hit_tokens", "cpu_hit_tokens", "disk_hit_tokens",
    "remote_hit_tokens", "computed_tokens",
    "preemptions",
)  # fmt: skip
SECONDS = ("arrival_s", "queue_s", "load_s", "held_s", "ttft_s", "itl_s", "e2e_s")
STATUS = ("completed", "rejected", "unfinished")


class SlowTokens:
    """Tokens that came more than `limit_s` after the one before them, and what the time between went to."""

    __slots__ = ("limit_s", "decode_s", "chunks_s", "held_s", "other_s")

    def __init__(self, limit_s: float = math.inf) -> None:
        self.limit_s = limit_s
        self.decode_s = self.chunks_s = self.held_s = self.other_s = 0.0

    def add(self, seconds: float, tokens: int, *, step_s: float, decode_s: float, held_s: float) -> None:
        """`tokens` waited `seconds`, of which the step took `step_s`, and would have taken `decode_s` without prefill
        chunks.
        """
        self.decode_s += tokens * min(seconds, decode_s)
        self.chunks_s += tokens * max(0.0, min(seconds, step_s) - decode_s)
        self.held_s += tokens * min(held_s, max(0.0, seconds - step_s))
        self.other_s += tokens * max(0.0, seconds - step_s - held_s)


class Recorder:
    """Columns of finished requests in the order in which they end; absent times are NaN."""

    def __init__(self, *, first_token_s: float = 0.0, slow_s: float = math.inf) -> None:
        self.integers: list[array[int]] = [array("i") for _ in INTEGERS]
        self.seconds: list[array[float]] = [array("d") for _ in SECONDS]
        self.status = array("b")
        self.intervals_s = Histogram()
        self.slow = SlowTokens(slow_s)
        self.measuring = True  # false during the warm-up: intervals are not counted
        self.first_token_s = first_token_s
        self.finished_s = 0.0

    def rejected(self, request: Request) -> None:
        """A request that can never run: longer than the model's context or the whole pool."""
        nan = math.nan
        self._row(
            (request.index, request.prompt_tokens, request.output_tokens, 0, 0, 0, 0, 0, 0),
            (request.arrival_s, nan, nan, nan, nan, nan, nan),
            1,
        )

    def _row(self, integers: tuple[int, ...], seconds: tuple[float, ...], status: int) -> None:
        for whole, integer in zip(self.integers, integers, strict=True):
            whole.append(integer)
        for times, second in zip(self.seconds, seconds, strict=True):
            times.append(second)
        self.status.append(status)

    def trim(self) -> None:
        """Drop a row that an interrupt cut short."""
        for column in self.columns.values():
            del column[len(self.status) :]

    def finished(self, job: Sequence) -> None:
        """A job has got its last token."""
        self._job(job, 0)
        self.finished_s = max(self.finished_s, job.last_s)

    def unfinished(self, job: Sequence) -> None:
        """A job that was cut off by an interrupt."""
        self._job(job, 2)

    def _job(self, job: Sequence, status: int) -> None:
        request = job.request
        arrival = job.arrival_s
        lag = self.first_token_s
        first = job.first_s + lag - arrival if job.first_s >= 0 else math.nan
        last = job.last_s + lag - arrival if job.last_s >= 0 else math.nan
        gaps = job.emitted - 1
        waited = job.admit_s - job.enter_s - job.load_s if job.admit_s >= 0 else math.nan
        between = (job.last_s - job.first_s) / gaps if gaps > 0 and job.last_s >= 0 else math.nan
        self._row(
            (request.index, job.prompt, job.output, *job.hits, job.prompt - sum(job.hits), job.preemptions),
            (arrival, max(0.0, waited), job.load_s, job.held_s, first, between, last),
            status,
        )

    def intervals(self, seconds: float, tokens: int) -> None:
        """`tokens` output tokens came `seconds` after the ones before them."""
        if self.measuring:
            self.intervals_s.add(seconds, tokens)

    @property
    def columns(self) -> dict[str, array[int] | array[float]]:
        """All columns by name."""
        return {**dict(zip(INTEGERS, self.integers, strict=True)), **dict(zip(SECONDS, self.seconds, strict=True))}

    def arrays(self) -> dict[str, Any]:
        """The columns as numpy arrays by name, in the order of the trace's rows: sorted in place, since a copy would take as much again."""
        recorded = {**self.columns, "status": self.status}
        columns = {name: np.frombuffer(column, dtype=column.typecode) for name, column in recorded.items()}
        order = np.argsort(columns["index"], kind="stable")
        for column in columns.values():
            column[:] = column[order]
        return columns


class Histogram:
    """A weighted histogram with bins of equal ratio (0.5 %), from a microsecond to days: percentiles in constant
    memory.
    """

    RATIO = math.log(1.005)
    LOW = 1e-6

    def __init__(self) -> None:
        self.bins: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.largest = 0.0

    def add(self, value: float, weight: int) -> None:
        self.count += weight
        self.total += value * weight
        if value > self.largest:
            self.largest = value
        key = int(math.log(value / self.LOW) / self.RATIO) if value > self.LOW else 0
        self.bins[key] = self.bins.get(key, 0) + weight

    def quantile(self, q: float) -> float:
        """The value below which a share `q` of the weight lies, to half a bin (0.25 %)."""
        if not self.count:
            return math.nan
        left = q * self.count
        for key in sorted(self.bins):
            left -= self.bins[key]
            if left <= 0:
                return min(self.largest, self.LOW * math.exp((key + 0.5) * self.RATIO))
        return self.largest


class TierRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a tier of a run held and moved, over all replicas; `busy_s` is of the busiest link or device that feeds the tier above."""

    name: str
    capacity_bytes: int
    peak_bytes: int
    loaded_bytes: int
    stored_bytes: int
    evicted_bytes: int
    busy_s: float


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a run leaves behind, for all who summarise, compare or show it."""

    scenario: Scenario
    trace: RequestSource
    cost: StepCost
    columns: dict[str, Any]  # by name, one row a request, in the order of the trace's rows
    warm: np.ndarray  # of each row: does it belong to the warm-up
    warm_s: float  # when the warm-up ended
    intervals_s: Histogram
    slow: SlowTokens
    finished_s: float
    tally: Tally
    tiers: list[TierRecord]
    used_share: float  # of the replicas' time, in steps
    pool_bytes: int
    pool_tokens: int
    token_bytes: float
    max_context: int
    clipped: int
    unstored_tokens: int  # that a tier below had no room for
    target: list[Clause]
    stamps: Stamps
    ideal_hit_rate: float | None
    partial: bool
    history: History | None = None  # where it was asked for
