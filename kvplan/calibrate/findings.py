"""What a calibration has measured, by operation, and what it has found so far."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvplan.calibrate.predict import with_values
from kvplan.calibrate.records import Estimate, Value
from kvplan.fit.least_squares import Fitted, Regression
from kvplan.hardware.spec import Curve, Machine


class Findings(msgspec.Struct, kw_only=True):
    """Fitted numbers by their dotted place in the machine, quality of each fit, numbers that only calibration keeps, and what the
    rows did not determine, with the reason."""

    base: Machine  # the peaks, and stand-ins for what is not fitted yet
    values: dict[str, Fitted] = {}
    fits: dict[str, Regression] = {}
    kept: dict[str, float] = {}
    missed: dict[str, str] = {}
    curves: tuple[Curve, ...] = ()  # of the collectives between its GPUs

    @property
    def machine(self) -> Machine:
        """The machine as far as it is known."""
        return with_values(self.base, {path: found.value for path, found in self.values.items()})


class Rows:
    """Rows of a run by operation."""

    def __init__(self, rows: Iterable[Estimate]) -> None:
        self.all = list(rows)

    def of(self, op: str, **wanted: Value) -> list[Estimate]:
        """Rows of an operation whose parameters equal the wanted ones."""
        return [r for r in self.all if r.point.op == op and all(r.point.params.get(k) == v for k, v in wanted.items())]

    def pairs(self, above: list[Estimate], below: list[Estimate], *names: str) -> tuple[list[Estimate], list[Estimate]]:
        """Rows of both lists that agree in the named parameters."""
        by = {tuple(r.point.params[n] for n in names): r for r in below}
        both = [(r, by[key]) for r in above if (key := tuple(r.point.params[n] for n in names)) in by]
        return [a for a, _ in both], [b for _, b in both]
