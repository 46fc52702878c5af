"""What a run leaves behind: columns, one row a request, and a histogram of the time between tokens."""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvplan.sim.engine import Job
    from kvplan.workload import Request

INTEGERS = (
    "index", "prompt_tokens", "output_tokens", "gpu_hit_tokens", "cpu_hit_tokens", "disk_hit_tokens", "remote_hit_tokens", "computed_tokens",
    "preemptions",
)  # fmt: skip
SECONDS = ("arrival_s", "queue_s", "load_s", "ttft_s", "itl_s", "e2e_s")
STATUS = ("completed", "rejected", "unfinished")


class Recorder:
    """Columns of finished requests in the order in which they end; absent times are NaN."""

    def __init__(self, *, first_token_s: float = 0.0) -> None:
        self.columns: dict[str, array[int] | array[float]] = {name: array("q") for name in INTEGERS}
        self.columns |= {name: array("d") for name in SECONDS}
        self.status = array("b")
        self.intervals_s = Histogram()
        self.first_token_s = first_token_s
        self.finished_s = 0.0

    def _row(self, status: int, **values: float) -> None:
        for name, column in self.columns.items():
            column.append(values[name])  # type: ignore[arg-type]
        self.status.append(status)

    def rejected(self, request: Request) -> None:
        """A request that can never run: longer than the model's context or the whole pool."""
        nan = math.nan
        self._row(
            1, index=request.index, prompt_tokens=request.prompt_tokens, output_tokens=request.output_tokens, gpu_hit_tokens=0, cpu_hit_tokens=0,
            disk_hit_tokens=0, remote_hit_tokens=0, computed_tokens=0, preemptions=0, arrival_s=request.arrival_s, queue_s=nan, load_s=nan,
            ttft_s=nan, itl_s=nan, e2e_s=nan,
        )  # fmt: skip

    def admitted(self, job: Job) -> None:
        """Hits are counted when a job first runs."""

    def finished(self, job: Job) -> None:
        """A job has got its last token."""
        self._job(job, 0)
        self.finished_s = max(self.finished_s, job.last_s)

    def unfinished(self, job: Job) -> None:
        """A job that was cut off by an interrupt."""
        self._job(job, 2)

    def _job(self, job: Job, status: int) -> None:
        request = job.request
        arrival = job.arrival_s
        lag = self.first_token_s
        hits = sum(job.hits)
        first = job.first_s + lag - arrival if job.first_s >= 0 else math.nan
        last = job.last_s + lag - arrival if job.last_s >= 0 else math.nan
        gaps = job.emitted - 1
        admit = job.admit_s - job.enter_s - job.load_s if job.admit_s >= 0 else math.nan
        columns = self.columns
        columns["index"].append(request.index)
        columns["prompt_tokens"].append(job.prompt)
        columns["output_tokens"].append(job.output)
        columns["gpu_hit_tokens"].append(job.hits[0])
        columns["cpu_hit_tokens"].append(job.hits[1])
        columns["disk_hit_tokens"].append(job.hits[2])
        columns["remote_hit_tokens"].append(job.hits[3])
        columns["computed_tokens"].append(job.prompt - hits)
        columns["preemptions"].append(job.preemptions)
        columns["arrival_s"].append(arrival)
        columns["queue_s"].append(max(0.0, admit))
        columns["load_s"].append(job.load_s)
        columns["ttft_s"].append(first)
        columns["itl_s"].append((job.last_s - job.first_s) / gaps if gaps > 0 and job.last_s >= 0 else math.nan)
        columns["e2e_s"].append(last)
        self.status.append(status)

    def intervals(self, seconds: float, tokens: int) -> None:
        """`tokens` output tokens came `seconds` after the ones before them."""
        self.intervals_s.add(seconds, tokens)


class Histogram:
    """A weighted histogram with bins of equal ratio (0.5 %), from a microsecond to days: percentiles in constant memory."""

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
