"""What `kvplan size` answers; its JSON is the public contract `kvplan.size/1`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvplan.provenance import Source
from kvplan.results import frames

if TYPE_CHECKING:
    from pandas import DataFrame


class Kv(msgspec.Struct, frozen=True, kw_only=True):
    """(a) The logical state: what attention has to keep, before an engine rounds anything."""

    bytes_per_sequence: int
    bytes_per_token_mean: float
    growth_bytes_per_token: int  # what the next token adds
    bytes_total: int  # of the whole batch
    mha_formula_bytes: int  # what 2 x layers x heads x head_dim x tokens x bytes gives for one sequence
    state_bytes: int  # of bytes_per_sequence, what does not depend on the context


class LayerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One group of equal layers in the KV formula."""

    kind: str
    count: int
    kept_tokens: int
    bytes_per_token: int  # of one layer; 0 for a state
    bytes: int  # of the group, one sequence
    formula: str


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters and bytes of the weights."""

    parameters: int
    active_parameters: int
    bits: dict[str, float]
    bytes_per_gpu: int


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """(b) What the engine reserves for a request, and (c) what it prints about its pool."""

    name: str
    title: str = ""
    version: str
    stored_kv_dtype: str
    block_tokens: int
    block_bytes: int  # on all ranks
    groups: int
    reserved_bytes_per_request: int
    growth_bytes_per_block: int
    pool_blocks: int | None = None
    pool_tokens: int | None = None
    max_concurrency: float | None = None


class WayOut(msgspec.Struct, frozen=True, kw_only=True):
    """A change that was evaluated because the question as asked does not fit."""

    change: str  # as options of the command line
    fits: bool
    max_sequences: int
    missing_bytes: int  # on all ranks; 0 when it fits
    note: str = ""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the batch fits, and what would. Fields are null without a machine."""

    fits: bool | None = None
    kv_pool_bytes: int | None = None  # on all ranks
    kv_pool_bytes_per_gpu: int | None = None
    max_sequences: int | None = None
    max_context_tokens: int | None = None
    limited_by_model: bool = False
    missing_bytes: int = 0
    gpu: dict[str, int] = {}  # where one GPU's memory goes
    ways_out: tuple[WayOut, ...] = ()


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """What a placement costs.

    Idle: the sequence is paused, or its prefix shared, and comes back once. Streamed: it decodes all the while,
    and the part that is off the GPU crosses the link at every step, while other layers compute.
    """

    idle_reload_s: float
    idle_recompute_s: float
    idle_break_even_tokens: int | None  # prefixes from this length on return faster than they are recomputed; null: none
    streamed_added_s: float  # by which the links make a decode step longer
    streamed_tokens_per_s: float  # of the batch


class OffloadRow(msgspec.Struct, frozen=True, kw_only=True):
    """Where the KV of the batch lies, and which share of GPU memory that saves."""

    placement: str
    kv_dtype: str
    same: tuple[str, ...] = ()  # other KV dtypes of which all this holds
    gpu_bytes: int
    cpu_bytes: int
    disk_bytes: int
    saved_fraction: float
    host_bytes: int = 0  # that the engine really takes for such a CPU tier
    limit_bytes: int = 0  # memory limit of a container with it: weights and processes included
    price: Price | None = None


class SizeResult(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of one model at one context length."""

    schema: str = "kvplan.size/1"
    model: str
    context_tokens: int
    batch: int
    kv_dtype: str
    tp: int
    pp: int
    dp: int
    ep: int
    machine: str | None
    kv: Kv
    layers: tuple[LayerLine, ...]
    weights_bytes: int
    weights: Weights
    engine: Engine
    fit: Fit
    offload: tuple[OffloadRow, ...]
    tier_bytes_per_token: dict[str, float]
    provenance: dict[str, Source]
    warnings: tuple[str, ...]

    def to_frame(self) -> DataFrame:
        """One row with all sizes by dotted names; concatenate those of several models or contexts to compare them."""
        return frames.rows([frames.flat(self)])


class SizeTable(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of several models, contexts, machines or widths."""

    schema: str = "kvplan.size-table/1"
    rows: tuple[SizeResult, ...]

    def to_frame(self) -> DataFrame:
        """One row each, with all sizes by dotted names."""
        return frames.rows(frames.flat(row) for row in self.rows)
