"""Two profiles against each other, and a partial rerun laid over an earlier profile."""

from __future__ import annotations

from typing import Any

from kvplan.calibrate.names import name, unit
from kvplan.hardware.spec import Machine
from kvplan.provenance import Source, relative_sigma
from kvplan.results.calibrate import CompareResult, ProfileDifference


def number(machine: Machine, path: str) -> float | None:
    """The number at a dotted path; None when the machine has none there."""
    value: Any = machine
    for part in path.split("."):
        value = getattr(value, part, None)
    return float(value) if isinstance(value, int | float) else None


def _interval(source: Source, value: float) -> tuple[float, float]:
    if source.lo is not None and source.hi is not None:
        return source.lo, source.hi
    half = 1.96 * relative_sigma(source, value) * abs(value)
    return value - half, value + half


def compare(first: Machine, second: Machine) -> CompareResult:
    """Every number that both machines measured. Two agree when their 95 % intervals overlap."""
    paths = [p for p, s in first.provenance.items() if s.kind in ("measured", "fake") and p in second.provenance]
    rows = []
    for path in paths:
        one, two = number(first, path), number(second, path)
        if one is None or two is None:
            continue
        low, high = _interval(first.source(path), one)
        other_low, other_high = _interval(second.source(path), two)
        agree = low <= other_high and other_low <= high
        words = {"name": name(path), "unit": unit(path)}
        scale = 2.0**30 if unit(path) == "s/GiB" else 1.0
        ratio = two / one if one else float("nan")
        rows.append(ProfileDifference(path=path, first=one * scale, second=two * scale, ratio=ratio, agree=agree, **words))
    return CompareResult(first=first.title, second=second.title, differences=tuple(rows), agree=all(row.agree for row in rows))
