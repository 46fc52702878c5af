"""The shipped machines reproduce published times to the first token of cold prompts."""

from __future__ import annotations

import pytest

from kvplan.step_time import StepCost
from tests.deployed import deployed

PUBLISHED = [
    # machine, ranks, model, prompt tokens, seconds, allowed relative error, source
    ("l4", 1, "llama-3.1-8b", 15_400, 6.537, 0.05, "LMCache docs, cold run"),
    ("a40", 1, "mistral-7b-v0.3", 25_000, 5.26, 0.05, "LMCache issue 56"),
    # vLLM blog 2026-01-08, Fig. 1: 0.626 of peak at 10k, 0.60 at 100k, of 2 P N + 2 L H d N^2 FLOPs; P = 6.98e9 without
    # embeddings, L H d = 32 x 32 x 128: (1.396e14 + 2.6e13) / (0.626 x 989e12) = 0.268 s;
    # (1.396e15 + 2.62e15) / (0.60 x 989e12) = 6.77 s.
    ("h100-sxm", 1, "llama-3.1-8b", 10_000, 0.268, 0.10, "vLLM blog 2026-01-08"),
    ("h100-sxm", 1, "llama-3.1-8b", 100_000, 6.77, 0.10, "vLLM blog 2026-01-08"),
    ("h100-sxm", 4, "llama-3.1-70b", 16_384, 16_384 / 12_900, 0.05, "llm-d file system blog, 12.9k tokens/s"),
    # 0.22 of peak: (2 x 31.2e9 x 130,900 + 2 x 64 x 64 x 128 x 130,900^2) / (0.22 x 1307e12) = 90.9 s
    ("mi300x", 1, "qwen3-32b", 130_900, 90.9, 0.05, "Ceph blog, vLLM of 2025"),
]


@pytest.mark.parametrize(("machine", "tp", "model", "tokens", "seconds", "error", "source"), PUBLISHED)
def test_cold_prefill(machine: str, tp: int, model: str, tokens: int, seconds: float, error: float, source: str) -> None:
    cost = StepCost(deployed(model, "vllm", machine, tp=tp))
    host_s = cost.overhead.entry_s(tokens) + cost.schedule_s(tokens, tokens) + cost.overhead.first_token_s
    assert host_s + cost.prefill_s(tokens, 0, 8192) == pytest.approx(seconds, rel=error), source
