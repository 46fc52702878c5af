"""What a sweep answers; its JSON is this record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvplan.figures.base import Figure
from kvplan.figures.points import Dot, Ruler, scatter
from kvplan.results import frames, notebook
from kvplan.results.economics import Amount, Energy, Flip, Money, Wear
from kvplan.results.simulate import SimResult
from kvplan.units import format_seconds

if TYPE_CHECKING:
    from pandas import DataFrame


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """Points of the grid that were not run, and why."""

    points: int
    why: str


class SweepRow(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the grid: its settings, and what came out, or why nothing did."""

    point: dict[str, str]  # setting -> value, as given
    error: str = ""
    result: SimResult | None = None  # its provenance is left out: the sweep's holds
    money: Money | None = None  # null without prices
    wear: Wear | None = None  # where a disk is written
    energy: Energy | None = None  # an estimate

    @property
    def words(self) -> str:
        """The settings in a few words."""
        return ", ".join(f"{path} {value}" for path, value in self.point.items())

    @property
    def missed(self) -> tuple[str, ...]:
        """Clauses of the target that the run misses."""
        return tuple(one.name for one in self.result.targets if not one.met) if self.result else ()


RULERS = {
    "cost": Ruler("price of a million output tokens"),
    "energy": Ruler("joules an output token (estimate)"),
    "throughput": Ruler("requests/s"),
}
"""Figure -> its axis; times are in seconds."""


class SweepResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `kvplan sweep`."""

    schema: str = "kvplan.sweep/1"
    name: str
    axes: dict[str, tuple[str, ...]]  # setting -> its values
    target: str = ""
    goal: str = ""
    front_of: tuple[str, ...] = ()  # the figures of the Pareto front
    grid: int  # points
    rows: tuple[SweepRow, ...]  # in the order of the grid; of a search, those that were looked at
    best: int | None = None  # the row that answers the goal; null where none meets its limits
    front: tuple[int, ...] = ()  # rows that no other beats in one figure without losing in another
    left_out: tuple[LeftOut, ...] = ()
    price_flips: tuple[Flip, ...] = ()  # the prices from which another row is the cheaper one
    simulated: int  # runs that this call made
    known: int = 0  # runs that the store had
    failed: int = 0
    provenance: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()

    def to_frame(self) -> DataFrame:
        """One row a point: its settings, its error, and all figures by dotted names."""
        return frames.rows(
            {
                **row.point,
                "error": row.error or None,
                "front": at in self.front,
                **(frames.flat(row.result) if row.result else {}),
                **{
                    f"{name}.{figure}": value
                    for name in ("money", "wear", "energy")
                    if (part := getattr(row, name))
                    for figure, value in frames.flat(part).items()
                },
            }
            for at, row in enumerate(self.rows)
        )

    def _repr_html_(self) -> str:
        heads = ("settings", "first token, mean", "p95", "between tokens, p95", "requests/s")
        return notebook.tables(self.goal or f"{self.name}: {', '.join(self.axes)}", (heads, [_row(one) for one in self.rows]))

    def figures(self) -> dict[str, Figure]:
        """What `--html` draws of it, as plotly figures by name. Raises MissingError without the extra `kvplan[report]`."""
        x, y = (self.front_of or ("throughput", "ttft_p95"))[:2]
        dots = {at: dot for at, row in enumerate(self.rows) if (dot := _dot(row, x, y, marked=at == self.best))}
        front = [dots[at] for at in sorted((at for at in self.front if at in dots), key=lambda at: dots[at].x)]
        return {"choices": scatter(list(dots.values()), _ruler(x), _ruler(y), front=front)} if dots else {}


def _row(one: SweepRow) -> list[str]:
    if one.result is None:
        return [one.words, one.error, "", "", ""]
    run = one.result
    times = ["–" if value is None else format_seconds(value) for value in (run.ttft_s.mean, run.ttft_s.p95, run.itl_s.p95)]
    return [one.words, *times, f"{run.throughput.requests_per_s:,.3g}"]


def _ruler(what: str) -> Ruler:
    return RULERS.get(what, Ruler(f"{what}, s"))


def _dot(row: SweepRow, x: str, y: str, *, marked: bool) -> Dot | None:
    across, up = value_of(row, x), value_of(row, y)
    if across is None or up is None:
        return None
    return Dot(row.words, across, up, group="misses the target" if row.missed else "", marked=marked)


def value_of(row: SweepRow, what: str) -> float | None:
    """A figure of a row; None where it has none."""
    if row.result is None or not row.result.requests.completed:
        return None
    if what == "cost":
        return _middle(row.money.per_million_output_tokens if row.money else None)
    if what == "energy":
        return _middle(row.energy.per_output_token_J if row.energy else None)
    if what == "throughput":
        return row.result.throughput.requests_per_s
    metric, _, statistic = what.partition("_")
    value: float | None = getattr(getattr(row.result, f"{metric}_s"), statistic)
    return value


def _middle(amount: Amount | None) -> float | None:
    return amount.value if amount else None


class FleetLoad(msgspec.Struct, frozen=True, kw_only=True):
    """The fewest replicas of the chosen kind that hold a multiple of the traffic; 0 where none that were tried do."""

    factor: float
    replicas: int
    per_hour: Amount | None = None


class FleetClass(msgspec.Struct, frozen=True, kw_only=True):
    """One class of traffic on replicas of its own."""

    name: str
    peak: SweepResult  # the search at the traffic's own load
    replicas: int = 0  # 0: nothing that was tried holds it
    gpus: int = 0
    per_month: Amount | None = None  # all replicas at all times; null without prices
    day: tuple[FleetLoad, ...] = ()  # by the parts of a day, equally long
    day_per_month: Amount | None = None  # with as many replicas as each part of the day takes
    growth: tuple[FleetLoad, ...] = ()


class FleetResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `kvplan sweep --fleet`."""

    schema: str = "kvplan.fleet/1"
    classes: tuple[FleetClass, ...]
    gpus: int
    per_month: Amount | None = None

    def to_frame(self) -> DataFrame:
        """One row a point that was looked at, of every class."""
        return frames.rows({"class": one.name, **row} for one in self.classes for row in one.peak.to_frame().to_dict("records"))
