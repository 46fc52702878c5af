"""The engine's pool arithmetic against startup logs of real engines, and by hand."""

from __future__ import annotations

import msgspec
import pytest

from kvplan import catalog
from kvplan.engine.spec import EngineSpec
from kvplan.errors import InputError
from kvplan.memory.layout import layout
from kvplan.model import ModelSpec, from_hf_config
from kvplan.sizing.answer import ask
from tests.deployed import deployed

GiB = 2**30


def vllm(version: str = "0.24.0", **changes: object) -> EngineSpec:
    return msgspec.structs.replace(catalog.engine(f"vllm@{version}"), **changes)


def gemma3_1b() -> ModelSpec:
    fields = {
        "model_type": "gemma3_text",
        "num_hidden_layers": 26,
        "hidden_size": 1152,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 6912,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
        "max_position_embeddings": 32768,
    }
    return from_hf_config(fields, name="gemma-3-1b")


def test_uniform_pool_of_mistral_small() -> None:
    # vLLM 0.11 on H100 (llm-d-planner): 28.20 GiB, blocks of 128, 1,444 blocks, 184,832 tokens, 11.55x at 16,000.
    # 40 layers x 2 x 8 x 128 x 2 = 163,840 B a token; the log rounds 28.2037 GiB to 28.20.
    model, engine = catalog.model("mistral-small-24b"), vllm("0.11.0", block_tokens=128)
    result = ask(model, engine=engine, context_tokens=16000, pool_bytes=1444 * 128 * 163840)
    assert (result.engine.pool_blocks, result.engine.pool_tokens) == (1444, 184832)
    assert f"{result.engine.max_concurrency:.2f}" == "11.55"
    assert abs(1444 * 128 * 163840 / GiB - 28.20) < 0.005


def test_sliding_groups_of_gemma3_1b() -> None:
    # A public vLLM log (2026-01-16): 25.39 GiB, "Add 2 padding layers, may waste at most 9.09%", 950,864 tokens,
    # 461.21x at 2,048.

    # 22 sliding layers in groups of 4 (2 padded of 22 = 9.09 %): 6 groups, and one of full layers.
    # A page is 16 x 2 x 256 x 2 = 16,384 B, a block 4 pages; a request takes 128 + 6 x (128 + 1) = 902 blocks.
    made = layout(deployed(gemma3_1b(), vllm("0.13.0"), kv_dtype="bf16"))
    assert made.block_bytes == 65536 and made.groups == 7
    assert made.request_blocks(2048) == 902
    blocks = made.blocks(round(25.3911 * GiB))
    assert made.tokens(blocks, 2048) == 950864
    assert f"{made.concurrency(blocks, 2048):.2f}" == "461.21"


def test_state_pages_of_qwen35_27b() -> None:
    # vLLM 0.19 (issue 40691): 290,864 tokens and 33.04x at 32,768.
    # State 10,240 x 3 x 2 + 48 x 128 x 128 x 4 = 3,207,168 B; attention keeps 2 x 4 x 256 x 2 = 4,096 B a token and
    # layer,

    # so blocks grow to 16 x ceil(3,207,168 / 65,536) = 784 tokens. 48 + 16 layers make 3 + 1 groups; ceil(32,768 /
    # 784) + 3 = 45 blocks.

    made = layout(deployed("qwen3.5-27b", vllm("0.19.0"), kv_dtype="bf16"))
    assert (made.block_tokens, made.groups, made.request_blocks(32768)) == (784, 4, 45)
    assert made.tokens(1487, 32768) == 290864
    assert f"{made.concurrency(1487, 32768):.2f}" == "33.04"


def test_state_slots_for_prefix_caching() -> None:
    # vLLM 0.24 (club-3090 issue 612): Qwen3.6-35B-A3B, fp8 KV, 5.98 GiB, 567,978 tokens and 4.33x at 131,072. The
    # shape is Qwen3.5's.

    # Blocks of 16 x ceil(2,146,304 / (16 x 1,024)) = 2,096 tokens; 10 pages of 2,096 x 1,024 B; 3 groups of states
    # with 2 slots each.

    made = layout(deployed("qwen3.5-35b-a3b", vllm("0.24.0"), kv_dtype="fp8"))
    assert (made.block_tokens, made.block_bytes) == (2096, 10 * 2096 * 1024)
    blocks = made.blocks(round(5.98 * GiB))
    assert (blocks, made.request_blocks(131072)) == (299, 63 + 3 * 2)
    assert made.tokens(blocks, 131072) == 567978


@pytest.mark.parametrize(
    ("name", "kv_dtype", "block_tokens"),
    [
        ("qwen3.5-35b-a3b", "bf16", 1056),
        ("qwen3.5-35b-a3b", "fp8", 2096),
        ("qwen3-next-80b-a3b", "bf16", 544),  # its state in bf16
    ],
)
def test_attention_blocks_that_vllm_printed_beside_states(name: str, kv_dtype: str, block_tokens: int) -> None:
    assert layout(deployed(name, vllm(), kv_dtype=kv_dtype)).block_tokens == block_tokens


