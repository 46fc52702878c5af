"""Step times against arithmetic: the dtype of the products, and launches counted once."""

from __future__ import annotations

import pytest

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
    by_hand = cost.gemms_s(513) + cost.prefill_attention_s(512, 0) + attention + cost.head_s(1) + overhead.gap_s + overhead.step_sequence_s
    assert mixed == pytest.approx(by_hand)
