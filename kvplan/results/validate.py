"""What `kvplan validate` answers; its JSON is this record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from kvplan.figures import curves, points
from kvplan.figures.base import Figure, time_unit
from kvplan.results import notebook
from kvplan.results.simulate import Stats
from kvplan.units import format_seconds

Answered = Literal["agrees", "off", "refused", "incomplete", "interrupted"]


class LagStats(msgspec.Struct, frozen=True, kw_only=True):
    """How late the client was, in seconds; null where nothing was sent or read."""

    p50: float | None
    p99: float | None
    max: float | None


class ClientProcess(msgspec.Struct, frozen=True, kw_only=True):
    """One client process: its most streams at once and its lateness."""

    process: int
    streams: int
    send_lag_s: LagStats
    read_lag_s: LagStats


class ClientLag(msgspec.Struct, frozen=True, kw_only=True):
    """The lateness of the client, over all its processes and of each."""

    send_lag_s: LagStats
    read_lag_s: LagStats
    processes: list[ClientProcess] = []


class SentRequests(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests were to be sent, came to their end, and failed; `errors` counts the failures by what was said."""

    total: int
    completed: int
    failed: int
    errors: dict[str, int] = {}


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """Measured or predicted: times, cached prompt tokens (null where the server does not tell), and hits by tier."""

    ttft_s: Stats
    itl_s: Stats
    e2e_s: Stats
    cached_tokens: int | None
    tiers: dict[str, int] = {}  # hit tokens of gpu, cpu, disk, remote


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted over measured less one; `cached_exact` and `cached_within_block` are shares of the requests."""

    ttft_mean: float | None
    ttft_p50: float | None
    ttft_p90: float | None
    ttft_p99: float | None
    itl_p50: float | None
    itl_mean: float | None
    e2e_mean: float | None
    cached_exact: float | None
    cached_within_block: float | None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the verdict rests on."""

    name: str
    value: float | None
    limit: float
    met: bool


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """One fact about the server that the prediction took, and who said it: server, flag, scenario or assumed."""

    what: str
    value: str
    source: str


class SentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One request, measured beside predicted."""

    index: int
    intended_s: float
    sent_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    itl_s: float | None
    e2e_s: float
    cached_tokens: int | None
    predicted_ttft_s: float | None
    predicted_itl_s: float | None
    predicted_e2e_s: float | None
    predicted_cached_tokens: int | None


class FittedNumber(msgspec.Struct, frozen=True, kw_only=True):
    """One number fitted on this server, with its 95 % interval, beside the shipped one."""

    path: str
    shipped: float
    value: float
    lo: float
    hi: float


class ServerFit(msgspec.Struct, frozen=True, kw_only=True):
    """A fit on a designed probe: its numbers, and how well it predicts the probes that it did not see."""

    accepted: bool
    reason: str = ""
    engine: str = ""  # file written
    machine: str = ""
    numbers: list[FittedNumber] = []
    probes: int = 0
    held_out: int = 0
    error_shipped: float | None = None  # median relative error on the held-out probes
    error_fitted: float | None = None
    coverage: float | None = None  # share of held-out probes within their 95 % interval


class ValidateResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `kvplan validate`."""

    schema: str = "kvplan.validate/1"
    endpoint: str
    requests: SentRequests
    client: ClientLag
    measured: Side
    predicted: Side
    error: Errors
    verdict: Answered
    reason: str
    tolerance: float
    checks: list[Check]
    fitted: ServerFit | None = None
    known: list[Known] = []
    rows: list[SentRow] = []
    duration_s: float = 0.0
    provenance: dict[str, Any] = {}
    warnings: list[str] = []

    def _repr_html_(self) -> str:
        rows = []
        for name in ("ttft", "itl", "e2e"):
            measured, predicted = (getattr(side, f"{name}_s") for side in (self.measured, self.predicted))
            times = map(notebook.seconds, (measured.mean, predicted.mean, measured.p90, predicted.p90))
            rows.append([name, *times])
        heads = ("", "measured, mean", "predicted, mean", "measured, p90", "predicted, p90")
        return notebook.tables(f"{self.endpoint}: {self.verdict}", (heads, rows))

    def figures(self) -> dict[str, Figure]:
        """What `--html` draws of it, as plotly figures by name: distributions over each other, and request by request."""
        found: dict[str, Figure] = {}
        for name, what in (("ttft", "time to first token"), ("itl", "between tokens"), ("e2e", "whole request")):
            pairs = self._pairs(f"{name}_s")
            if len(pairs) > 1:
                kept = [round(at * (len(pairs) - 1) / MOST_DRAWN) for at in range(MOST_DRAWN + 1)]
                places = range(len(pairs)) if len(pairs) <= MOST_DRAWN else kept
                shares = [at / (len(pairs) - 1) for at in places]
                sides = {"measured": _at(places, [pair[0] for pair in pairs]), "predicted": _at(places, [pair[1] for pair in pairs])}
                found[name] = curves.distribution(sides, shares, what=what)
        pairs = self._pairs("ttft_s")
        if pairs:
            unit, scale = time_unit(max(max(pair[:2]) for pair in pairs))
            found["requests"] = points.against(pairs, unit=unit, scale=scale, tolerance=self.tolerance)
        return found

    def _pairs(self, name: str) -> list[tuple[float, float, str]]:
        """Measured and predicted of each request that has both, and words."""
        found = []
        for row in self.rows:
            measured, predicted = getattr(row, name), getattr(row, f"predicted_{name}")
            if measured and predicted:
                words = f"request {row.index}: measured {format_seconds(measured)}, predicted {format_seconds(predicted)}"
                found.append((measured, predicted, words))
        return found


MOST_DRAWN = 400
"""Points of a drawn distribution."""


def _at(places: Iterable[int], values: list[float]) -> list[float]:
    """The values at some places of their order."""
    ordered = sorted(values)
    return [ordered[at] for at in places]
