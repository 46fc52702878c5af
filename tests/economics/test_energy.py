"""Energy by hand, and against public measurements of whole runs."""

from __future__ import annotations

import pytest

from kvplan import catalog
from kvplan.economics.energy import board_of, busy_W, energy, known_power
from kvplan.request import Request
from kvplan.results.economics import Energy
from tests.sim.runs import run

H100 = board_of(catalog.machine("h100-sxm"))


def batch_of(size: int, output_tokens: int) -> Energy:
    """Twice as many requests as fit the batch of an 8B on one H100."""
    requests = [
        Request(index=at, arrival_s=0.0, prompt_tokens=200, output_tokens=output_tokens, blocks=tuple(range(at * 20, at * 20 + 13)))
        for at in range(2 * size)
    ]
    result, world = run(requests, machine="h100-sxm", sets={"engine.max_batch": size})
    found = energy(world.scenario, result)
    assert found is not None and found.per_output_token_J is not None
    return found


@pytest.mark.parametrize(
    ("batch", "output_tokens", "measured_J"),
    [
        (64, 400, 0.12),  # ML.ENERGY v3 (arXiv 2601.22076): Llama-3.1-8B on an H100, batch 64
        (512, 397, 0.0702),  # green-token-index: the same at batch 512, 688 W
    ],
)
def test_public_measurements_lie_within_the_range(batch: int, output_tokens: int, measured_J: float) -> None:
    found = batch_of(batch, output_tokens)
    assert found.per_output_token_J is not None
    assert found.per_output_token_J.low < measured_J < found.per_output_token_J.high
    assert found.per_output_token_J.value == pytest.approx(measured_J, rel=0.35)


def test_watts_by_batch_and_prefill() -> None:
    assert H100 is not None
    assert busy_W(H100, 1, 0.0) == pytest.approx(700 * 0.38)
    assert busy_W(H100, 8, 0.0) == pytest.approx(700 * (0.38 + 0.69) / 2)  # 8 lies halfway between 1 and 64 on the logarithm
    assert busy_W(H100, 10_000, 0.0) == pytest.approx(700 * 0.98)
    assert busy_W(H100, 1, 1.0) == pytest.approx(700 * 0.97)


def test_an_idle_gpu_takes_its_idle_power_and_tiers_take_theirs() -> None:
    # One short request, then silence for an hour, then another one: 3,600 s of idle power for two answers.
    requests = [Request(index=at, arrival_s=3600.0 * at, prompt_tokens=64, output_tokens=4, blocks=(1, 2, 3, 4)) for at in range(2)]
    result, world = run(requests, machine="h100-sxm", cpu="100GiB")
    found = energy(world.scenario, result)
    assert found is not None and found.per_request_J is not None and H100 is not None
    assert found.gpu_W.value == pytest.approx(H100.idle_W, rel=1e-3)
    memory_W = 100 * known_power().tiers["memory_W_per_GiB"].value
    assert found.per_request_J.value == pytest.approx((H100.idle_W + memory_W) * 3600 / 2, rel=1e-3)


def test_every_board_belongs_to_a_machine_and_says_where_it_comes_from() -> None:
    power = known_power()
    assert set(power.gpus) <= set(catalog.names("machines"))
    assert all(one.source and one.idle_W < one.board_W for one in power.gpus.values())
    assert board_of(catalog.machine("p5.48xlarge")) == H100
