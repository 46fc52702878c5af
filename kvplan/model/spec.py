"""A model as groups of equal layers: what each keeps per token, what each computes, and how many parameters it has."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Kind = Literal["full", "window", "chunked", "latent", "state", "cross", "shared", "index", "none"]
Part = Literal["embedding", "head", "attention", "dense", "router", "experts", "shared_experts", "other"]

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class Layers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A group of equal token-mixing layers.

    `full` keeps K and V of every token; `window` and `chunked` at most `window_tokens`; `latent` one compressed
    vector per token (of the last `window_tokens` only where that is given), the same on every tensor-parallel rank;
    `index` one key of a sparse indexer per token, of layers whose attention is another group's; `state` a fixed state; `cross` K and V of
    the encoder's tokens (`window_tokens` of them when the encoder's length is fixed, else as many as the
    context); `shared` reads another layer's KV; `none` mixes no tokens.
    """

    kind: Kind
    count: int
    query_heads: int = 0
    kv_heads: int = 0
    k_dim: int = 0  # per head
    v_dim: int = 0
    window_tokens: int = 0
    latent_dim: int = 0  # compressed KV and rotary part together
    rotary_dim: int = 0  # latent: of latent_dim, the rotary part
    fp8_row_bytes: int = 0  # of a row that an engine stores as fp8 with scales; 0: as the engine says for all latents
    row_tokens: int = 1  # latent, index: tokens that one row stands for
    index_dim: int = 0  # key of the sparse indexer
    index_dtype: str = ""  # of that key; empty: fp8 with one fp32 scale
    state_elements: int = 0  # recurrent state of one sequence and layer
    state_dtype: str = ""  # of the recurrent state; empty: the model's
    state_replicated: bool = False  # every tensor-parallel rank holds the whole state
    conv_elements: int = 0  # convolution state, in the model's dtype
    conv_group_elements: int = 0  # of those, the part of one B/C group, which ranks beyond the groups replicate
    state_groups: int = 0
    params: int = 0  # matrix parameters of one layer's mixer
    replicated_params: int = 0  # of those, the ones that every tensor-parallel rank holds
    up_params: int = 0  # latent: of those, the up-projection to K and V


class Ffn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The feed-forward part of a group of layers: dense when `experts` is 0. With `inner_hidden` the routed experts
    work in a smaller space.
    """

    count: int
    width: int  # of the dense layer, or of one expert
    matrices: int = 3  # gate, up, down
    experts: int = 0
    experts_per_token: int = 0
    shared_width: int = 0  # all shared experts together
    inner_hidden: int = 0


class Quantization(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How checkpoint weights are stored: bits per weight with their scales, for each part of the model that is not
    in the base dtype.
    """

    method: str
    bits: dict[str, float]  # part -> bits per weight including scales
    compute: str = ""  # dtype in which such matrices are multiplied where the GPU has units for it; empty: the model's (weights only)
    kv_dtype: str = ""  # KV dtype that the checkpoint asks for


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A decoder as kvplan needs it: layer groups for KV and attention, feed-forward groups and vocabulary for
    weights and FLOPs.
    """

    name: str
    family: str = ""  # model_type of the Hugging Face config
    depth: AtLeastOne  # decoder layers, as num_hidden_layers counts them
    hidden: AtLeastOne
    vocab: AtLeastOne
    layers: tuple[Layers, ...]
    ffn: tuple[Ffn, ...]
    max_context_tokens: int
    dtype: Annotated[str, msgspec.Meta(pattern="^(bf16|fp16|fp32)$")] = "bf16"
    tied_embeddings: bool = False
    declared_params: int = 0  # as the maker counts them; 0: not given
    other_params: int = 0  # outside the decoder: vision tower, encoder, per-layer embeddings
    quantization: Quantization | None = None
    source: str = ""
    notes: tuple[str, ...] = ()  # what was taken from the family's defaults
