"""What a config says about feed-forward layers, dense or of experts."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.model.attention import hidden_size, layer_count
from kvplan.model.config import Fields
from kvplan.model.spec import Ffn


def matrices_of(fields: Fields) -> int:
    """Matrices of one feed-forward: three with a gate, two without."""
    return fields.rules.matrices or (3 if "gated" in str(fields.get("feed_forward_proj")) else 2)


def dense_width(fields: Fields) -> int:
    """Width of a dense feed-forward layer."""
    if fields.rules.width:
        return fields.rules.width(fields)
    return usual_width(fields)


def usual_width(fields: Fields) -> int:
    """The same by the names that most families use."""
    names = (
        "intermediate_size",
        "n_inner",
        "ffn_dim",
        "d_ff",
        "decoder_ffn_dim",
        "ffn_hidden_size",
        "dense_intermediate_size",
    )
    value = fields.get(*names)
    if isinstance(value, list):
        return int(sum(value) / len(value))
    return fields.number(*names) or int(hidden_size(fields) * (fields.number("expansion_ratio") or 4))


def width_of(name: str) -> Callable[[Fields], int]:
    """A width that one field gives where it is there."""
    return lambda fields: fields.number(name) or usual_width(fields)


def half_width(fields: Fields) -> int:
    """Qwen-1 and RecurrentGemma count both halves of their gated layer."""
    return fields.need("intermediate_size") // 2


def adjusted_width(fields: Fields) -> int:
    """LFM2: two thirds of `intermediate_size` (`block_ff_dim` in older files), rounded up, where `block_auto_adjust_ff_dim`."""
    width = fields.number("block_ff_dim", "intermediate_size") or 0
    if fields.get("block_auto_adjust_ff_dim") is False:
        return width
    factor, multiple = fields.get("block_ffn_dim_multiplier"), fields.number("block_multiple_of") or 256
    return -(-int((1 if factor is None else factor) * int(2 * width / 3)) // multiple) * multiple


def experts(fields: Fields) -> int:
    """Routed experts per sparse layer; 0 for a dense model."""
    if fields.get("enable_moe_block") is False:
        return 0
    nested = fields.get("ffn_config") or {}
    return fields.number("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts") or int(nested.get("moe_num_experts", 0))


def _expert_width(fields: Fields) -> int:
    nested = fields.get("ffn_config") or {}
    own = fields.number("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size") or int(nested.get("ffn_hidden_size", 0))
    return own or fields.need("intermediate_size")


def _shared_width(fields: Fields, width: int) -> int:
    if fields.rules.shared_width:
        return fields.rules.shared_width(fields, width)
    shared = fields.number("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")
    if each := fields.number("moe_shared_expert_intermediate_size"):
        return each * (1 if shared is None else shared)
    together = fields.number("shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim")
    return width * (shared or 0) if together is None else together


def one_shared(fields: Fields, width: int) -> int:
    """One shared expert as wide as a routed one."""
    return width


def dense_shared(fields: Fields, width: int) -> int:
    """A dense layer beside the routed experts."""
    return dense_width(fields)


def _sparse_layers(fields: Fields, count: int) -> int:
    """How many of `count` layers are sparse."""
    types = fields.sequence("mlp_layer_types", count)
    if types:
        return sum(kind == "sparse" for kind in types)
    frequency = fields.get("moe_layer_freq")
    if isinstance(frequency, list):
        return sum(bool(one) for one in frequency[:count])
    if enum := fields.given("moe_layers_enum"):
        return len(enum.split(",")) if isinstance(enum, str) else len(enum)
    if interleaved := fields.number("interleave_moe_layer_step"):
        explicit = fields.given("moe_layers")
        return len(explicit) if explicit else count // interleaved
    if period := fields.number("expert_layer_period"):
        offset = fields.number("expert_layer_offset") or 0
        return sum(i % period == offset for i in range(count))
    dense = fields.number("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index") or 0
    only = set(fields.get("mlp_only_layers") or ())
    step = fields.number("decoder_sparse_step") or (frequency if isinstance(frequency, int) and not isinstance(frequency, bool) else 1) or 1
    if fields.number("decoder_sparse_step"):
        return sum(i not in only and (i + 1) % step == 0 for i in range(count))
    return sum(i >= dense and i % step == 0 for i in range(count))


def ffn(fields: Fields, count: int = 0) -> tuple[Ffn, ...]:
    """The feed-forward groups of `count` layers; 0: of every layer."""
    count = count or layer_count(fields)
    matrices, number = matrices_of(fields), experts(fields)
    if blocks := fields.given("block_configs"):
        return _per_block(fields, blocks[:count])
    if not number or number == 1:
        return (Ffn(count=count, width=dense_width(fields), matrices=matrices),)
    width, sparse = _expert_width(fields), _sparse_layers(fields, count)
    routed = Ffn(
        count=sparse,
        width=width,
        matrices=matrices,
        experts=number,
        experts_per_token=experts_per_token(fields),
        shared_width=_shared_width(fields, width),
        inner_hidden=fields.number("moe_latent_size", "routed_expert_hidden_size", "moe_hidden_size") or 0,
    )
    dense = Ffn(count=count - sparse, width=dense_width(fields), matrices=matrices) if count > sparse else None
    return (dense, routed) if dense else (routed,)


def experts_per_token(fields: Fields) -> int:
    """Routed experts that one token visits."""
    nested = fields.get("ffn_config") or {}
    found = fields.number(
        "num_experts_per_tok",
        "num_experts_per_token",
        "experts_per_token",
        "top_k_experts",
        "moe_topk",
        "moe_k",
        "topk",
        "moe_top_k",
    )
    return found or int(nested.get("moe_top_k", 0)) or fields.need("num_experts_per_tok")


def _per_block(fields: Fields, blocks: list[dict]) -> tuple[Ffn, ...]:
    hidden = hidden_size(fields)
    groups: dict[tuple[int, int], int] = {}
    for block in blocks:
        part = block.get("ffn", {})
        if part.get("no_op"):
            continue
        if part.get("replace_with_linear"):
            width, matrices = hidden, 1
        elif part.get("intermediate_size"):
            width, matrices = int(part["intermediate_size"]), 3
        else:  # DeciLM: 2/3 of the multiple, rounded up to 256
            width, matrices = -(-int(2 * part["ffn_mult"] * hidden / 3) // 256) * 256, 3
        groups[width, matrices] = groups.get((width, matrices), 0) + 1
    return tuple(Ffn(count=number, width=width, matrices=matrices) for (width, matrices), number in groups.items())


def wider_where_shared(fields: Fields) -> tuple[Ffn, ...]:
    """Gemma-4: with `use_double_wide_mlp` the layers that read another one's KV have feed-forwards twice as wide."""
    shared = (fields.number("num_kv_shared_layers") or 0) if fields.get("use_double_wide_mlp") else 0
    if not shared or experts(fields):
        return ffn(fields)
    wide = Ffn(count=shared, width=2 * dense_width(fields))
    return (*(ffn(fields, layer_count(fields) - shared) if layer_count(fields) > shared else ()), wide)


