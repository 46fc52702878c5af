"""Bytes below the GPU = keys x row, with the arithmetic of the engine's source worked out."""

from __future__ import annotations

import pytest

from kvplan.memory.below import Below, below
from kvplan.memory.layout import layout
from tests.deployed import deployed

MIB = 2**20


def stored_by(model: str, *, tp: int = 1, kv: str = "bf16", **rules: object) -> Below:
    return below(deployed(model, tp=tp, kv_dtype=kv, **rules))


def test_uniform_model_stores_what_it_keeps() -> None:
    """32 layers x 8 heads x 2 x 128 x 2 bytes = 131,072 a token: a block of 16 tokens is 2 MiB."""
    kept = stored_by("llama-3.1-8b")
    assert kept.row_bytes == 2 * MIB
    assert kept.stored(1000).tier_bytes == 62 * 2 * MIB  # whole blocks
    assert kept.loaded(1000).rank_bytes == 62 * 2 * MIB
    assert kept.token_bytes == 131072


def test_window_blocks_are_all_stored_and_one_window_loaded() -> None:
    """gemma-3-12b: 8 full and 40 window layers of 8 x 2 x 256 x 2 = 8,192 bytes a token make 6 groups of 8 layers, so a row of 16 tokens
    is 8 x 16 x 8,192 = 1 MiB. 65,536 tokens are 6 x 4,096 keys; of the windows 5 x 1,024 / 16 = 320 come back.
    """
    kept = stored_by("gemma-3-12b")
    assert kept.row_bytes == MIB
    assert kept.stored(65536).keys == 6 * 4096
    assert kept.loaded(65536).keys == 4096 + 320
    assert kept.loaded(65536).rank_bytes == 4416 * MIB
    assert kept.token_bytes == 48 * 8192


def test_latent_is_stored_per_rank_or_once() -> None:
    """deepseek-r1: 61 layers x 576 x 2 = 70,272 bytes a token on each of 8 ranks; one copy where the engine keeps one."""
    assert stored_by("deepseek-r1", tp=8).token_bytes == 8 * 70272
    once = stored_by("deepseek-r1", tp=8, latent_per_rank=False, row_multiple_bytes=4096)
    assert once.row_bytes == 275 * 4096  # 16 x 70,272 = 1,124,352 = 274.5 pages
    assert once.loaded(16).rank_bytes == 16 * 70272  # a rank loads all of it


def test_replicated_heads_are_stored_by_each_rank() -> None:
    """qwen3-30b-a3b has 4 KV heads: on 8 ranks each holds one, 48 x 2 x 128 x 2 = 24,576 bytes a token."""
    assert stored_by("qwen3-30b-a3b", tp=8).token_bytes == 8 * 24576


def test_state_is_stored_at_step_ends_and_loaded_once() -> None:
    kept = stored_by("qwen3-next-80b-a3b")
    states = next(one for one in kept.layout.types if one.kind == "state")
    tokens = kept.whole(16384)
    full = sum(one.groups * tokens // one.block_tokens for one in kept.layout.types if one.grows)
    assert kept.stored(tokens).keys == full + states.groups * 2
    assert kept.loaded(tokens).keys == full + states.groups


@pytest.mark.parametrize("model", ["llama-3.1-8b", "gemma-3-12b", "deepseek-r1", "nemotron-3-nano-30b-a3b"])
def test_growing_and_fixed_blocks_are_what_a_request_takes(model: str) -> None:
    made = layout(deployed(model))
    for tokens in (1, 17, 5000, 70000):
        assert made.grown_blocks(tokens) + made.fixed_blocks(tokens) == made.request_blocks(tokens)


def test_a_decoding_request_holds_one_window() -> None:
    """gemma-3-12b, 5 window groups: ceil(1,024 / 16) + 1 = 65 blocks each beside one new token, not a step's worth."""
    made = layout(deployed("gemma-3-12b"))
    assert made.unit_tokens == 16 and made.unit_blocks == 1
    assert made.fixed_blocks(65536, 1) == 5 * 65
    assert made.fixed_blocks(65536) == 5 * (-(-(1023 + 8192) // 16) + 1)