def test_wider_blocks_for_smaller_vectors() -> None:
    # Gemma-4: 25 sliding layers keep 8 x 2 x 256 x 2 = 8,192 B a token, 5 global ones 2 x 2 x 512 x 2 = 4,096 B:
    # their blocks hold 32.

    made = layout(deployed("gemma-4-26b-a4b", vllm(), kv_dtype="bf16"))
    assert {one.kind: (one.block_tokens, one.groups) for one in made.types} == {"window": (16, 5), "full": (32, 1)}


def test_chunked_layers_reserved_in_full_before_0_12() -> None:
    # Llama-4 Scout at 10M tokens, TP 8: 48 layers x 2 x 1 head x 128 x 2 = 24,576 B a token and rank = 240 GiB (vLLM
    # issue 19407).

    made = layout(deployed("llama-4-scout", vllm("0.11.0"), kv_dtype="bf16", tp=8))
    assert made.reserved_bytes(10 * 2**20) == 8 * 240 * GiB


@pytest.mark.parametrize(
    ("name", "tp", "rank_bytes_per_token"),
    [
        ("qwen3-235b-a22b", 4, 94 * 2 * 1 * 128 * 2),  # 48,128; SGLang logged 48,104 (vLLM issue 21348)
        ("qwen3-235b-a22b", 8, 94 * 2 * 1 * 128 * 2),  # 4 KV heads on 8 ranks: each head twice
        ("deepseek-v3", 8, 70272),  # the latent vector on every rank
        ("llama-3.3-70b", 4, 81920),
    ],
)
def test_bytes_per_rank(name: str, tp: int, rank_bytes_per_token: int) -> None:
    made = layout(deployed(name, vllm(), kv_dtype="bf16", tp=tp))
    assert made.block_bytes == 16 * rank_bytes_per_token


def test_hybrid_manager_off() -> None:
    # Gemma-2-9B with every layer full: 42 x 2 x 8 x 256 x 2 = 344,064 B; 2.63 GiB for 8,192 tokens, as vLLM logged.
    rules = msgspec.structs.replace(vllm().memory, hybrid_groups=False)
    made = layout(deployed("gemma-2-9b", vllm(memory=rules), kv_dtype="bf16"))
    assert made.reserved_bytes(8192) == 344064 * 8192
    assert f"{made.reserved_bytes(8192) / GiB:.2f}" == "2.62"  # the log says 2.63: vLLM rounds each layer up


def test_pool_smaller_than_one_block() -> None:
    result = ask(catalog.model("llama-3.1-8b"), engine=vllm(), context_tokens=8192, pool_bytes=1000)
    assert (result.engine.pool_tokens, result.fit.fits, result.fit.max_context_tokens) == (0, False, 0)


@pytest.mark.parametrize(("tp", "pp"), [(3, 1), (1, 33)])
def test_ranks_that_cannot_split_the_model(tp: int, pp: int) -> None:
    with pytest.raises(InputError):
        layout(deployed("llama-3.1-8b", vllm(), kv_dtype="bf16", tp=tp, pp=pp))


def test_auto_follows_the_engine() -> None:
    # fp8 weights keep bf16 KV: DeepSeek-V3 70,272 B a token; a ModelOpt checkpoint that names fp8 KV gets it from
    # vLLM 0.13 on.

    assert ask(catalog.model("deepseek-v3"), engine=vllm(), context_tokens=1).kv.bytes_per_sequence == 70272
    gemma = catalog.model("gemma-4-31b-nvfp4")
    assert ask(gemma, engine=vllm("0.24.0"), context_tokens=1).kv_dtype == "fp8"
    assert ask(gemma, engine=vllm("0.12.0"), context_tokens=1).kv_dtype == "bf16"


def test_windows_keep_blocks_for_all_steps_in_flight() -> None:
    # Gemma-3 27B: six groups of windows of 1,024 and one that keeps all 32,768 tokens, in blocks of 16. vLLM 0.24 counts one step of 8,192
    # tokens: (1,023 + 8,192) / 16 = 576 + 1 blocks a window; from 0.26 on two, or one for each stage of a pipeline.
    from tests.deployed import deployed

    one, two = (layout(deployed("gemma-3-27b", f"vllm@{version}")) for version in ("0.24", "0.26"))
    assert one.request_blocks(32_768) == 2_048 + 6 * 577
    assert two.request_blocks(32_768) == 2_048 + 6 * (1_088 + 1)
    assert two.fixed_blocks(32_768, 1) == one.fixed_blocks(32_768, 1)  # what decoding holds is the same


def test_pages_of_compressed_tiers() -> None:
    # Rows of 584 B and keys of 132 B, one for 4 or 128 of 256 tokens, rounded up to 576 B: 37,440 + 8,640 and 1,728 a layer.
    from tests.deployed import deployed

    flash, pro = (layout(deployed(name, "vllm@0.33")) for name in ("deepseek-v4-flash", "deepseek-v4-pro"))
    assert flash.block_bytes == 21 * (37_440 + 8_640) + 20 * 1_728 == 1_002_240
    assert pro.block_bytes == 30 * (37_440 + 8_640) + 31 * 1_728 == 1_435_968
    assert [(one.block_tokens, one.groups) for one in flash.types] == [(256, 1), (64, 2), (4, 1), (8, 1)]
    assert layout(deployed("deepseek-v4-flash", "vllm@0.33", tp=2)).block_bytes == flash.block_bytes  # one vector on every rank
