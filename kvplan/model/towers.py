"""Weights that a config describes beside its decoder: vision and audio towers, encoders, embeddings of single layers."""

from __future__ import annotations

from typing import Any

from kvplan.model.attention import hidden_size, layer_count, query_heads
from kvplan.model.config import Fields
from kvplan.model.ffn import matrices_of

VISION, AUDIO = ("vision_config", "visual"), ("audio_config", "audio_tower_config", "speech_config", "encoder_config")

_GATED = ("pixtral", "qwen2_5_vl", "qwen2_5_omni", "mistral3", "lighton_ocr", "aimv2", "dots_", "exaone4_5")
"""Beginnings of model_types whose vision tower has gated feed-forwards, in the tower's part of a config or around it."""


def other_params(fields: Fields) -> int:
    """Parameters that are neither decoder layers nor word embeddings, as far as the config tells."""
    towers = _vision(fields) + _audio(fields)
    return towers + (_encoder(fields) if fields.rules.encoder else 0) + _per_layer_embeddings(fields)


def towers_left_out(fields: Fields) -> tuple[str, ...]:
    """Towers that the config has, and whose shape it does not tell."""
    vision, audio = fields.around(*VISION), fields.around(*AUDIO)
    found = [("vision", vision, _vision(fields)), ("audio", audio, _audio(fields))]
    return tuple(name for name, part, params in found if part and not params)


def _first(part: dict[str, Any], *names: str) -> Any:
    return next((part[name] for name in names if part.get(name) is not None), 0)


def _vision(fields: Fields) -> int:
    """A vision transformer's blocks and the projector into the decoder; patch and position embeddings are below 1 % of it."""
    vision = fields.around(*VISION)
    width = int(_first(vision, "embed_dim", "hidden_size", "vt_hidden_size", "width", "d_model"))
    depth = int(_first(vision, "num_hidden_layers", "depth", "vt_num_hidden_layers", "layers", "num_layers"))
    if not width or not depth:
        return 0
    depth += int(_first(vision, "num_global_layers"))
    kinds = (str(vision.get("model_type")), str(fields.outer.get("model_type")), fields.family)
    gated = any(kind.startswith(_GATED) for kind in kinds)
    ratio = float(_first(vision, "mlp_ratio", "mlp_hidden_ratio") or 4)
    inner = int(_first(vision, "intermediate_size", "vt_intermediate_size", "mlp_dim", "ffn_hidden_size") or ratio * width)
    hidden = hidden_size(fields)
    if kinds[1].startswith(("glm4v", "glm46v", "glm_ocr", "glmga")) or kinds[0].startswith(("glm4v", "glm_ocr")):
        out = int(_first(vision, "out_hidden_size") or hidden)
        merge = int(_first(vision, "spatial_merge_size") or 2) ** 2
        own = inner if kinds[1].startswith("glm_ocr") else out
        return depth * (4 * width * width + 3 * width * own) + out * out + 3 * out * inner + width * merge * out
    heads = int(_first(vision, "num_heads", "num_attention_heads"))
    kept = int(_first(vision, "num_key_value_heads") or heads) / heads if heads else 1.0
    blocks = depth * (int((2 + 2 * kept) * width * width) + (3 if gated else 2) * width * inner)
    return blocks + _projector(fields, vision, width, hidden)


def _projector(fields: Fields, vision: dict[str, Any], width: int, hidden: int) -> int:
    """Two matrices: on merged patches where the tower merges them, else into the decoder's width and there."""
    if merge := int(_first(vision, "spatial_merge_size")):
        merged = width * merge**2
        projectors = 1 + len(vision.get("deepstack_visual_indexes") or ())
        return projectors * (merged * merged + merged * hidden)
    if merge := int(fields.outer.get("spatial_merge_size") or 0):
        return width * merge**2 * width + width * hidden + hidden * hidden
    shrunk = float(fields.outer.get("downsample_ratio") or 1)
    return int(width / shrunk**2) * hidden + hidden * hidden


def _audio(fields: Fields) -> int:
    """An audio transformer's blocks: two feed-forwards a block where it is a conformer."""
    audio = {} if fields.rules.encoder else fields.around(*AUDIO)
    width = int(_first(audio, "d_model", "hidden_size", "hidden_dim"))
    depth = int(_first(audio, "encoder_layers", "num_hidden_layers", "num_layers", "num_blocks"))
    if not width or not depth:
        return 0
    inner = int(_first(audio, "encoder_ffn_dim", "intermediate_size", "ffn_dim") or int(_first(audio, "feedforward_mult") or 4) * width)
    conformer = any(name in audio for name in ("conv_kernel_size", "conv_expansion_factor"))
    block = 4 * width * width + (4 if conformer else 2) * width * inner + (3 * width * width if conformer else 0)
    return depth * block + width * hidden_size(fields)


def _encoder(fields: Fields) -> int:
    hidden = hidden_size(fields)
    depth = fields.number("encoder_layers", "num_layers") or layer_count(fields)
    inner = fields.number("encoder_ffn_dim", "d_ff") or 4 * hidden
    attention = 4 * hidden * query_heads(fields) * (fields.number("d_kv") or hidden // query_heads(fields))
    return depth * (attention + matrices_of(fields) * hidden * inner)


def _per_layer_embeddings(fields: Fields) -> int:
    """Gemma-3n and Gemma-4: an embedding of its own for each layer, with its projections."""
    width = fields.number("hidden_size_per_layer_input") or 0
    if not width:
        return 0
    count, hidden = layer_count(fields), hidden_size(fields)
    return count * width * fields.need("vocab_size_per_layer_input") + hidden * count * width + count * 2 * hidden * width
