"""KV bytes of catalog models against the layer formula worked out by hand.

Every expected value is layers x (K and V) x KV heads x head dimension x bytes x kept tokens, written out with the
published shape.
"""

from __future__ import annotations

import pytest

from kvplan import catalog
from kvplan.memory.formats import LOGICAL
from kvplan.memory.kv import growth_bytes, multi_head_bytes, sequence_bytes

K8, K32, K128 = 8192, 32768, 131072

TABLE = [
    # plain multi-head: every head keeps K and V
    ("llama-2-7b", 4096, 32 * 2 * 32 * 128 * 2 * 4096),  # 512 KiB a token
    ("llama-2-13b", 4096, 40 * 2 * 40 * 128 * 2 * 4096),
    ("gpt2", 1024, 12 * 2 * 12 * 64 * 2 * 1024),
    ("bloom-176b", 2048, 70 * 2 * 112 * 128 * 2 * 2048),
    # grouped queries
    ("llama-2-70b", 4096, 80 * 2 * 8 * 128 * 2 * 4096),
    ("llama-3.1-8b", K128, 32 * 2 * 8 * 128 * 2 * K128),  # 16 GiB
    ("llama-3.1-70b", K128, 80 * 2 * 8 * 128 * 2 * K128),
    ("llama-3.1-405b", K128, 126 * 2 * 8 * 128 * 2 * K128),
    ("llama-3.2-1b", K128, 16 * 2 * 8 * 64 * 2 * K128),
    ("llama-3.2-3b", K128, 28 * 2 * 8 * 128 * 2 * K128),
    ("qwen2.5-0.5b", K32, 24 * 2 * 2 * 64 * 2 * K32),
    ("qwen2.5-7b", K32, 28 * 2 * 4 * 128 * 2 * K32),
    ("qwen2.5-32b", K128, 64 * 2 * 8 * 128 * 2 * K128),  # 32 GiB
    ("qwen2.5-72b", K128, 80 * 2 * 8 * 128 * 2 * K128),
    ("yi-34b", 4096, 60 * 2 * 8 * 128 * 2 * 4096),
    ("codellama-34b", 16384, 48 * 2 * 8 * 128 * 2 * 16384),
    ("mistral-7b-v0.3", K32, 32 * 2 * 8 * 128 * 2 * K32),
    ("mixtral-8x7b", K32, 32 * 2 * 8 * 128 * 2 * K32),
    ("mixtral-8x22b", 65536, 56 * 2 * 8 * 128 * 2 * 65536),
    ("phi-4", 16384, 40 * 2 * 10 * 128 * 2 * 16384),
    ("minimax-m2.5", K128, 62 * 2 * 8 * 128 * 2 * K128),
    ("qwen3-235b-a22b", 40960, 94 * 2 * 4 * 128 * 2 * 40960),
    # head_dim that is not hidden / heads
    ("qwen3-0.6b", K32, 28 * 2 * 8 * 128 * 2 * K32),  # 1024 / 16 would be 64
    ("qwen3-32b", K32, 64 * 2 * 8 * 128 * 2 * K32),  # 5120 / 64 would be 80
    ("mistral-nemo-12b", K128, 40 * 2 * 8 * 128 * 2 * K128),  # 5120 / 32 would be 160
    # one KV head, and Falcon's grouped variant
    ("falcon-7b", 2048, 32 * 2 * 1 * 64 * 2 * 2048),
    ("falcon-40b", 2048, 60 * 2 * 8 * 64 * 2 * 2048),
    # a nested text_config
    ("qwen3-vl-30b-a3b", K128, 48 * 2 * 4 * 128 * 2 * K128),
    # latent: 512 + 64 elements a token and layer
    ("deepseek-v2-lite", K32, 27 * 576 * 2 * K32),
    ("deepseek-v3", K128, 61 * 576 * 2 * K128),  # 70,272 a token
    ("deepseek-r1", 4096, 61 * 576 * 2 * 4096),
    ("kimi-k2", K128, 61 * 576 * 2 * K128),
    # latent with the sparse indexer's key: 128 fp8 + 4
    ("deepseek-v3.2", K128, 61 * (576 * 2 + 132) * K128),  # 78,324 a token
    ("glm-5", K128, 78 * (576 * 2 + 132) * K128),
    ("glm-5.2", K128, (78 * 576 * 2 + 21 * 132) * K128),  # 57 layers share an earlier layer's index
    # windows: all layers, every other, five of six
    ("mistral-7b-v0.1", 2048, 32 * 2 * 8 * 128 * 2 * 2048),
    ("mistral-7b-v0.1", K32, 32 * 2 * 8 * 128 * 2 * 4096),
    ("phi-3-mini-4k", 4096, 32 * 2 * 32 * 96 * 2 * 2047),
    ("gemma-2-9b", K8, 2 * 8 * 256 * 2 * (21 * K8 + 21 * 4096)),
    ("gemma-2-27b", 4096, 2 * 16 * 128 * 2 * (23 * 4096 + 23 * 4096)),
    ("gemma-3-27b", K128, 2 * 16 * 128 * 2 * (10 * K128 + 52 * 1024)),
    ("gemma-3-4b", K128, 2 * 4 * 256 * 2 * (5 * K128 + 29 * 1024)),
    ("gpt-oss-120b", K128, 2 * 8 * 64 * 2 * (18 * K128 + 18 * 128)),
    ("gpt-oss-20b", 100, 2 * 8 * 64 * 2 * (12 * 100 + 12 * 100)),
    ("step-3.7-flash", 65536, 2 * 8 * 128 * 2 * (12 * 65536 + 33 * 512)),
    # global layers with heads of their own: 2 heads of 512 against 8 of 256
    ("gemma-4-26b-a4b", K128, 2 * 2 * 512 * 2 * 5 * K128 + 2 * 8 * 256 * 2 * 25 * 1024),
    # K of 192 and V of 128; 4 heads in full layers, 8 in sliding ones
    ("mimo-v2-flash", K128, 9 * 4 * (192 + 128) * 2 * K128 + 39 * 8 * (192 + 128) * 2 * 128),
    # chunks of 8,192
    ("llama-4-scout", K128, 2 * 8 * 128 * 2 * (12 * K128 + 36 * 8192)),  # 58,368 a token on average
    # layers without attention
    ("nemotron-super-49b", K128, 49 * 2 * 8 * 128 * 2 * K128),
    # states: gated delta nets (conv (2 x Hk x dk + Hv x dv) x 3 in bf16, Hv x dv x dk in fp32 or, for Qwen3-Next, bf16)
    ("qwen3.5-35b-a3b", K128, 10 * 2 * 2 * 256 * 2 * K128 + 30 * (8192 * 3 * 2 + 32 * 128 * 128 * 4)),
    ("qwen3.5-27b", K128, 16 * 2 * 4 * 256 * 2 * K128 + 48 * (10240 * 3 * 2 + 48 * 128 * 128 * 4)),
    ("qwen3-next-80b-a3b", K128, 12 * 2 * 2 * 256 * 2 * K128 + 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 2)),
    # Mamba-2: (64 x 64 + 2 x 8 x 128) x 3 in bf16 and 64 x 64 x 128 in fp32
    ("nemotron-3-nano-30b-a3b", K128, 6 * 2 * 2 * 128 * 2 * K128 + 23 * (6144 * 3 * 2 + 64 * 64 * 128 * 4)),
    ("nemotron-h-56b", K8, 10 * 2 * 8 * 128 * 2 * K8 + 54 * (20480 * 3 * 2 + 256 * 64 * 256 * 2)),
    # Mamba-1: 8192 x 3 and 8192 x 16
    ("jamba-1.5-mini", K128, 4 * 2 * 8 * 128 * 2 * K128 + 28 * (8192 * 3 * 2 + 8192 * 16 * 2)),
    ("mamba-2.8b", K128, 64 * (5120 * 3 * 4 + 5120 * 16 * 4)),  # an fp32 checkpoint
    # Kimi delta attention, 96 x 128 x 128 in fp32, beside 24 latent layers
    ("kimi-k3", K128, 24 * 576 * 2 * K128 + 69 * (3 * 96 * 128 * 3 * 2 + 96 * 128 * 128 * 4)),
]


