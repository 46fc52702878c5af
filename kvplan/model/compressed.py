"""Families whose attention keeps tiers beside K and V: compressed rows, keys of sparse indexers, windows of latents."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from kvplan.model.attention import (
    FULL,
    SLIDING,
    attention_layer,
    geometry,
    group,
    hidden_size,
    latent_layer,
    layer_count,
    many,
    query_heads,
)
from kvplan.model.config import Fields
from kvplan.model.linear import delta_net, kda
from kvplan.model.recurrent import LINEAR
from kvplan.model.spec import Layers

FP8_ROW_BYTES = 584
"""V4's vector as FlashMLA and SGLang store it: 448 elements of fp8, 7 scales and a byte of padding, 64 rotary elements of bf16."""


def _index(dim: int, count: int, *, heads_from: int, heads: int, hidden: int, row_tokens: int = 1, dtype: str = "") -> Layers:
    """Keys of a sparse indexer: one of `dim` for `row_tokens` tokens, whatever the number of its query heads."""
    params = heads_from * heads * dim + hidden * (dim + heads)
    return Layers(
        kind="index", count=count, index_dim=dim, index_dtype=dtype, row_tokens=row_tokens, params=params, replicated_params=params
    )


def _row(dim: int, tokens: int, count: int, params: int) -> Layers:
    """A compressed vector for each so many tokens."""
    kept = {"latent_dim": dim, "fp8_row_bytes": FP8_ROW_BYTES, "row_tokens": tokens}
    return Layers(kind="latent", count=count, params=params, replicated_params=params, **kept)  # type: ignore[arg-type]


def _ring(elements: int, count: int) -> Layers:
    """A ring of fp32 rows in which a compressor gathers the next row."""
    return Layers(kind="state", count=count, state_elements=elements, state_dtype="fp32", state_replicated=True)


def deepseek_v4(fields: Fields) -> tuple[Layers, ...]:
    """DeepSeek-V4: every layer keeps one vector of the last `sliding_window` tokens; by `compress_ratios` some keep one vector
    and one index key for each 4 tokens, others one vector for each 128 (0: neither), and what is being compressed in rings.
    """
    count, dim, hidden = layer_count(fields), fields.need("head_dim"), hidden_size(fields)
    ratios = Counter(fields.sequence("compress_ratios", count) or ())
    if not ratios or set(ratios) - {0, 4, 128}:
        raise fields.refuse("the ratios of its compressed tiers are not 0, 4 and 128", "compress_ratios")
    index, heads = fields.need("index_head_dim"), fields.need("index_n_heads")
    low = fields.number("q_lora_rank") or hidden
    both, long = ratios[4], ratios[128]
    compressor = 2 * hidden * dim  # values and scores; twice as wide where windows of 4 tokens overlap
    tiers = (
        Layers(
            kind="latent",
            count=both,
            latent_dim=dim,
            fp8_row_bytes=FP8_ROW_BYTES,
            row_tokens=4,
            params=2 * compressor,
            replicated_params=2 * compressor,
        ),
        _index(index, both, heads_from=low, heads=heads, hidden=hidden, row_tokens=4),
        Layers(
            kind="latent",
            count=long,
            latent_dim=dim,
            fp8_row_bytes=FP8_ROW_BYTES,
            row_tokens=128,
            params=compressor,
            replicated_params=compressor,
        ),
        _ring(8 * 4 * dim, both),
        _ring(8 * 4 * index, both),
        _ring(128 * 2 * dim, long),
    )
    return (_one_vector(fields), *tiers)


