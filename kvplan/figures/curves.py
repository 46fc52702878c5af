"""Curves: distributions over each other, and hit rate against capacity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kvplan.figures.base import DASHES, MARK, QUIET, Curves, Figure, by_ratios, dashes, label, plotly, scaled, size_unit, styled, time_unit
from kvplan.units import format_bytes, format_seconds

WIDE = 30.0
"""Of the largest over the tenth part's value: from here on an axis of ratios shows both."""


def distribution(quantiles_s: Curves, shares: Sequence[float], *, what: str, limits_s: Mapping[str, float] | None = None) -> Figure:
    """The share of requests that had `what` within a time, a curve for each name; `limits_s` are drawn as upright lines."""
    go = plotly()
    curves = {name: values for name, values in quantiles_s.items() if values}
    wide = any(values[-1] > WIDE * max(values[len(values) // 10], 1e-9) for values in curves.values())
    usual = len(shares) // 2 if wide else -1
    unit, scale = time_unit(max((values[usual] for values in curves.values()), default=1.0))
    percents = [100 * share for share in shares]
    figure = go.Figure()
    lines = dashes(list(curves))
    for name, values in curves.items():
        figure.add_scatter(
            x=scaled(values, scale),
            y=percents,
            name=label(name),
            mode="lines",
            line={**lines[name], "width": 2.5},
            customdata=[format_seconds(value) for value in values],
            hovertemplate=f"%{{y:.3g}} % of requests within %{{customdata}}<extra>{label(name)}</extra>",
        )
    for name, limit_s in (limits_s or {}).items():
        figure.add_vline(
            x=limit_s / scale, line={"color": MARK, "dash": "dash"}, annotation_text=label(name), annotation_position="top left"
        )
    title = f"{what}, {unit}"
    drawn = [value / scale for values in curves.values() for value in values]
    figure.update_xaxes(**by_ratios(title, drawn) if wide else {"title": title, "rangemode": "tozero"})
    figure.update_yaxes(title="share of requests", ticksuffix=" %", range=[0, 101])
    return styled(figure, showlegend=len(curves) > 1)


def hit_curve(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    ideal: float | None = None,
    marks: Sequence[tuple[str, float, float]] = (),
    sizes: Sequence[tuple[str, float]] = (),
    in_blocks: bool = False,
) -> Figure:
    """Share of the prompt tokens that a cache serves against its capacity, as (capacity, share) for each name; `marks` are points with
    names, `sizes` upright lines; capacities are bytes, or blocks."""
    go = plotly()
    most = max((capacity for points in curves.values() for capacity, _ in points), default=1.0)
    unit, scale = ("blocks", 1.0) if in_blocks else size_unit(most)

    def said(capacity: float) -> str:
        return f"{capacity:,.0f} blocks" if in_blocks else format_bytes(capacity)

    figure, lines = go.Figure(), dashes(list(curves))
    for name, points in curves.items():
        figure.add_scatter(
            x=scaled([capacity for capacity, _ in points], scale),
            y=[100 * share for _, share in points],
            name=label(name),
            mode="lines",
            line={**lines[name], "width": 2.5},
            customdata=[said(capacity) for capacity, _ in points],
            hovertemplate=f"%{{customdata}} serve %{{y:.1f}} %<extra>{label(name)}</extra>",
        )
    if ideal is not None:
        text = f"without end: {ideal:.1%}"
        figure.add_hline(y=100 * ideal, line={"color": QUIET, "dash": "dot"}, annotation_text=text, annotation_position="top left")
    for at, (name, capacity) in enumerate(sizes):
        figure.add_vline(x=capacity / scale, line={"color": MARK, "dash": DASHES[at % len(DASHES)]})
        figure.add_annotation(
            x=math.log10(capacity / scale), y=1, yref="paper", yanchor="bottom", yshift=16 * at, text=label(name), showarrow=False
        )
    if marks:
        figure.add_scatter(
            x=scaled([capacity for _, capacity, _ in marks], scale),
            y=[100 * share for _, _, share in marks],
            name="chosen" if len(marks) == 1 else "tiers",
            mode="markers+text",
            text=[label(name) for name, _, _ in marks],
            textposition="bottom right",
            cliponaxis=False,
            marker={"size": 12, "color": MARK, "symbol": "diamond", "line": {"width": 1, "color": "#444"}},
            customdata=[said(capacity) for _, capacity, _ in marks],
            hovertemplate="%{text}: %{customdata} serve %{y:.1f} %<extra></extra>",
            showlegend=False,
        )
    drawn = [capacity / scale for points in curves.values() for capacity, _ in points]
    figure.update_xaxes(**by_ratios(f"capacity, {unit}", drawn))
    figure.update_yaxes(title="of all prompt tokens", ticksuffix=" %", rangemode="tozero")
    return styled(figure, showlegend=len(curves) > 1, margin={"l": 56, "r": 16, "t": 36 + 16 * len(sizes), "b": 48})
