"""Bars: where tokens came from, where time went, how much a number moves an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvplan.figures.base import (
    GAIN,
    LOSS,
    MARK,
    QUIET,
    RUN_COLOURS,
    TIER_COLOURS,
    Figure,
    label,
    plotly,
    scaled,
    styled,
    time_unit,
)
from kvplan.units import format_seconds

PHASE_COLOURS = {
    "front end": "#8a6d3b",
    "waiting": "#d1495b",
    "loading": "#3b7dd8",
    "computing the prompt": "#159a78",
    "on its way to the client": "#d66ba0",
    "decoding": "#8a919e",
}


def token_sources(rows: Mapping[str, Mapping[str, float]], *, ideal: Mapping[str, float] | None = None) -> Figure:
    """Shares of the prompt tokens by where they came from, a bar for each name."""
    go = plotly()
    names = list(rows)
    figure = go.Figure()
    for place in TIER_COLOURS:
        values = [100 * rows[name].get(place, 0.0) for name in names]
        if any(values):
            figure.add_bar(
                y=[label(name) for name in names],
                x=[round(value, 3) for value in values],
                name="computed" if place == "computed" else f"from {place}",
                orientation="h",
                marker={"color": TIER_COLOURS[place]},
                text=[f"{value:.1f} %" if value >= 4 else "" for value in values],
                insidetextanchor="middle",
                hovertemplate=f"%{{x:.2f}} % of the prompt tokens {'computed' if place == 'computed' else f'from {place}'}<extra></extra>",
            )
    for name, share in (ideal or {}).items():
        figure.add_scatter(
            y=[label(name)],
            x=[100 * share],
            mode="markers",
            name="the most that the traffic allows",
            showlegend=name == next(iter(ideal or {})),
            marker={"symbol": "line-ns-open", "size": 34, "color": MARK, "line": {"width": 3}},
            hovertemplate="at best %{x:.1f} % need not be computed<extra></extra>",
        )
    figure.update_xaxes(title="of all prompt tokens", ticksuffix=" %", range=[0, 100.5])
    figure.update_yaxes(autorange="reversed", showticklabels=len(names) > 1)
    return styled(figure, barmode="stack", height=150 + 44 * len(names), legend_traceorder="normal")


def phases(rows: Mapping[str, Mapping[str, float]], *, without: Sequence[str] = ()) -> Figure:
    """Mean seconds of each phase, a bar for each group of requests."""
    go = plotly()
    names = list(rows)
    totals = [sum(seconds for phase, seconds in row.items() if phase not in without) for row in rows.values()]
    unit, scale = time_unit(max(totals, default=1.0))
    figure = go.Figure()
    for at, phase in enumerate(dict.fromkeys(phase for row in rows.values() for phase in row)):
        seconds = [rows[name].get(phase, 0.0) for name in names]
        if phase not in without and any(seconds):
            figure.add_bar(
                y=[label(name) for name in names],
                x=scaled(seconds, scale),
                name=label(phase),
                orientation="h",
                marker={"color": PHASE_COLOURS.get(phase, RUN_COLOURS[at % len(RUN_COLOURS)])},
                customdata=[format_seconds(value) for value in seconds],
                hovertemplate=f"{label(phase)}: %{{customdata}}<extra></extra>",
            )
    figure.update_xaxes(title=f"mean, {unit}", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, barmode="stack", height=160 + 44 * len(names), legend_traceorder="normal")


def tornado(rows: Sequence[tuple[str, float, float, str]], *, what: str, unit: str = "%") -> Figure:
    """How far each number moves an answer down and up, the most moving first: name, low, high, words for the hover."""
    go = plotly()
    figure = go.Figure()
    for side, colour, at in (("down", GAIN, 1), ("up", LOSS, 2)):
        figure.add_bar(
            y=[label(row[0]) for row in rows],
            x=[row[at] for row in rows],
            name=side,
            orientation="h",
            marker={"color": colour},
            customdata=[row[3] for row in rows],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": QUIET, "width": 1})
    figure.update_xaxes(title=what, ticksuffix=f" {unit}" if unit else "")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, barmode="overlay", height=150 + 40 * len(rows), showlegend=False)


def seconds_each(rows: Sequence[tuple[str, float, str, str]], *, what: str) -> Figure:
    """A time a bar: name, seconds, colour, words for the hover."""
    go = plotly()
    unit, scale = time_unit(max((row[1] for row in rows), default=1.0))
    figure = go.Figure()
    figure.add_bar(
        y=[label(row[0]) for row in rows],
        x=scaled([row[1] for row in rows], scale),
        orientation="h",
        marker={"color": [row[2] for row in rows]},
        text=[format_seconds(row[1]) for row in rows],
        textposition="outside",
        cliponaxis=False,
        customdata=[row[3] for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.update_xaxes(title=f"{what}, {unit}", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, height=150 + 44 * len(rows), showlegend=False, margin={"l": 56, "r": 64, "t": 36, "b": 48})


def flips(rows: Sequence[tuple[str, float, float | None, float, str]]) -> Figure:
    """For each number that an answer rests on: its 95 % interval as factors, and from where on the answer is another one.

    Name, half the width of the interval as a share, the factor from which it flips (None: not up to the last), the factor tested to, words.
    """
    go = plotly()
    figure, names = go.Figure(), [label(row[0]) for row in rows]
    figure.add_bar(
        y=names,
        x=[(1 + row[1]) - 1 / (1 + row[1]) for row in rows],
        base=[1 / (1 + row[1]) for row in rows],
        orientation="h",
        width=0.35,
        name="95 % interval of what is assumed",
        marker={"color": RUN_COLOURS[0]},
        customdata=[row[4] for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )
    for word, symbol, colour, chosen in (
        ("the answer is another one from here on", "x", LOSS, [row for row in rows if row[2] is not None]),
        ("the answer still holds here (no more was tried)", "circle-open", GAIN, [row for row in rows if row[2] is None and row[3] != 1]),
    ):
        if chosen:
            figure.add_scatter(
                y=[label(row[0]) for row in chosen],
                x=[row[3] if row[2] is None else row[2] for row in chosen],
                name=word,
                mode="markers",
                marker={"symbol": symbol, "size": 13, "color": colour, "line": {"width": 2}},
                customdata=[row[4] for row in chosen],
                hovertemplate="%{customdata}<extra></extra>",
            )
    figure.add_vline(x=1, line={"color": QUIET, "width": 1})
    ticks = [0.125, 0.25, 0.5, 1, 2, 4, 8]
    figure.update_xaxes(
        title="times what is assumed", type="log", tickvals=ticks, ticktext=["1/8", "1/4", "1/2", "1", "2", "4", "8"], range=[-0.95, 0.95]
    )
    figure.update_yaxes(autorange="reversed")
    return styled(figure, height=190 + 40 * len(rows))


def gains(rows: Mapping[str, float], *, what: str) -> Figure:
    """Shares gained (to the right) or lost, a bar for each name."""
    go = plotly()
    figure = go.Figure()
    figure.add_bar(
        y=[label(name) for name in rows],
        x=[100 * gain for gain in rows.values()],
        orientation="h",
        marker={"color": [GAIN if gain >= 0 else LOSS for gain in rows.values()]},
        text=[f"{gain:+.0%}" for gain in rows.values()],
        hovertemplate="%{y}: %{x:+.1f} %<extra></extra>",
    )
    figure.update_xaxes(title=what, ticksuffix=" %", rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, height=140 + 40 * len(rows), showlegend=False)
