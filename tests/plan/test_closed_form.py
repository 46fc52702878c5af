"""Break-even lengths and bandwidths against arithmetic by hand, and against a search through every length."""

from __future__ import annotations

import math

import msgspec
import pytest

from kvplan import scenario
from kvplan.loading import Loading
from kvplan.memory.below import below
from kvplan.memory.layout import layout
from kvplan.planning.closed_form import (
    prompt_for,
    scaled,
    sigma,
    ttft_s,
    worth,
)
from kvplan.planning.objective import Objective
from kvplan.planning.prepare import space_of
from kvplan.provenance import Source
from kvplan.scenario import Scenario, with_setting


@pytest.fixture(scope="module")
def base() -> Scenario:
    return scenario.load("none.jsonl", model="llama-3.1-8b", machine="h100-sxm", tiers={"gpu_kv": "40GiB"})


def test_loading_from_host_memory_by_hand(base: Scenario) -> None:
    # 8,192 tokens of 131,072 bytes are 1,073,741,824 bytes in 512 blocks of 16 tokens, each in 32 layers' tensors: of these 16,384 copies
    # the first 8,192 begin when they are handed over, and the rest is handed over beside them.
    link, overhead = base.machine.link, base.engine.overhead
    by_hand = (
        overhead.load_s
        + 512 * (overhead.load_block_s + 32 * overhead.load_piece_s)
        + 8192 * overhead.submit_piece_s
        + link.launch_s
        + 512 * link.copy_s
        + 2**30 / link.h2d_Bps
    )
    assert Loading(base.deployment).load_s("cpu", 8192) == pytest.approx(by_hand, rel=1e-9)


def test_a_disk_is_read_before_the_link_is_used(base: Scenario) -> None:
    assert Loading(base.deployment).load_s("disk", 8192) > Loading(base.deployment).load_s("cpu", 8192) + 2**30 / base.machine.disk.read_Bps


@pytest.mark.parametrize("tier", ["cpu", "disk", "remote"])
def test_break_even_length_is_the_first_block_count_that_wins(base: Scenario, tier: str) -> None:
    found = Loading(base.deployment).break_even_tokens(tier)
    winning = [
        tokens
        for tokens in range(16, 4096, 16)
        if Loading(base.deployment).load_s(tier, tokens) < Loading(base.deployment).recompute_s(tokens)
    ]
    assert found == winning[0]


def test_a_link_as_fast_as_the_break_even_bandwidth_breaks_even(base: Scenario) -> None:
    # Without costs per copy, loading at that rate takes as long as computing.
    bare = base
    for path in ("machine.link.copy_s", "machine.link.launch_s"):
        bare = with_setting(bare, path, 0.0)
    rate = Loading(bare.deployment).break_even_Bps(8192)
    even = with_setting(bare, "machine.link.h2d_Bps", rate)
    assert Loading(even.deployment).load_s("cpu", 8192) == pytest.approx(Loading(even.deployment).recompute_s(8192), rel=1e-6)


def test_never_is_never(base: Scenario) -> None:
    slow = with_setting(with_setting(base, "machine.disk.read_Bps", 1e8), "machine.disk.stream_Bps", 1e8)
    assert math.isinf(Loading(slow.deployment).break_even_tokens("disk"))
    found = worth(slow, "disk", 8192)
    assert found.break_even_tokens.value is None
    assert found.load_s > found.recompute_s


def test_the_interval_holds_the_value_and_widens_with_doubt(base: Scenario) -> None:
    found = worth(base, "disk", 8192).break_even_Bps
    assert found.lo is not None and found.value is not None and found.hi is not None
    assert found.lo < found.value < found.hi


def test_sigma_comes_from_the_interval_or_from_the_kind(base: Scenario) -> None:
    # 51.2 to 55.6 GB/s is a 95 % interval: 4.4 / (2 x 1.96 x 54.9) = 0.0204. An assumed number has 0.30.
    spans = {
        "link.h2d_Bps": Source(kind="measured", lo=5.12e10, hi=5.56e10),
        "disk.stream_Bps": Source(kind="assumed"),
    }
    machine = msgspec.structs.replace(with_setting(base, "machine.link.h2d_Bps", 5.49e10).machine, provenance=spans)
    known = base.changed(machine=machine)
    assert sigma(known, "machine.link.h2d_Bps") == pytest.approx(4.4 / (2 * 1.96 * 54.9), rel=1e-6)
    assert sigma(known, "machine.disk.stream_Bps") == 0.30


def test_a_speed_up_is_bounded_by_what_is_not_in_the_tier(base: Scenario) -> None:
    # With half of the prompt in a tier the other half is computed over a longer context: never 3 times sooner.
    assert prompt_for(base, "cpu", 3.0, hit=0.5) is None
    length = prompt_for(base, "cpu", 3.0)
    assert length is not None
    assert ttft_s(base, length) >= 3.0 * ttft_s(base, length, "cpu", 1.0)


def test_scaling_multiplies_every_number_named(base: Scenario) -> None:
    moved = scaled(base, ("machine.link.h2d_Bps", "machine.gpu.gemm_efficiency"), 0.5)
    assert moved.machine.link.h2d_Bps == base.machine.link.h2d_Bps / 2
    assert moved.machine.gpu.gemm_efficiency == base.machine.gpu.gemm_efficiency / 2


def test_a_tier_of_a_latent_model_holds_what_the_engine_stores_there() -> None:
    """One function says what a tier takes: a plan, its hit-rate curve and the simulator's tiers count the same bytes."""
    base = scenario.load("latent")
    space, _ = space_of(base, Objective(), None, None, None)
    assert space.token_bytes == below(base.deployment).token_bytes
    made = layout(space.base.deployment)
    assert space.pool_tokens == made.blocks(space.pool_bytes) // made.unit_blocks * made.unit_tokens
