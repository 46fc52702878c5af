"""Families of 2026: bytes of one sequence worked out by hand from what vLLM 0.33's model code allocates, with bf16 KV at one rank.

Fields are those of the published config.json files, or, where none is at hand, of the class in transformers 5.24.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InputError
from kvplan.memory.formats import LOGICAL
from kvplan.memory.kv import growth_bytes, sequence_bytes
from kvplan.model import ModelSpec, from_hf_config

K32 = 32_768
BF16 = LOGICAL["bf16"]
F, S, L = "full_attention", "sliding_attention", "linear_attention"
REST = {"intermediate_size": 4096, "vocab_size": 100_000}


def pattern(*kinds: str, times: int) -> list[str]:
    return [*kinds] * times


def read(model_type: str, layers: int, hidden: int, heads: int, kv: int | None = None, **fields: Any) -> ModelSpec:
    shape = {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    shape |= {"num_key_value_heads": kv} if kv else {}
    return from_hf_config({"model_type": model_type, **REST, **shape, **fields}, name=model_type)


V4 = {"head_dim": 512, "qk_rope_head_dim": 64, "sliding_window": 128, "index_head_dim": 128, "index_n_heads": 64, "q_lora_rank": 1024}
MLA = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
DELTA = {"linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_value_head_dim": 128}
KDA = {"num_heads": 64, "head_dim": 128, "short_conv_kernel_size": 4}

CASES: list[tuple[str, ModelSpec, int, int]] = [
    (
        # 43 windows of 128 vectors of 512 (1,024 B); 21 vectors and keys (128 fp8 + 4 B) for each 4 tokens; 20 vectors for each 128;
        # fp32 rings:
        # 21 x (8 x 2048 + 8 x 512) and 20 x 128 x 1024 elements.
        "DeepSeek-V4-Flash",
        read("deepseek_v4", 43, 4096, 64, 1, compress_ratios=[0, 0, *[4, 128] * 20, 4, 0], o_groups=8, o_lora_rank=1024, **V4),
        43 * 128 * 1024 + 21 * K32 // 4 * (1024 + 132) + 20 * K32 // 128 * 1024 + 4 * (21 * (8 * 2048 + 8 * 512) + 20 * 128 * 1024),
        221_954_048,
    ),
    (
        # 4 of 40 layers own rows: three one for 2 tokens, one one for each token; the same own the keys; a ring of 8 x 1024 where
        # rows are compressed.
        "DeepSeek-V4.1-Flash",
        read(
            "deepseek_v41_text", 40, 5120, 64, 1, compress_ratios=[0, 0, *[2] * 18, *[1] * 20, 0, 0, 0],
            kv_source_layer_ids=[2, 8, 14, 20], index_source_layer_ids=[2, 8, 14, 20, 24, 28, 32, 36], **{**V4, "index_n_heads": 32},
        ),
        40 * 128 * 1024 + 3 * K32 // 2 * (1024 + 132) + K32 * (1024 + 132) + 4 * 3 * 8 * 1024,
        100_040_704,
    ),
    (
        # 12 full layers of 2 heads x 2 x 256, a bf16 key of 128 for each 4 tokens and a ring of 4 x (128 + 12); 36 delta nets: fp32
        # state 48 x 128 x 128, convolution (2 x 16 x 128 + 48 x 128) x 3; a dilated convolution of 4 x 2560 x 3 x 3.
        "Qwen3.8-Flash-Next",
        read(
            "qwen4_exp_text", 48, 2560, 24, 2, head_dim=256, layer_types=pattern(L, L, L, F, times=12), indexer_head_dim=128,
            indexer_n_heads=4, indexer_compress_ratio=4, hc_count=4, ngram_size=3, ple_conv_kernel_size=4, ple_layer_ids=[2],
            mamba_ssm_dtype="float32",
            linear_num_value_heads=48, **DELTA,
        ),
        12 * (K32 * 2 * 2 * 256 * 2 + K32 // 4 * 256 + 560 * 2) + 36 * (48 * 128 * 128 * 4 + 10240 * 3 * 2) + 4 * 2560 * 9 * 2,
        946_128_000,
    ),
    (
        # 11 latents without a rotary part (1,024 B), a key (132 B) for each 4 tokens, a ring of 4 x 2 x 128;
        # 34 Kimi delta nets: fp32 64 x 128 x 128, 3 x 64 x 128 x 3.
        "GLM-5.3-Flash",
        read(
            "glm5_next_text", 45, 4096, 64, 64, layer_types=[*pattern(L, L, L, "deepseek_sparse_attention", times=11), L], index_kpool=4,
            index_head_dim=128, index_n_heads=32, linear_attn_config=KDA,
            **{**MLA, "qk_rope_head_dim": 0, "qk_nope_head_dim": 256, "v_head_dim": 256},
        ),
        11 * (K32 * 1024 + K32 // 4 * 132 + 1024 * 2) + 34 * (64 * 128 * 128 * 4 + 3 * 64 * 128 * 3 * 2),
        528_635_904,
    ),
    (
        # Every layer keeps all tokens; 57 of 60 one bf16 key of 128 as well, whatever the number of index heads: 60 x 2,048 +
        # 57 x 256 B a token.
        "MiniMax-M3",
        read(
            "minimax_m3", 60, 6144, 64, 4, head_dim=128,
            sparse_attention_config={"sparse_attention_freq": [0] * 3 + [1] * 57, "sparse_index_dim": 128, "sparse_num_index_heads": 4},
        ),
        K32 * (60 * 2048 + 57 * 256),
        4_504_682_496,
    ),
    (
        # M1 and Text-01: one matrix of 128 x 128 a query head in the model's dtype.
        "MiniMax-M1",
        read("minimax_m1", 80, 6144, 64, 8, head_dim=128, attn_type_list=([0] * 7 + [1]) * 10),
        10 * K32 * 2 * 8 * 128 * 2 + 70 * 64 * 128 * 128 * 2,
        1_488_977_920,
    ),
    (
        "Gemma-4-12B",  # global layers: one head of 512
        read(
            "gemma4_unified_text", 48, 3840, 16, 8, head_dim=256, global_head_dim=512, num_global_key_value_heads=1, attention_k_eq_v=True,
            num_kv_shared_layers=0,
            sliding_window=1024, layer_types=pattern(S, S, S, S, S, F, times=8),
        ),
        40 * 1024 * 8 * 2 * 256 * 2 + 8 * K32 * 2 * 512 * 2,
        872_415_232,
    ),
    (
        "Step3",
        read("step3_text", 61, 7168, 64, head_dim=256, num_attention_groups=1, share_q_dim=2048),
        61 * K32 * 2 * 256 * 2,
        2_046_820_352,
    ),
    (
        # 23 full layers also keep a summary of 256 B for each 8 tokens; entries of layer_types beyond the layers belong to drafts.
        "Step5",
        read(
            "step5", 92, 4096, 64, head_dim=192, num_attention_groups=4, sliding_window=512,
            layer_types=[*pattern(S, S, S, F, times=23), S, S, S],
            sparse_config={"proxy_dim": 256, "region_block_size": 8, "apply_to_layer_types": [F]},
        ),
        23 * (K32 * 4 * 2 * 192 * 2 + K32 // 8 * 256) + 69 * 512 * 4 * 2 * 192 * 2,
        2_447_900_672,
    ),
    (
        "Hy4",  # 21 of 78 layers run the indexer
        read(
            "hy_v4", 78, 6144, 64, 64, index_topk=2048, index_head_dim=128, index_n_heads=32, indexer_types=["full"] * 21 + ["shared"] * 57,
            **{**MLA, "qk_nope_head_dim": 192, "v_head_dim": 256},
        ),
        K32 * (78 * 576 * 2 + 21 * 132),
        3_035_234_304,
    ),
    (
        "Ling-3.0-Flash",  # every 6th layer is latent, the others Kimi delta attention of 32 heads
        read("bailing_hybrid", 42, 2560, 32, 32, head_dim=128, layer_group_size=6, short_conv_kernel_size=4, **MLA),
        7 * K32 * 576 * 2 + 35 * (32 * 128 * 128 * 4 + 3 * 32 * 128 * 3 * 2),
        340_221_952,
    ),
    (
        "Ring-2.5",  # lightning attention in the model's dtype, no convolution
        read("bailing_hybrid", 80, 8192, 64, 64, head_dim=128, layer_group_size=8, **MLA),
        10 * K32 * 576 * 2 + 70 * 64 * 128 * 128 * 2,
        524_288_000,
    ),
    (
        "Ring-mini-linear-2.0",
        read("bailing_moe_linear", 20, 2048, 16, 4, head_dim=128, layer_group_size=5),
        4 * K32 * 4 * 2 * 128 * 2 + 16 * 16 * 128 * 128 * 2,
        276_824_064,
    ),
    (
        "Laguna-XS.2",
        read("laguna", 40, 2048, 48, 8, head_dim=128, sliding_window=512, layer_types=pattern(F, S, S, S, times=10)),
        (10 * K32 + 30 * 512) * 8 * 2 * 128 * 2,
        1_405_091_840,
    ),
    (
        "Mistral-Small-4",
        read("mistral4", 36, 4096, 32, 32, **{**MLA, "kv_lora_rank": 256, "qk_nope_head_dim": 64}),
        36 * K32 * 320 * 2,
        754_974_720,
    ),
    (
        # Layer 17 is full and feeds all later ones; 8 windows and 9 Mamba-1 before it.
        "Phi-4-mini-flash",
        read("phi4flash", 32, 2560, 40, 20, sliding_window=512, mb_per_layer=2, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2),
        (K32 + 8 * 512) * 20 * 2 * 64 * 2 + 9 * (5120 * 3 + 5120 * 16) * 2,
        190_494_720,
    ),
    (
        # Full layers: 20 heads of 256, 2 of K and V; window layers: 40 of 128, 8 of K and V; one token is kept before each.
        "Baichuan-M1-14B",
        read(
            "baichuan_m1", 40, 5120, 20, 2, num_swa_attention_heads=40, num_swa_key_value_heads=8, sliding_window=8192,
            sliding_window_layers=list(range(1, 40, 2)), conv_window=2,
        ),
        20 * K32 * 2 * 2 * 256 * 2 + 20 * 8192 * 8 * 2 * 128 * 2 + 20 * 2 * (2 * 256 + 8 * 128) * 2,
        2_013_388_800,
    ),
    (
        "Hymba-1.5B",  # attention of 5 heads of 64 and Mamba-1 of 3,200 in every layer
        read(
            "hymba", 32, 1600, 25, 5, global_attn_idx=[0, 15, 31], sliding_window=1024, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2,
        ),
        (3 * K32 + 29 * 1024) * 5 * 2 * 64 * 2 + 32 * (3200 * 3 + 3200 * 16) * 2,
        167_731_200,
    ),
    (
        "LFM3-1.7B",
        read("lfm3", 24, 2048, 16, 4, head_dim=128, sliding_window=256, conv_L_cache=7, layer_types=["conv"] * 13 + [F] * 6 + [S] * 5),
        (6 * K32 + 5 * 256) * 4 * 2 * 128 * 2 + 13 * 2048 * 6 * 2,
        405_594_112,
    ),
    (
        "Olmo-Hybrid-7B",
        read(
            "olmo_hybrid", 32, 3840, 30, 30, layer_types=pattern(L, L, L, F, times=8), linear_num_key_heads=30, linear_num_value_heads=30,
            linear_key_head_dim=96, linear_value_head_dim=192, linear_conv_kernel_dim=4,
        ),
        8 * K32 * 30 * 2 * 128 * 2 + 24 * (30 * 192 * 96 + (2 * 30 * 96 + 30 * 192) * 3) * 2,
        4_054_732_800,
    ),
    (
        "Command-A",  # a window of 4,096 keeps 4,097 keys
        read("cohere2", 64, 12288, 96, 8, head_dim=128, sliding_window=4096, layer_types=pattern(S, S, S, F, times=16)),
        (16 * K32 + 48 * 4097) * 8 * 2 * 128 * 2,
        2_952_986_624,
    ),
    (
        # 66 short convolutions are paged as windows of 4 rows as wide as the next power of two of 6,144.
        "Inkling",
        read(
            "inkling_text", 66, 6144, 64, 8, head_dim=128, swa_num_attention_heads=64, swa_num_key_value_heads=16, swa_head_dim=128,
            sliding_window_size=512, conv_kernel_size=4, layer_types=pattern(*["hybrid_sliding"] * 5, "hybrid", times=11),
        ),
        11 * K32 * 8 * 2 * 128 * 2 + 55 * 512 * 16 * 2 * 128 * 2 + 66 * 4 * 2 * 8192 * 2,
        1_715_732_480,
    ),
    (
        # Layers 6 to 17 run three times and keep a cache each time: 24 + 2 x 12 caches, of the 24 more 4 full.
        "Inkling-2-Mini",
        read(
            "inkling2_loop_text", 24, 2304, 24, 8, head_dim=128, swa_num_attention_heads=24, swa_num_key_value_heads=8, swa_head_dim=128,
            sliding_window_size=1024, conv_kernel_size=4, layer_types=pattern(*["hybrid_sliding"] * 5, "hybrid", times=4),
            loop_layer_index_start=6, loop_layer_index_end=18, loop_num_passes=3,
        ),
        (8 * K32 + 40 * 1024) * 8 * 2 * 128 * 2,
        1_241_513_984,
    ),
    ("HRM-Text-1B", read("hrm_text", 128, 1536, 12, head_dim=128, num_layers_per_stack=16), 128 * K32 * 12 * 2 * 128 * 2, 25_769_803_776),
    (
        # 13 latents of 576 with keys, 33 windows of 513 latents of 1,088 (vLLM pads the former to the latter's width: see its layout).
        "dots3-note",
        read(
            "dots3_note_text", 46, 5120, 128, 128, layer_types=["indexed_attention"] * 13 + [S] * 33, sliding_window=512,
            swa_kv_lora_rank=1024, swa_qk_rope_head_dim=64, index_head_dim=128, index_n_heads=64, **MLA,
        ),
        13 * K32 * (1152 + 132) + 33 * 513 * 2176,
        583_800_960,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "model", "by_hand", "published"), CASES, ids=[case[0] for case in CASES])
def test_bytes_of_a_sequence(name: str, model: ModelSpec, by_hand: int, published: int) -> None:
    assert by_hand == published, "the arithmetic of the comment"
    assert sequence_bytes(model, K32, BF16) == by_hand


@pytest.mark.parametrize(
    ("name", "growth"),
    # V4: 21 x (1024 + 132) / 4 + 20 x 1024 / 128; V4.1: 3 x (1024 + 132) / 2 + 1024 + 132; Qwen: 12 x (2048 + 256 / 4); M3 as above.
    [("DeepSeek-V4-Flash", 6_229), ("DeepSeek-V4.1-Flash", 2_890), ("Qwen3.8-Flash-Next", 25_344), ("MiniMax-M3", 137_472)],
)
def test_growth_of_compressed_tiers_is_their_mean(name: str, growth: int) -> None:
    model = next(model for case, model, *_ in CASES if case == name)
    assert growth_bytes(model, 1 << 20, BF16) == growth


def test_compressed_rows_in_fp8_are_as_engines_store_them() -> None:
    """V4-Flash in rows of 584 B, rings and keys as they are: 141,585,408 B at 32,768 tokens."""
    from kvplan import catalog
    from kvplan.deployment import Deployment
    from kvplan.memory.formats import stored_format

    model = CASES[0][1]
    fmt = stored_format(Deployment(model=model, engine=catalog.engine("vllm"), kv_dtype="fp8"))
    assert fmt.latent_row_bytes
    rows = 43 * 128 + 21 * K32 // 4 + 20 * K32 // 128
    assert sequence_bytes(model, K32, fmt) == rows * 584 + 21 * K32 // 4 * 132 + 12_206_080 == 141_585_408


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model_type": "deepseek_v4", "compress_ratios": [0, 16], **V4}, "compress_ratios"),
        ({"model_type": "minimax_m3", "head_dim": 128}, "sparse_attention_config"),
        ({"model_type": "dory", "n_recurrent_loops": 2, "layer_types": [F, "mlp"]}, "n_recurrent_loops"),
        ({"model_type": "mistral_large4_text", "kv_source_layers": [0], **MLA}, "kv_source_layers"),
        ({"model_type": "qwen9_next", "linear_num_key_heads": 4, "linear_conv_kernel_dim": 4}, "linear_num_key_heads"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    shape = {"num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
    with pytest.raises(InputError, match=named):
        from_hf_config({**REST, **shape, **fields}, name="test")


def test_an_unknown_family_is_told_which_one_it_looks_like() -> None:
    fields = {"model_type": "qwen9_next", "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    fields |= {"head_dim": 64, "linear_num_value_heads": 4, **DELTA, **REST}
    with pytest.raises(InputError) as refused:
        from_hf_config(fields, name="test")
    assert "--as qwen3" in refused.value.hint
    read_as = from_hf_config(fields, name="test", as_family="qwen3_next")
    assert any("sized as qwen3_next" in note for note in read_as.notes)
    assert read_as.layers == from_hf_config({**fields, "model_type": "qwen3_next"}, name="test").layers


def test_minicpm3_is_expanded_by_vllm_and_absorbed_by_others() -> None:
    # 62 layers: a latent of 256 + 32 in bf16, 35,712 B a token; in vLLM K and V of 40 heads, 64 + 32 wide each: 952,320 B.
    from kvplan.memory.layout import layout
    from tests.deployed import deployed

    model = read("minicpm3", 62, 2560, 40, 40, kv_lora_rank=256, qk_nope_head_dim=64, qk_rope_head_dim=32, v_head_dim=64)
    assert growth_bytes(model, K32, BF16) == 62 * 288 * 2 == 35_712
    vllm, sglang = layout(deployed(model, "vllm")), layout(deployed(model, "sglang"))
    assert vllm.block_bytes == vllm.block_tokens * 62 * 40 * 2 * 96 * 2 == vllm.block_tokens * 952_320
    assert sglang.block_bytes == sglang.block_tokens * 35_712
