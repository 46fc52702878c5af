"""What a comparison of simulations answers; its JSON is this record."""

from __future__ import annotations

import msgspec

from kvplan.results.simulate import SimResult


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One setting or figure that is not the same in all runs, in the order of the runs, and why it matters or where it
    comes from."""

    what: str
    values: list[str | int | float | bool | None]
    reason: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `kvplan simulate` for several scenarios or engines."""

    schema: str = "kvplan.compare/1"
    names: list[str]
    settings: list[Difference]  # what was put in differently
    figures: list[Difference]  # what came out differently, the largest ratio first
    same: list[str]  # figures that are equal in all runs
    runs: list[SimResult]
