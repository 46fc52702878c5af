"""Step times against arithmetic: the dtype of the products, and launches counted once."""

from __future__ import annotations

import pytest

from kvplan.deployment import Parallel
from kvplan.kernel_rates import UNEVEN_SHARE, UNEVEN_TOKENS
from kvplan.memory.weights import peak_flops
from kvplan.step_time import StepCost
from tests.deployed import deployed


def prefill_s(dtype: str) -> float:
    return StepCost(deployed("llama-3.1-8b", machine="h100-sxm", dtype=dtype)).prefill_s(8192, 0, 8192)


def test_four_bit_weights_alone_do_not_multiply_faster() -> None:
    """8,192 tokens are bound by compute: bf16 products whatever the weights take in memory."""
    assert prefill_s("awq") == pytest.approx(prefill_s(""), rel=0.02)
    assert prefill_s("int4") == pytest.approx(prefill_s(""), rel=0.02)
    assert prefill_s("fp8") < 0.75 * prefill_s("")


def test_mxfp4_experts_are_widened_without_fp4_units() -> None:
    hopper, blackwell = deployed("gpt-oss-20b", machine="h100-sxm"), deployed("gpt-oss-20b", machine="b200-sxm")
    assert peak_flops(hopper, "experts") == hopper.machine.gpu.bf16_flops
    assert peak_flops(blackwell, "experts") == blackwell.machine.gpu.fp8_flops
    assert peak_flops(blackwell, "attention") == blackwell.machine.gpu.bf16_flops  # not quantised


def test_gpt_oss_is_captured_up_to_larger_steps() -> None:
    """vLLM 0.24 has CUDA graphs of this family up to 1,024 tokens, of others up to twice its sequences."""
    gpt_oss, qwen = (StepCost(deployed(model, machine="h100-sxm")) for model in ("gpt-oss-20b", "qwen3-30b-a3b"))
    assert gpt_oss.host_s([(1025, 0)], 0) > 3 * gpt_oss.host_s([(1024, 0)], 0)
    assert qwen.host_s([(1024, 0)], 0) == qwen.host_s([(1025, 0)], 0)


def test_fp8_checkpoints_multiply_in_fp8_where_there_are_units() -> None:
    hopper = deployed("qwen3-32b-fp8", machine="h100-sxm")
    assert peak_flops(hopper, "dense") == hopper.machine.gpu.fp8_flops
    ampere = deployed("qwen3-32b-fp8", machine="a100-sxm-80gb")
    assert peak_flops(ampere, "dense") == ampere.machine.gpu.bf16_flops


def test_a_mixed_step_launches_attention_once() -> None:
    """One varlen call a layer serves prefill and decode together: the step of both is shorter than both alone by one floor and one gap."""
    cost = StepCost(deployed("llama-3.1-8b", machine="h100-sxm"))
    attention = cost.decode_attention_s([4096])
    mixed = cost.busy_s([(512, 0)], 1, attention, 1)
    overhead = cost.engine.overhead
    by_hand = cost.gemms_s(513) + cost.attention.seconds(512, 0) + attention + cost.head_s(1) + overhead.gap_s + overhead.step_sequence_s
    assert mixed == pytest.approx(by_hand)


def measured_step_ms(model: str, machine: str, batch: int, context: int, kv_dtype: str = "auto") -> float:
    cost = StepCost(deployed(model, machine=machine, kv_dtype=kv_dtype))
    return 1e3 * cost.step_s([], batch, cost.decode_attention_s([context + 48] * batch), batch)


@pytest.mark.parametrize(
    ("model", "machine", "batch", "context", "kv", "ms"),
    [
        # vLLM 0.24, random weights, steady steps of 96 tokens. A latent (its batches share their experts there, so one sequence only), ...
        ("deepseek-v2-lite", "h200-sxm", 1, 1024, "bf16", 3.40),
        ("deepseek-v2-lite", "h200-sxm", 1, 16384, "bf16", 3.87),
        ("deepseek-v2-lite", "h200-sxm", 1, 65536, "bf16", 4.95),
        # ... windows of 1,024 and wide heads, ...
        ("gemma-3-12b", "h200-sxm", 1, 1024, "bf16", 8.37),
        ("gemma-3-12b", "h200-sxm", 1, 65536, "bf16", 9.89),
        ("gemma-3-12b", "h200-sxm", 8, 8192, "bf16", 9.90),
        ("gemma-3-12b", "h200-sxm", 32, 3072, "bf16", 12.58),
        # ... 128 experts, ...
        ("qwen3-30b-a3b", "h100-sxm", 1, 1024, "bf16", 4.94),
        ("qwen3-30b-a3b", "h100-sxm", 8, 1024, "bf16", 11.69),
        ("qwen3-30b-a3b", "h100-sxm", 32, 2048, "bf16", 22.53),
        ("qwen3-30b-a3b", "h100-sxm", 128, 512, "bf16", 27.24),
        # ... and an fp8 cache.
        ("llama-3.1-8b", "h100-sxm", 1, 65536, "fp8", 8.22),
        ("llama-3.1-8b", "h100-sxm", 8, 8192, "fp8", 8.21),
    ],
)
def test_decode_steps_of_models_unlike_llama(model: str, machine: str, batch: int, context: int, kv: str, ms: float) -> None:
    assert measured_step_ms(model, machine, batch, context, kv) == pytest.approx(ms, rel=0.055)


