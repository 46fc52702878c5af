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
    shares, heads = fields.given("attention_k_eq_v"), fields.number("num_global_key_value_heads")
    if heads and shares is not False:  # files that do not say follow the number of heads alone
        wide["kv_heads"], shares = heads, True
    alone = count - (fields.number("num_kv_shared_layers") or 0)
    window, layers = fields.need("sliding_window"), []
    told = {int(i): one for i, one in (fields.get("per_layer_config") or {}).items()}  # how newer files say what differs
    for i, kind in enumerate(types):
        of = _told_shape(fields, shape, told.get(i, {})) if told else wide if kind == FULL else shape
        layer = attention_layer(hidden, "window", of, window) if kind == SLIDING else attention_layer(hidden, "full", of)
        if kind == FULL and shares:  # one matrix makes both, but both are stored
            layer = msgspec.structs.replace(layer, params=layer.params - hidden * layer.kv_heads * layer.v_dim)
        if i >= alone:
            reads = hidden * shape["query_heads"] * (layer.k_dim + layer.v_dim)
            layer = msgspec.structs.replace(layer, kind="shared", params=reads)
        layers.append(layer)
    return group(layers)


def _told_shape(fields: Fields, shape: dict[str, int], told: dict[str, Any]) -> dict[str, int]:
    """A layer's shape with what `per_layer_config` says of it."""
    if strange := sorted(set(told) - {"head_dim", "num_key_value_heads"}):
        raise fields.refuse(f"per_layer_config has {', '.join(strange)}, which kvplan cannot interpret", "per_layer_config")
    dim, heads = told.get("head_dim"), told.get("num_key_value_heads")
    return {**shape, **({"k_dim": int(dim), "v_dim": int(dim)} if dim else {}), **({"kv_heads": int(heads)} if heads else {})}


def hunyuan(fields: Fields) -> tuple[Layers, ...]:
    """Hunyuan: with `use_cla` only every `cla_share_factor`-th layer keeps KV."""
    layer = attention_layer(hidden_size(fields), "full", geometry(fields))
    factor = (fields.number("cla_share_factor") or 1) if fields.get("use_cla") else 1
    count = layer_count(fields)
    own = -(-count // factor)
    shared = msgspec.structs.replace(layer, kind="shared")
    return tuple(many(one, number) for one, number in ((layer, own), (shared, count - own)) if number)


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


def step3_text(fields: Fields) -> tuple[Layers, ...]:
    """Step3: multi-matrix factorisation attention: one K and one V head (`num_attention_groups`), queries through `share_q_dim`."""
    hidden, shape = hidden_size(fields), geometry(fields) | {"kv_heads": fields.need("num_attention_groups")}
    low, heads, dim = fields.need("share_q_dim"), shape["query_heads"], shape["k_dim"]
    params = hidden * low + low * heads * dim + 2 * hidden * shape["kv_heads"] * dim + heads * dim * hidden
    return (msgspec.structs.replace(attention_layer(hidden, "full", shape), count=layer_count(fields), params=params),)


def laguna(fields: Fields) -> tuple[Layers, ...]:
    """Laguna: windows by `layer_types`; `num_attention_heads_per_layer` varies the query heads only."""
    count, hidden, shape, types = layer_count(fields), hidden_size(fields), geometry(fields), layer_types(fields)
    heads = fields.sequence("num_attention_heads_per_layer", count) or [shape["query_heads"]] * count
    window = fields.need("sliding_window")

    def layer(kind: str, number: int) -> Layers:
        own = shape | {"query_heads": int(number)}
        return attention_layer(hidden, "window", own, window) if kind == SLIDING else attention_layer(hidden, "full", own)

    return group(layer(kind, number) for kind, number in zip(types, heads, strict=True))


def baichuan_m1(fields: Fields) -> tuple[Layers, ...]:
    """Baichuan-M1: the layers of `sliding_window_layers` have heads of their own; all keep `conv_window` - 1 tokens before K and V."""
    count, hidden, kept = layer_count(fields), hidden_size(fields), fields.need("conv_window") - 1
    sliding = len(set(fields.get("sliding_window_layers") or ()))

    def shape(prefix: str) -> dict[str, int]:
        heads = fields.need(f"num_{prefix}attention_heads")
        dim = hidden // heads
        return {"query_heads": heads, "kv_heads": fields.need(f"num_{prefix}key_value_heads"), "k_dim": dim, "v_dim": dim}

    def conv(of: dict[str, int], number: int) -> Layers:
        return Layers(kind="state", count=number, conv_elements=2 * of["kv_heads"] * of["k_dim"] * kept)

    wide, narrow = shape(""), shape("swa_") if sliding else shape("")
    window = fields.need("sliding_window") if sliding else 0
    return (
        many(attention_layer(hidden, "full", wide), count - sliding),
        many(attention_layer(hidden, "window", narrow, window), sliding),
        conv(wide, count - sliding),
        conv(narrow, sliding),
    )


def inkling(fields: Fields) -> tuple[Layers, ...]:
    """Inkling: window layers with KV heads of their own, and in every layer a short convolution, which vLLM keeps as a paged window of
    `conv_kernel_size` rows, each as wide as the next power of two.
    """
    hidden, kernel = hidden_size(fields), fields.need("conv_kernel_size")
    full, sliding, types = hybrid_heads(fields)
    width = 1 << (hidden - 1).bit_length()
    conv = Layers(kind="window", count=len(types), kv_heads=1, k_dim=width, v_dim=width, window_tokens=kernel, params=hidden * kernel)
    return (*group(sliding if kind == "hybrid_sliding" else full for kind in types), conv)


def hybrid_heads(fields: Fields) -> tuple[Layers, Layers, list[str]]:
    """Inkling: a full layer, a sliding one with heads of its own, and the kinds of the layers."""
    hidden, shape = hidden_size(fields), geometry(fields)
    types = fields.sequence("layer_types", layer_count(fields)) or []
    if not types or set(types) - {"hybrid", "hybrid_sliding"}:
        raise fields.refuse("the kinds of its layers are not clear", "layer_types")
    dim = fields.need("swa_head_dim")
    narrow = {
        "query_heads": fields.need("swa_num_attention_heads"),
        "kv_heads": fields.need("swa_num_key_value_heads"),
        "k_dim": dim,
        "v_dim": dim,
    }
    sliding = attention_layer(hidden, "window", narrow, fields.need("sliding_window_size", "sliding_window"))
    return attention_layer(hidden, "full", shape), sliding, [str(kind) for kind in types]


def zaya(fields: Fields) -> tuple[Layers, ...]:
    """ZAYA1: every layer keeps K and V of every token."""
    return (many(attention_layer(hidden_size(fields), "full", geometry(fields)), layer_count(fields)),)


def dory(fields: Fields) -> tuple[Layers, ...]:
    """Dory: attention and feed-forward layers by `layer_types`. Loops are refused."""
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    types = fields.sequence("layer_types", count)
    if (fields.number("n_recurrent_loops") or 1) > 1:
        raise fields.refuse("which caches its loops keep is not known", "n_recurrent_loops", "recurrent_kv_cache_mode")
    if not types or set(types) - {FULL, SLIDING, "mlp"}:
        raise fields.refuse("the kinds of its layers are not clear", "layer_types")
    kinds = {
        FULL: attention_layer(hidden, "full", shape),
        SLIDING: attention_layer(hidden, "window", shape, fields.need("sliding_window")),
        "mlp": Layers(kind="none", count=1),
    }
    return group(kinds[kind] for kind in types)
