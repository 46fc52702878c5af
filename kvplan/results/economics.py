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

    what: str  # gpu (of a machine, where several are compared), cpu, disk, remote, network
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


class DriveLife(msgspec.Struct, frozen=True, kw_only=True):
    """How long a class of drives lasts."""

    title: str
    dwpd: float  # rated drive writes per day
    years: Amount


class RuleWear(msgspec.Struct, frozen=True, kw_only=True):
    """The same tiers with another rule for stores: what it writes."""

    name: str
    written_bytes_per_day: float
    years: float | None  # to the machine's rated endurance


class Wear(msgspec.Struct, frozen=True, kw_only=True):
    """What a disk tier writes to this replica's share of the disk, and how long that lasts. A year is 365.25 days at this traffic."""

    written_bytes_per_day: float
    disk_bytes: float  # this replica's share of the machine's disk
    drive_writes_per_day: Amount  # that it takes, with what the drive adds to each write
    years: Amount | None  # to the endurance that the machine's record rates; null where it rates none
    drives: tuple[DriveLife, ...]
    alternatives: tuple[RuleWear, ...] = ()


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate: board power by what the GPU does, and what tiers and links take. Joules over all GPUs of the replicas."""

    gpu_W: Amount  # mean of one GPU
    per_output_token_J: Amount | None
    per_request_J: Amount | None
    parts_W: dict[str, float]  # gpu_busy, gpu_idle, memory, disk, link, network -> mean watts, at their values
    saved_prefill_J_per_request: Amount | None = None  # what the hits below the GPU would have taken to compute


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan costs beside time."""

    money: Money | None = None  # with what was chosen; null without prices
    money_without: Money | None = None
    price_flips: tuple[Flip, ...] = ()  # prices at which the other of the two is the cheaper one per output token
    wear: Wear | None = None  # where a disk is written
    energy: Energy | None = None  # an estimate
