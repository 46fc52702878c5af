"""Plots of a line each for a terminal; where a stream cannot show them, the same as numbers or not at all."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from rich.console import Console

from kvplan.report.tables import Rows, marked, print_rows, say
from kvplan.results.simulate import QUANTILE_SHARES
from kvplan.results.timeline import Timeline, TimeSeries
from kvplan.units import format_bytes, format_seconds

BLOCKS = " ▁▂▃▄▅▆▇█"
MOST_COLUMNS, LEAST_COLUMNS = 60, 20
IN_NUMBERS = 8
"""Parts of the time of which numbers are shown where nothing can be drawn."""

LONG_TAIL = 4.0
"""Of the largest over the 95th percentile: beyond it the tail is cut off and named."""


def spark(values: Sequence[float], top: float = 0.0) -> str:
    """One character a value, its height in proportion to `top`, or to the largest; what is not zero is seen."""
    top = top or max(values, default=0.0) or 1.0
    return "".join(BLOCKS[0 if value <= 0 else min(8, max(1, round(8 * value / top)))] for value in values)


def draws(console: Console) -> bool:
    """Can this stream show a plot: a terminal whose encoding has the blocks."""
    return console.is_terminal and "utf" in (console.encoding or "").lower()


def distributions(console: Console, quantiles_s: Mapping[str, Sequence[float]], *, title: str) -> None:
    """How many requests had their first token when, a line for each name on one axis of time; nothing where it cannot be drawn."""
    known = {name: values for name, values in quantiles_s.items() if values and values[-1] > 0}
    width = max((len(name) for name in known), default=0)
    columns = min(MOST_COLUMNS, console.width - width - 4)
    if not known or not draws(console) or columns < LEAST_COLUMNS:
        return
    most = max(values[-1] for values in known.values())
    usual = max(values[bisect_right(QUANTILE_SHARES, 0.95) - 1] for values in known.values())
    end = most if most < LONG_TAIL * usual else 1.5 * usual
    counts = {name: _shares(values, end, columns) for name, values in known.items()}
    top = max(max(shares) for shares in counts.values())
    beyond = "" if end == most else f", the slowest up to {format_seconds(most)}"
    say(console, f"{title} from 0 to {format_seconds(end)}{beyond}")
    for name, shares in counts.items():
        console.print(f"  {marked(name):<{width}}  {spark(shares, top)}".rstrip(), soft_wrap=True)


def _shares(quantiles: Sequence[float], end: float, columns: int) -> list[float]:
    """The share of the requests in each of so many equal parts of the time up to `end`."""
    below = [_share_within(quantiles, end * (at + 1) / columns) for at in range(columns)]
    return [part - before for part, before in zip(below, [0.0, *below], strict=False)]


def _share_within(quantiles: Sequence[float], value: float) -> float:
    """The share of the requests up to a value, between the points of a distribution."""
    at = bisect_right(quantiles, value)
    if at == 0 or at == len(quantiles):
        return 0.0 if at == 0 else 1.0
    low, high = quantiles[at - 1], quantiles[at]
    part = (value - low) / (high - low) if high > low else 0.0
    return QUANTILE_SHARES[at - 1] + part * (QUANTILE_SHARES[at] - QUANTILE_SHARES[at - 1])


def hit_curve(console: Console, curve: Sequence[tuple[float, float]], sizes: Sequence[tuple[str, float]]) -> None:
    """Share of the prompt tokens that a cache serves by its capacity, on an axis of ratios, with named capacities below it."""
    columns = min(MOST_COLUMNS, console.width - 4)
    if len(curve) < 2 or not draws(console) or columns < LEAST_COLUMNS:
        return
    low, high = math.log(curve[0][0]), math.log(curve[-1][0])
    capacities = [math.exp(low + (high - low) * at / (columns - 1)) for at in range(columns)]
    bounds = [capacity for capacity, _ in curve]
    shares = [curve[min(len(curve), max(1, bisect_right(bounds, capacity * (1 + 1e-9)))) - 1][1] for capacity in capacities]
    span = f"{format_bytes(bounds[0])} to {format_bytes(bounds[-1])}"
    say(console, f"prompt tokens that a cache of {span} (by ratios) serves: {shares[0]:.1%} to {shares[-1]:.1%}")
    console.print(f"  {spark(shares, 1.0)}", soft_wrap=True)
    for name, size in sizes:
        at = min(columns - 1, max(0, round((math.log(size) - low) / (high - low) * (columns - 1))))
        words = f"↑ {name}" if at + len(name) + 2 <= columns else f"{name} ↑"
        console.print(f"  {' ' * (at if words[0] == '↑' else max(0, at - len(name) - 1))}{marked(words)}", soft_wrap=True)


def over_time(console: Console, timeline: Timeline) -> None:
    """Tiers, links and queues over time: a line each, or a table of their largest values in parts of the time."""
    series = [one for one in (*timeline.tiers, *timeline.links, *timeline.queues) if one.values]
    width = max((len(one.name) for one in series), default=0)
    columns = min(MOST_COLUMNS, console.width - width - 14)
    if not draws(console) or columns < LEAST_COLUMNS:
        print_rows(console, _in_numbers(series, timeline.span_s))
        return
    say(console, f"over {format_seconds(timeline.span_s)}, each with its largest value")
    for one in series:
        line = spark(_largest(one, columns), one.most or 0.0)
        console.print(f"  {one.name:<{width}}  {line:<{columns}}  {_shown(one, max(one.values))}", soft_wrap=True)


def _in_numbers(series: Sequence[TimeSeries], span_s: float) -> Rows:
    ends = [span_s * (at + 1) / IN_NUMBERS for at in range(IN_NUMBERS)]
    rows: Rows = [["largest up to", *(format_seconds(end) for end in ends)]]
    return rows + [[one.name, *(_shown(one, value) for value in _largest(one, IN_NUMBERS))] for one in series]


def _shown(one: TimeSeries, value: float) -> str:
    if one.unit == "requests":
        return f"{value:,.0f}"
    return f"{value / one.most:.0%}" if one.most else format_bytes(value)


def _largest(one: TimeSeries, parts: int) -> list[float]:
    """The largest value in each of fewer, or as many, parts of the time."""
    ends = [round(len(one.values) * at / parts) for at in range(parts + 1)]
    return [max(one.values[start : max(end, start + 1)]) for start, end in zip(ends, ends[1:], strict=False)]
