"""KV bytes of one sequence: what the attention of each layer has to keep, before an engine rounds anything."""

from __future__ import annotations

import math

from kvplan.engine.spec import KvFormat
from kvplan.memory.formats import DTYPE_BYTES, INDEX_SCALE_BYTES, vector_bytes
from kvplan.model import Layers, ModelSpec


def token_bytes(layer: Layers, fmt: KvFormat, tp: int = 1) -> int:
    """Bytes that one layer keeps of one token on one of `tp` ranks, a row of several tokens spread over them and rounded up; 0 for layers
    that keep nothing per token.
    """
    return -(-row_bytes(layer, fmt, tp) // layer.row_tokens)


def row_bytes(layer: Layers, fmt: KvFormat, tp: int = 1) -> int:
    """Bytes of one row of one layer on one of `tp` ranks; a row is a token, or the `row_tokens` tokens of a compressed tier.

    K and V of the rank's heads (a head is replicated when there are more ranks than heads), or the latent vector,
    which every rank holds whole (arXiv 2405.04434), plus the key of the sparse indexer.
    """
    if layer.kind in ("state", "shared", "none"):
        return 0
    if layer.kind == "latent":
        row = (layer.fp8_row_bytes or fmt.latent_row_bytes) if fmt.latent_row_bytes else vector_bytes(layer.latent_dim, fmt)
        return row + (_index_key_bytes(layer) if layer.index_dim else 0)
    if layer.kind == "index":
        return _index_key_bytes(layer)
    heads = max(1, -(-layer.kv_heads // tp))
    return heads * (vector_bytes(layer.k_dim, fmt) + vector_bytes(layer.v_dim, fmt))


def _index_key_bytes(layer: Layers) -> int:
    return layer.index_dim * DTYPE_BYTES[layer.index_dtype] if layer.index_dtype else layer.index_dim + INDEX_SCALE_BYTES


def kept_tokens(layer: Layers, context_tokens: int) -> int:
    """Tokens whose K and V one layer still needs after `context_tokens`."""
    if layer.kind in ("window", "chunked") or (layer.kind == "latent" and layer.window_tokens):
        return min(context_tokens, layer.window_tokens)
    if layer.kind == "cross" and layer.window_tokens:
        return layer.window_tokens
    return context_tokens


def state_bytes(layer: Layers, dtype: str, tp: int = 1, state_dtype: str = "") -> int:
    """Bytes of one layer's recurrent state of one sequence on one of `tp` ranks.

    The recurrent part in the layer's own dtype, else `state_dtype` (an engine's default), else the model's; the
    convolution part in the model's dtype. B/C groups are replicated when there are more ranks than groups.
    """
    if layer.kind != "state":
        return 0
    grouped = layer.state_groups * layer.conv_group_elements
    conv = (layer.conv_elements - grouped) // tp + max(layer.state_groups // tp, 1 if layer.state_groups else 0) * layer.conv_group_elements
    if layer.state_replicated:
        return layer.state_elements * DTYPE_BYTES[layer.state_dtype or state_dtype or dtype] + layer.conv_elements * DTYPE_BYTES[dtype]
    return layer.state_elements // tp * DTYPE_BYTES[layer.state_dtype or state_dtype or dtype] + conv * DTYPE_BYTES[dtype]


def sequence_bytes(model: ModelSpec, context_tokens: int, fmt: KvFormat, tp: int = 1, state_dtype: str = "") -> int:
    """Bytes of the logical state of one sequence of `context_tokens`, on one of `tp` ranks (tp = 1: the whole
    model's).
    """
    return sum(
        layer.count
        * (
            kept_tokens(layer, context_tokens) // layer.row_tokens * row_bytes(layer, fmt, tp)
            + state_bytes(layer, model.dtype, tp, state_dtype)
        )
        for layer in model.layers
    )


def growth_bytes(model: ModelSpec, context_tokens: int, fmt: KvFormat) -> int:
    """Bytes that the next token adds to a sequence of `context_tokens`; of compressed tiers the mean over their rows."""
    tokens = math.lcm(*(layer.row_tokens for layer in model.layers))
    return -(-(sequence_bytes(model, context_tokens + tokens, fmt) - sequence_bytes(model, context_tokens, fmt)) // tokens)


def multi_head_bytes(model: ModelSpec, context_tokens: int, fmt: KvFormat) -> int:
    """What the common formula 2 x layers x heads x head_dim x tokens x bytes gives: every layer, every token, every
    query head.
    """
    widest = max(
        (layer.query_heads * (vector_bytes(layer.k_dim, fmt) + vector_bytes(layer.v_dim, fmt)) for layer in model.layers),
        default=0,
    )
    attending = sum(layer.count for layer in model.layers if layer.kind not in ("state", "none") and layer.query_heads)
    return max(model.depth, attending) * widest * context_tokens
