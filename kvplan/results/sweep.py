"""What a sweep answers; its JSON is this record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvplan.results import frames
from kvplan.results.economics import Amount, Energy, Flip, Money, Wear
from kvplan.results.simulate import SimResult

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
    def missed(self) -> tuple[str, ...]:
        """Clauses of the target that the run misses."""
        return tuple(one.name for one in self.result.targets if not one.met) if self.result else ()


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