def beside_two_dense(fields: Fields) -> tuple[Ffn, ...]:
    """LongCat-Flash: in every layer two dense feed-forwards, and experts beside them; those that only pass on have no weights."""
    routed = ffn(fields)[-1]
    return Ffn(count=2 * layer_count(fields), width=fields.need("ffn_hidden_size", "intermediate_size")), routed


def two_kinds_of_experts(fields: Fields) -> tuple[Ffn, ...]:
    """ERNIE-4.5-VL: in every sparse layer experts for text, and narrower ones that only tokens of images visit."""
    widths, numbers = fields.get("moe_intermediate_size"), fields.get("moe_num_experts")
    if not isinstance(widths, list):
        return ffn(fields)
    numbers = numbers if isinstance(numbers, list) else [numbers] * 2
    if len(widths) != 2 or len(numbers) != 2:
        raise fields.refuse("its kinds of experts are not clear", "moe_intermediate_size", "moe_num_experts")
    count = layer_count(fields)
    first, last = (fields.get(f"moe_layer_{end}_index") for end in ("start", "end"))
    first, last = (min(one) if isinstance(one, list) else one for one in (first, last))
    last = count - 1 if last is None or last < 0 else min(int(last), count - 1)
    sparse = _sparse_layers(fields, count) if fields.get("mlp_layer_types") else last - int(first or 0) + 1
    shared = int(widths[0]) * (fields.number("moe_num_shared_experts") or 0)
    text = Ffn(
        count=sparse, width=int(widths[0]), experts=int(numbers[0]), experts_per_token=experts_per_token(fields), shared_width=shared
    )
    dense = Ffn(count=count - sparse, width=dense_width(fields))
    return tuple(one for one in (dense, text, Ffn(count=sparse, width=int(widths[1]), experts=int(numbers[1]))) if one.count)


def shared_stacks(fields: Fields) -> tuple[Ffn, ...]:
    """Two stacks of layers that run several times with the same weights."""
    return ffn(fields, 2 * fields.need("num_layers_per_stack"))


def layers_of_their_own(fields: Fields) -> tuple[Ffn, ...]:
    """Feed-forwards that `layer_types` counts as layers."""
    return ffn(fields, (fields.get("layer_types") or []).count("mlp"))


def no_ffn(fields: Fields) -> tuple[Ffn, ...]:
    """No feed-forward layers that are counted."""
    return ()
