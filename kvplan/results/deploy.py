"""The configuration that carries out a placement, and what a configuration means."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvplan.memory.pinned import HostMemory
from kvplan.results.placement import Notice, Placement


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a configuration: its name, its format and its text."""

    name: str
    format: Literal["shell", "yaml"]
    text: str


class RouterCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """What one tier of one replica keeps of prefixes, in the blocks by which a router matches them (lruCapacityPerServer)."""

    tier: Literal["gpu", "cpu", "disk"]
    block_tokens: int
    blocks: int

    @property
    def tokens(self) -> int:
        return self.blocks * self.block_tokens


class Emission(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's configuration that carries out a placement, for a stated version of the engine."""

    target: str
    version: str
    parts: tuple[Part, ...]
    notices: tuple[Notice, ...] = ()
    host: HostMemory | None = None  # what the CPU tier takes; null where the deployment is not known
    pool_tokens: int = 0  # that the engine prints for its KV pool; 0: unknown
    router: tuple[RouterCapacity, ...] = ()  # per replica and tier

    @property
    def text(self) -> str:
        """All parts, one below the other, each under its name."""
        return "\n".join(f"# --- {part.name}\n{part.text}" for part in self.parts)


class Meaning(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of a configuration, as written, and what it means."""

    key: str
    value: str
    sentence: str


class TierSize(msgspec.Struct, frozen=True, kw_only=True):
    """The size of one tier as configured; 0 bytes when it has no bound or depends on the GPU's pool."""

    name: Literal["gpu", "cpu", "disk", "remote"]
    bytes_per_rank: int
    bytes_total: int
    where: str = ""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine's configuration means, and what is wrong with it."""

    schema: str = "kvplan.explain/1"
    source: str
    engine: str
    version: str
    placement: Placement
    tiers: tuple[TierSize, ...] = ()
    meanings: tuple[Meaning, ...] = ()
    notices: tuple[Notice, ...] = ()
    pool_tokens: int = 0  # that the GPU's pool holds; 0: unknown
    host: HostMemory | None = None  # what the CPU tier takes; null where model or machine are not known
