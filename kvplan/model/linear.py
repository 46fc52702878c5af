"""Layers of one config with linear attention: gated delta nets, Kimi delta attention, lightning attention."""

from __future__ import annotations

from typing import Any

import msgspec

from kvplan.model.attention import FULL, attention_layer, geometry, hidden_size, latent_layer, layer_count
from kvplan.model.config import Fields
from kvplan.model.recurrent import LINEAR, mixed, state_dtype
from kvplan.model.spec import Layers


def delta_net(fields: Fields, *dtype_names: str) -> Layers:
    """Gated delta net: state Hv x dv x dk, convolution over q, k and v. arXiv 2412.06464."""
    hidden, kernel = hidden_size(fields), fields.need("linear_conv_kernel_dim")
    keys = fields.need("linear_num_key_heads") * fields.need("linear_key_head_dim")
    heads, v_dim = fields.need("linear_num_value_heads"), fields.need("linear_value_head_dim")
    values = heads * v_dim
    params = hidden * (2 * keys + 2 * values + 2 * heads) + (2 * keys + values) * kernel + values * hidden
    return Layers(
        kind="state",
        count=1,
        state_elements=values * fields.need("linear_key_head_dim"),
        state_dtype=state_dtype(fields, *dtype_names),
        conv_elements=(2 * keys + values) * (kernel - 1),
        params=params,
    )


def qwen_hybrid(fields: Fields) -> tuple[Layers, ...]:
    """Qwen3-Next and Qwen3.5: every `full_attention_interval`-th layer has (gated) attention, the rest gated delta
    nets.
    """
    count = layer_count(fields)
    types = fields.sequence("layer_types", count)
    if not types:
        interval = fields.number("full_attention_interval") or 4
        types = [FULL if (i + 1) % interval == 0 else LINEAR for i in range(count)]
    full = attention_layer(hidden_size(fields), "full", geometry(fields), gated=True)
    state = delta_net(fields, "mamba_ssm_dtype")
    return mixed(fields, types, {FULL: full, LINEAR: state})


def kimi_linear(fields: Fields) -> tuple[Layers, ...]:
    """Kimi-Linear: latent attention in the layers of `full_attn_layers`, Kimi delta attention in `kda_layers` (both
    count from 1). arXiv 2510.26692.
    """
    linear: dict[str, Any] = fields.get("linear_attn_config") or {}
    full, kda_layers, count = linear.get("full_attn_layers"), linear.get("kda_layers"), layer_count(fields)
    if full is None or kda_layers is None or sorted([*full, *kda_layers]) != list(range(1, count + 1)):
        raise fields.refuse("the kinds of its layers are not clear", "linear_attn_config")
    state = msgspec.structs.replace(kda(fields, linear, full_rank=bool(linear.get("use_full_rank_gate"))), count=len(kda_layers))
    hidden = hidden_size(fields)
    attention = latent_layer(fields)
    if fields.get("mla_use_output_gate"):
        attention = msgspec.structs.replace(attention, params=attention.params + hidden * attention.query_heads * attention.v_dim)
    return (msgspec.structs.replace(attention, count=len(full)), state)


def kda(fields: Fields, linear: dict[str, Any], *, full_rank: bool) -> Layers:
    """One layer of Kimi delta attention by its `num_heads`, `head_dim` and `short_conv_kernel_size`: an fp32 state of head_dim x head_dim a
    head, and a convolution over q, k and v. arXiv 2510.26692.
    """
    try:
        hidden, heads, dim, kernel = (
            hidden_size(fields),
            *(int(linear[name]) for name in ("num_heads", "head_dim", "short_conv_kernel_size")),
        )
    except KeyError:
        raise fields.refuse("the shape of its linear attention is not clear", "linear_attn_config") from None
    inner = heads * dim
    gate = hidden * inner if full_rank else hidden * dim + dim * inner
    params = 3 * hidden * inner + hidden * dim + dim * inner + gate + hidden * heads + 3 * inner * kernel + inner * hidden
    conv = 3 * inner * (kernel - 1)
    return Layers(kind="state", count=1, state_elements=inner * dim, state_dtype="fp32", conv_elements=conv, params=params)


def _lightning(fields: Fields, shape: dict[str, int]) -> Layers:
    """Lightning attention: a state of head_dim x head_dim a query head, in the model's dtype unless the engine says otherwise."""
    heads, dim = shape["query_heads"], shape["k_dim"]
    return Layers(kind="state", count=1, state_elements=heads * dim * dim, params=5 * hidden_size(fields) * heads * dim)


def _grouped(fields: Fields) -> list[str]:
    """Kinds of the layers of Ling and Ring: the last of each `layer_group_size` attends, and so do those of a group that is not whole."""
    count = layer_count(fields)
    if types := fields.sequence("layer_types", count):
        return [str(kind) for kind in types]
    size = fields.need("layer_group_size")
    return [FULL if (i + 1) % size == 0 or i >= count // size * size else LINEAR for i in range(count)]


def bailing_hybrid(fields: Fields) -> tuple[Layers, ...]:
    """Ling and Ring 2.5 and 3: latent attention, and lightning attention (2.5) or Kimi delta attention (3)."""
    if kernel := fields.number("linear_conv_kernel_dim", "short_conv_kernel_size"):
        linear = {"num_heads": fields.need("linear_num_heads", "num_attention_heads"), "short_conv_kernel_size": kernel}
        state = kda(fields, {**linear, "head_dim": fields.need("linear_head_dim", "head_dim")}, full_rank=False)
    else:
        state = _lightning(fields, geometry(fields))
    return mixed(fields, _grouped(fields), {FULL: latent_layer(fields), LINEAR: state})


def bailing_linear(fields: Fields) -> tuple[Layers, ...]:
    """Ring-linear 2.0: grouped attention, and lightning attention in between."""
    shape = geometry(fields)
    full = attention_layer(hidden_size(fields), "full", shape)
    return mixed(fields, _grouped(fields), {FULL: full, LINEAR: _lightning(fields, shape)})


def olmo_hybrid(fields: Fields) -> tuple[Layers, ...]:
    """OLMo-Hybrid: gated delta nets with states in the model's dtype, and full attention."""
    full = attention_layer(hidden_size(fields), "full", geometry(fields))
    types = fields.sequence("layer_types", layer_count(fields))
    if not types:
        raise fields.refuse("the kinds of its layers are not clear", "layer_types")
    return mixed(fields, types, {FULL: full, LINEAR: delta_net(fields)})


def minimax(fields: Fields) -> tuple[Layers, ...]:
    """MiniMax-01 and M1: lightning attention, and full attention in
    between.
    """
    count, hidden, shape = layer_count(fields), hidden_size(fields), geometry(fields)
    types = fields.sequence("layer_types", count)
    if not types:
        flags = fields.sequence("attn_type_list", count)
        if not flags:
            raise fields.refuse("the kinds of its layers are not clear", "attn_type_list", "layer_types")
        types = [FULL if flag else LINEAR for flag in flags]
    return mixed(fields, types, {FULL: attention_layer(hidden, "full", shape), LINEAR: _lightning(fields, shape)})
