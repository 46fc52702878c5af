"""What spreading costs: volumes, passes through a pipeline, experts on the fullest rank; worked by hand."""

from __future__ import annotations

import math

import pytest

from kvplan.deployment import Parallel
from kvplan.errors import InputError
from kvplan.hardware.collectives import collective_s
from kvplan.memory.below import below
from kvplan.memory.layout import layout
from kvplan.memory.weights import parameters, rank_weight_bytes
from kvplan.spread_time import (
    RANK_SIGMA_S,
    Held,
    balanced_share,
    chances,
    exchanged_layers_s,
    experts_on_rank,
    fullest_share,
    handed_over_s,
    joint_tokens,
    passes,
    reduced_layers_s,
    slowest_rank_s,
    spread_s,
)
from kvplan.step_time import StepCost
from tests.deployed import deployed

LATENT_BYTES = 2 * (512 + 64)  # of one token and layer of DeepSeek-V3 in bf16


def test_experts_placed_by_their_load() -> None:
    """Popularities 1, 1/2, 1/3, 1/4 on two ranks: 1 + 1/4 against 1/2 + 1/3; with two more copies of the first 1/2 + 1/3 + 1/4 against
    three times 1/3."""
    assert balanced_share(4, 2, 1.0, 0) == pytest.approx(1.25 / (25 / 24))
    assert balanced_share(4, 2, 1.0, 2) == pytest.approx((13 / 12) / (25 / 24))
    assert balanced_share(256, 8, 1.0, 32) < balanced_share(256, 8, 1.0, 0) < fullest_share(256, 8, 1.0)
    placed = deployed("deepseek-v3", "vllm", "h200-sxm", dp=8, ep=8)
    skewed, copied = (
        placed.changed(parallel=Parallel(dp=8, ep=8, expert_skew=1.0, **more)) for more in ({}, {"eplb": True, "redundant_experts": 32})
    )
    assert StepCost(copied).prefill_s(8192, 0, 8192) < 0.95 * StepCost(skewed).prefill_s(8192, 0, 8192)
    more = rank_weight_bytes(copied) - rank_weight_bytes(skewed)  # 32 of 256 in addition, an eighth of them here, in fp8 with scales
    assert more == pytest.approx(parameters(placed.model).experts / 8 / 8, rel=0.01)
    with pytest.raises(InputError, match="placed by their load"):
        placed.changed(parallel=Parallel(dp=8, ep=8, redundant_experts=8))
    with pytest.raises(InputError, match="256 experts and 3 copies"):
        placed.changed(parallel=Parallel(dp=8, ep=8, eplb=True, redundant_experts=3))


def test_tokens_that_the_experts_see() -> None:
    eight = Parallel(dp=8)
    assert joint_tokens(eight, 5, 5) == 40  # graphs are padded to the largest rank
    assert joint_tokens(eight, 4096 + 3, 3) == 4099 + 7 * 3  # beside a prompt the others decode as many
    assert joint_tokens(eight, 4096, 0) == 4096 + 7  # or take part with one token each
    assert joint_tokens(Parallel(), 77, 3) == 77


def test_experts_on_ranks() -> None:
    # 256 experts over 8 ranks, one token with 8 of them: one expert a rank on the mean, and on the fullest more by chance.
    held = experts_on_rank(deployed("deepseek-v3", tp=8, ep=8), 256)
    assert (held.experts, held.width_share) == (32, 1.0)
    mean = 32 * 8 / 256
    assert held.active(8 / 256, 1) == pytest.approx(mean + math.sqrt(2 * math.log(8) * mean * (1 - mean / 32)))
    assert held.active(8 / 256, 100_000) == 32
    # without expert parallelism every rank has an eighth of the width of each, and all pairs of token and expert.
    whole = experts_on_rank(deployed("deepseek-v3", tp=8), 256)
    assert (whole.experts, whole.width_share, whole.routed(800)) == (256, 1 / 8, 800)
    assert whole.active(8 / 256, 1) == pytest.approx(8)
    assert Held(32, 1.0, 8, 1.5).routed(8e6) == pytest.approx(1.5e6, rel=0.01)


