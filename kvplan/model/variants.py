"""Families with attention of their own: head counts, windows or sharing that differ from layer to layer or by name."""

from __future__ import annotations

from typing import Any

import msgspec

from kvplan.model.attention import (
    CHUNKED,
    FULL,
    SLIDING,
    attention_layer,
    geometry,
    group,
    hidden_size,
    layer_count,
    layer_types,
    many,
    query_heads,
)
from kvplan.model.config import Fields
from kvplan.model.spec import Layers


def falcon(fields: Fields) -> tuple[Layers, ...]:
    """Falcon: one KV head unless `new_decoder_architecture` (then num_kv_heads) or `multi_query` is off."""
    heads, hidden = query_heads(fields), hidden_size(fields)
    if not fields.whole and fields.given("multi_query") is None and fields.given("new_decoder_architecture") is None:
        raise fields.refuse(
            "multi_query and new_decoder_architecture are missing, and there is no model_type that would settle them",
            "architectures",
        )
    if fields.get("new_decoder_architecture"):
        kv = fields.number("num_kv_heads", "n_head_kv") or heads
    else:
        kv = 1 if fields.get("multi_query") else heads
    dim = hidden // heads
    return (
        many(
            attention_layer(hidden, "full", {"query_heads": heads, "kv_heads": kv, "k_dim": dim, "v_dim": dim}),
            layer_count(fields),
        ),
    )


def bigcode(fields: Fields) -> tuple[Layers, ...]:
    """GPT-BigCode: one KV head unless `multi_query` is off."""
    shape = geometry(fields) | ({"kv_heads": 1} if fields.get("multi_query") in (None, True) else {"kv_heads": query_heads(fields)})
    return (many(attention_layer(hidden_size(fields), "full", shape), layer_count(fields)),)


def chatglm(fields: Fields) -> tuple[Layers, ...]:
    """ChatGLM-2/3 and GLM-4 with the older field names."""
    shape = geometry(fields)
    groups = fields.number("multi_query_group_num")
    shape["kv_heads"] = groups if fields.get("multi_query_attention") and groups else shape["query_heads"]
    return (many(attention_layer(hidden_size(fields), "full", shape), layer_count(fields)),)


def nested_attention(fields: Fields) -> tuple[Layers, ...]:
    """DBRX and MPT: KV heads inside `attn_config`."""
    inner: dict[str, Any] = fields.get("attn_config") or {}
    shape = geometry(fields) | {"kv_heads": int(inner.get("kv_n_heads") or query_heads(fields))}
    if inner.get("attn_type") == "multiquery_attention":
        shape["kv_heads"] = 1
    return (many(attention_layer(hidden_size(fields), "full", shape), layer_count(fields)),)


def gpt_neo(fields: Fields) -> tuple[Layers, ...]:
    """GPT-Neo: global and local layers in turn."""
    pattern = [kind for kinds, times in fields.get("attention_types") or [] for _ in range(times) for kind in kinds]
    pattern = fields.sequence("attention_layers", layer_count(fields)) or pattern
    if len(pattern) != layer_count(fields):
        raise fields.refuse("the kinds of its layers are not clear", "attention_types", "attention_layers")
    shape, hidden, window = geometry(fields), hidden_size(fields), fields.need("window_size")
    full, local = attention_layer(hidden, "full", shape), attention_layer(hidden, "window", shape, window)
    return group(local if kind == "local" else full for kind in pattern)


def llama4(fields: Fields) -> tuple[Layers, ...]:
    """Llama-4: chunked attention wherever there is rotary position; every `no_rope_layer_interval`-th layer attends
    to everything.
    """
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    types = fields.sequence("layer_types", count)
    if not types:
        rotary = fields.given("no_rope_layers") or []
        interval = fields.given("no_rope_layer_interval") or 4
        rotary = rotary or [int((i + 1) % interval != 0) for i in range(count)]
        types = [CHUNKED if rotates else FULL for rotates in rotary[:count]]
    chunk = fields.number("attention_chunk_size")
    full = attention_layer(hidden, "full", shape)
    chunked = attention_layer(hidden, "chunked", shape, chunk) if chunk else full
    if unknown := set(types) - {CHUNKED, FULL}:
        raise fields.refuse(f"layer types {', '.join(sorted(unknown))} are not known for this family", "layer_types")
    return group(chunked if kind == CHUNKED else full for kind in types)


