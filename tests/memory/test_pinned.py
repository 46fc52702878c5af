"""What a tier asks for and what it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan import catalog
from kvplan.memory.pinned import filled, host_memory, largest_tier
from kvplan.units import GiB
from tests.deployed import deployed


@pytest.mark.parametrize(
    ("model", "asked", "taken"),
    [
        # A tensor for each of 32 layers: 10 GiB / 32 = 0.3125, rounded up to 0.5 GiB; 36 layers: 0.28 to 0.5.
        ("llama-3.1-8b", 10, 16),
        ("qwen3-8b", 10, 18),
        ("llama-3.1-8b", 7, 8),
        ("qwen3-8b", 7, 9),
        ("llama-3.1-8b", 5, 8),
        ("llama-3.1-8b", 9, 16),
        ("llama-3.1-8b", 16, 16),
    ],
)
def test_pinned_tensors_are_rounded_up_to_powers_of_two(model: str, asked: int, taken: int) -> None:
    assert host_memory(deployed(model), asked * GiB).taken_bytes == taken * GiB


def test_a_hybrid_model_takes_1_92_times_what_it_asks_for() -> None:
    # 24 tensors on each of 4 ranks, as in vLLM issue 53042: 200 GiB / 96 = 2.08 GiB, each rounded up to 4.
    found = host_memory(deployed("kimi-k3", tp=4), 200 * GiB)
    assert found.taken_bytes == 384 * GiB


def test_seven_gib_as_measured() -> None:
    # vLLM 0.24 on one H200 with --kv-offloading-size 7: shared memory of the engine's process grew by 8.03 GiB.
    assert host_memory(deployed("llama-3.1-8b"), 7 * GiB).taken_bytes == pytest.approx(8.03 * GiB, rel=0.01)


def test_a_mapping_in_shm_is_exact() -> None:
    for engine, lower in (("vllm", True), (catalog.engine("vllm", "0.33.0"), False)):
        found = host_memory(deployed("llama-3.1-8b", engine), 10 * GiB, lower_tier=lower)
        assert (found.pinned_bytes, found.shm_bytes) == (0, 10 * GiB)


def test_the_limit_covers_weights_tier_and_processes() -> None:
    found = host_memory(deployed("llama-3.1-8b"), 10 * GiB)
    assert 16 * GiB + 15 * GiB + 8 * GiB <= found.limit_bytes <= 16 * GiB + 15 * GiB + 9 * GiB


def test_sparse_indexers_lie_beside_sglangs_size() -> None:
    asked = 100 * 10**9
    found = host_memory(deployed("deepseek-v3.2", "sglang", tp=8), asked)
    plain = host_memory(deployed("deepseek-v3", "sglang", tp=8), asked)
    # 132 bytes beside 1,152 a layer and token
    assert found.taken_bytes == pytest.approx(asked * (1 + 132 / 1152), rel=0.01)
    assert plain.taken_bytes == asked


@given(room=st.integers(1, 2**42), model=st.sampled_from(["llama-3.1-8b", "qwen3-8b", "gpt-oss-20b"]), tp=st.sampled_from([1, 2, 8]))
def test_the_largest_tier_fits_and_a_filled_one_takes_no_more(room: int, model: str, tp: int) -> None:
    deployment = deployed(model, tp=tp)
    size = largest_tier(deployment, room)
    assert host_memory(deployment, size).taken_bytes <= room
    taken = host_memory(deployment, room).taken_bytes
    more = filled(deployment, room)
    assert more >= room
    assert host_memory(deployment, more).taken_bytes == taken or more == room
