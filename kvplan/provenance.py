"""Where a number comes from, and how sure it is."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["measured", "derived", "datasheet", "assumed", "fake"]

Z95 = 1.96
"""Half the width of a 95 % interval, in standard deviations."""

SIGMA_REL: dict[str, float] = {"measured": 0.03, "derived": 0.10, "datasheet": 0.15, "assumed": 0.30, "fake": 1.0}
"""Relative standard deviation when a number carries no interval of its own (assumed: rounded from the error of predictions across GPUs)."""


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How one number is known: its kind, its source in words, and its interval [lo, hi] (95 %) where one was measured."""

    kind: Kind
    source: str = ""
    lo: float | None = None
    hi: float | None = None


def relative_sigma(source: Source, value: float) -> float:
    """The relative standard deviation of a number: from its interval when it has one, from its kind otherwise."""
    if source.lo is not None and source.hi is not None and value:
        return max(1e-4, (source.hi - source.lo) / (2 * Z95 * abs(value)))
    return SIGMA_REL[source.kind]


def plus_minus(sigma_rel: float) -> str:
    """A 95 % interval as half its width, never less than 1 %: `±20%`."""
    return f"±{max(0.01, Z95 * sigma_rel):.0%}"
