"""Layers of one config whose tokens mix by attention: plain, windowed, chunked, shared, latent and cross."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from kvplan.model.fields import Fields
from kvplan.model.spec import Kind, Layers

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
LINEAR = ("linear_attention", "mamba", "conv")


def layer_count(fields: Fields) -> int:
    """Decoder layers."""
    if fields.family == "nemotron_h" and (types := fields.given("layers_block_type")):
        return len(types)
    return fields.need("num_hidden_layers", "n_layer", "n_layers", "num_decoder_layers", "decoder_layers", "num_layers")


def hidden_size(fields: Fields) -> int:
    """Width of the residual stream."""
    return fields.need("hidden_size", "n_embd", "n_embed", "d_model", "model_dim", "hidden_dim", "dim")


def query_heads(fields: Fields) -> int:
    return fields.need("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")


_ALWAYS_MULTI_HEAD = {
    "gpt2", "gptj", "gpt_neo", "gpt_neox", "gpt_neox_japanese", "codegen", "opt", "bloom", "phi-msft", "baichuan", "xglm", "biogpt",
    "bart", "mbart", "pegasus", "m2m_100", "marian", "blenderbot", "t5", "mt5", "umt5", "longt5", "switch_transformers", "whisper",
    "gptsan-japanese", "ctrl", "xverse", "qwen", "jais", "imagegpt", "persimmon", "fuyu", "speech_to_text", "plbart", "led", "musicgen_decoder",
}  # fmt: skip
"""Families whose code has one K and V per query head whatever the config says."""


def kv_heads(fields: Fields, heads: int) -> int:
    """KV heads per layer: the config's, or as many as query heads where the family has no other kind."""
    own = fields.number("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "num_query_groups")
    if own:
        return own
    if fields.family in _ALWAYS_MULTI_HEAD or fields.whole:
        return heads
    raise fields.refuse("num_key_value_heads is missing and there is no model_type that would settle it", "architectures")


def geometry(fields: Fields) -> dict[str, int]:
    """Heads of one layer and their dimensions, as arguments of Layers."""
    heads = query_heads(fields)
    given = fields.number("head_dim", "attention_head_dim", "d_kv", "kv_channels", "head_size")
    hidden = hidden_size(fields)
    if not given and hidden % heads:
        raise fields.refuse("the width is not a multiple of the heads and head_dim is missing", "hidden_size", "num_attention_heads")
    dim = given or hidden // heads
    return {"query_heads": heads, "kv_heads": kv_heads(fields, heads), "k_dim": dim, "v_dim": fields.number("v_head_dim") or dim}


def attention_params(hidden: int, shape: dict[str, int], *, gated: bool = False) -> int:
    """Matrix parameters of one attention: q (twice with an output gate), k, v and o."""
    heads, kv, k_dim, v_dim = shape["query_heads"], shape["kv_heads"], shape["k_dim"], shape["v_dim"]
    return hidden * (heads * k_dim * (2 if gated else 1) + kv * (k_dim + v_dim) + heads * v_dim)


def group(layers: Iterable[Layers]) -> tuple[Layers, ...]:
    """Equal layers merged, in the order of their first occurrence."""
    counts = Counter(layers)
    return tuple(msgspec.structs.replace(layer, count=layer.count * count) for layer, count in counts.items())


def _layer(hidden: int, kind: Kind, shape: dict[str, int], window: int = 0, *, gated: bool = False) -> Layers:
    return Layers(kind=kind, count=1, window_tokens=window, params=attention_params(hidden, shape, gated=gated), **shape)


def plain(fields: Fields) -> tuple[Layers, ...]:
    """Every layer alike. A window counts where the family applies it, see `window`."""
    shape, hidden, types = geometry(fields), hidden_size(fields), layer_types(fields)
    size = fields.number("sliding_window") or 0
    if any(kind == SLIDING for kind in types) and not size:
        raise fields.refuse("some layers slide but sliding_window is missing", "layer_types", "sliding_window")
    gated = bool(fields.get("attn_output_gate"))
    full = _layer(hidden, "full", shape, gated=gated)
    sliding = _layer(hidden, "window", shape, size, gated=gated)
    return group(sliding if kind == SLIDING else full for kind in types)


def layer_types(fields: Fields) -> list[str]:
    """`full_attention` or `sliding_attention` of each layer: the config's own list, else the rule of the family."""
    count = layer_count(fields)
    if given := fields.sequence("layer_types", count):
        names = {"attention": FULL, "full": FULL, "global": FULL, "sliding": SLIDING, "local": SLIDING}
        types = [names.get(str(kind), str(kind)) for kind in given]
        if unknown := set(types) - {FULL, SLIDING}:
            raise fields.refuse(f"layer types {', '.join(sorted(unknown))} are not known for this family", "layer_types")
        return types
    rule = _TYPES.get(fields.family)
    return rule(fields, count) if rule else [FULL] * count


def _every(period: int, count: int) -> list[str]:
    return [FULL if (i + 1) % period == 0 else SLIDING for i in range(count)]


def _all_slide(fields: Fields, count: int) -> list[str]:
    return [SLIDING if fields.number("sliding_window") else FULL] * count


def _qwen(fields: Fields, count: int) -> list[str]:
    if not fields.get("use_sliding_window") or not fields.number("sliding_window"):
        return [FULL] * count
    first = fields.number("max_window_layers") or 0
    return [SLIDING if i >= first else FULL for i in range(count)]


def _pattern(default: int):  # type: ignore[no-untyped-def]
    def types(fields: Fields, count: int) -> list[str]:
        pattern = fields.get("sliding_window_pattern", "_sliding_window_pattern")
        if isinstance(pattern, str):
            return [SLIDING if pattern[i % len(pattern)] == "L" else FULL for i in range(count)]
        if not fields.number("sliding_window"):
            return [FULL] * count
        return _every(int(pattern or default), count)

    return types


def _afmoe(fields: Fields, count: int) -> list[str]:
    return _every(fields.number("global_attn_every_n_layers") or 4, count)


def _alternate(fields: Fields, count: int) -> list[str]:
    return [SLIDING if i % 2 == 0 else FULL for i in range(count)]


_TYPES = {
    "mistral": _all_slide,
    "mixtral": _all_slide,
    "phi3": _all_slide,
    "phi3_v": _all_slide,
    "phi4_multimodal": _all_slide,
    "phimoe": _all_slide,
    "starcoder2": _all_slide,
    "minimax_m2": lambda fields, count: [FULL] * count,
    "qwen2": _qwen,
    "qwen2_moe": _qwen,
    "qwen2_vl": _qwen,
    "qwen2_vl_text": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen2_5_vl_text": _qwen,
    "qwen3": _qwen,
    "qwen3_moe": _qwen,
    "mimo": _qwen,
    "gemma2": _alternate,
    "gpt_oss": _alternate,
    "gemma3": _pattern(6),
    "gemma3_text": _pattern(6),
    "cohere2": _pattern(4),
    "olmo3": _pattern(4),
    "exaone4": _pattern(4),
    "exaone_moe": _pattern(4),
    "afmoe": _afmoe,
}
"""model_type -> the kinds of its layers where the config has no `layer_types`; families that are absent here attend to everything."""


def falcon(fields: Fields) -> tuple[Layers, ...]:
    """Falcon: one KV head unless `new_decoder_architecture` (then num_kv_heads) or `multi_query` is off."""
    heads, hidden = query_heads(fields), hidden_size(fields)
    if not fields.whole and fields.given("multi_query") is None and fields.given("new_decoder_architecture") is None:
        raise fields.refuse("multi_query and new_decoder_architecture are missing, and there is no model_type that would settle them", "architectures")
    if fields.get("new_decoder_architecture"):
        kv = fields.number("num_kv_heads", "n_head_kv") or heads
    else:
        kv = 1 if fields.get("multi_query") else heads
    dim = hidden // heads
    return (_many(_layer(hidden, "full", {"query_heads": heads, "kv_heads": kv, "k_dim": dim, "v_dim": dim}), layer_count(fields)),)


def bigcode(fields: Fields) -> tuple[Layers, ...]:
    """GPT-BigCode: one KV head unless `multi_query` is off."""
    shape = geometry(fields) | ({"kv_heads": 1} if fields.get("multi_query") in (None, True) else {"kv_heads": query_heads(fields)})
    return (_many(_layer(hidden_size(fields), "full", shape), layer_count(fields)),)


def chatglm(fields: Fields) -> tuple[Layers, ...]:
    """ChatGLM-2/3 and GLM-4 with the older field names."""
    shape = geometry(fields)
    groups = fields.number("multi_query_group_num")
    shape["kv_heads"] = groups if fields.get("multi_query_attention") and groups else shape["query_heads"]
    return (_many(_layer(hidden_size(fields), "full", shape), layer_count(fields)),)


def nested_attention(fields: Fields) -> tuple[Layers, ...]:
    """DBRX and MPT: KV heads inside `attn_config`."""
    inner: dict[str, Any] = fields.get("attn_config") or {}
    shape = geometry(fields) | {"kv_heads": int(inner.get("kv_n_heads") or query_heads(fields))}
    if inner.get("attn_type") == "multiquery_attention":
        shape["kv_heads"] = 1
    return (_many(_layer(hidden_size(fields), "full", shape), layer_count(fields)),)


def gpt_neo(fields: Fields) -> tuple[Layers, ...]:
    """GPT-Neo: global and local layers in turn."""
    pattern = [kind for kinds, times in fields.get("attention_types") or [] for _ in range(times) for kind in kinds]
    pattern = fields.sequence("attention_layers", layer_count(fields)) or pattern
    if len(pattern) != layer_count(fields):
        raise fields.refuse("the kinds of its layers are not clear", "attention_types", "attention_layers")
    shape, hidden, window = geometry(fields), hidden_size(fields), fields.need("window_size")
    full, local = _layer(hidden, "full", shape), _layer(hidden, "window", shape, window)
    return group(local if kind == "local" else full for kind in pattern)


def llama4(fields: Fields) -> tuple[Layers, ...]:
    """Llama-4: chunked attention wherever there is rotary position; every `no_rope_layer_interval`-th layer attends to everything."""
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    types = fields.sequence("layer_types", count)
    if not types:
        rotary = fields.given("no_rope_layers") or []
        interval = fields.number("no_rope_layer_interval") or 4
        rotary = rotary or [int((i + 1) % interval != 0) for i in range(count)]
        types = [CHUNKED if rotates else FULL for rotates in rotary[:count]]
    chunk = fields.number("attention_chunk_size")
    full = _layer(hidden, "full", shape)
    chunked = _layer(hidden, "chunked", shape, chunk) if chunk else full
    if unknown := set(types) - {CHUNKED, FULL}:
        raise fields.refuse(f"layer types {', '.join(sorted(unknown))} are not known for this family", "layer_types")
    return group(chunked if kind == CHUNKED else full for kind in types)


def gemma_shared(fields: Fields) -> tuple[Layers, ...]:
    """Gemma-3n and Gemma-4: global layers may have heads of their own, and the last `num_kv_shared_layers` read an earlier layer's KV."""
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    period = 5 if fields.family.startswith("gemma3n") else 6
    types = layer_types(fields) if fields.get("layer_types") else _every(period, count)
    if not fields.get("layer_types") and fields.family.startswith("gemma4"):
        types[-1] = FULL
    wide = dict(shape)
    if dim := fields.number("global_head_dim"):
        wide |= {"k_dim": dim, "v_dim": dim}
    if heads := fields.number("num_global_key_value_heads"):
        wide["kv_heads"] = heads
    alone = count - (fields.number("num_kv_shared_layers") or 0)
    window = fields.need("sliding_window")
    layers = []
    for i, kind in enumerate(types):
        layer = _layer(hidden, "window", shape, window) if kind == SLIDING else _layer(hidden, "full", wide)
        if kind == FULL and fields.get("attention_k_eq_v"):  # one matrix makes both, but both are stored
            layer = msgspec.structs.replace(layer, params=layer.params - hidden * wide["kv_heads"] * wide["v_dim"])
        if i >= alone:
            own = hidden * shape["query_heads"] * (layer.k_dim + layer.v_dim)
            layer = msgspec.structs.replace(layer, kind="shared", params=own)
        layers.append(layer)
    return group(layers)


def hunyuan(fields: Fields) -> tuple[Layers, ...]:
    """Hunyuan: with `use_cla` only every `cla_share_factor`-th layer keeps KV."""
    layer = _layer(hidden_size(fields), "full", geometry(fields))
    factor = (fields.number("cla_share_factor") or 1) if fields.get("use_cla") else 1
    count = layer_count(fields)
    own = -(-count // factor)
    shared = msgspec.structs.replace(layer, kind="shared")
    return tuple(_many(one, number) for one, number in ((layer, own), (shared, count - own)) if number)


def mimo_v2(fields: Fields) -> tuple[Layers, ...]:
    """MiMo-V2: full and sliding layers with head counts and dimensions of their own, K wider than V."""
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    pattern = fields.sequence("hybrid_layer_pattern", count)
    if not pattern:
        raise fields.refuse("the kinds of its layers are not clear", "hybrid_layer_pattern")
    narrow = {
        "query_heads": fields.need("swa_num_attention_heads"),
        "kv_heads": fields.need("swa_num_key_value_heads"),
        "k_dim": fields.need("swa_head_dim"),
        "v_dim": fields.need("swa_v_head_dim"),
    }
    full, sliding = _layer(hidden, "full", shape), _layer(hidden, "window", narrow, fields.need("sliding_window"))
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
    full, sliding = _layer(hidden, "full", shape), _layer(hidden, "window", narrow, fields.need("sliding_window"))
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
            layers.append(_layer(hidden, "full", {"query_heads": heads, "kv_heads": kv, "k_dim": dim, "v_dim": dim}))
    return group(layers)


def openelm(fields: Fields) -> tuple[Layers, ...]:
    """OpenELM: heads per layer as lists."""
    count, hidden, dim = fields.need("num_transformer_layers"), hidden_size(fields), fields.need("head_dim")
    query, kv = fields.sequence("num_query_heads", count), fields.sequence("num_kv_heads", count)
    if not query or not kv:
        raise fields.refuse("the heads of its layers are not clear", "num_query_heads", "num_kv_heads")
    shapes = [{"query_heads": q, "kv_heads": k, "k_dim": dim, "v_dim": dim} for q, k in zip(query, kv, strict=True)]
    return group(_layer(hidden, "full", shape) for shape in shapes)


def latent(fields: Fields) -> tuple[Layers, ...]:
    """Multi-head latent attention: one vector of kv_lora_rank + qk_rope_head_dim per token, with a sparse indexer where the config has one."""
    layer = latent_layer(fields)
    count = layer_count(fields)
    if fields.family == "longcat_flash":  # two attentions a layer
        count *= 2
    index = fields.number("index_head_dim") if fields.given("index_topk") else 0
    if not index:
        return (_many(layer, count),)
    types = fields.sequence("indexer_types", count) or ["full"] * count
    if unknown := {str(kind) for kind in types} - {"full", "shared"}:
        raise fields.refuse(f"indexer types {', '.join(sorted(unknown))} are not known", "indexer_types")
    hidden = hidden_size(fields)
    extra = index * ((fields.number("q_lora_rank") or hidden) * fields.need("index_n_heads") + hidden) + hidden * fields.need("index_n_heads")
    indexed = msgspec.structs.replace(
        layer, index_dim=index, params=layer.params + extra, replicated_params=layer.replicated_params + extra
    )
    return group(indexed if kind == "full" else layer for kind in types)


def latent_layer(fields: Fields) -> Layers:
    """One latent layer."""
    hidden, heads = hidden_size(fields), query_heads(fields)
    rank, rope = fields.need("kv_lora_rank"), fields.number("qk_rope_head_dim") or 0
    nope, v_dim = fields.need("qk_nope_head_dim"), fields.need("v_head_dim")
    low = fields.number("q_lora_rank")
    q_up = heads * (nope + rope) * (low or hidden)
    replicated = hidden * (rank + rope) + (hidden * low if low else 0)
    sharded = q_up + rank * heads * (nope + v_dim) + heads * v_dim * hidden
    return Layers(
        kind="latent", count=1, query_heads=heads, kv_heads=1, k_dim=nope + rope, v_dim=v_dim, latent_dim=rank + rope,
        params=replicated + sharded, replicated_params=replicated, up_params=rank * heads * (nope + v_dim),
    )  # fmt: skip


def cross_decoder(fields: Fields) -> tuple[Layers, ...]:
    """Encoder-decoder: every decoder layer keeps its own K and V and those of the encoder's output."""
    count, hidden, heads = fields.need("decoder_layers", "num_decoder_layers", "num_layers"), hidden_size(fields), query_heads(fields)
    dim = fields.number("d_kv", "head_dim") or hidden // heads
    shape = {"query_heads": heads, "kv_heads": heads, "k_dim": dim, "v_dim": dim}
    fixed = fields.need("max_source_positions") if fields.family == "whisper" else 0
    return (_many(_layer(hidden, "full", shape), count), _many(_layer(hidden, "cross", shape, fixed), count))


def mllama(fields: Fields) -> tuple[Layers, ...]:
    """Llama-3.2 Vision: `cross_attention_layers` keep K and V of the image, not of the text."""
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    crossing = len(fields.get("cross_attention_layers") or ())
    vision = fields.outer.get("vision_config") or {}
    side, patch, tiles = int(vision.get("image_size", 560)), int(vision.get("patch_size", 14)), int(vision.get("max_num_tiles", 4))
    image = ((side // patch) ** 2 + 1) * tiles
    full, cross = _layer(hidden, "full", shape), _layer(hidden, "cross", shape, image)
    return tuple(_many(one, number) for one, number in ((full, count - crossing), (cross, crossing)) if number)


def _many(layer: Layers, count: int) -> Layers:
    return msgspec.structs.replace(layer, count=count)
