"""Feed-forward layers of one config: dense, mixture of experts, and which layer has which."""

from __future__ import annotations

from kvplan.model.attention import hidden_size, layer_count
from kvplan.model.fields import Fields
from kvplan.model.spec import Ffn

_TWO_MATRICES = {
    "gpt2",
    "gptj",
    "gpt_neo",
    "gpt_neox",
    "gpt_bigcode",
    "codegen",
    "opt",
    "bloom",
    "falcon",
    "mpt",
    "phi",
    "phi-msft",
    "starcoder2",
    "nemotron",
    "nemotron_h",
    "whisper",
    "bart",
    "mbart",
    "pegasus",
    "m2m_100",
    "marian",
    "persimmon",
    "xglm",
    "biogpt",
    "blenderbot",
    "gpt_neox_japanese",
}


def _matrices(fields: Fields) -> int:
    if fields.family in ("t5", "mt5", "umt5", "longt5"):
        return 3 if "gated" in str(fields.get("feed_forward_proj")) else 2
    return 2 if fields.family in _TWO_MATRICES else 3


def _width(fields: Fields) -> int:
    names = (
        "intermediate_size",
        "n_inner",
        "ffn_dim",
        "d_ff",
        "decoder_ffn_dim",
        "ffn_hidden_size",
        "dense_intermediate_size",
    )
    if fields.family == "granitemoehybrid" and fields.number("shared_intermediate_size"):
        return fields.need("shared_intermediate_size")
    if fields.family == "llama4_text" and fields.number("intermediate_size_mlp"):
        return fields.need("intermediate_size_mlp")
    if fields.family.startswith("minimax_m3"):
        return fields.need("dense_intermediate_size")
    value = fields.get(*names)
    if isinstance(value, list):
        return int(sum(value) / len(value))
    if fields.family == "qwen":  # counts both halves of the gated layer
        return fields.need("intermediate_size") // 2
    return fields.number(*names) or int(hidden_size(fields) * (fields.number("expansion_ratio") or 4))


def experts(fields: Fields) -> int:
    """Routed experts per sparse layer; 0 for a dense model."""
    if fields.family.startswith("gemma4") and not fields.get("enable_moe_block"):
        return 0
    if fields.family == "nemotron_h":
        return int(fields.given("n_routed_experts") or 0)
    nested = fields.get("ffn_config") or {}
    return fields.number("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts") or int(nested.get("moe_num_experts", 0))


def _expert_width(fields: Fields) -> int:
    nested = fields.get("ffn_config") or {}
    own = fields.number("moe_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size") or int(nested.get("ffn_hidden_size", 0))
    return own or fields.need("intermediate_size")


def _shared_width(fields: Fields, width: int) -> int:
    explicit = fields.number(
        "shared_expert_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "shared_intermediate_size",
        "share_expert_dim",
    )
    if explicit:
        return explicit * (fields.number("n_shared_experts") or 1 if fields.family == "nemotron_h" else 1)
    if fields.family == "llama4_text":
        return width
    if explicit is not None:
        return 0
    return width * (fields.number("n_shared_experts", "num_shared_experts", "num_shared_expert") or 0)


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
    if fields.family == "llama4_text":
        explicit = fields.given("moe_layers")
        return len(explicit) if explicit else count // (fields.number("interleave_moe_layer_step") or 1)
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
    matrices, number = _matrices(fields), experts(fields)
    if blocks := fields.given("block_configs"):
        return _per_block(fields, blocks[:count])
    if not number or number == 1:
        return (Ffn(count=count, width=_width(fields), matrices=matrices),)
    width, sparse = _expert_width(fields), _sparse_layers(fields, count)
    routed = Ffn(
        count=sparse,
        width=width,
        matrices=matrices,
        experts=number,
        experts_per_token=experts_per_token(fields),
        shared_width=_width(fields) if fields.family.startswith("gemma4") else _shared_width(fields, width),
        inner_hidden=fields.number("moe_latent_size", "routed_expert_hidden_size") or 0,
    )
    dense = Ffn(count=count - sparse, width=_width(fields), matrices=matrices) if count > sparse else None
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
