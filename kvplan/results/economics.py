"""What a deployment costs, as results carry it: money, wear and energy, each with its range."""

from __future__ import annotations

import msgspec


class Amount(msgspec.Struct, frozen=True, kw_only=True):
    """A figure with the range that its prices or watts leave."""

    value: float
    low: float
    high: float


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """The price at which another choice becomes the cheaper one."""

    what: str  # gpu, cpu, disk, remote, network
    factor: float  # of today's price
    to: str  # the choice that is cheaper from there on
    inside: bool  # does the price's own range reach that far


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """What the serving costs, in `currency`."""

    currency: str
    per_hour: Amount
    per_month: Amount
    per_million_output_tokens: Amount | None  # null where none was served
    per_million_tokens: Amount | None  # prompt and output tokens together
    parts_per_hour: dict[str, float]  # price -> its part, at its value
