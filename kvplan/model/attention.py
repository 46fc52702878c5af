"""Layers of one config whose tokens mix by attention: plain, windowed, chunked, shared, latent and cross."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from kvplan.model.config import Fields
from kvplan.model.spec import Kind, Layers

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


def layer_count(fields: Fields) -> int:
    """Decoder layers."""
    if not any(fields.given(name) for name in fields.rules.depth) and (types := fields.given("layers_block_type")):
        return len(types)
    return fields.need(*fields.rules.depth)


def hidden_size(fields: Fields) -> int:
    """Width of the residual stream."""
    return fields.need("hidden_size", "n_embd", "n_embed", "d_model", "model_dim", "hidden_dim", "dim")


def query_heads(fields: Fields) -> int:
    return fields.need("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "attention_heads")


def kv_heads(fields: Fields, heads: int) -> int:
    """KV heads per layer: the config's, or as many as query heads where the family has no other kind."""
    own = fields.number(*fields.rules.kv_names, "num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "num_query_groups")
    if own:
        return own
    if fields.rules.multi_head or fields.whole:
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
    return {
        "query_heads": heads,
        "kv_heads": kv_heads(fields, heads),
        "k_dim": dim,
        "v_dim": fields.number("v_head_dim") or dim,
    }


def attention_params(hidden: int, shape: dict[str, int], *, gated: bool = False) -> int:
    """Matrix parameters of one attention: q (twice with an output gate), k, v and o."""
    heads, kv, k_dim, v_dim = shape["query_heads"], shape["kv_heads"], shape["k_dim"], shape["v_dim"]
    return hidden * (heads * k_dim * (2 if gated else 1) + kv * (k_dim + v_dim) + heads * v_dim)


def group(layers: Iterable[Layers]) -> tuple[Layers, ...]:
    """Equal layers merged, in the order of their first occurrence."""
    counts = Counter(layers)
    return tuple(msgspec.structs.replace(layer, count=layer.count * count) for layer, count in counts.items())


def attention_layer(hidden: int, kind: Kind, shape: dict[str, int], window: int = 0, *, gated: bool = False) -> Layers:
    """One attention layer of `shape`, a dict of query_heads, kv_heads, k_dim and v_dim."""
    params = attention_params(hidden, shape, gated=gated)
    return Layers(kind=kind, count=1, window_tokens=window, params=params, **shape)  # type: ignore[arg-type]


def plain(fields: Fields) -> tuple[Layers, ...]:
    """Every layer alike. A window counts only in the layers to which the family applies it."""
    if fields.given("per_layer_config"):
        raise fields.refuse("layers with shapes of their own are not understood in this family", "per_layer_config")
    shape, hidden, types = geometry(fields), hidden_size(fields), layer_types(fields)
    size = (fields.number("sliding_window") or 0) if SLIDING in types else 0
    size += fields.rules.window_extra if size else 0
    if SLIDING in types and not size:
        raise fields.refuse("some layers slide but sliding_window is missing", "layer_types", "sliding_window")
    gated = fields.rules.gated or bool(fields.get("attn_output_gate"))
    full = attention_layer(hidden, "full", shape, gated=gated)
    sliding = attention_layer(hidden, "window", shape, size, gated=gated)
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
    return fields.rules.windows(fields, count) if fields.rules.windows else [FULL] * count


def latent(fields: Fields) -> tuple[Layers, ...]:
    """Multi-head latent attention: one vector of kv_lora_rank + qk_rope_head_dim per token, with a sparse indexer
    where the config has one.
    """
    if fields.get("use_mla") is False or (not fields.number("kv_lora_rank") and not fields.number("qk_nope_head_dim")):
        return plain(fields)  # the same family's older attention
    layer = latent_layer(fields)
    count = layer_count(fields) * fields.rules.mixers
    owners = fields.given("kv_source_layers")
    if owners is not None and len(set(owners)) < count:
        raise fields.refuse("layers that read another one's row are not understood", "kv_source_layers")
    index = fields.number("index_head_dim") if fields.rules.indexer or fields.given("index_topk") else 0
    if not index:
        return (many(layer, count),)
    types = fields.sequence("indexer_types", count) or _indexer_types(fields, count)
    if unknown := {str(kind) for kind in types} - {"full", "shared"}:
        raise fields.refuse(f"indexer types {', '.join(sorted(unknown))} are not known", "indexer_types")
    hidden = hidden_size(fields)
    extra = index * ((fields.number("q_lora_rank") or hidden) * fields.need("index_n_heads") + hidden) + hidden * fields.need(
        "index_n_heads"
    )
    indexed = msgspec.structs.replace(
        layer, index_dim=index, params=layer.params + extra, replicated_params=layer.replicated_params + extra
    )
    return group(indexed if kind == "full" else layer for kind in types)


def _indexer_types(fields: Fields, count: int) -> list[str]:
    """`full` layers run the sparse indexer, `shared` ones reuse the choice of the one before (GLM-5.2)."""
    if pattern := fields.given("index_topk_pattern"):
        return [{"F": "full", "S": "shared"}.get(str(kind), str(kind)) for kind in pattern]
    period = fields.number("index_topk_freq") or 1
    offset = fields.number("index_skip_topk_offset")
    skip = 2 if offset is None else offset
    return ["full" if max(i - skip + 1, 0) % period == 0 else "shared" for i in range(count)]


def latent_layer(fields: Fields) -> Layers:
    """One latent layer."""
    hidden, heads = hidden_size(fields), query_heads(fields)
    rank, rope = fields.need("kv_lora_rank"), fields.number("qk_rope_head_dim") or 0
    nope, v_dim = fields.need("qk_nope_head_dim"), fields.need("v_head_dim")
    low = fields.number("q_lora_rank")
    q_up = heads * (nope + rope) * (low or hidden) + (heads * v_dim * hidden if fields.rules.gated else 0)
    replicated = hidden * (rank + rope) + (hidden * low if low else 0)
    sharded = q_up + rank * heads * (nope + v_dim) + heads * v_dim * hidden
    return Layers(
        kind="latent",
        count=1,
        query_heads=heads,
        kv_heads=1,
        k_dim=nope + rope,
        v_dim=v_dim,
        latent_dim=rank + rope,
        rotary_dim=rope,
        params=replicated + sharded,
        replicated_params=replicated,
        up_params=rank * heads * (nope + v_dim),
    )


def many(layer: Layers, count: int) -> Layers:
    return msgspec.structs.replace(layer, count=count)
