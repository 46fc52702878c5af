"""Points: choices against each other with their front, predictions against measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kvplan.figures.base import MARK, QUIET, RUN_COLOURS, Figure, by_ratios, label, plotly, scaled, styled

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


class Dot(NamedTuple):
    """One choice: its name, where it lies, words for the hover, the group that it is coloured by, whether it stands out."""

    name: str
    x: float
    y: float
    words: str = ""
    group: str = ""
    marked: bool = False


class Ruler(NamedTuple):
    """What an axis shows, in which unit, how much of the base unit that is, and whether it is drawn by ratios."""

    title: str
    scale: float = 1.0
    ratios: bool = False


def scatter(
    points: Sequence[Dot], x: Ruler, y: Ruler, *, front: Sequence[Dot] = (), front_name: str = "nothing further left is lower"
) -> Figure:
    """Points by name; `front` is joined by a line, in the order given."""
    go = plotly()
    figure = go.Figure()
    if front:
        figure.add_scatter(
            x=scaled([one.x for one in front], x.scale),
            y=scaled([one.y for one in front], y.scale),
            name=front_name,
            mode="lines",
            line={"color": QUIET, "dash": "dot", "shape": "hv"},
            hoverinfo="skip",
        )
    groups = dict.fromkeys(one.group for one in points)
    named = {one for one in points if one.marked or one in front} if len(points) > MOST_NAMES else set(points)
    for at, group in enumerate(groups):
        mine = [one for one in points if one.group == group]
        figure.add_scatter(
            x=scaled([one.x for one in mine], x.scale),
            y=scaled([one.y for one in mine], y.scale),
            name=label(group),
            showlegend=len(groups) > 1,
            mode="markers+text",
            text=[label(one.name) if one in named else "" for one in mine],
            textposition=["top center" if one.marked else "bottom center" for one in mine],
            textfont={"size": 11},
            cliponaxis=False,
            marker={
                "size": [15 if one.marked else 9 for one in mine],
                "color": RUN_COLOURS[at % len(RUN_COLOURS)],
                "symbol": SYMBOLS[at % len(SYMBOLS)],
                "line": {"width": [3.0 if one.marked else 1.0 for one in mine], "color": [MARK if one.marked else QUIET for one in mine]},
            },
            customdata=[_words(one) for one in mine],
            hovertemplate="%{customdata}<extra></extra>",
        )
    figure.update_xaxes(**_axis(x, [one.x for one in points]))
    figure.update_yaxes(**_axis(y, [one.y for one in points]))
    return styled(figure, height=400, margin={"l": 56, "r": 40, "t": 48, "b": 48})


MOST_NAMES = 4
"""Of more points only those on the front and those that stand out carry their names, so that names do not cover one another."""


def _axis(axis: Ruler, values: Sequence[float]) -> dict[str, Any]:
    """From a little before zero, so that a point on it and its name stand clear of the edge."""
    drawn = [value / axis.scale for value in values]
    most = max(drawn, default=1.0) or 1.0
    return by_ratios(axis.title, drawn) if axis.ratios else {"title": axis.title, "range": [-0.07 * most, 1.1 * most]}


def _words(one: Dot) -> str:
    lines = [f"<b>{label(one.name)}</b>", *(label(line) for line in one.words.splitlines())]
    return "<br>".join(lines)


def against(pairs: Sequence[tuple[float, float, str]], *, unit: str, scale: float, tolerance: float) -> Figure:
    """Predicted against measured, a point each with words; on the line they are equal, between the others within the tolerance."""
    go = plotly()
    figure = go.Figure()
    measured, predicted = scaled([pair[0] for pair in pairs], scale), scaled([pair[1] for pair in pairs], scale)
    ends = [min(measured + predicted, default=0.0) * 0.9, max(measured + predicted, default=1.0) * 1.1]
    for factor, name, dash in (
        (1.0, "equal", "solid"),
        (1 + tolerance, f"within {tolerance:.0%}", "dot"),
        (1 / (1 + tolerance), "", "dot"),
    ):
        figure.add_scatter(
            x=ends,
            y=[factor * end for end in ends],
            name=name,
            showlegend=bool(name),
            mode="lines",
            hoverinfo="skip",
            line={"color": QUIET, "dash": dash, "width": 1.5},
        )
    figure.add_scatter(
        x=measured,
        y=predicted,
        name="a request",
        mode="markers",
        marker={"size": 6, "color": RUN_COLOURS[0], "opacity": 0.6},
        customdata=[label(pair[2]) for pair in pairs],
        hovertemplate="%{customdata}<extra></extra>",
    )
    figure.update_xaxes(**by_ratios(f"measured, {unit}", ends))
    figure.update_yaxes(**by_ratios(f"predicted, {unit}", ends))
    return styled(figure, height=420)