def test_popular_experts_fill_one_rank() -> None:
    assert fullest_share(256, 8, 0.0) == fullest_share(256, 1, 2.0) == 1.0
    assert 1.0 < fullest_share(256, 8, 0.5) < fullest_share(256, 8, 1.0) < 8
    even = StepCost(deployed("deepseek-v3", "vllm", "h200-sxm", dp=8, ep=8))
    skewed = even.deployment.changed(parallel=Parallel(dp=8, ep=8, expert_skew=1.0))
    assert StepCost(skewed).prefill_s(8192, 0, 8192) > 1.05 * even.prefill_s(8192, 0, 8192)


def test_experts_that_few_tokens_reach() -> None:
    # Four experts, one of them chosen by each token: with Zipf's exponent 1 by 12/25, 6/25, 4/25 and 3/25 of the tokens.
    assert chances(4, 1 / 4, 1.0) == pytest.approx((12 / 25, 6 / 25, 4 / 25, 3 / 25))
    assert Held(4, 1.0, skew=1.0).active(1 / 4, 2) == pytest.approx(sum(1 - (1 - p / 25) ** 2 for p in (12, 6, 4, 3)))
    # Two chosen with exponent 3: the first always, the others share what is left.
    assert sum(chances(4, 2 / 4, 3.0)) == pytest.approx(2.0)
    assert chances(4, 2 / 4, 3.0)[0] == 1.0
    assert Held(64, 1.0, skew=100.0).active(6 / 64, 8192) == pytest.approx(6, abs=0.01)  # all choose the same six
    assert Held(64, 1.0).active(6 / 64, 8192) == pytest.approx(64)


def test_how_experts_are_chosen_is_said() -> None:
    even = deployed("deepseek-v2-lite")
    assert even.routing == "tokens choose experts evenly"
    assert even.changed(parallel=Parallel(expert_skew=1.5)).routing == "the popularity of experts falls by Zipf's law with exponent 1.5"
    assert deployed("llama-3.1-8b").routing == ""


def test_collectives_of_a_layer() -> None:
    """61 layers of DeepSeek-V3, 58 with experts, 100 tokens of 7,168 in bf16 on each of 8 ranks."""
    row, link = 7168 * 2, deployed("deepseek-v3", "vllm", "h200-sxm").machine.interconnect
    tensor = deployed("deepseek-v3", "vllm", "h200-sxm", tp=8)
    one = collective_s(link, "all_reduce", 8, 100 * row, library="engine") + slowest_rank_s(8)
    assert reduced_layers_s(tensor, 100 * row, least_s=0.0) == pytest.approx(122 * one)
    data = deployed("deepseek-v3", "vllm", "h200-sxm", dp=8, ep=8)
    gathered = collective_s(link, "all_gather", 8, 800 * row) + collective_s(link, "reduce_scatter", 8, 800 * row) + 2 * slowest_rank_s(8)
    assert exchanged_layers_s(data, 800, captured=True, row_bytes=row, least_s=0.0) == pytest.approx(58 * gathered)
    deepep = data.changed(parallel=Parallel(dp=8, ep=8, exchange="deepep"))
    sent = 100 * 8 * row
    there = collective_s(link, "dispatch", 8, sent / 2, library="low_latency") + collective_s(
        link, "combine", 8, sent, library="low_latency"
    )
    assert exchanged_layers_s(deepep, 800, captured=True, row_bytes=row, least_s=0.0) == pytest.approx(58 * (there + 2 * slowest_rank_s(8)))


def test_between_servers_a_gpu_has_its_own_port() -> None:
    """16 GPUs on two servers gather 16 MB: each brings in the 8 MB of the other server, an eighth of them itself: 1 MB at 43.5 GB/s."""
    machine = deployed("deepseek-v3", "vllm", "h200-sxm").machine
    inside = collective_s(machine.interconnect, "all_gather", 8, 16e6)
    assert spread_s(machine, "all_gather", 16, 16e6) == pytest.approx(1e-5 + max(inside, 1e6 / 4.35e10))
    assert spread_s(machine, "all_gather", 8, 16e6) == inside


def test_passes_of_a_pipeline() -> None:
    four = Parallel(pp=4)
    assert passes(four, 1, 1, 8192) == (1, 1)  # a lone sequence: three stages idle
    assert passes(four, 10, 10, 8192) == (4, 3)
    assert passes(four, 16384, 0, 8192) == (2, 8192)
    assert passes(Parallel(), 16384 + 5, 5, 8192) == (1, 16389)


