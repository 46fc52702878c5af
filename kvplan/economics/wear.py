"""Wear: how much a disk tier writes, and how long drives last under it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

from kvplan.catalog.shipped import decode_toml
from kvplan.economics.ranged import Ranged
from kvplan.hardware.spec import Disk
from kvplan.results.economics import Amount, DriveLife, RuleWear, Wear
from kvplan.units import format_traffic

LEAST_YEARS = 3.0
"""A disk that is worn out sooner is not recommended without being asked for."""

DAYS_PER_YEAR = 365.25


class DriveClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Drives of one rating."""

    title: str
    dwpd: float
    years: float
    source: str


class _Drives(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    drives: dict[str, DriveClass]
    write_amplification: Ranged  # bytes written to the flash for each byte given to the drive


@cache
def known_drives() -> _Drives:
    found: _Drives = decode_toml(Path(__file__).with_name("drives.toml"), _Drives)
    return found


def wear(disk: Disk, *, share: float, written_Bps: float) -> Wear:
    """Wear of a share of a machine's disk that is written at a mean rate.

    Years are rated bytes / (written bytes a year x amplification); a class of drives is rated for capacity x DWPD x days of its years.
    """
    drives, per_day, size = known_drives(), written_Bps * 86400, disk.capacity_bytes * share
    flash = drives.write_amplification

    def years(rated_bytes: float) -> Amount:
        per_year = per_day * DAYS_PER_YEAR
        return Amount(
            value=rated_bytes / per_year / flash.value, low=rated_bytes / per_year / flash.high, high=rated_bytes / per_year / flash.low
        )

    return Wear(
        written_bytes_per_day=per_day,
        disk_bytes=size,
        drive_writes_per_day=flash.amount(per_day / size),
        years=years(disk.endurance_bytes * share) if disk.endurance_bytes else None,
        drives=tuple(
            DriveLife(title=one.title, dwpd=one.dwpd, years=years(size * one.dwpd * one.years * DAYS_PER_YEAR))
            for one in drives.drives.values()
        ),
    )


def with_alternatives(found: Wear, others: dict[str, Wear]) -> Wear:
    """The same with what other rules would write."""
    rows = (
        RuleWear(name=name, written_bytes_per_day=one.written_bytes_per_day, years=one.years.value if one.years else None)
        for name, one in others.items()
    )
    return msgspec.structs.replace(found, alternatives=tuple(rows))


def too_short(found: Wear | None) -> str:
    """Why a disk tier is not recommended: worn out before LEAST_YEARS. Empty where it lasts, or nothing is rated."""
    if found is None or found.years is None or found.years.value >= LEAST_YEARS:
        return ""
    written, size = format_traffic(found.written_bytes_per_day), format_traffic(found.disk_bytes)
    life = f"{found.years.value * DAYS_PER_YEAR:,.0f} days" if found.years.value < 1 else f"{found.years.value:.1f} years"
    return f"it writes {written} a day to {size} of disk, which wears it out in {life}"