def gemma_shared(fields: Fields) -> tuple[Layers, ...]:
    """Gemma-3n and Gemma-4: global layers may have heads of their own, and the last `num_kv_shared_layers` read an
    earlier layer's KV.
    """
    count, hidden, shape, types = layer_count(fields), hidden_size(fields), geometry(fields), layer_types(fields)
    wide = dict(shape)
    if dim := fields.number("global_head_dim"):
        wide |= {"k_dim": dim, "v_dim": dim}
    if heads := fields.number("num_global_key_value_heads"):
        wide["kv_heads"] = heads
    alone = count - (fields.number("num_kv_shared_layers") or 0)
    window = fields.need("sliding_window")
    layers = []
    for i, kind in enumerate(types):
        layer = attention_layer(hidden, "window", shape, window) if kind == SLIDING else attention_layer(hidden, "full", wide)
        if kind == FULL and fields.get("attention_k_eq_v"):  # one matrix makes both, but both are stored
            layer = msgspec.structs.replace(layer, params=layer.params - hidden * wide["kv_heads"] * wide["v_dim"])
        if i >= alone:
            own = hidden * shape["query_heads"] * (layer.k_dim + layer.v_dim)
            layer = msgspec.structs.replace(layer, kind="shared", params=own)
        layers.append(layer)
    return group(layers)


