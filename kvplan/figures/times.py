"""What happened when: tiers, links and queues on one time axis, and loads as points on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.figures.bars import phases
from kvplan.figures.base import DASHES, GAIN, LOSS, QUIET, TIER_COLOURS, Figure, label, plotly, scaled, styled, time_unit
from kvplan.results.timeline import WHYS, LoadPoint, Timeline, TimeSeries
from kvplan.units import format_bytes, format_seconds

QUEUE_COLOURS = {"running": "#159a78", "waiting": "#d1495b", "loading": "#3b7dd8"}
WHY_COLOURS = {"faster": GAIN, "rate": LOSS, "link": "#d9822b", "below": "#9560d6", "steps": "#b8860b"}
WHY_SYMBOLS = {"faster": "circle-open", "rate": "x", "link": "triangle-up", "below": "square", "steps": "diamond"}


def figures(timeline: Timeline) -> dict[str, Figure]:
    """All that a timeline shows, by name."""
    found = {"over_time": over_time(timeline)}
    if timeline.loads:
        found["loads"] = loads_over_time(timeline.loads, timeline.span_s)
    if timeline.phases:
        rows = {f"{one.group} ({one.requests:,})": one.seconds for one in timeline.phases}
        found["phases"] = phases(rows, without=("decoding",))
    return found


def over_time(timeline: Timeline) -> Figure:
    """Tiers, links and queues below one another on one time axis, each with a legend of its own."""
    plotly()
    from plotly.subplots import make_subplots

    unit, scale = time_unit(timeline.span_s)
    rows = [("tiers filled", timeline.tiers), ("links busy", timeline.links), ("requests", timeline.queues)]
    rows = [(title, series) for title, series in rows if series]
    count = max(1, len(rows))
    figure = make_subplots(rows=count, cols=1, shared_xaxes=True, vertical_spacing=0.5 / count / count)
    for row, (title, series) in enumerate(rows, start=1):
        legend = "legend" if row == 1 else f"legend{row}"
        for one in series:
            figure.add_trace(_line(one, unit, scale, legend), row=row, col=1)
        figure.update_yaxes(title=title, row=row, col=1, **_range(series))
        top = figure.layout["yaxis" if row == 1 else f"yaxis{row}"].domain[1]
        figure.update_layout({legend: {"orientation": "h", "x": 0, "xanchor": "left", "y": top, "yanchor": "bottom"}})
    figure.update_xaxes(title=f"time since the first arrival, {unit}", row=count, col=1)
    return styled(figure, height=215 * count + 80, hovermode="x", legend={})


def side_by_side(timelines: Mapping[str, Timeline]) -> Figure:
    """Small multiples: how full the tiers of each run were, and its requests, on the same axes."""
    plotly()
    from plotly.subplots import make_subplots

    unit, scale = time_unit(max(one.span_s for one in timelines.values()))
    count = len(timelines)
    titles = [text for name in timelines for text in (label(name), "")]
    figure = make_subplots(
        rows=count,
        cols=2,
        shared_xaxes="all",
        shared_yaxes="columns",
        subplot_titles=titles,
        vertical_spacing=0.3 / count,
        horizontal_spacing=0.09,
    )
    for row, one in enumerate(timelines.values(), start=1):
        for col, series in enumerate((one.tiers, one.queues), start=1):
            for each in series:
                if "," not in each.name:
                    line = _line(each, unit, scale, "legend") | {"legendgroup": each.name, "showlegend": row == 1}
                    figure.add_trace(line, row=row, col=col)
    figure.update_yaxes(title="tiers filled", ticksuffix=" %", range=[0, 104], col=1)
    figure.update_yaxes(title="requests", rangemode="tozero", col=2)
    figure.update_xaxes(title=f"{unit} since the first arrival", row=count)
    figure.update_annotations(xanchor="left", x=0, font={"size": 13})
    return styled(figure, height=170 * count + 110, hovermode="x", legend={"y": 1 + 40 / (170 * count)})


def _line(one: TimeSeries, unit: str, scale: float, legend: str) -> dict[str, Any]:
    top = one.most or 1.0
    return {
        "type": "scatter",
        "x": scaled(one.at_s, scale),
        "y": list(one.values) if one.unit == "requests" else [round(100 * value / top, 2) for value in one.values],
        "name": label(one.name),
        "mode": "lines",
        "line": {"color": _colour(one), "width": 1.8, "shape": "hv", "dash": DASHES[2 if "," in one.name or "stores" in one.name else 0]},
        "legend": legend,
        "customdata": [format_bytes(value) for value in one.values] if one.unit == "bytes" else None,
        "hovertemplate": _hover(one, unit),
    }


def _range(series: Sequence[TimeSeries]) -> dict[str, Any]:
    """Shares reach up to 100 %, unless all of them stay far below."""
    if series[0].unit == "requests":
        return {"rangemode": "tozero"}
    most = max(max(one.values, default=0.0) / (one.most or 1.0) for one in series)
    return {"ticksuffix": " %", **({"range": [0, 104]} if most > 0.3 else {"rangemode": "tozero"})}


def _colour(one: TimeSeries) -> str:
    if one.unit == "requests":
        return QUEUE_COLOURS.get(one.name, QUIET)
    names = {"gpu": "gpu", "cpu": "cpu", "host memory": "cpu", "disk": "disk", "remote": "remote"}
    return next((TIER_COLOURS[tier] for word, tier in names.items() if word in one.name), QUIET)


def _hover(one: TimeSeries, unit: str) -> str:
    value = {"bytes": "%{customdata} (%{y:.1f} %)", "share": "%{y:.1f} % busy", "requests": "%{y:,.0f}"}[one.unit]
    return f"{label(one.name)}: {value} at %{{x:.4g}} {unit}<extra></extra>"


def loads_over_time(loads: Sequence[LoadPoint], span_s: float) -> Figure:
    """Each load as a point: seconds lost (above zero) or gained (below) against computing again, by why."""
    go = plotly()
    unit, scale = time_unit(span_s)
    lost_unit, lost_scale = time_unit(max((abs(one.load_s - one.recompute_s) for one in loads), default=1.0))
    figure = go.Figure()
    for why, meaning in WHYS.items():
        mine = [one for one in loads if one.why == why]
        if mine:
            figure.add_scatter(
                x=scaled([one.at_s for one in mine], scale),
                y=scaled([one.load_s - one.recompute_s for one in mine], lost_scale),
                name=meaning,
                mode="markers",
                marker={"color": WHY_COLOURS[why], "symbol": WHY_SYMBOLS[why], "size": 7 if why != "faster" else 6},
                customdata=[_load_words(one) for one in mine],
                hovertemplate="%{customdata}<extra></extra>",
            )
    figure.add_hline(y=0, line={"color": QUIET, "width": 1})
    figure.update_xaxes(title=f"time since the first arrival, {unit}")
    figure.update_yaxes(title=f"lost (above 0) or gained (below), {lost_unit}")
    return styled(figure)


def _load_words(one: LoadPoint) -> str:
    verb = "lost" if one.load_s > one.recompute_s else "gained"
    return (
        f"request {one.index}: {one.tokens:,} tokens from {one.tier}<br>loaded in {format_seconds(one.load_s)}, computing takes "
        f"{format_seconds(one.recompute_s)}<br>{verb} {format_seconds(abs(one.load_s - one.recompute_s))}"
    )
