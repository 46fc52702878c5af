"""A figure with its range."""

from __future__ import annotations

import msgspec

from kvplan.results.economics import Amount


class Ranged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one thing, from low to high, and where that is from."""

    value: float
    low: float
    high: float
    source: str

    def amount(self, units: float) -> Amount:
        """So many of it."""
        return Amount(value=self.value * units, low=self.low * units, high=self.high * units)
