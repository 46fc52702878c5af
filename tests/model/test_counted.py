"""Families against model classes of transformers 5.24, built from the fields of each row without weights: parameters counted tensor by
tensor, and the bytes of K, V and latents that their cache holds after 16 tokens in bf16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.memory.formats import LOGICAL
from kvplan.memory.kv import sequence_bytes
from kvplan.memory.weights import parameters
from kvplan.model import from_hf_config

ROWS = [json.loads(line) for line in Path(__file__).with_name("counted.jsonl").read_text().splitlines()]
TOKENS = 16
TOWER_LIMIT = 0.02  # patch embeddings and projectors of towers are counted roughly


def tower(config: dict[str, Any]) -> bool:
    return any(part in config for part in ("vision_config", "audio_config"))


@pytest.mark.parametrize("row", ROWS, ids=[row["class"] for row in ROWS])
def test_parameters_and_cache_are_those_of_the_model_class(row: dict[str, Any]) -> None:
    model = from_hf_config(row["config"], name=row["class"])
    limit = TOWER_LIMIT if tower(row["config"]) else 0.008
    assert parameters(model).total == pytest.approx(row["params"], rel=limit)
    if "kv_bytes_16" in row:
        indexed = sum(layer.count * (layer.index_dim and layer.index_dim + 4) for layer in model.layers)  # not part of that cache
        assert sequence_bytes(model, TOKENS, LOGICAL["bf16"]) - TOKENS * indexed == row["kv_bytes_16"]


# Weights that were sized wrong without a word: feed-forwards without a gate, widths that are adjusted, halved, doubled or pooled, dense
# layers beside experts, experts that only pass on, towers of another width than the text, audio towers.


def test_a_tower_as_wide_as_its_own_field_says() -> None:
    # Qwen2-VL-7B: `hidden_size` of its tower is the text's; 32 blocks of 12 x 1,280^2 and a merger of 5,120 x (5,120 + 3,584).
    text = {"num_hidden_layers": 28, "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944}
    tower = {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "hidden_size": 3584, "spatial_merge_size": 2}
    model = from_hf_config({"model_type": "qwen2_vl", "vocab_size": 152064, "vision_config": tower, **text}, name="Qwen2-VL-7B")
    assert model.other_params == 32 * 12 * 1280**2 + 5120 * (5120 + 3584)
    assert parameters(model).total == pytest.approx(8.29e9, rel=0.005)  # as its maker counts


def test_the_layers_that_read_anothers_kv_have_wider_feed_forwards_where_the_file_says_so() -> None:
    shape = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    shape |= {"intermediate_size": 128, "vocab_size": 100, "sliding_window": 16, "hidden_size_per_layer_input": 0}
    kinds = ["sliding_attention", "full_attention"] * 2
    config = {"model_type": "gemma4_text", **shape, "layer_types": kinds, "num_kv_shared_layers": 2}
    plain, doubled = (from_hf_config({**config, "use_double_wide_mlp": wide}, name="x") for wide in (False, True))
    assert parameters(doubled).dense - parameters(plain).dense == 2 * 64 * 128 * 3


def test_longcat_has_two_dense_feed_forwards_beside_its_experts() -> None:
    # 28 layers: 512 experts of 3 x 6,144 x 2,048, two dense ones of 3 x 6,144 x 12,288, none of identity experts: 560 B as published.
    fields = {
        "hidden_size": 6144,
        "num_layers": 28,
        "num_attention_heads": 64,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "vocab_size": 131072,
    }
    fields |= {"qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, "ffn_hidden_size": 12288, "expert_ffn_hidden_size": 2048}
    fields |= {"n_routed_experts": 512, "zero_expert_num": 256, "moe_topk": 12, "tie_word_embeddings": False}
    model = from_hf_config({"model_type": "longcat_flash", **fields}, name="LongCat-Flash")
    assert parameters(model).dense == 2 * 28 * 3 * 6144 * 12288
    assert parameters(model).total == pytest.approx(560e9, rel=0.005)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "mellum", "sliding_window": 512}, "layer_types"),
        ({"model_type": "llama", "per_layer_config": {"1": {"num_key_value_heads": 1}}}, "per_layer_config"),
        ({"model_type": "gemma4_text", "sliding_window": 16, "per_layer_config": {"1": {"sliding_window": 8}}}, "per_layer_config"),
        ({"model_type": "plamo3", "sliding_window": 16}, "sliding_window_pattern"),
    ],
)
def test_layers_of_their_own_that_are_not_understood_are_refused(fields: dict[str, Any], named: str) -> None:
    from kvplan.errors import InputError

    shape = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}
    with pytest.raises(InputError, match=named):
        from_hf_config({**shape, "vocab_size": 10, "head_dim": 32, **fields}, name="test")


def test_loops_keep_a_cache_of_each_pass() -> None:
    # 4 layers of 2 heads x 2 x 32 x 2 B: four full passes; or one full pass and two of the last 8 tokens.
    shape = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}
    shape |= {"vocab_size": 10, "head_dim": 32}
    ouro = from_hf_config({"model_type": "ouro", "total_ut_steps": 4, **shape}, name="x")
    coder = from_hf_config({"model_type": "iquest_loopcoder", "loop_num": 3, "loop_window_size": 8, **shape}, name="x")
    assert sequence_bytes(ouro, 100, LOGICAL["bf16"]) == 4 * 4 * 100 * 256
    assert sequence_bytes(coder, 100, LOGICAL["bf16"]) == 4 * 100 * 256 + 2 * 4 * 8 * 256
    assert parameters(ouro).attention == parameters(coder).attention == 4 * 4 * 64 * 64
