"""Every row of the collected engine logs is reproduced, or listed with the reason why it is not."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kvplan import catalog
from kvplan.deployment import Deployment, Parallel
from kvplan.memory.layout import layout
from kvplan.memory.pool import kv_pool
from kvplan.memory.weights import rank_weight_bytes
from kvplan.units import GiB, MiB
from tests.deployed import deployed
from tests.public import needs, public

LOGS = public("facts/observed_logs.jsonl")
Observed = dict[str, Any]


def token_bytes(name: str, tp: int = 1, **options: str) -> float:
    """Bytes of one token on one rank."""
    made = layout(deployed(name, tp=tp, **options))
    return made.block_bytes / made.block_tokens


def sglang_qwen3_235b(seen: Observed) -> None:
    # Two pools of 8.23 GiB for 367,404 tokens: 48,105 B a token and rank; 94 x 2 x 1 x 128 x 2 = 48,128.
    assert token_bytes("qwen3-235b-a22b-fp8", 4) == pytest.approx(
        (seen["k_size_gb"] + seen["v_size_gb"]) * GiB / seen["kv_tokens"], rel=0.005
    )


def gemma_2_without_hybrid_groups(seen: Observed) -> None:
    # 42 layers as if all were full: 42 x 2 x 8 x 256 x 2 = 344,064 B a token.
    assert 344064 * 8192 / GiB == pytest.approx(seen["kv_needed_gib"], rel=0.005)


def gpt_oss_does_not_fit(seen: Observed) -> None:
    made = layout(deployed("gpt-oss-120b"))
    assert made.reserved_bytes(131072) > seen["available_kv_cache_gib"] * GiB


def pegainfer_qwen3_4b(seen: Observed) -> None:
    # 5,385 blocks of 16 tokens; 36 layers x 2 x 8 x 128 x 2 = 147,456 B a token: 12,116.25 MiB.
    assert seen["blocks"] * 16 * token_bytes("qwen3-4b") / MiB == pytest.approx(seen["kv_mib"], rel=0.0005)
    assert seen["tokens"] == (seen["blocks"] - 1) * 16  # one block is kept back


def weights(name: str, tp: int = 1, dtype: str = "") -> Callable[[Observed], None]:
    """A check that a rank's weights are within 3 % of what the engine loaded."""

    def check(seen: Observed) -> None:
        loaded = rank_weight_bytes(deployed(name, "vllm@0.11", tp=tp, dtype=dtype)) / GiB
        assert loaded == pytest.approx(seen["model_load_gib"], rel=0.02)

    return check


def pool(name: str, tp: int = 1, dtype: str = "", gpu_fraction: float = 0.9) -> Callable[[Observed], None]:
    """A check that a rank's weights and what is left for KV are within 2 % of what vLLM 0.11 printed on an H100 of 79.18 GiB."""

    def check(seen: Observed) -> None:
        weights(name, tp, dtype)(seen)
        server, engine = catalog.machine("h100-sxm"), msgspec.structs.replace(catalog.engine("vllm@0.11"), gpu_fraction=gpu_fraction)
        model = catalog.model(name)
        found = kv_pool(Deployment(model=model, engine=engine, server=server, parallel=Parallel(tp=tp), dtype=dtype))
        assert found.rank_kv_bytes / GiB == pytest.approx(seen["available_kv_cache_gib"], rel=0.02)

    return check


def llama_on_a_3090(seen: Observed) -> None:
    # 131,072 B a token in blocks of 16: 1,952 blocks are 3.8125 GiB, 1,478 are 2.887 GiB.
    assert seen["gpu_blocks"] * 16 * token_bytes("llama-3.1-8b") / GiB == pytest.approx(seen["kv_cache_gib"], rel=0.002)
    weights_of = rank_weight_bytes(deployed("llama-3.1-8b")) / GiB
    assert weights_of == pytest.approx(seen["weights_gb"], rel=0.02)


def sglang_deepseek_v32(seen: Observed) -> None:
    # 61 x (656 + 132) = 48,068 B a token; 43.67 GiB hold 975,424.
    assert token_bytes("deepseek-v3.2", engine="sglang", kv_dtype="fp8") == pytest.approx(
        seen["kv_size_gb"] * GiB / seen["kv_tokens"], rel=0.002
    )


def mistral_small(seen: Observed) -> None:
    # The text model of 2501 has the same layers. 40 x 2 x 8 x 128 x 2 = 163,840 B a token; 28.20 GiB hold 184,832 tokens in blocks of 128.
    assert token_bytes("mistral-small-24b") == pytest.approx(seen["available_kv_cache_gib"] * GiB / seen["kv_cache_tokens"], rel=0.0005)
    assert f"{seen['kv_cache_tokens'] / 16000:.2f}" == f"{seen['max_concurrency']:.2f}"
    weights("mistral-small-24b")(seen)