def test_a_lone_token_passes_all_stages_and_four_do_so_together() -> None:
    one, two = (StepCost(deployed("llama-3.1-70b", "vllm", "h100-sxm", tp=4, pp=pp)) for pp in (1, 2))

    def token_s(cost: StepCost, batch: int) -> float:
        return cost.step_s([], batch, cost.decode_attention_s([4096] * batch), batch)

    sent_s = handed_over_s(two.deployment, 1, 8192 * 2)
    assert 0 < sent_s < 1e-4
    assert token_s(two, 1) == pytest.approx(token_s(one, 1) + sent_s)
    # two sequences are two batches of one: each token takes as long, but both come
    assert token_s(two, 2) == pytest.approx(token_s(two, 1), rel=0.01)
    assert token_s(two, 64) == pytest.approx(token_s(one, 32), rel=0.02)
    # a prompt of one chunk sums its stages; of four chunks it takes (4 + 1) / 2 of a pass
    assert two.prefill_s(8192, 0, 8192) == pytest.approx(one.prefill_s(8192, 0, 8192), rel=0.02)
    parts = [one.prefill_s(8192, 8192 * chunk, 8192) for chunk in range(4)]
    assert two.prefill_s(32768, 0, 8192) == pytest.approx(sum(parts) / 2 + parts[3] / 2, rel=0.02)


@pytest.mark.parametrize(
    ("kinds", "rank_layers", "copies"),
    [({"tp": 8}, 61, 8), ({"dp": 8, "ep": 8}, 61, 1), ({"tp": 2, "pp": 4}, 16, 2), ({"tp": 2, "dp": 4}, 61, 2)],
)
def test_bytes_of_a_token_of_deepseek_by_kind(kinds: dict[str, int], rank_layers: int, copies: int) -> None:
    """A latent whole on every rank of a stage; stages of 61 layers over four: the fullest has 16; host memory holds what all ranks hold."""
    deployment = deployed("deepseek-v3", "vllm", "h200-sxm", **kinds)
    made = layout(deployment)
    assert made.types[0].token_bytes == rank_layers * LATENT_BYTES
    stages = kinds.get("pp", 1)
    assert below(deployment).token_bytes == copies * stages * rank_layers * LATENT_BYTES


def test_weights_of_deepseek_by_kind() -> None:
    """With data-parallel attention all but the experts is repeated: an eighth of the experts and all of the rest."""
    tensor, data = (rank_weight_bytes(deployed("deepseek-v3", "vllm", **kinds)) for kinds in ({"tp": 8}, {"dp": 8, "ep": 8}))
    experts = parameters(deployed("deepseek-v3").model).experts  # 1 byte each, and scales
    assert data > tensor > experts / 8
    assert data - tensor == pytest.approx(7 / 8 * (rank_weight_bytes(deployed("deepseek-v3", "vllm")) - experts), rel=0.25)


def test_what_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="context parallelism is not built"):
        deployed("llama-3.1-8b").changed(parallel=Parallel(cp=2))
    with pytest.raises(InputError, match="experts lie on all 8"):
        deployed("deepseek-v3", tp=8, ep=4)
    with pytest.raises(InputError, match="has no experts"):
        deployed("llama-3.1-8b", tp=2, ep=2)
    with pytest.raises(InputError, match="--tp 2 x --pp 1 x --dp 8 needs 16"):
        deployed("deepseek-v3", "vllm", "h200-sxm", tp=2, dp=8).check_gpus()
    deployed("deepseek-v3", "vllm", "h200-sxm", tp=2, dp=8).changed(nodes=2).check_gpus()
    assert deployed("deepseek-v3", tp=8, ep=8).changed(tp=4).parallel.ep == 4


def test_each_rank_waits_for_the_slowest() -> None:
    """The mean of the largest of n normal deviates is 0.564, 1.029 and 1.424 standard deviations for 2, 4 and 8 (Tippett 1925)."""
    for ranks, sigmas in ((2, 0.564), (4, 1.029), (8, 1.424)):
        assert slowest_rank_s(ranks) == pytest.approx(sigmas * RANK_SIGMA_S, rel=0.05)
    assert slowest_rank_s(1) == 0.0
