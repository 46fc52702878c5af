"""Plots in a terminal, and what becomes of them in pipes, narrow windows and other encodings."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from kvplan.report import plots
from kvplan.results.simulate import QUANTILE_SHARES
from kvplan.results.timeline import Timeline, TimeSeries

EVEN = tuple(share * 2.0 for share in QUANTILE_SHARES)  # seconds, evenly up to 2 s


def series(name: str, unit: str, steps: list[tuple[int, float]], most: float | None = None) -> TimeSeries:
    """A value for each of 80 seconds, as it changes at some of them."""
    values = tuple(next(value for start, value in reversed(steps) if start <= at) for at in range(80))
    return TimeSeries(name=name, unit=unit, values=values, means=values, most=most)


TIMELINE = Timeline(
    span_s=80.0,
    tiers=(series("cpu", "bytes", [(0, 0.0), (10, 2.0**30), (79, 2.0**31)], 2.0**31),),
    links=(),
    queues=(series("waiting", "requests", [(0, 0.0), (41, 7.0), (42, 0.0)]),),
    loads=(),
    loads_left_out=0,
    phases=(),
)


class Latin(io.StringIO):
    encoding = "iso-8859-1"


def printed(draw: Any, *, width: int = 100, terminal: bool = True, file: io.StringIO | None = None) -> list[str]:
    stream = file or io.StringIO()
    draw(Console(file=stream, force_terminal=terminal, width=width, color_system=None, highlight=False))
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= width and line == line.rstrip() for line in lines)
    return lines


def test_an_even_distribution_is_flat_and_a_twice_faster_one_twice_as_high_and_half_as_long() -> None:
    fast = tuple(value / 2 for value in EVEN)
    lines = printed(lambda console: plots.distributions(console, {"slow": EVEN, "fast": fast}, title="times"))
    assert lines[0] == "times from 0 to 2.00 s"
    assert lines[1].split() == ["slow", "▄" * 60]
    assert lines[2].split() == ["fast", "█" * 30]


def test_a_long_tail_is_cut_off_and_named() -> None:
    tail = (*EVEN[:-1], 500.0)
    assert (
        printed(lambda console: plots.distributions(console, {"run": tail}, title="times"))[0]
        == "times from 0 to 2.82 s, the slowest up to 8.3 min"
    )


def test_peaks_stay_however_short() -> None:
    lines = printed(lambda console: plots.over_time(console, TIMELINE))
    assert lines[0] == "over 80.0 s, each with its largest value"
    assert lines[1].endswith("100%") and "▄" in lines[1] and "█" in lines[1]
    assert lines[2].count("█") in (1, 2) and lines[2].endswith("7")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_width_holds(width: int) -> None:
    assert "▄" in "".join(printed(lambda console: plots.over_time(console, TIMELINE), width=width))


def test_pipes_and_other_encodings_get_numbers() -> None:
    for made in (lambda: {"terminal": False}, lambda: {"file": Latin()}):
        lines = printed(lambda console: plots.over_time(console, TIMELINE), **made())
        assert lines[0].split()[:4] == ["largest", "up", "to", "10.0"]
        assert lines[1].split() == ["cpu", "0%", *["50%"] * 6, "100%"]
        assert lines[2].split() == ["waiting", "0", "0", "0", "0", "7", "0", "0", "0"]
        assert not printed(lambda console: plots.distributions(console, {"run": EVEN}, title="times"), **made())


def test_the_hit_curve_names_the_sizes_where_they_lie() -> None:
    curve = [(2.0**at, at / 20) for at in range(21)]
    lines = printed(lambda console: plots.hit_curve(console, curve, [("small", 1.0), ("large", 2.0**20)]))
    assert len(lines[1]) == 62 and lines[1].endswith("█")
    assert lines[2] == "  ↑ small" and lines[3] == " " * 55 + "large ↑"
