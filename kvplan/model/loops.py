"""Families whose layers run several times with the same weights and keep a cache of each run."""

from __future__ import annotations

import msgspec

from kvplan.model.attention import attention_layer, geometry, group, hidden_size, layer_count, many
from kvplan.model.config import Fields
from kvplan.model.spec import Layers
from kvplan.model.variants import hybrid_heads


def inkling_loop(fields: Fields) -> tuple[Layers, ...]:
    """Inkling-2 with loops: the layers from `loop_layer_index_start` to before `loop_layer_index_end` keep one cache for each pass."""
    full, sliding, types = hybrid_heads(fields)
    start, end, passes = fields.number("loop_layer_index_start") or 0, fields.need("loop_layer_index_end"), fields.need("loop_num_passes")
    layers = [sliding if kind == "hybrid_sliding" else full for kind in types]
    again = [msgspec.structs.replace(layer, params=0) for layer in layers[start:end]]
    return group([*layers, *again * (passes - 1)])


def hrm_text(fields: Fields) -> tuple[Layers, ...]:
    """HRM-Text: two stacks run in cycles; `num_hidden_layers` counts every run, and each keeps KV of its own."""
    count, stacks = layer_count(fields), 2 * fields.need("num_layers_per_stack")
    layer = attention_layer(hidden_size(fields), "full", geometry(fields), gated=True)
    again = msgspec.structs.replace(layer, params=0)
    return tuple(many(one, number) for one, number in ((layer, stacks), (again, count - stacks)) if number)


def ouro(fields: Fields) -> tuple[Layers, ...]:
    """Ouro: the layers run `total_ut_steps` times with the same weights, each time with a cache of their own."""
    count, times = layer_count(fields), fields.need("total_ut_steps")
    layer = attention_layer(hidden_size(fields), "full", geometry(fields))
    again = msgspec.structs.replace(layer, params=0)
    return tuple(many(one, number) for one, number in ((layer, count), (again, count * (times - 1))) if number)


def loopcoder(fields: Fields) -> tuple[Layers, ...]:
    """IQuest LoopCoder: a full cache of the first pass, and one of the last `loop_window_size` tokens for each later pass."""
    count, passes, window = layer_count(fields), fields.need("loop_num"), fields.need("loop_window_size")
    hidden, shape = hidden_size(fields), geometry(fields)
    again = msgspec.structs.replace(attention_layer(hidden, "window", shape, window), params=0)
    first = many(attention_layer(hidden, "full", shape), count)
    return tuple(one for one in (first, many(again, count * (passes - 1))) if one.count)