def hunyuan(fields: Fields) -> tuple[Layers, ...]:
    """Hunyuan: with `use_cla` only every `cla_share_factor`-th layer keeps KV."""
    layer = attention_layer(hidden_size(fields), "full", geometry(fields))
    factor = (fields.number("cla_share_factor") or 1) if fields.get("use_cla") else 1
    count = layer_count(fields)
    own = -(-count // factor)
    shared = msgspec.structs.replace(layer, kind="shared")
    return tuple(many(one, number) for one, number in ((layer, own), (shared, count - own)) if number)


def mimo_v2(fields: Fields) -> tuple[Layers, ...]:
    """MiMo-V2: full and sliding layers with head counts and dimensions of their own, K wider than V."""
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    pattern = fields.sequence("hybrid_layer_pattern", count)
    if not pattern and fields.get("layer_types"):
        pattern = [kind == SLIDING for kind in layer_types(fields)]
    if not pattern:
        raise fields.refuse("the kinds of its layers are not clear", "hybrid_layer_pattern")
    narrow = {
        "query_heads": fields.need("swa_num_attention_heads"),
        "kv_heads": fields.need("swa_num_key_value_heads"),
        "k_dim": fields.need("swa_head_dim"),
        "v_dim": fields.need("swa_v_head_dim"),
    }
    full, sliding = (
        attention_layer(hidden, "full", shape),
        attention_layer(hidden, "window", narrow, fields.need("sliding_window")),
    )
    return group(sliding if slides else full for slides in pattern)


def step3(fields: Fields) -> tuple[Layers, ...]:
    """Step-3.5/3.7: sliding layers may have heads of their own in `attention_other_setting`."""
    other: dict[str, Any] = fields.get("attention_other_setting") or {}
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    if groups := fields.number("num_attention_groups"):
        shape["kv_heads"] = groups
    if not fields.get("layer_types"):
        raise fields.refuse("the kinds of its layers are not clear", "layer_types")
    names = {"num_attention_heads": "query_heads", "num_attention_groups": "kv_heads", "head_dim": "k_dim"}
    narrow = shape | {ours: int(other[theirs]) for theirs, ours in names.items() if other.get(theirs)}
    narrow["v_dim"] = narrow["k_dim"]
    full, sliding = (
        attention_layer(hidden, "full", shape),
        attention_layer(hidden, "window", narrow, fields.need("sliding_window")),
    )
    return group(sliding if kind == SLIDING else full for kind in layer_types(fields)[:count])


def block_configs(fields: Fields) -> tuple[Layers, ...]:
    """Nemotron Super and Ultra (DeciLM): heads per layer, some layers without attention."""
    count, hidden = layer_count(fields), hidden_size(fields)
    heads = query_heads(fields)
    dim = fields.number("head_dim") or hidden // heads
    blocks = fields.sequence("block_configs", count)
    per_layer = fields.sequence("num_key_value_heads_per_layer", count)
    if not blocks and not per_layer:
        raise fields.refuse("the KV heads of its layers are not clear", "block_configs", "num_key_value_heads_per_layer")
    layers = []
    for i in range(count):
        attention = blocks[i].get("attention", {}) if blocks else {"n_heads_in_group": heads // per_layer[i]}  # type: ignore[index]
        if strange := [name for name in ("sparsify", "window_length", "unshifted_sink", "num_sink_tokens", "mamba") if attention.get(name)]:
            raise fields.refuse(f"block_configs[{i}].attention has {', '.join(strange)}, which kvplan cannot interpret")
        if attention.get("no_op"):
            layers.append(Layers(kind="none", count=1))
        elif attention.get("replace_with_linear"):
            layers.append(Layers(kind="none", count=1, params=hidden * hidden))
        else:
            shared = int(attention.get("n_heads_in_group") or 0)
            kv = heads // shared if shared else int(attention.get("num_key_value_heads") or 0)
            if not kv:
                raise fields.refuse(f"block_configs[{i}].attention names no KV heads")
            layers.append(attention_layer(hidden, "full", {"query_heads": heads, "kv_heads": kv, "k_dim": dim, "v_dim": dim}))
    return group(layers)


def openelm(fields: Fields) -> tuple[Layers, ...]:
    """OpenELM: heads per layer as lists."""
    count, hidden, dim = layer_count(fields), hidden_size(fields), fields.need("head_dim")
    query, kv = fields.sequence("num_query_heads", count), fields.sequence("num_kv_heads", count)
    if not query or not kv:
        raise fields.refuse("the heads of its layers are not clear", "num_query_heads", "num_kv_heads")
    shapes = [{"query_heads": q, "kv_heads": k, "k_dim": dim, "v_dim": dim} for q, k in zip(query, kv, strict=True)]
    return group(attention_layer(hidden, "full", shape) for shape in shapes)


def cross_decoder(fields: Fields) -> tuple[Layers, ...]:
    """Encoder-decoder: every decoder layer keeps its own K and V and those of the encoder's output."""
    count, hidden, heads = layer_count(fields), hidden_size(fields), query_heads(fields)
    dim = fields.number("d_kv", "head_dim") or hidden // heads
    shape = {"query_heads": heads, "kv_heads": heads, "k_dim": dim, "v_dim": dim}
    fixed = fields.number("max_source_positions") or 0
    return (
        many(attention_layer(hidden, "full", shape), count),
        many(attention_layer(hidden, "cross", shape, fixed), count),
    )


def mllama(fields: Fields) -> tuple[Layers, ...]:
    """Llama-3.2 Vision: `cross_attention_layers` keep K and V of the image, not of the text."""
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    crossing = len(fields.get("cross_attention_layers") or ())
    vision = fields.outer.get("vision_config") or {}
    side, patch, tiles = (
        int(vision.get("image_size", 560)),
        int(vision.get("patch_size", 14)),
        int(vision.get("max_num_tiles", 4)),
    )
    image = ((side // patch) ** 2 + 1) * tiles
    full, cross = attention_layer(hidden, "full", shape), attention_layer(hidden, "cross", shape, image)
    return tuple(many(one, number) for one, number in ((full, count - crossing), (cross, crossing)) if number)