def deepseek_v41(fields: Fields) -> tuple[Layers, ...]:
    """DeepSeek-V4.1: windows as V4's; the layers of `kv_source_layer_ids` own compressed rows (one for `compress_ratios` tokens),
    which later layers read, and those of them that are index sources own the keys.
    """
    count, dim, hidden = layer_count(fields), fields.need("head_dim"), hidden_size(fields)
    ratios, owners = fields.sequence("compress_ratios", count), fields.get("kv_source_layer_ids")
    if not ratios or not owners or not all(0 <= layer < count and ratios[layer] in (1, 2) for layer in owners):
        raise fields.refuse("the layers that own its compressed rows are not clear", "kv_source_layer_ids", "compress_ratios")
    index, heads = fields.need("index_head_dim"), fields.need("index_n_heads")
    keyed = set(fields.get("index_source_layer_ids") or owners)
    tiers: list[Layers] = []
    for ratio, number in sorted(Counter(ratios[layer] for layer in owners).items(), reverse=True):
        keys = sum(ratios[layer] == ratio and layer in keyed for layer in owners)
        tiers.append(_row(dim, ratio, number, 0))
        if keys:
            tiers.append(_index(index, keys, heads_from=hidden, heads=heads, hidden=hidden, row_tokens=ratio))
        if ratio > 1:
            tiers.append(_ring(8 * 2 * dim, number))
    return (_one_vector(fields), *tiers)


def _one_vector(fields: Fields) -> Layers:
    """The windows of V4: K and V are one vector of head_dim, shared by all heads; the output is projected in groups of low rank."""
    dim, hidden, heads = fields.need("head_dim"), hidden_size(fields), query_heads(fields)
    low, out, groups = fields.number("q_lora_rank"), fields.number("o_lora_rank"), fields.number("o_groups") or 1
    replicated = hidden * dim + (hidden * low if low else 0)
    up = (low or hidden) * heads * dim
    down = heads * dim * out + groups * out * hidden if out else heads * dim * hidden
    return Layers(
        kind="latent",
        count=layer_count(fields),
        query_heads=heads,
        kv_heads=1,
        k_dim=dim,
        v_dim=dim,
        latent_dim=dim,
        fp8_row_bytes=FP8_ROW_BYTES,
        window_tokens=fields.need("sliding_window"),
        params=replicated + up + down,
        replicated_params=replicated,
    )


def minimax_m3(fields: Fields) -> tuple[Layers, ...]:
    """MiniMax-M3: every layer keeps K and V of every token; the sparse ones also a bf16 index key, one vector whatever its query heads."""
    sparse: dict[str, Any] = fields.get("sparse_attention_config") or {}
    count, hidden = layer_count(fields), hidden_size(fields)
    flags, dim, heads = sparse.get("sparse_attention_freq"), sparse.get("sparse_index_dim"), sparse.get("sparse_num_index_heads")
    if not isinstance(flags, list) or len(flags) < count or not dim or not heads:
        raise fields.refuse("which of its layers index is not clear", "sparse_attention_config")
    full = many(attention_layer(hidden, "full", geometry(fields)), count)
    return full, _index(int(dim), sum(map(bool, flags[:count])), heads_from=hidden, heads=int(heads), hidden=hidden, dtype="bf16")


def qwen4_exp(fields: Fields) -> tuple[Layers, ...]:
    """Qwen3.8-Flash-Next: gated delta nets and full attention as in Qwen3-Next; the full layers keep a bf16 index key for each
    `indexer_compress_ratio` tokens and a ring of raw keys, and the layers of `ple_layer_ids` a dilated short convolution.
    """
    count, hidden = layer_count(fields), hidden_size(fields)
    types = fields.sequence("layer_types", count)
    if not types or set(types) - {FULL, LINEAR}:
        raise fields.refuse("the kinds of its layers are not clear", "layer_types")
    full, dim, ratio = types.count(FULL), fields.need("indexer_head_dim"), fields.need("indexer_compress_ratio")
    streams = fields.need("hc_count")
    wide = streams * hidden * (fields.need("ple_conv_kernel_size") - 1) * fields.need("ngram_size")
    return (
        many(attention_layer(hidden, "full", geometry(fields), gated=True), full),
        _index(dim, full, heads_from=hidden, heads=fields.need("indexer_n_heads"), hidden=hidden, row_tokens=ratio, dtype="bf16"),
        Layers(kind="state", count=full, conv_elements=ratio * (dim + _POSITIONS), state_replicated=True),
        many(delta_net(fields, "mamba_ssm_dtype"), types.count(LINEAR)),
        Layers(kind="state", count=len(fields.get("ple_layer_ids") or ()), conv_elements=wide, state_replicated=True),
    )


