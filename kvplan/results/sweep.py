"""What a sweep answers; its JSON is this record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from kvplan.results import frames
from kvplan.results.simulate import SimResult

if TYPE_CHECKING:
    from pandas import DataFrame


class SweepRow(msgspec.Struct, frozen=True, kw_only=True):
    """One point of the grid: its settings, and what came out, or why nothing did."""

    point: dict[str, str]  # setting -> value, as given
    error: str = ""
    result: SimResult | None = None  # its provenance is left out: the sweep's holds

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
    rows: tuple[SweepRow, ...]  # in the order of the grid
    simulated: int  # runs that this call made
    known: int = 0  # runs that the store had
    failed: int = 0
    provenance: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()

    def to_frame(self) -> DataFrame:
        """One row a point: its settings, its error, and all figures by dotted names."""
        return frames.rows(
            {**row.point, "error": row.error or None, **(frames.flat(row.result) if row.result else {})} for row in self.rows
        )
