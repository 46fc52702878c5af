"""Parse and format bytes, tokens, seconds and rates; inside kvplan everything is in SI base units.

`GiB MiB KiB TiB` are powers of 1024 and `GB MB kB TB` powers of 1000, both exact; a bare `G` is refused because it could mean either.
Tokens take binary suffixes (`128k` is 131,072), as model makers count context lengths.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from kvplan.errors import InputError

KiB, MiB, GiB, TiB = 2**10, 2**20, 2**30, 2**40

_BYTES = {"B": 1, "KiB": KiB, "MiB": MiB, "GiB": GiB, "TiB": TiB, "PiB": 2**50, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"PB": 10**15}
_ANY_CASE = {unit.lower(): scale for unit, scale in _BYTES.items()}
_TOKENS = {"": 1, "k": 2**10, "m": 2**20}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BIT_RATES = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}
_BITS = {"Kb": 1e3, "Mb": 1e6, "Gb": 1e9, "Tb": 1e12}
_SCALES = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
_NUMBER = re.compile(r"^\s*([+-]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ/]*)\s*$")


def _split(text: str | int | float, what: str) -> tuple[float, str]:
    if isinstance(text, bool):
        raise InputError(f"{text!r} is not {what}")
    if isinstance(text, int | float):
        value, unit = float(text), ""
    else:
        match = _NUMBER.match(text)
        if not match:
            raise InputError(f"{text!r} is not {what}")
        value, unit = float(match[1].replace(",", "").replace("_", "")), match[2]
    if not math.isfinite(value):
        raise InputError(f"{text!r} is not {what}: it must be finite")
    return value, unit


def parse_bytes(text: str | int | float) -> int:
    """Bytes from `32GiB`, `500 GB`, `1048576`. Raises InputError on a bare `G`, an unknown unit, a negative or huge value."""
    value, unit = _split(text, "a size")
    if unit.upper() in ("K", "M", "G", "T"):
        raise InputError(f"{text!r}: the unit {unit!r} is ambiguous", hint=f"write {unit.upper()}iB or {unit.upper()}B")
    if unit and unit.lower() not in _ANY_CASE:
        raise InputError(f"{text!r}: unknown unit of size {unit!r}", hint="write B, KiB, MiB, GiB, TiB, kB, MB, GB or TB")
    size = value * _ANY_CASE.get(unit.lower(), 1)
    if size < 0:
        raise InputError(f"{text!r}: a size cannot be negative")
    if size > 2**63:
        raise InputError(f"{text!r}: a size above 8 EiB is not plausible")
    return round(size)


def parse_capacity(text: str | int) -> int:
    """Bytes of a tier: as `parse_bytes`, but a small number without a unit is refused, since GiB were meant."""
    size = parse_bytes(text)
    if isinstance(text, str) and 0 < size < MiB and text.strip()[-1].isdigit():
        raise InputError(f"{text!r}: a size of which unit?", hint=f"write {text.strip()}GiB, or {text.strip()}B for bytes")
    return size


def parse_tokens(text: str | int | float) -> int:
    """Tokens from `128k` (131,072), `1M` (1,048,576) or `128000`. Raises InputError when not a whole number above zero."""
    value, unit = _split(text, "a number of tokens")
    if unit.lower() not in _TOKENS:
        raise InputError(f"{text!r}: unknown unit of tokens {unit!r}", hint="write 8192, 8k or 1M")
    tokens = value * _TOKENS[unit.lower()]
    if tokens < 1 or tokens != int(tokens):
        raise InputError(f"{text!r}: a number of tokens must be a whole number above zero")
    if tokens > 10**12:
        raise InputError(f"{text!r}: more tokens than is plausible")
    return int(tokens)


def parse_seconds(text: str | int | float) -> float:
    """Seconds from `50ms`, `2s`, `5min` or a bare number of seconds. Raises InputError when negative."""
    value, unit = _split(text, "a time")
    if unit and unit.lower() not in _SECONDS:
        raise InputError(f"{text!r}: unknown unit of time {unit!r}", hint="write ns, us, ms, s, min, h or d")
    if value < 0:
        raise InputError(f"{text!r}: a time cannot be negative")
    return value * _SECONDS.get(unit.lower(), 1.0)


def parse_rate(text: str | int | float) -> float:
    """Bytes per second from `25 GB/s`, `100 Gbit/s`, `100Gbps` or a bare number of bytes per second."""
    value, unit = _split(text, "a rate")
    if value < 0:
        raise InputError(f"{text!r}: a rate cannot be negative")
    if not unit:
        return value
    stem = unit.removesuffix("/s").removesuffix("/S").removesuffix("ps")
    if stem in _BITS or stem.lower() in _BIT_RATES:  # Gb are bits and GB bytes: here case matters
        return value * (_BITS.get(stem) or _BIT_RATES[stem.lower()]) / 8
    if (stem in _BYTES or (stem.lower() in _ANY_CASE and stem.lower().endswith("ib"))) and unit.lower().endswith("/s"):
        return value * _ANY_CASE[stem.lower()]
    raise InputError(f"{text!r}: unknown unit of rate {unit!r}", hint="write GB/s (bytes) or Gbit/s (bits)")


def format_bytes(size: float, digits: int = 1) -> str:
    """A capacity with a binary unit: `32.0 GiB`."""
    for unit, scale in (("PiB", 2**50), ("TiB", TiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if abs(size) >= scale:
            return f"{size / scale:,.{digits}f} {unit}"
    return f"{size:,.0f} B"


def format_traffic(size: float, digits: int = 1) -> str:
    """A traffic total with a decimal unit: `2.1 TB`."""
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= scale:
            return f"{size / scale:,.{digits}f} {unit}"
    return f"{size:,.0f} B"


def format_rate(rate_Bps: float, digits: int = 1) -> str:
    """A bandwidth in decimal units: `51.2 GB/s`."""
    return f"{format_traffic(rate_Bps, digits)}/s"


def format_seconds(seconds: float, digits: int = 3) -> str:
    """A time with the unit that keeps it readable, to `digits` significant digits: `1.32 s`, `18.4 ms`, `2.6 µs`."""
    size = abs(seconds)
    if size < 1e-9:  # what is left of a subtraction
        return "0 s"
    if size >= 7200:
        return f"{seconds / 3600:,.1f} h"
    if size >= 300:
        return f"{seconds / 60:,.1f} min"
    unit, scale = next(((unit, scale) for unit, scale in _SCALES if size >= scale), _SCALES[-1])
    value = seconds / scale
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f} {unit}"


def format_tokens(tokens: float) -> str:
    """A count of tokens with thousands separators."""
    return f"{tokens:,.0f}"


def format_number(value: float) -> str:
    """A count or rate to three digits and no more, with thousands separators: `0.0773`, `1.38`, `16,568`."""
    if value and (abs(value) < 1e-3 or not math.isfinite(value)):
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_count(number: int, noun: str) -> str:
    """So many of something: `1 GPU`, `2 GPUs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first_true(low: int, high: int, ok: Callable[[int], bool]) -> int:
    """The first whole number in [low, high] for which `ok`, which holds for all after it; high + 1 when for none."""
    high += 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ok(middle) else (middle + 1, high)
    return low