_POSITIONS = 12
"""A raw key's ring also holds three int64 positions: as many bytes as 12 elements of bf16."""


def glm5_next(fields: Fields) -> tuple[Layers, ...]:
    """GLM-5.3-Flash: Kimi delta attention, and sparse latent attention with an index key for each `index_kpool` tokens and a
    ring for the rest.
    """
    count, hidden = layer_count(fields), hidden_size(fields)
    types = fields.sequence("layer_types", count)
    if not types or set(types) - {LINEAR, "deepseek_sparse_attention"}:
        raise fields.refuse("the kinds of its layers are not clear", "layer_types")
    sparse, pool, dim = types.count("deepseek_sparse_attention"), fields.need("index_kpool"), fields.need("index_head_dim")
    linear: dict[str, Any] = fields.get("linear_attn_config") or {}
    return (
        many(latent_layer(fields), sparse),
        _index(
            dim,
            sparse,
            heads_from=fields.number("q_lora_rank") or hidden,
            heads=fields.need("index_n_heads"),
            hidden=hidden,
            row_tokens=pool,
        ),
        Layers(kind="state", count=sparse, conv_elements=pool * 2 * dim, state_replicated=True),
        many(kda(fields, linear, full_rank=bool(linear.get("use_full_rank_gate"))), types.count(LINEAR)),
    )


def dots3(fields: Fields) -> tuple[Layers, ...]:
    """dots3-note: latent attention, some layers indexed, the others over a window and with a latent of their own."""
    count, hidden = layer_count(fields), hidden_size(fields)
    types = fields.sequence("layer_types", count)
    if not types or set(types) - {"indexed_attention", SLIDING}:
        raise fields.refuse("the kinds of its layers are not clear", "layer_types")
    layer = latent_layer(fields)
    row = fields.need("swa_kv_lora_rank") + (fields.number("swa_qk_rope_head_dim") or 0)
    window = fields.number("sliding_window_size") or fields.need("sliding_window") + 1  # the engine keeps the token itself, too
    sliding = msgspec.structs.replace(layer, latent_dim=row, window_tokens=window)
    indexed = types.count("indexed_attention")
    dim, heads = fields.need("index_head_dim"), fields.need("index_n_heads")
    return many(layer, indexed), _index(dim, indexed, heads_from=hidden, heads=heads, hidden=hidden), many(sliding, count - indexed)


def step5(fields: Fields) -> tuple[Layers, ...]:
    """Step5: windows and full layers with `num_attention_groups` KV heads; sparse ones keep an 8-bit summary of each region."""
    count, hidden = layer_count(fields), hidden_size(fields)
    types, sparse = fields.sequence("layer_types", count), fields.get("sparse_config") or {}
    if not types or set(types) - {FULL, SLIDING}:
        raise fields.refuse("the kinds of its layers are not clear", "layer_types")
    shape = geometry(fields) | {"kv_heads": fields.need("num_attention_groups")}
    full, sliding = attention_layer(hidden, "full", shape), attention_layer(hidden, "window", shape, fields.need("sliding_window"))
    layers = group(sliding if kind == SLIDING else full for kind in types)
    if not sparse:
        return layers
    dim, region = sparse.get("proxy_dim"), sparse.get("region_block_size")
    if not dim or not region:
        raise fields.refuse("its sparse attention is not clear", "sparse_config")
    marked = sum(kind in (sparse.get("apply_to_layer_types") or [FULL]) for kind in types)
    return (*layers, Layers(kind="index", count=marked, index_dim=int(dim), index_dtype="fp8", row_tokens=int(region)))
