"""What serving engines do, as data: batching, prefix cache, offload rules, overheads. Each engine is one TOML file."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvplan.provenance import Source


class Offload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Rules of the tiers below the GPU."""

    chunk_tokens: int = 0  # granularity of lookup and store; 0: the engine's block
    store: Literal["write_through", "selective", "on_evict"] = "write_through"
    store_after_lookups: int = 0  # selective: a block is stored from its n-th lookup on
    store_generated: bool = True  # are tokens generated while decoding stored as well
    load: Literal["whole_request", "layerwise", "blocking"] = "whole_request"
    load_rule: Literal["always", "break_even", "never"] = "always"
    load_min_tokens: int = 0
    policy: str = "lru"
    disk_policy: str = "lru"
    disk_read_threads: int = 16
    disk_write_threads: int = 16
    outputs_behind_stores: bool = False  # do sampled tokens reach the host behind queued stores, on the same copy engine
    latent_per_rank: bool = False  # is a latent vector stored once per tensor-parallel rank
    copy_layers: Literal["all", "one"] = "all"  # does one contiguous piece of a block hold all layers, or one


class Overhead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the engine's CPU side costs."""

    request_s: float = 0.0  # front end, once per request
    request_token_s: float = 0.0  # and per prompt token: tokenising, hashing, serialising
    first_token_s: float = 0.0  # from the end of a step to the client
    step_s: float = 0.0  # least time between two decode steps: scheduling, launching, collecting
    step_sequence_s: float = 0.0  # per sequence in a step: sampling, output
    load_s: float = 0.0  # once per load from a lower tier: dispatch and completion
    load_block_s: float = 0.0  # and per block: lookup, pointers


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A serving engine: its scheduler, prefix cache, tiers and overheads.

    `provenance` maps the dotted path of a number to its source.
    """

    name: str
    version: str
    block_tokens: int = 16
    step_tokens: int = 8192  # token budget of one step
    max_batch: int = 256
    max_context_tokens: int = 0  # 0: the model's
    gpu_fraction: float = 0.9
    plan_ahead: bool = False  # is a step planned while the one before it runs
    reserve_full_prompt: bool = False  # is a request admitted only when its whole prompt fits
    prefix_caching: bool = True
    offload: Offload = Offload()
    overhead: Overhead = Overhead()
    provenance: dict[str, Source] = {}
