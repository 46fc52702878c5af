"""The configuration that carries out a placement, and what a configuration means."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvplan.results.placement import Notice, Placement


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a configuration: its name, its format and its text."""

    name: str
    format: Literal["shell", "yaml"]
    text: str


class Emission(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's configuration that carries out a placement, for a stated version of the engine."""

    target: str
    version: str
    parts: tuple[Part, ...]
    notices: tuple[Notice, ...] = ()

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
