"""The words of an engine's configuration, and the unit in which it counts the size of a tier.

The unit is the commonest configuration error: the same 100 is 100 GiB in all for one engine and 100 GB in each of
8 ranks for another. Sources: documentation and source of the versions stated.
"""

from __future__ import annotations

import msgspec

from kvplan.units import format_bytes


class SizeUnit(msgspec.Struct, frozen=True, kw_only=True):
    """A number of a configuration times `scale_bytes` is the size in one rank (`per_rank`) or of the whole replica."""

    word: str  # as the engine's documentation calls it
    scale_bytes: int
    per_rank: bool
    source: str

    def number(self, total_bytes: int, tp: int) -> float:
        """The number to write for a tier of `total_bytes` over `tp` ranks."""
        return total_bytes / (tp if self.per_rank else 1) / self.scale_bytes

    def total_bytes(self, number: float, tp: int) -> int:
        """Bytes over all ranks that a number of the configuration means."""
        return round(number * self.scale_bytes * (tp if self.per_rank else 1))


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """An engine as the writer and the reader of its configurations see it."""

    title: str
    unit: SizeUnit
    dtypes: dict[str, str]  # kvplan's name of a KV dtype -> the engine's
    stores: dict[str, str]  # kvplan's store rule -> the engine's word, empty where there is nothing to write
    policies: dict[str, str]  # kvplan's eviction policy -> the engine's

    def size(self, total_bytes: int, tp: int) -> tuple[str, str]:
        """The number for a tier in the engine's unit, and the words that say what it is in total."""
        total = format_bytes(total_bytes)
        ranks = f"{format_bytes(total_bytes / tp)} per rank x {tp} = {total}" if self.unit.per_rank else f"{total} over all ranks"
        return plain_number(self.unit.number(total_bytes, tp)), ranks


def plain_number(value: float) -> str:
    """A number as configurations write it: up to nine decimals, so that bytes survive, none when whole."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


VLLM_DTYPES = {"auto": "auto", "bf16": "bfloat16", "fp8": "fp8", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"}
"""What vLLM's --kv-cache-dtype takes, whatever moves the KV."""