@pytest.mark.parametrize(("name", "tokens", "expected"), TABLE, ids=[f"{row[0]}-{row[1]}" for row in TABLE])
def test_bytes_of_a_sequence(name: str, tokens: int, expected: int) -> None:
    assert sequence_bytes(catalog.model(name), tokens, LOGICAL["bf16"]) == expected


@pytest.mark.parametrize(
    ("kv_dtype", "bytes_per_token"),
    [
        # Llama-3.1-8B has 32 layers x 2 x 8 heads = 512 vectors of 128 elements per token.
        ("fp32", 512 * 128 * 4),
        ("bf16", 512 * 128 * 2),
        ("fp8", 512 * 128),
        ("int4", 512 * 64),
        ("nvfp4", 512 * (64 + 128 // 16)),  # one byte of scale per 16 elements
        ("mxfp4", 512 * (64 + 128 // 32)),
    ],
)
def test_kv_dtypes_with_their_scales(kv_dtype: str, bytes_per_token: int) -> None:
    assert growth_bytes(catalog.model("llama-3.1-8b"), 1000, LOGICAL[kv_dtype]) == bytes_per_token


def test_engine_formats_of_vllm() -> None:
    formats = catalog.engine("vllm").kv_formats
    llama, sparse = catalog.model("llama-3.1-8b"), catalog.model("deepseek-v3.2")
    assert growth_bytes(llama, 1000, formats["int8_per_token_head"]) == 512 * (128 + 4)  # an fp32 scale per head
    assert growth_bytes(sparse, 1000, LOGICAL["fp8"]) == 61 * (576 + 132)  # 43,188, as logged on B200
    assert growth_bytes(sparse, 1000, formats["fp8_ds_mla"]) == 61 * (656 + 132)  # 48,068, as logged by SGLang


def test_published_reference_figures() -> None:
    # 32 layers x 4096 hidden in fp16: 2 x 32 x 4096 x 2 = 512 KiB a token, 4 GiB at 8k, 0.5 GiB at 1,024.
    model = catalog.model("llama-2-7b")
    assert growth_bytes(model, 1, LOGICAL["fp16"]) == 512 * 2**10
    assert sequence_bytes(model, K8, LOGICAL["fp16"]) == 4 * 2**30
    assert sequence_bytes(model, 1024, LOGICAL["fp16"]) == 2**29
    # Qwen2.5-32B: 64 layers x 2 x 40 query heads x 128 x 2 bytes = 160 GiB by the formula, a fifth of it in truth.
    qwen = catalog.model("qwen2.5-32b")
    assert multi_head_bytes(qwen, K128, LOGICAL["bf16"]) == 160 * 2**30
    assert sequence_bytes(qwen, K128, LOGICAL["bf16"]) == 32 * 2**30
