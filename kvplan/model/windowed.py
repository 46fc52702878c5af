"""Families whose sliding layers have windows or heads of their own."""

from __future__ import annotations

from typing import Any

from kvplan.model.attention import SLIDING, attention_layer, geometry, group, hidden_size, layer_count, layer_types
from kvplan.model.config import Fields
from kvplan.model.spec import Layers


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


def plamo3(fields: Fields) -> tuple[Layers, ...]:
    """PLaMo-3: a window for each layer, or one and the period of the layers without."""
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    given = fields.get("interleaved_sliding_window", "sliding_window")
    if isinstance(given, list):
        return group(_windowed(hidden, shape, given[i % len(given)]) for i in range(count))
    every = fields.number("sliding_window_pattern")
    if not given or not every:
        raise fields.refuse("which of its layers slide is not clear", "sliding_window", "sliding_window_pattern")
    return group(_windowed(hidden, shape, 0 if (i + 1) % every == 0 else given) for i in range(count))


def domyn_edge(fields: Fields) -> tuple[Layers, ...]:
    """Domyn Edge: a window for each layer in `window_sizes` (not above zero: none), of which the token itself is kept as well."""
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    sizes = fields.sequence("window_sizes", count)
    if not sizes or fields.given("per_layer_config"):
        raise fields.refuse("the kinds of its layers are not clear", "window_sizes", "per_layer_config")
    return group(_windowed(hidden, shape, size + 1 if size > 0 else 0) for size in sizes)


def _windowed(hidden: int, shape: dict[str, int], window: int | None) -> Layers:
    return attention_layer(hidden, "window", shape, int(window)) if window else attention_layer(hidden, "full", shape)
