"""Layers of one config that keep a fixed state instead of KV: Mamba, gated delta nets, linear attention, short
convolutions.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvplan.model.attention import (
    FULL,
    SLIDING,
    attention_layer,
    geometry,
    group,
    hidden_size,
    layer_count,
    query_heads,
)
from kvplan.model.config import Fields
from kvplan.model.ffn import ffn as feed_forward
from kvplan.model.spec import Ffn, Layers

LINEAR = "linear_attention"
_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def state_dtype(fields: Fields, *names: str) -> str:
    """The state's dtype where the config names one; empty: the model's."""
    value = fields.get(*names) if names else None
    return _DTYPES.get(str(value), "")


def _mamba1(hidden: int, inner: int, state: int, kernel: int, rank: int) -> Layers:
    """Mamba-1: SSM state inner x state, convolution state inner x (kernel - 1). arXiv 2312.00752."""
    params = hidden * 2 * inner + inner * kernel + inner * (rank + 2 * state) + rank * inner + inner * state + inner * hidden
    return Layers(kind="state", count=1, state_elements=inner * state, conv_elements=inner * (kernel - 1), params=params)


def _mamba2(hidden: int, heads: int, head_dim: int, state: int, groups: int, kernel: int, dtype: str = "") -> Layers:
    """Mamba-2: SSM state heads x head_dim x state; convolution over x, B and C. arXiv 2405.21060."""
    inner, bc = heads * head_dim, 2 * state
    params = hidden * (2 * inner + groups * bc + heads) + (inner + groups * bc) * kernel + inner * hidden
    return Layers(
        kind="state",
        count=1,
        state_elements=heads * head_dim * state,
        state_dtype=dtype,
        conv_elements=(inner + groups * bc) * (kernel - 1),
        conv_group_elements=bc * (kernel - 1),
        state_groups=groups,
        params=params,
    )


def mamba(fields: Fields) -> tuple[Layers, ...]:
    """Mamba and Falcon-Mamba: state in every layer, no KV."""
    hidden = hidden_size(fields)
    inner = fields.number("intermediate_size", "d_inner") or (fields.number("expand") or 2) * hidden
    layer = _mamba1(
        hidden,
        inner,
        fields.need("state_size", "d_state"),
        fields.need("conv_kernel", "d_conv"),
        _rank(fields, "time_step_rank"),
    )
    return (msgspec.structs.replace(layer, count=layer_count(fields)),)


def mamba2(fields: Fields) -> tuple[Layers, ...]:
    """Mamba-2: state in every layer, no KV."""
    hidden = hidden_size(fields)
    layer = _mamba2(
        hidden,
        fields.need("num_heads"),
        fields.need("head_dim"),
        fields.need("state_size"),
        fields.need("n_groups"),
        fields.need("conv_kernel"),
    )
    if layer.state_elements != (fields.number("expand") or 2) * hidden * fields.need("state_size"):
        raise fields.refuse("expand x hidden_size is not num_heads x head_dim", "expand", "hidden_size", "num_heads", "head_dim")
    return (msgspec.structs.replace(layer, count=layer_count(fields)),)


def _rank(fields: Fields, name: str) -> int:
    value = fields.get(name)
    return -(-hidden_size(fields) // 16) if value in (None, "auto") else fields.need(name)


def jamba(fields: Fields) -> tuple[Layers, ...]:
    """Jamba: one attention layer each `attn_layer_period`, the rest Mamba-1."""
    count, hidden = layer_count(fields), hidden_size(fields)
    period, offset = fields.need("attn_layer_period"), fields.number("attn_layer_offset") or 0
    state = _mamba1(
        hidden,
        fields.need("mamba_expand") * hidden,
        fields.need("mamba_d_state"),
        fields.need("mamba_d_conv"),
        _rank(fields, "mamba_dt_rank"),
    )
    full = attention_layer(hidden, "full", geometry(fields))
    return group(full if i % period == offset else state for i in range(count))


def _mamba2_of_mixers(fields: Fields) -> Layers:
    """Mamba-2 with the field names of Bamba, Granite-4 and Falcon-H1."""
    hidden = hidden_size(fields)
    heads, inner = (
        fields.need("mamba_n_heads"),
        fields.number("mamba_d_ssm") or int((fields.get("mamba_expand") or 2) * hidden),
    )
    given = fields.get("mamba_d_head")
    dim = inner // heads if given in (None, "auto") else fields.need("mamba_d_head")
    return _mamba2(hidden, heads, dim, fields.need("mamba_d_state"), fields.need("mamba_n_groups"), fields.need("mamba_d_conv"))


def bamba(fields: Fields) -> tuple[Layers, ...]:
    """Bamba and Granite-4: some attention layers, the rest Mamba-2."""
    count, hidden = layer_count(fields), hidden_size(fields)
    types = fields.sequence("layer_types", count) or fields.sequence("layers_block_type", count)
    if not types:
        indices = fields.get("attn_layer_indices")
        if indices is None:
            raise fields.refuse("the kinds of its layers are not clear", "layer_types", "attn_layer_indices")
        types = ["attention" if i in indices else "mamba" for i in range(count)]
    full = attention_layer(hidden, "full", geometry(fields))
    if set(types) <= {"attention", FULL}:
        return (msgspec.structs.replace(full, count=count),)
    state = _mamba2_of_mixers(fields)
    return mixed(fields, types, {"attention": full, FULL: full, "mamba": state, LINEAR: state})


def mixed(fields: Fields, types: list[Any], layers: dict[str, Layers]) -> tuple[Layers, ...]:
    """Layers by their kinds. Raises InputError for a kind that the family does not have."""
    if unknown := {str(kind) for kind in types} - set(layers):
        raise fields.refuse(f"layer types {', '.join(sorted(unknown))} are not known for this family", "layer_types")
    return group(layers[kind] for kind in types)


def falcon_h1(fields: Fields) -> tuple[Layers, ...]:
    """Falcon-H1: attention and Mamba-2 side by side in every layer."""
    count = layer_count(fields)
    full = attention_layer(hidden_size(fields), "full", geometry(fields))
    return tuple(msgspec.structs.replace(layer, count=count) for layer in (full, _mamba2_of_mixers(fields)))


_NEMOTRON = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}


def _nemotron_types(fields: Fields) -> list[str]:
    """`mamba`, `attention`, `moe` or `mlp` of each layer of a Nemotron-H model."""
    if pattern := fields.given("hybrid_override_pattern"):
        if unknown := set(pattern) - set(_NEMOTRON):
            raise fields.refuse(f"unknown layers {''.join(sorted(unknown))}", "hybrid_override_pattern")
        return [_NEMOTRON[char] for char in pattern]
    types = fields.given("layers_block_type") or fields.given("layer_types")
    if not types:
        raise fields.refuse("the kinds of its layers are not clear", "hybrid_override_pattern", "layers_block_type")
    return [{LINEAR: "mamba", FULL: "attention"}.get(str(kind), str(kind)) for kind in types]


def nemotron_h(fields: Fields) -> tuple[Layers, ...]:
    """Nemotron-H and Nemotron-3: each layer is one of Mamba-2, attention, experts or a dense feed-forward."""
    hidden = hidden_size(fields)
    state = _mamba2(
        hidden,
        fields.need("mamba_num_heads"),
        fields.need("mamba_head_dim"),
        fields.need("ssm_state_size"),
        fields.need("n_groups"),
        fields.need("conv_kernel"),
        state_dtype(fields, "mamba_ssm_cache_dtype"),
    )
    none = Layers(kind="none", count=1)
    full = attention_layer(hidden, "full", geometry(fields))
    return mixed(fields, _nemotron_types(fields), {"mamba": state, "attention": full, "moe": none, "mlp": none})


def nemotron_ffn(fields: Fields) -> tuple[Ffn, ...]:
    """Nemotron-H: dense feed-forwards and experts are layers of their own."""
    types = _nemotron_types(fields)
    sparse, dense = types.count("moe"), types.count("mlp")
    groups = []
    if dense:
        groups.append(Ffn(count=dense, width=fields.need("intermediate_size"), matrices=2))
    if sparse:
        groups.append(feed_forward(fields, sparse)[-1])
    return tuple(groups)


def zamba2(fields: Fields) -> tuple[Layers, ...]:
    """Zamba2: Mamba-2 everywhere, and shared attention blocks in the hybrid layers, on twice the width, each use
    with KV of its own.
    """
    count, hidden = layer_count(fields), hidden_size(fields)
    types = fields.sequence("layers_block_type", count)
    if not types:
        ids = fields.get("hybrid_layer_ids")
        if ids is None:
            raise fields.refuse("the kinds of its layers are not clear", "layers_block_type", "hybrid_layer_ids")
        types = ["hybrid" if i in ids else "mamba" for i in range(count)]
    heads, inner = query_heads(fields), fields.need("mamba_expand") * hidden
    dim = fields.number("attention_head_dim") or 2 * hidden // heads
    shape = {
        "query_heads": heads,
        "kv_heads": fields.number("num_key_value_heads") or heads,
        "k_dim": dim,
        "v_dim": dim,
    }
    mamba_heads = fields.need("n_mamba_heads")
    state = _mamba2(
        hidden,
        mamba_heads,
        inner // mamba_heads,
        fields.need("mamba_d_state"),
        fields.need("mamba_ngroups"),
        fields.need("mamba_d_conv"),
    )
    hybrids = sum(kind == "hybrid" for kind in types)
    full = msgspec.structs.replace(attention_layer(2 * hidden, "full", shape), count=hybrids, params=0)
    return (msgspec.structs.replace(state, count=count), full)


def phi4flash(fields: Fields) -> tuple[Layers, ...]:
    """Phi-4-mini-flash (SambaY): Mamba-1 and windows in turn in the first half; one full layer, whose KV all later attention
    reads; the rest keeps nothing. arXiv 2507.06607.
    """
    count, hidden, shape, period = layer_count(fields), hidden_size(fields), geometry(fields), fields.need("mb_per_layer")
    window = fields.need("sliding_window")
    mamba = _mamba1(
        hidden,
        fields.need("mamba_expand") * hidden,
        fields.need("mamba_d_state"),
        fields.need("mamba_d_conv"),
        _rank(fields, "mamba_dt_rank"),
    )
    full, sliding = attention_layer(hidden, "full", shape), attention_layer(hidden, "window", shape, window)
    reader = msgspec.structs.replace(full, kind="shared", params=2 * hidden * shape["query_heads"] * shape["k_dim"])
    gate = Layers(kind="none", count=1, params=2 * hidden * fields.need("mamba_expand") * hidden)
    half = count // 2
    first = [mamba if i % period == 0 else sliding for i in range(half)]
    return group([*first, mamba, full, *(gate if i % period == 0 else reader for i in range(half + 2, count))])


def hymba(fields: Fields) -> tuple[Layers, ...]:
    """Hymba: attention and Mamba-1 side by side in every layer; `global_attn_idx` attend to everything, the others to a window,
    and the layers of a `kv_reuse_group` share the first one's KV. arXiv 2411.13676.
    """
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    everything = fields.get("global_attn_idx")
    if everything is None:
        raise fields.refuse("the kinds of its layers are not clear", "global_attn_idx")
    readers = {layer for layers in fields.get("kv_reuse_group") or () for layer in layers[1:]}
    inner = fields.need("mamba_expand") * hidden
    mamba = _mamba1(hidden, inner, fields.need("mamba_d_state"), fields.need("mamba_d_conv"), _rank(fields, "mamba_dt_rank"))
    full, sliding = attention_layer(hidden, "full", shape), attention_layer(hidden, "window", shape, fields.need("sliding_window"))
    shared = msgspec.structs.replace(full, kind="shared")
    kinds = [shared if i in readers else full if i in everything else sliding for i in range(count)]
    return (*group(kinds), msgspec.structs.replace(mamba, count=count))


def lfm2(fields: Fields) -> tuple[Layers, ...]:
    """LFM2: short convolutions with `conv_L_cache` - 1 kept inputs, and some attention layers."""
    count, hidden = layer_count(fields), hidden_size(fields)
    types = fields.sequence("layer_types", count)
    if not types:
        indices = fields.get("full_attn_idxs")
        if indices is None:
            raise fields.refuse("the kinds of its layers are not clear", "layer_types", "full_attn_idxs")
        types = [FULL if i in indices else "conv" for i in range(count)]
    kept = fields.need("conv_L_cache") - 1
    conv = Layers(kind="state", count=1, conv_elements=hidden * kept, params=4 * hidden * hidden + hidden * (kept + 1))
    kinds = {FULL: attention_layer(hidden, "full", geometry(fields)), "conv": conv}
    if SLIDING in types:  # LFM3
        kinds[SLIDING] = attention_layer(hidden, "window", geometry(fields), fields.need("sliding_window"))
    return mixed(fields, types, kinds)


def recurrent_gemma(fields: Fields) -> tuple[Layers, ...]:
    """RecurrentGemma: linear recurrences (state in fp32) and local attention in turn. arXiv 2404.07839."""
    count, hidden = layer_count(fields), hidden_size(fields)
    pattern = fields.get("block_types", "_block_types")
    if not pattern:
        raise fields.refuse("the kinds of its layers are not clear", "block_types")
    width, kernel = fields.number("lru_width") or hidden, fields.number("conv1d_width") or 4
    state = Layers(
        kind="state",
        count=1,
        state_elements=width,
        state_dtype="fp32",
        conv_elements=width * (kernel - 1),
        params=3 * hidden * width,
    )
    local = attention_layer(hidden, "window", geometry(fields), fields.need("attention_window_size"))
    return mixed(fields, [pattern[i % len(pattern)] for i in range(count)], {"recurrent": state, "attention": local})
