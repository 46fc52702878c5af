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
    """Tiers, links and queues below one another on one time axis, each with a legend of its own: lines are means of short parts of the
    time, shades reach up to the largest value in each."""
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
            for line in _lines(one, timeline.span_s, unit, scale, legend):
                figure.add_trace(line, row=row, col=1)
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
    figure = make_subplots(
        rows=count,
        cols=2,
        shared_xaxes="all",
        shared_yaxes="columns",
        subplot_titles=[text for name in timelines for text in (label(name), "")],
        vertical_spacing=0.3 / count,
        horizontal_spacing=0.09,
    )
    for row, one in enumerate(timelines.values(), start=1):
        for col, series in enumerate((one.tiers, one.queues), start=1):
            for each in series:
                if "," not in each.name:
                    line = _lines(each, one.span_s, unit, scale, "legend")[-1]
                    figure.add_trace(line | {"legendgroup": each.name, "showlegend": row == 1}, row=row, col=col)
    figure.update_yaxes(title="tiers filled", ticksuffix=" %", range=[0, 104], col=1)
    figure.update_yaxes(title="requests", rangemode="tozero", col=2)
    figure.update_xaxes(title=f"{unit} since the first arrival", row=count)
    figure.update_annotations(xanchor="left", x=0, font={"size": 13})
    return styled(figure, height=170 * count + 110, hovermode="x", legend={"y": 1 + 40 / (170 * count)})


def _lines(one: TimeSeries, span_s: float, unit: str, scale: float, legend: str) -> list[dict[str, Any]]:
    """The largest values as a shade, where they differ from the means, and the means as a line with both in its hover."""
    x = scaled([span_s * (at + 0.5) / len(one.values) for at in range(len(one.values))], scale)
    top = one.most or max(one.values) or 1.0
    heights = one.values if one.unit == "requests" else [round(100 * value / top, 2) for value in one.values]
    means = one.means if one.unit == "requests" else [round(100 * value / top, 2) for value in one.means]
    name = label(one.name if one.most or one.unit != "bytes" else f"{one.name}, of its largest {format_bytes(top)}")
    both = {"type": "scatter", "x": x, "mode": "lines", "legend": legend, "legendgroup": one.name}
    line = both | {
        "y": list(means),
        "name": name,
        "line": {"color": _colour(one), "width": 1.8, "dash": DASHES[2 if "," in one.name or "stores" in one.name else 0]},
        "customdata": [_words(one, mean, most) for mean, most in zip(one.means, one.values, strict=True)],
        "hovertemplate": f"{name}: %{{customdata}} at %{{x:.4g}} {unit}<extra></extra>",
    }
    if one.name == "gpu" or sum(one.values) < 1.02 * sum(one.means):
        return [line]
    shade = {"y": list(heights), "line": {"width": 0, "shape": "hvh"}, "fill": "tozeroy", "fillcolor": _shade(_colour(one))}
    return [both | shade | {"showlegend": False, "hoverinfo": "skip"}, line]


def _shade(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def _words(one: TimeSeries, mean: float, most: float) -> str:
    """A mean and the largest value beside it."""

    def said(value: float) -> str:
        return {"bytes": format_bytes(value), "share": f"{value:.1%} busy"}.get(one.unit, f"{value:,.3g}")

    return said(mean) if most <= 1.01 * mean else f"{said(mean)}, at most {said(most)}"


def _range(series: Sequence[TimeSeries]) -> dict[str, Any]:
    """Shares reach up to 100 %, unless all of them stay far below."""
    if series[0].unit == "requests":
        return {"rangemode": "tozero"}
    most = max(max(one.values) / (one.most or max(one.values) or 1.0) for one in series)
    return {"ticksuffix": " %", **({"range": [0, 104]} if most > 0.3 else {"rangemode": "tozero"})}


def _colour(one: TimeSeries) -> str:
    if one.unit == "requests":
        return QUEUE_COLOURS.get(one.name, QUIET)
    names = {"gpu": "gpu", "cpu": "cpu", "host memory": "cpu", "disk": "disk", "remote": "remote"}
    return next((TIER_COLOURS[tier] for word, tier in names.items() if word in one.name), QUIET)


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
    figure.update_yaxes(title=f"lost (+) or gained (−), {lost_unit}")
    return styled(figure)


def _load_words(one: LoadPoint) -> str:
    verb = "lost" if one.load_s > one.recompute_s else "gained"
    return (
        f"request {one.index}: {one.tokens:,} tokens from {one.tier}<br>loaded in {format_seconds(one.load_s)}, computing takes "
        f"{format_seconds(one.recompute_s)}<br>{verb} {format_seconds(abs(one.load_s - one.recompute_s))}"
    )
