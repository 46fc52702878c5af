"""What the plan room answers: a placement, the configuration that carries it out, what a configuration means."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["error", "warning", "note"]


class Placement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decision, before any engine's words for it: where KV goes, how much of it, and by which rules.

    Sizes are bytes of one replica in total over its tensor-parallel ranks; 0 means that the tier is not used.
    """

    model: str  # as the engine is given it: a Hugging Face name or a path
    tp: int = 1
    gpu_fraction: float = 0.9
    kv_dtype: str = "auto"  # auto: the model's own
    block_tokens: int = 0  # of the GPU's blocks; 0: the engine's default
    chunk_tokens: int = 0  # stored and looked up below the GPU; 0: the block
    cpu_bytes: int = 0
    disk_bytes: int = 0
    disk_path: str = ""
    remote_bytes: int = 0  # of the pool that all replicas share
    remote_url: str = ""
    store: Literal["write_through", "selective", "on_evict"] = "write_through"
    store_after_lookups: int = 2  # selective: a block is stored from its n-th lookup on
    store_generated: bool = True  # are tokens generated while decoding stored as well
    load_rule: Literal["always", "break_even", "never"] = "always"  # break_even: each hit is weighed, queues included
    load_min_tokens: int = 0  # a shorter hit is computed again instead of loaded
    policy: str = "lru"

    @property
    def offloads(self) -> bool:
        """Is any tier below the GPU used."""
        return bool(self.cpu_bytes or self.disk_bytes or self.remote_bytes or self.remote_url)


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the user should know: a stable code, one sentence with its numbers, and what to do about it."""

    code: str
    level: Level = "warning"
    sentence: str
    hint: str = ""
    key: str = ""  # the setting it is about


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
