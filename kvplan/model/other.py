"""Parameters outside the decoder's own layers: vision towers, encoders, per-layer embeddings."""

from __future__ import annotations

from typing import Any

from kvplan.model.attention import hidden_size, layer_count, query_heads
from kvplan.model.fields import Fields

ENCODER_DECODERS = ("t5", "mt5", "umt5", "bart", "mbart", "pegasus", "whisper", "m2m_100", "marian")


def other_params(fields: Fields) -> int:
    """Parameters that are neither decoder layers nor word embeddings, as far as the config tells."""
    return _vision(fields) + _encoder(fields) + _per_layer_embeddings(fields)


def _vision(fields: Fields) -> int:
    """A vision transformer's blocks and the projector into the decoder; patch and position embeddings are below 1 %
    of it.
    """
    vision: dict[str, Any] = fields.outer.get("vision_config") or {}
    width = int(vision.get("hidden_size") or vision.get("vt_hidden_size") or 0)
    depth = int(vision.get("num_hidden_layers") or vision.get("depth") or vision.get("vt_num_hidden_layers") or 0)
    inner = int(vision.get("intermediate_size") or vision.get("vt_intermediate_size") or 4 * width)
    if not width or not depth:
        return 0
    merged = width * int(vision.get("spatial_merge_size") or 1) ** 2
    projectors = 1 + len(vision.get("deepstack_visual_indexes") or ())
    return depth * (4 * width * width + 2 * width * inner) + projectors * (merged * merged + merged * hidden_size(fields))


def _encoder(fields: Fields) -> int:
    if fields.family not in ENCODER_DECODERS:
        return 0
    hidden = hidden_size(fields)
    depth = fields.number("encoder_layers") or layer_count(fields)
    inner = fields.number("encoder_ffn_dim", "d_ff") or 4 * hidden
    attention = 4 * hidden * query_heads(fields) * (fields.number("d_kv") or hidden // query_heads(fields))
    matrices = 3 if "gated" in str(fields.get("feed_forward_proj")) else 2
    return depth * (attention + matrices * hidden * inner)


def _per_layer_embeddings(fields: Fields) -> int:
    """Gemma-3n and Gemma-4: an embedding of its own for each layer, with its projections."""
    width = fields.number("hidden_size_per_layer_input") or 0
    if not fields.family.startswith(("gemma3n", "gemma4")) or not width:
        return 0
    count, hidden = layer_count(fields), hidden_size(fields)
    return count * width * fields.need("vocab_size_per_layer_input") + hidden * count * width + count * 2 * hidden * width
