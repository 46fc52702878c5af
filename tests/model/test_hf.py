"""Configs as they are published, and as they should not be: right, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan import catalog
from kvplan.errors import InputError
from kvplan.memory.formats import LOGICAL
from kvplan.memory.kv import multi_head_bytes, sequence_bytes
from kvplan.model import ModelSpec, from_hf_config
from tests.public import public

FACTS = public("facts/model_configs.jsonl")
BF16 = LOGICAL["bf16"]


def read(**fields: Any) -> ModelSpec:
    return from_hf_config(fields, name="test")


def per_token(model: ModelSpec, context: int = 1 << 20) -> int:
    return sequence_bytes(model, context + 1, BF16) - sequence_bytes(model, context, BF16)


PLAIN = {
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "num_attention_heads": 8,
    "intermediate_size": 512,
    "vocab_size": 1000,
}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model_type": "llama", **PLAIN}, 4 * 2 * 8 * 32 * 2),  # no num_key_value_heads: multi-head
        ({"model_type": "llama", **PLAIN, "num_key_value_heads": 2}, 4 * 2 * 2 * 32 * 2),
        ({"model_type": "gpt2", "n_layer": 4, "n_embd": 256, "n_head": 8}, 4 * 2 * 8 * 32 * 2),
        ({"model_type": "gptj", "n_layer": 4, "n_embd": 256, "n_head": 8}, 4 * 2 * 8 * 32 * 2),
        ({"model_type": "bloom", "n_layer": 4, "n_embed": 256, "n_head": 8}, 4 * 2 * 8 * 32 * 2),
        ({"model_type": "mpt", "n_layers": 4, "d_model": 256, "n_heads": 8}, 4 * 2 * 8 * 32 * 2),
        (
            {"model_type": "mpt", "n_layers": 4, "d_model": 256, "n_heads": 8, "attn_config": {"kv_n_heads": 2}},
            4 * 2 * 2 * 32 * 2,
        ),
        (
            {"model_type": "gpt_bigcode", "n_layer": 4, "n_embd": 256, "n_head": 8, "multi_query": True},
            4 * 2 * 1 * 32 * 2,
        ),
        (
            {"model_type": "gpt_bigcode", "n_layer": 4, "n_embd": 256, "n_head": 8, "multi_query": False},
            4 * 2 * 8 * 32 * 2,
        ),
        ({"model_type": "falcon", **PLAIN}, 4 * 2 * 1 * 32 * 2),  # multi_query by default
        ({"model_type": "falcon", **PLAIN, "multi_query": False}, 4 * 2 * 8 * 32 * 2),
        ({"model_type": "falcon", **PLAIN, "new_decoder_architecture": True, "num_kv_heads": 4}, 4 * 2 * 4 * 32 * 2),
        (
            {
                "model_type": "chatglm",
                "num_layers": 4,
                "hidden_size": 256,
                "num_attention_heads": 8,
                "kv_channels": 32,
                "multi_query_attention": True,
                "multi_query_group_num": 2,
                "ffn_hidden_size": 512,
            },
            4 * 2 * 2 * 32 * 2,
        ),
        (
            {"model_type": "hunyuan", **PLAIN, "num_key_value_heads": 2, "use_cla": True, "cla_share_factor": 2},
            2 * 2 * 2 * 32 * 2,
        ),
        (
            {
                "model_type": "qwen2",
                **PLAIN,
                "num_key_value_heads": 2,
                "use_sliding_window": False,
                "sliding_window": 16,
            },
            4 * 2 * 2 * 32 * 2,
        ),
        (
            {
                "model_type": "qwen2",
                **PLAIN,
                "num_key_value_heads": 2,
                "use_sliding_window": True,
                "sliding_window": 16,
                "max_window_layers": 3,
            },
            3 * 2 * 2 * 32 * 2,
        ),
        # every other layer slides
        ({"model_type": "gemma2", **PLAIN, "num_key_value_heads": 2, "head_dim": 64}, 2 * 2 * 2 * 64 * 2),
        ({"model_type": "cohere2", **PLAIN, "num_key_value_heads": 2, "sliding_window": 16}, 1 * 2 * 2 * 32 * 2),
        (
            {
                "model_type": "exaone4",
                **PLAIN,
                "num_key_value_heads": 2,
                "sliding_window": 16,
                "sliding_window_pattern": "LLLG",
            },
            1 * 2 * 2 * 32 * 2,
        ),
        (
            {
                "model_type": "exaone4",
                **PLAIN,
                "num_key_value_heads": 2,
                "sliding_window": None,
                "sliding_window_pattern": None,
            },
            4 * 2 * 2 * 32 * 2,
        ),
        (
            {
                "model_type": "minicpm3",
                **PLAIN,
                "kv_lora_rank": 64,
                "qk_rope_head_dim": 16,
                "qk_nope_head_dim": 32,
                "v_head_dim": 32,
            },
            4 * 80 * 2,
        ),
        (
            {"model_type": "lfm2", **PLAIN, "num_key_value_heads": 2, "conv_L_cache": 3, "full_attn_idxs": [1, 3]},
            2 * 2 * 2 * 32 * 2,
        ),
        (
            {
                "model_type": "t5",
                "num_layers": 4,
                "d_model": 256,
                "num_heads": 8,
                "d_kv": 32,
                "d_ff": 512,
                "vocab_size": 100,
            },
            2 * 4 * 2 * 8 * 32 * 2,
        ),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_growth_per_token_of_families(fields: dict[str, Any], expected: int) -> None:
    assert per_token(read(**fields)) == expected


def test_nested_text_config_takes_family_defaults() -> None:
    # LLaVA-1.5 names only what differs from LlamaConfig: 32 layers, 32 heads, width 4096.
    model = read(model_type="llava", text_config={"model_type": "llama", "vocab_size": 32064}, vision_config={})
    assert per_token(model) == 32 * 2 * 32 * 128 * 2
    assert any("num_hidden_layers" in note for note in model.notes)
    # Gemma-3-4B does the same with heads (8, 4 for KV, 256 wide); 5 of 34 layers are global.
    small = read(model_type="gemma3_text", hidden_size=2560, intermediate_size=10240, num_hidden_layers=34, sliding_window=1024)
    assert per_token(small) == 5 * 2 * 4 * 256 * 2


def test_whisper_keeps_the_encoders_1500_positions() -> None:
    # large-v3: 32 decoder layers of 20 heads x 64, own tokens and 1,500 of the encoder.
    fields = {
        "d_model": 1280,
        "decoder_layers": 32,
        "encoder_layers": 32,
        "decoder_attention_heads": 20,
        "decoder_ffn_dim": 5120,
        "encoder_ffn_dim": 5120,
    }
    model = read(model_type="whisper", vocab_size=51866, max_source_positions=1500, max_target_positions=448, **fields)
    assert sequence_bytes(model, 448, BF16) == 32 * 2 * 20 * 64 * 2 * (448 + 1500)


def test_gemma3n_layers_that_read_anothers_kv() -> None:
    # E4B: 35 layers, the last 15 share; of the first 20 every fifth is global: 4 global, 16 with a window of 512.
    model = read(model_type="gemma3n_text", num_hidden_layers=35, num_kv_shared_layers=15, sliding_window=512)
    assert sequence_bytes(model, 32768, BF16) == 2 * 2 * 256 * 2 * (4 * 32768 + 16 * 512)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            {"model_type": "fancynet", **PLAIN, "num_key_value_heads": 2, "fancy_attention_rank": 7},
            "fancy_attention_rank",
        ),
        (
            {"model_type": "phi3small", **PLAIN, "num_key_value_heads": 2, "blocksparse_block_size": 64},
            "blocksparse_block_size",
        ),
        ({"model_type": "newmodel", **PLAIN}, "num_key_value_heads"),
        ({"model_type": "newmodel", **PLAIN, "num_key_value_heads": 2, "sliding_window": 64}, "sliding_window"),
        ({"model_type": "deepseek_v4", **PLAIN, "compress_ratios": [0, 4]}, "compress_ratios"),
        ({"model_type": "minimax_m3", **PLAIN, "sparse_attention_config": {"a": 1}}, "sparse_attention_config"),
        ({"model_type": "bert", **PLAIN}, "encoder"),
        ({"model_type": "rwkv", "hidden_size": 256, "num_hidden_layers": 4}, "num_key_value_heads"),
        ({"model_type": "llama", **PLAIN, "layer_types": ["full_attention", "odd", "odd", "odd"]}, "odd"),
        ({"model_type": "gpt_oss", **PLAIN, "num_key_value_heads": 2, "sliding_window": None}, "sliding_window"),
        ({"model_type": "gemma3_text", **PLAIN, "layer_types": ["full_attention"]}, "4 layers"),
        ({"model_type": "kimi_linear", **PLAIN}, "linear_attn_config"),
        ({"model_type": "nemotron_h", **PLAIN, "hybrid_override_pattern": "M?*-"}, "?"),
        ({"architectures": ["LlamaForCausalLM"], **PLAIN}, "num_key_value_heads"),
        ({"architectures": ["RWForCausalLM"], **PLAIN}, "multi_query"),
        ({"model_type": "llama", **PLAIN, "num_hidden_layers": -3}, "num_hidden_layers"),
        ({"model_type": "llama", **PLAIN, "num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"model_type": "llama", **PLAIN, "num_attention_heads": 7}, "head_dim"),
    ],
)
def test_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as caught:
        read(**fields)
    assert named in caught.value.message
    assert caught.value.exit_code == 2


def test_quantisation_is_read_with_its_exceptions() -> None:
    kimi = catalog.model("kimi-k2.5").quantization
    # int4 in groups of 32 with 16-bit scales; the rest is ignored by name
    assert kimi is not None and kimi.bits == {"experts": 4.5}
    gptq = read(model_type="llama", **PLAIN, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}).quantization
    assert gptq is not None and gptq.bits["dense"] == 4 + (16 + 4) / 128
    with pytest.raises(InputError, match="quantisation"):
        read(model_type="llama", **PLAIN, quantization_config={"quant_method": "magic"})


def configs() -> list[tuple[str, dict[str, Any]]]:
    if not FACTS.exists():
        return []
    return [(row["model"], row["config"]) for row in map(json.loads, FACTS.read_text().splitlines())]


REFUSED = ("DeepSeek-V4", "MiniMax-M3")
INCOMPLETE = {
    "tiiuae/falcon-7b",
    "tiiuae/falcon-40b",
    "bigscience/bloom",
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-2-13b-hf",
}
INCOMPLETE |= {
    "meta-llama/Llama-2-70b-hf",
    "codellama/CodeLlama-34b-hf",
    "lmsys/vicuna-13b-v1.5",
    "mistralai/Mistral-7B-v0.1",
}


@pytest.mark.parametrize(("name", "config"), configs(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_known_config_is_read_or_refused_for_a_reason(name: str, config: dict[str, Any]) -> None:
    try:
        model = from_hf_config(config, name=name)
    except InputError as error:
        assert any(part in name for part in REFUSED) or (name in INCOMPLETE and not config.get("model_type")), error.message
        return
    assert sequence_bytes(model, 4096, BF16) > 0


CATALOG = [catalog.model(name) for name in catalog.names("models")]


def test_the_catalog_is_broad() -> None:
    assert len(CATALOG) >= 200
    assert len({model.family for model in CATALOG}) >= 110
    assert all(model.source and model.vocab and (model.max_context_tokens or "mamba" in model.family) for model in CATALOG)


@settings(max_examples=200, deadline=None)
@given(model=st.sampled_from(CATALOG), context=st.integers(1, 1 << 20), more=st.integers(1, 1 << 16))
def test_monotone_in_context(model: ModelSpec, context: int, more: int) -> None:
    assert sequence_bytes(model, context, BF16) <= sequence_bytes(model, context + more, BF16)


@settings(max_examples=200, deadline=None)
@given(model=st.sampled_from(CATALOG), context=st.integers(1, 1 << 20))
def test_never_above_the_multi_head_formula(model: ModelSpec, context: int) -> None:
    states = sequence_bytes(model, 0, BF16)  # the formula knows no states
    assert sequence_bytes(model, context, BF16) - states <= multi_head_bytes(model, context, BF16)


def test_the_indexer_schedule_is_the_published_list() -> None:
    # GLM-5.2 ships the list (21 of 78 layers run the indexer) and the rule: every 4th, after the first 3.
    listed = catalog.model("glm-5.2")
    shape = {
        "num_hidden_layers": 78,
        "hidden_size": 6144,
        "num_attention_heads": 64,
        "kv_lora_rank": 512,
        "q_lora_rank": 2048,
    }
    shape |= {
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        "vocab_size": 154880,
        "intermediate_size": 12288,
    }
    rule = {
        "index_head_dim": 128,
        "index_n_heads": 32,
        "index_topk": 2048,
        "index_topk_freq": 4,
        "index_skip_topk_offset": 3,
    }
    assert per_token(read(model_type="glm_moe_dsa", **shape, **rule)) == per_token(listed) == 78 * 576 * 2 + 21 * 132


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": float("inf")},
        {"num_hidden_layers": float("nan")},
        {"linear_attn_config": 3},
        {"linear_attn_config": {"full_attn_layers": 1}},
    ],
)
def test_a_field_of_another_kind_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        read(**{"model_type": "kimi_linear", **PLAIN, **wrong})
