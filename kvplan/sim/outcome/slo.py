"""Targets such as `ttft_p95<2s,itl_p95<50ms`: read, check, and the throughput of requests that meet them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from kvplan import units
from kvplan.errors import InputError, did_you_mean
from kvplan.results.simulate import Goodput, Stats, TargetCheck

METRICS = ("ttft", "itl", "e2e", "queue")
LONGEST_S = 1e8
STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")


class Clause(msgspec.Struct, frozen=True, kw_only=True):
    """One condition: a statistic of a time must stay below a limit."""

    metric: str
    statistic: str
    limit_s: float

    @property
    def name(self) -> str:
        return f"{self.metric}_{self.statistic}"


def parse(text: str) -> list[Clause]:
    """The clauses of a target. Raises InputError with what is wrong in the clause that cannot be read."""
    return [_clause(part.strip()) for part in text.split(",") if part.strip()]


def _clause(text: str) -> Clause:
    match = re.fullmatch(r"([a-z0-9]+)_([a-z0-9]+)\s*<=?\s*(.+)", text)
    if not match:
        raise InputError(f"target {text!r} is not of the form metric_statistic<time", hint="for example ttft_p95<2s,itl_p95<50ms")
    metric, statistic, limit = match.groups()
    for word, known, what in (
        (metric, METRICS, "a time that a target can limit"),
        (statistic, STATISTICS, "a statistic"),
    ):
        if word not in known:
            raise InputError(f"target {text!r}: {word!r} is not {what}", hint=did_you_mean(word, known))
    limit_s = units.parse_seconds(limit)
    if not 0 < limit_s <= LONGEST_S:
        raise InputError(f"target {text!r}: the limit must be above zero" if limit_s <= 0 else f"target {text!r}: that is years")
    return Clause(metric=metric, statistic=statistic, limit_s=limit_s)


def check(clauses: list[Clause], stats: Mapping[str, Stats]) -> list[TargetCheck]:
    """What came out for each clause. A time that nothing has (no second token in any request) meets every limit."""
    found = []
    for clause in clauses:
        value: float | None = getattr(stats[clause.metric], clause.statistic)
        met = value is None or value <= clause.limit_s
        found.append(TargetCheck(name=clause.name, limit_s=clause.limit_s, value_s=value, met=met))
    return found


def goodput(clauses: list[Clause], columns: dict[str, Any], span_s: float) -> Goodput | None:
    """Requests that meet every limit themselves, whatever the statistic; `columns` are of the requests that ran."""
    if not clauses or not len(columns["index"]):
        return None
    good = np.ones(len(columns["index"]), dtype=bool)
    for clause in clauses:
        values = columns[f"{clause.metric}_s"]
        good &= np.isnan(values) | (values <= clause.limit_s)
    return Goodput(requests=int(good.sum()), share=float(good.mean()), requests_per_s=float(good.sum() / span_s))
