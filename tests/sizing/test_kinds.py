"""What each kind of parallelism keeps per GPU and in host memory, beside what engines print; the table of docs/parallel.md."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.memory.below import below
from kvplan.memory.layout import layout
from kvplan.memory.pool import kv_pool
from kvplan.memory.weights import rank_weight_bytes
from kvplan.units import GiB
from tests.deployed import deployed

KINDS: tuple[dict[str, int], ...] = (
    {"tp": 8},
    {"tp": 8, "ep": 8},
    {"tp": 4, "dp": 2, "ep": 8},
    {"tp": 2, "dp": 4, "ep": 8},
    {"dp": 8, "ep": 8},
    {"tp": 2, "pp": 4},
)
MODELS = ("deepseek-v3", "qwen3-235b-a22b-fp8")
VERSIONS = ("0.24", "0.33")
PRINTED = (
    ("deepseek-v3", {"tp": 2}, 70_272, "vLLM 0.24 on two H100 with DeepSeek-V3's shape: 6 GiB a rank, 91,664 tokens"),
    ("qwen3-235b-a22b-fp8", {"tp": 4}, 48_105, "SGLang on four H100, vllm-project/vllm#21348: K and V of 8.23 GB each, 367,404 tokens"),
    ("qwen3-235b-a22b-fp8", {"tp": 4}, 48_681, "vLLM on four H100, the same issue: 8.11 GiB, 178,880 tokens"),
)
"""Model, kind, bytes of a token on one GPU as an engine's own print implies, and which print."""


def kept(model: str, kind: dict[str, int], version: str) -> dict[str, float]:
    """What a kind keeps on 8 H200 under a version of vLLM."""
    placed = deployed(model, f"vllm@{version}", "h200-sxm", **kind)
    made, dp = layout(placed), kind.get("dp", 1)
    return {
        "GPU": made.types[0].token_bytes,
        "weights": rank_weight_bytes(placed) / GiB,
        "tokens": made.blocks(kv_pool(placed).kv_bytes) * made.block_tokens * dp,
        "host": below(placed).token_bytes,
    }


def page() -> str:
    """The table, as docs/parallel.md shows it."""
    heads = (
        "kind",
        "KV of a token on a GPU",
        "weights of a GPU",
        "distinct tokens in all pools",
        *(f"host bytes a token, vLLM {one}" for one in VERSIONS),
    )
    lines = [
        "# What each kind of parallelism keeps",
        "",
        "8 H200 GPUs, KV in the model's dtype, as vLLM lays it out. Tensor-parallel ranks keep a latent (DeepSeek) whole on each, and KV",
        "heads more than once where there are more ranks; data-parallel ranks keep different tokens, but repeat all weights except the",
        "experts. Host bytes are those of a tier below: each data-parallel rank has one of its own, which the others do not see.",
    ]
    for model in MODELS:
        lines += ["", f"## {model}", "", f"| {' | '.join(heads)} |", f"| --- |{' --- |' * (len(heads) - 1)}"]
        for kind in KINDS:
            found = [kept(model, kind, version) for version in VERSIONS]
            hosts = [f"{one['host']:,.0f}" for one in found]
            words = deployed(model, "vllm", "h200-sxm", **kind).parallel.words
            row = [words, f"{found[0]['GPU']:,.0f} B", f"{found[0]['weights']:.1f} GiB", f"{found[0]['tokens']:,}", *hosts]
            lines.append(f"| {' | '.join(row)} |")
    lines += [
        "",
        "## Beside what engines print",
        "",
        "| model | kind | bytes of a token on a GPU | as printed | where |",
        "| --- | --- | --- | --- | --- |",
    ]
    for model, kind, printed, where in PRINTED:
        words = deployed(model, **kind).parallel.words
        lines.append(f"| {model} | {words} | {layout(deployed(model, **kind)).types[0].token_bytes:,.0f} | {printed:,} | {where} |")
    return "\n".join([*lines, ""])


@pytest.mark.parametrize(("model", "kind", "printed", "where"), PRINTED)
def test_bytes_are_those_that_engines_print(model: str, kind: dict[str, int], printed: int, where: str) -> None:
    assert layout(deployed(model, **kind)).types[0].token_bytes == pytest.approx(printed, rel=0.015), where


def test_what_a_token_of_qwen_takes() -> None:
    """94 layers of 4 KV heads of 128, K and V, 2 bytes: 192,512 B in all; a head each on 4 ranks, two ranks with the same on 8."""
    whole = 94 * 2 * 4 * 128 * 2
    by_kind: dict[str, dict[str, Any]] = {str(kind): kept("qwen3-235b-a22b-fp8", kind, "0.24") for kind in KINDS}
    assert by_kind[str({"tp": 8})]["GPU"] == whole / 4
    assert by_kind[str({"tp": 8})]["host"] == 2 * whole
    assert by_kind[str({"dp": 8, "ep": 8})]["GPU"] == by_kind[str({"dp": 8, "ep": 8})]["host"] == whole
    assert by_kind[str({"tp": 2, "pp": 4})]["GPU"] == 24 * 2 * 2 * 128 * 2  # the fullest of four stages has 24 layers


def test_what_a_token_of_deepseek_takes() -> None:
    """61 latents of 576 numbers, 70,272 B, on each tensor-parallel rank; host memory keeps all copies in vLLM 0.24, in 0.33 one, in rows
    of 16 tokens that fill 275 pages of 4 KiB."""
    one = 61 * 576 * 2
    for version, host in (("0.24", 8 * one), ("0.33", 275 * 4096 / 16)):
        found = kept("deepseek-v3", {"tp": 8}, version)
        assert (found["GPU"], found["host"]) == (one, host)
    assert kept("deepseek-v3", {"dp": 8, "ep": 8}, "0.24")["host"] == one
