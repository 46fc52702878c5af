"""What all charts have in common: the package that draws them, colours with one meaning everywhere, units, names as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kvplan.errors import MissingError

TIER_COLOURS = {"gpu": "#159a78", "cpu": "#3b7dd8", "disk": "#d9822b", "remote": "#9560d6", "computed": "#8a919e"}
"""Place of KV, or `computed` -> its colour."""

RUN_COLOURS = ("#3b7dd8", "#d9822b", "#159a78", "#d1495b", "#9560d6", "#8a6d3b", "#d66ba0", "#6b7a8f")
"""Of runs or policies beside one another, in order; dashes tell them apart without colour."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
GAIN, LOSS, QUIET, MARK = "#159a78", "#d1495b", "#8a919e", "#e0a100"
HEIGHT = 340
LONGEST_NAME = 60

Figure = Any
"""A plotly.graph_objects.Figure."""


def plotly() -> Any:
    """plotly.graph_objects. Raises MissingError with the install line where it is absent."""
    try:
        import plotly.graph_objects
    except ImportError:
        raise MissingError("charts need plotly, which is not installed", hint="pip install 'kvplan[report]'") from None
    return plotly.graph_objects


def script() -> str:
    """The JavaScript that draws the figures, about 5 MB."""
    plotly()
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def label(text: object) -> str:
    """A name that a chart shows as it is: plotly reads tags and entities in text."""
    name = " ".join(str(text).split())
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def time_unit(largest_s: float) -> tuple[str, float]:
    """The unit in which times up to a largest one are read, and its seconds."""
    for unit, scale, least in (("h", 3600.0, 7200.0), ("min", 60.0, 300.0), ("s", 1.0, 1.0), ("ms", 1e-3, 1e-3)):
        if largest_s >= least:
            return unit, scale
    return "µs", 1e-6


def size_unit(largest_bytes: float) -> tuple[str, float]:
    """The unit in which sizes up to a largest one are read, and its bytes."""
    for unit, scale in (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20)):
        if largest_bytes >= scale:
            return unit, scale
    return "KiB", 2.0**10


def by_ratios(title: str, values: Iterable[float]) -> dict[str, Any]:
    """An axis on which equal ratios are equally far apart, with plain numbers at 1, 2, 5, 10, ... where there is room for them."""
    known = [value for value in values if value > 0]
    low, high = (math.log10(least) for least in (min(known, default=1.0), max(known, default=10.0)))
    digits = (1, 2, 5) if high - low < 2.2 else (1, 3) if high - low < 3.5 else (1,)
    ticks = [digit * 10.0**power for power in range(math.floor(low) - 1, math.ceil(high) + 1) for digit in digits]
    return {"title": f"{title} (logarithmic)", "type": "log", "tickvals": ticks, "ticktext": [f"{tick:,.12g}" for tick in ticks]}


def scaled(values: Iterable[float], scale: float) -> list[float]:
    """Values in another unit, to six digits."""
    return [float(f"{value / scale:.6g}") for value in values]


def styled(figure: Figure, *, height: int = HEIGHT, **layout: Any) -> Figure:
    """The look that all charts share; light and dark come from where they are shown."""
    figure.update_layout(
        height=height,
        margin={"l": 56, "r": 16, "t": 36, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "xanchor": "left"},
        hovermode="closest",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=RUN_COLOURS,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "#9aa2ad", "activecolor": "#3b7dd8"},
        hoverlabel={"align": "left", "namelength": -1},
    )
    figure.update_xaxes(zeroline=False, automargin=True)
    figure.update_yaxes(zeroline=False, automargin=True)
    figure.update_layout(**layout)
    return figure


def dashes(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Line style of each of several curves: a colour and a dash of its own."""
    return {
        name: {"color": RUN_COLOURS[at % len(RUN_COLOURS)], "dash": DASHES[at % len(DASHES)]}
        for at, name in enumerate(dict.fromkeys(names))
    }


Curves = Mapping[str, Sequence[float]]
"""Name -> values."""