def deepseek_v4(seen: Observed) -> None:
    # 0.33: 30,000 / 256 = 118 blocks and, for two steps of 8,192 tokens in flight, rings of 4 and 8 tokens a block and two groups of
    # windows:
    # (16,391 / 4 = 4,098 + 1) + (16,511 / 8 = 2,064 + 1) + 2 x (16,511 / 64 = 258 + 1) = 6,682; 6,800 x 1,002,240 B = 6.35 GiB. The log, of
    # a version that is not told, needs 4.9 % more for both lengths: its pages are that much larger.
    made = layout(deployed("deepseek-v4-flash", "vllm@0.33", tp=2))
    assert made.request_blocks(30_000) == 118 + 6_682
    for tokens, gib in ((30_000, seen["kv_needed_gib"]), (seen["estimated_max_len"], seen["available_kv_cache_gib"])):
        assert made.request_blocks(tokens) * made.block_bytes / GiB == pytest.approx(gib, rel=0.05)


Key = tuple[str, str, str | None, int, int | None]
"""Model, engine, version, ranks and longest context of a row."""

CHECKS: dict[Key, Callable[[Observed], None]] = {
    ("Qwen3-235B-A22B-FP8", "sglang", None, 4, None): sglang_qwen3_235b,
    ("BAAI/bge-multilingual-gemma2 (Gemma2-9B) [inferred from test]", "vllm", None, 1, 8192): gemma_2_without_hybrid_groups,
    ("openai/gpt-oss-120b", "vllm", None, 1, 131072): gpt_oss_does_not_fit,
    ("Qwen3-4B", "pegainfer", None, 1, 40960): pegainfer_qwen3_4b,
    ("DeepSeek-V4-Flash", "vllm", None, 2, 30000): deepseek_v4,
    ("openai/gpt-oss-120b", "vllm", "0.11.0", 1, 16000): weights("gpt-oss-120b"),
    ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "vllm", "0.11.0", 2, 16000): pool("llama-3.3-70b", 2, "fp8"),
    ("Qwen/Qwen3-32B", "vllm", "0.11.0", 1, 16000): pool("qwen3-32b"),
    ("Qwen/Qwen3-32B", "vllm", "0.11.0", 2, 16000): pool("qwen3-32b", 2),
    ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "vllm", "0.11.0", 1, 16000): mistral_small,
    ("meta-llama/Llama-3.1-8B-Instruct", "vllm", "0.11.0", 1, 16000): pool("llama-3.1-8b"),
    ("meta-llama/Llama-3.1-8B-Instruct", "vllm", None, 1, 20000): llama_on_a_3090,
    ("meta-llama/Llama-3.1-8B-Instruct", "vllm", None, 1, 29000): llama_on_a_3090,
    ("deepseek-ai/DeepSeek-V3.2-Exp", "sglang", "PR 11309 branch", 8, None): sglang_deepseek_v32,
}
MISSED: dict[Key, str] = {
    ("Qwen3-235B-A22B-FP8", "vllm", None, 4, None): (
        "48,681 B a token and rank against 48,128: 1.1 % more, and the version that would tell why is unknown"
    ),
    ("gemma-4-31B", "vllm-metal", None, 1, 32768): "another engine than those modelled, and its KV budget is not in the log",
    ("openai/gpt-oss-120b", "vllm", None, 1, None): (
        "weights of 65.97 GiB against 64.48: 2.3 % more, and neither the version nor its MXFP4 layout is in the log"
    ),
    ("Kimi-Linear-48B-A3B-Instruct-AWQ-4bit", "vllm", None, 2, 120000): (
        "2.3 GiB of a GPU for KV is told, but neither the weights nor the activation peak that would say what it is the rest of"
    ),
}
"""Rows that are not reproduced, with the term that is off. Also off: the pool of gpt-oss-120b at 0.11 follows only with a memory
fraction of 0.95, which its log does not give, and the activation peak of Mistral-Small-3.2, a vision-language model (2.12 GiB
against 4.86)."""


@needs("facts/observed_logs.jsonl")
def test_each_logged_row_is_reproduced_or_listed() -> None:
    rows = [json.loads(line) for line in LOGS.read_text().splitlines()]
    keys: list[Key] = [(row["model"], row["engine"], row["engine_version"], row["tp"], row["max_model_len"]) for row in rows]
    assert sorted(keys, key=str) == sorted([*CHECKS, *MISSED], key=str)
    for key, row in zip(keys, rows, strict=True):
        if key in CHECKS:
            CHECKS[key](row["observed"])
