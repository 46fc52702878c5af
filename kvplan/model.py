"""A model as groups of equal layers: what each keeps per token, and what each computes."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["full", "window", "chunked", "latent", "state", "cross", "shared", "none"]


class Layers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A group of equal layers.

    `full` keeps K and V of every token; `window` and `chunked` at most `window_tokens`; `latent` one compressed vector per token, the
    same on every tensor-parallel rank; `state` a fixed recurrent state; `cross` K and V of the encoder's tokens; `shared` reads another
    layer's KV; `none` has no attention.
    """

    kind: Kind
    count: int
    query_heads: int = 0
    kv_heads: int = 0
    k_dim: int = 0  # per head
    v_dim: int = 0
    window_tokens: int = 0
    latent_dim: int = 0  # compressed KV and rotary part together
    index_bytes: int = 0  # sparse indexer, per token and layer
    state_elements: int = 0  # recurrent state of one sequence and layer (SSM part)
    conv_elements: int = 0  # and its convolution part
    state_dtype: str = ""  # dtype of the SSM part; empty: the model's


class Ffn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The feed-forward part of a group of layers: dense when `experts` is 0."""

    count: int
    width: int  # of the dense layer, or of one expert
    matrices: int = 3  # gate, up, down
    experts: int = 0
    experts_per_token: int = 0
    shared_width: int = 0  # all shared experts together


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A decoder as kvplan needs it: layer groups for KV and attention, feed-forward groups and vocabulary for weights and FLOPs."""

    name: str
    hidden: int
    vocab: int
    layers: tuple[Layers, ...]
    ffn: tuple[Ffn, ...]
    max_context_tokens: int
    dtype: str = "bf16"
    tied_embeddings: bool = False
    params: int = 0  # total; 0: derived from the shapes
    quantization: str = ""
    source: str = ""

    @property
    def layer_count(self) -> int:
        return sum(group.count for group in self.layers)