def test_few_new_tokens_meet_a_latent_as_it_is_stored() -> None:
    """512 tokens after 100k make no keys and values of the 100k again; one more does: a product a layer and the rows that it writes, at
    least 2 x 100,000 x 2,097,152 FLOPs x 27 layers at 989 TFLOP/s.
    """
    cost = StepCost(deployed("deepseek-v2-lite", machine="h200-sxm"))
    least = 2 * 100_000 * 2_097_152 * 27 / 989e12
    assert cost.attention.seconds(513, 100_000) - cost.attention.seconds(513, 0) > least
    absorbed = 512 * 100_000 * 2 * (2 * 576 - 64) * 16 * 27
    assert cost.attention.seconds(512, 100_000) == pytest.approx(absorbed / (989e12 * 0.6321 * 0.92), rel=0.01)


def test_recurrent_states_are_read_and_written_at_every_step() -> None:
    cost = StepCost(deployed("qwen3-next-80b-a3b", machine="h200-sxm"))
    one, many = (cost.decode_attention_s([1024] * batch) for batch in (1, 65))
    states = 64 * cost._state_bytes / (cost.machine.gpu.hbm_Bps * cost.machine.gpu.kv_read_efficiency)
    assert many - one > states > 0


def test_sequences_that_differ_are_read_slower_than_equal_ones() -> None:
    """Ten of 8,192 tokens, and nine of 4,096 with one of 45,056: the same tokens, 36,864 x 0.9 short of the longest on the mean."""
    cost = StepCost(deployed("llama-3.1-8b", machine="h200-sxm"))
    equal = cost.decode_attention_s([8192] * 10) - cost.decode_floor_s
    uneven = cost.decode_attention_s([4096] * 9 + [45056]) - cost.decode_floor_s
    assert uneven / equal == pytest.approx(1 + UNEVEN_SHARE * 36864 / (36864 + UNEVEN_TOKENS))
    assert cost.decode_attention_s([8192] * 10) == pytest.approx(10 * equal / 10 + cost.decode_floor_s)


def test_rows_that_fill_up_a_graph_reach_their_experts() -> None:
    # vLLM has graphs of 1, 2, 4, 8, 16 and 24 rows. Decode steps of Qwen3-30B-A3B under load on one H200, contexts of about 5k tokens:
    # three sequences as long as four (6.9 ms), five to eight 9.4 to 10.4, nine to fifteen 13.9 to 15.1 ms.
    cost = StepCost(deployed("qwen3-30b-a3b", "vllm", "h200-sxm"))
    assert [cost.engine.graph_rows(count) for count in (1, 3, 5, 8, 9, 16, 17, 24, 25)] == [1, 4, 8, 8, 16, 16, 24, 24, 32]
    assert cost.gemms_s(4) == pytest.approx(cost.busy_s([], 3, 0.0, 3) - cost.head_s(3) - cost.overhead.gap_s - 3 * 8.5e-6)
    for count, measured_ms in ((3, 6.9), (6, 9.4), (9, 13.9), (12, 14.5)):
        step_s = cost.step_s([], count, cost.decode_attention_s([5000] * count), count)
        assert step_s * 1e3 == pytest.approx(measured_ms, rel=0.06), count


def test_weights_at_random_may_give_all_tokens_the_same_experts() -> None:
    # DeepSeek-V2-Lite on one H200: 32 sequences of 1k tokens 4.6 ms with 6 of 64 experts, where real text would reach nearly all.
    even = deployed("deepseek-v2-lite", "vllm", "h200-sxm")
    same = even.changed(parallel=Parallel(expert_skew=100.0))
    steps = [StepCost(one).step_s([], 32, StepCost(one).decode_attention_s([1024] * 32), 32) for one in (even, same)]
    assert steps[0] > 2 * steps[1]
    assert steps[1] == pytest.approx(4.6e-3, rel=0.15)
