"""Money: a list of prices, what a deployment takes of each, and which price would change the choice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from kvplan.catalog.machines import of_gpu
from kvplan.catalog.shipped import decode_toml
from kvplan.errors import InputError, did_you_mean
from kvplan.hardware.spec import Machine
from kvplan.results.economics import Amount, Flip, Money
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario
from kvplan.units import GiB

HOURS_PER_MONTH = 730.5
"""365.25 x 24 / 12."""

SHIPPED = "public"

_Rate = Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]


class UnitPrice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a unit costs, where and when that was seen, and how far it spreads."""

    value: _Rate
    low: _Rate | None = None  # None: as the value
    high: _Rate | None = None
    date: str = ""
    source: str = ""

    def amount(self, units: float) -> Amount:
        """The cost of so many units."""
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        return Amount(value=self.value * units, low=low * units, high=high * units)


NOTHING = UnitPrice(value=0.0)


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """Prices for one machine: of a GPU-hour, of GiB-hours of the tiers, and of a GiB moved to or from the remote pool."""

    currency: str = ""
    gpu: UnitPrice = NOTHING
    cpu: UnitPrice = NOTHING
    disk: UnitPrice = NOTHING
    remote: UnitPrice = NOTHING
    network: UnitPrice = NOTHING


class PriceList(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of prices."""

    currency: str = "USD"
    gpu: dict[str, UnitPrice] = {}  # machine -> per GPU and hour
    tiers: dict[str, UnitPrice] = {}  # cpu, disk, remote -> per GiB and hour
    network: dict[str, UnitPrice] = {}  # remote -> per GiB moved


class PriceSource(msgspec.Struct, frozen=True, kw_only=True):
    """Prices as asked for: a list, and single prices that lie over it."""

    listed: PriceList | None = None
    given: dict[str, UnitPrice] = {}

    def of(self, machine: Machine) -> Prices:
        """The prices for a machine. Raises InputError where its GPU has none."""
        listed = self.listed or PriceList(currency="")
        found: dict[str, UnitPrice] = {name: listed.tiers[name] for name in ("cpu", "disk", "remote") if name in listed.tiers}
        if "remote" in listed.network:
            found["network"] = listed.network["remote"]
        if "gpu" not in self.given and self.listed is not None:
            name = machine.name if machine.name in listed.gpu else of_gpu(machine.gpu.name)
            if name not in listed.gpu:
                raise InputError(f"no price for a GPU of {machine.name}", hint="--price gpu=2.5 gives it, per hour")
            found["gpu"] = listed.gpu[name]
        return Prices(currency=listed.currency, **{**found, **self.given})


def price_source(listed: str | None, single: str | None) -> PriceSource | None:
    """Prices from `--prices public` or a file, and from `--price gpu=2.5,cpu=0.004`; None where neither is given. Raises InputError."""
    if listed is None and single is None:
        return None
    return PriceSource(listed=_read(listed) if listed else None, given=_single(single) if single else {})


def _read(name: str) -> PriceList:
    shipped = Path(__file__).with_name("prices.toml")
    path = shipped if name == SHIPPED else Path(name).expanduser()
    if not path.is_file():
        raise InputError(f"--prices {name}: no such file", hint=f"--prices {SHIPPED} takes the list that comes with kvplan")
    found: PriceList = decode_toml(path, PriceList)
    for kind, known in (("tiers", ("cpu", "disk", "remote")), ("network", ("remote",))):
        for unknown in set(getattr(found, kind)) - set(known):
            raise InputError(f"{path}: {kind}.{unknown} is no price", hint=did_you_mean(unknown, known))
    return found


def _single(text: str) -> dict[str, UnitPrice]:
    found: dict[str, UnitPrice] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        try:
            price = float(value)
        except ValueError:
            raise InputError(f"--price: {part!r} is not a price", hint="write gpu=2.5,cpu=0.004,disk=0.0001") from None
        if name not in Prices.__struct_fields__[1:] or not 0 <= price < 1e6:
            raise InputError(f"--price: {part!r} is not a price", hint="gpu, cpu, disk, remote and network have prices, none below 0")
        found[name] = UnitPrice(value=price, source="given")
    return found


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment takes, over all its replicas."""

    gpus: float
    cpu_bytes: float = 0.0
    disk_bytes: float = 0.0
    remote_bytes: float = 0.0
    moved_Bps: float = 0.0  # to and from the remote pool

    def units_per_hour(self) -> dict[str, float]:
        """UnitPrice -> units of it that an hour takes."""
        tiers = {"cpu": self.cpu_bytes / GiB, "disk": self.disk_bytes / GiB, "remote": self.remote_bytes / GiB}
        return {"gpu": self.gpus, **tiers, "network": self.moved_Bps * 3600 / GiB}


def used(one: Scenario, result: SimResult | None = None) -> Used:
    """What a scenario's replicas take; with a run of it, also what goes over the network."""
    cluster, tiers = one.cluster, one.tiers
    replicas = cluster.replicas + cluster.prefill_replicas
    moved = sum(tier.loaded_bytes + tier.stored_bytes for tier in result.tiers if tier.name == "remote") if result else 0
    return Used(
        gpus=one.deployment.parallel.all_gpus * replicas,
        cpu_bytes=tiers.cpu_bytes * replicas,
        disk_bytes=tiers.disk_bytes * replicas,
        remote_bytes=tiers.remote_bytes,
        moved_Bps=moved / max(1e-9, result.duration_s) if result else 0.0,
    )


def per_hour(prices: Prices, what: Used) -> Amount:
    """The price of an hour; its range is that of all prices low and of all high."""
    amounts = [getattr(prices, name).amount(units) for name, units in what.units_per_hour().items()]
    return Amount(value=sum(one.value for one in amounts), low=sum(one.low for one in amounts), high=sum(one.high for one in amounts))


def money(prices: Prices, what: Used, *, prompt_tokens_per_s: float, output_tokens_per_s: float) -> Money:
    """What an hour, a month and a million tokens cost at the rates that were served."""
    hour = per_hour(prices, what)
    return Money(
        currency=prices.currency,
        per_hour=hour,
        per_month=_times(hour, HOURS_PER_MONTH),
        per_million_output_tokens=_each(hour, output_tokens_per_s),
        per_million_tokens=_each(hour, prompt_tokens_per_s + output_tokens_per_s),
        parts_per_hour=parts(prices, what),
    )


def money_of(prices: Prices, one: Scenario, result: SimResult) -> Money:
    """The same for a scenario and its run."""
    rates = result.throughput
    return money(prices, used(one, result), prompt_tokens_per_s=rates.prompt_tokens_per_s, output_tokens_per_s=rates.output_tokens_per_s)


def parts(prices: Prices, what: Used) -> dict[str, float]:
    """UnitPrice -> what it makes up of an hour, at its value; those of nothing are left out."""
    found = {name: getattr(prices, name).value * units for name, units in what.units_per_hour().items()}
    return {name: part for name, part in found.items() if part}


def _times(amount: Amount, factor: float) -> Amount:
    return Amount(value=amount.value * factor, low=amount.low * factor, high=amount.high * factor)


def _each(hour: Amount, tokens_per_s: float) -> Amount | None:
    return _times(hour, 1e6 / 3600 / tokens_per_s) if tokens_per_s > 0 else None


def by_name(prices: Prices) -> dict[str, UnitPrice]:
    """Each price under its name."""
    return {name: getattr(prices, name) for name in Prices.__struct_fields__ if name != "currency"}


NO_PRICE = 1e-3
"""A price that falls below this share of itself is no price any more."""


def flips(prices: Mapping[str, UnitPrice], chosen: Mapping[str, float], others: Mapping[str, Mapping[str, float]]) -> tuple[Flip, ...]:
    """For each price, the nearest change at which another choice is cheaper than the chosen one, dearer and cheaper apart.

    All are costs per token or hour by price. Costs are linear in a price: with a and b its parts, the totals A and B are equal where it is
    1 + (B - A) / (a - b) times what it is.
    """
    found: dict[tuple[str, bool], Flip] = {}
    total = sum(chosen.values())
    for name, other in others.items():
        for what in sorted({*chosen, *other}):
            slope = chosen.get(what, 0.0) - other.get(what, 0.0)
            if not slope:
                continue
            factor = 1 + (sum(other.values()) - total) / slope
            up = factor > 1
            best = found.get((what, up))
            if factor > NO_PRICE and factor != 1 and (best is None or abs(factor - 1) < abs(best.factor - 1)):
                found[what, up] = Flip(what=what, factor=factor, to=name, inside=_inside(prices[what], factor))
    return tuple(sorted(found.values(), key=lambda one: max(one.factor, 1 / one.factor)))


def _inside(price: UnitPrice, factor: float) -> bool:
    amount = price.amount(1.0)
    return amount.low <= price.value * factor <= amount.high
