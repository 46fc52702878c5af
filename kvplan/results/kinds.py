"""Kinds of parallelism on the same GPUs, as a plan compares them."""

from __future__ import annotations

import msgspec

from kvplan.units import format_bytes


class KindFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What came out of one kind at the traffic's load."""

    score: float  # of the objective: smaller is better
    rejected: int
    ttft_s: float | None  # mean
    itl_s: float | None  # mean
    requests_per_s: float


class KindRow(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of parallelism on the planned GPUs, without a tier and with the one that does best on the planned kind."""

    spread: str  # in words, such as TP 1 x DP 8, EP 8
    pool_tokens: int  # distinct tokens of prefixes that the GPUs' pools hold
    host_bytes: int  # of the tier, on all ranks
    host_tokens: int  # distinct tokens that it holds
    without: KindFigures
    offload: KindFigures


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """Up to which load one kind does better, and beyond it another; `requests_per_s` null: the first does at every load that was tried."""

    cpu_bytes: int  # of the planned kind's tier on each of its data-parallel ranks; 0: without
    below: str
    above: str
    requests_per_s: float | None = None
    factor: float | None = None  # of the arrivals as they are


class KindChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Kinds on the same GPUs at the traffic's load, and the best of them with the tier and without."""

    gpus: int
    planned: str
    best: str
    best_without: str
    kinds: tuple[KindRow, ...]
    crossings: tuple[Crossing, ...] = ()
    host_bytes: float | None = None  # on all GPUs, from which on the best kind is another than without a tier; null: it stays the same

    @property
    def words(self) -> str:
        """What offloading changes about the choice, in a sentence."""
        if self.best == self.best_without:
            return f"{self.best} does best on these {self.gpus} GPUs, with the tier and without"
        size = f", from about {format_bytes(self.host_bytes)} of host memory on" if self.host_bytes else ""
        return f"On these {self.gpus} GPUs {self.best_without} does best without a tier, {self.best} with it{size}"
