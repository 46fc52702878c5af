"""A decision on KV cache, and what the user should know about it."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvplan.engine.spec import Offload

Level = Literal["error", "warning", "note"]


class Placement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decision, before any engine's words for it: where KV goes, how much of it, and by which rules.

    Sizes are bytes of one data-parallel rank in total over its tensor-parallel ranks and stages; 0 means that the tier is not used.
    """

    model: str  # as the engine is given it: a Hugging Face name or a path
    tp: int = 1
    pp: int = 1
    dp: int = 1  # data-parallel ranks, each with tiers of these sizes
    ep: int = 0  # ranks between which whole experts are spread; 0: none
    gpu_fraction: float = 0.9
    kv_dtype: str = "auto"  # auto: the model's own
    max_context_tokens: int = 0  # longest request that is served; 0: the model's
    max_batch: int = 0  # sequences at once; 0: the engine's default
    step_tokens: int = 0  # tokens of a step; 0: the engine's default
    gpu_kv_bytes: int = 0  # KV pool over all ranks; 0: what `gpu_fraction` leaves
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
    lower_store: Literal["write_through", "selective", "on_evict"] = "write_through"  # into the tiers behind host memory
    load_rule: Literal["always", "break_even", "never"] = "always"  # break_even: each hit is weighed, queues included
    load_min_tokens: int = 0  # a shorter hit is computed again instead of loaded
    policy: str = "lru"

    @property
    def ranks(self) -> int:
        """Ranks that share one pool and one set of tiers."""
        return self.tp * self.pp

    @property
    def gpus(self) -> int:
        """GPUs of one replica, all its ranks."""
        return self.ranks * self.dp

    @property
    def offloads(self) -> bool:
        """Is any tier below the GPU used."""
        return bool(self.cpu_bytes or self.disk_bytes or self.remote_bytes or self.remote_url)


RULES = tuple(name for name in Placement.__struct_fields__ if name in Offload.__struct_fields__)
"""Rules that a placement takes from an engine and gives it."""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that the user should know: a stable code, one sentence with its numbers, and what to do about it."""

    code: str
    level: Level = "warning"
    sentence: str
    hint: str = ""
    key: str = ""  # the setting it is about
