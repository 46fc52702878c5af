"""The interval of a result follows from the provenance of the numbers behind it."""

from __future__ import annotations

import math
import os

import pytest

from kvplan import scenario
from kvplan.provenance import SIGMA_REL
from kvplan.results.simulate import Doubt, Interval, SimResult
from kvplan.scenario import with_setting
from kvplan.sim import ends
from kvplan.sim.outcome.uncertainty import DISK_SIGMA, HOST_SIGMA, MODEL_SIGMA
from kvplan.sim.simulate import simulate
from tests.sim.runs import documents, run

ASSUMED = {"machine.gpu.gemm_efficiency": 0.75}
"""A number that the user sets counts as assumed."""


HOST_TIMES = (
    "launch_layer", "launch_layer_eager", "step", "offload_step", "group", "prepare", "step_sequence", "gap", "request", "request_token",
    "input", "input_token", "admit_token", "transit",
)  # fmt: skip


def width(found: SimResult) -> float:
    low, high = found.interval.ttft_mean_s or (1.0, 1.0)
    return high / low


def test_a_lone_prefill_is_as_uncertain_as_its_matrix_products() -> None:
    # One cold request, nothing queued, nothing loaded: sigma = hypot(0.30 of an assumed number, 0.03 of the model) on all but some 3 % of
    # its time, which the host takes; both ways x 1.96.
    found, _ = run(documents(1, 8192), gpu_kv="8GiB", sets=ASSUMED)
    assert found.interval.ttft_mean_s is not None and found.ttft_s.mean is not None
    low, high = found.interval.ttft_mean_s
    shares = {doubt.what: doubt.share for doubt in found.interval.rests_on}
    prefill = math.hypot(SIGMA_REL["assumed"], MODEL_SIGMA) * shares["prefill speed"]
    host = next(doubt.sigma_rel for doubt in found.interval.rests_on if doubt.what == "host of the engine") * shares["host of the engine"]
    assert shares["prefill speed"] > 0.95 and sum(shares.values()) == pytest.approx(1.0, abs=0.01)
    assert high / found.ttft_s.mean == pytest.approx(math.exp(1.96 * math.hypot(prefill, host)), rel=2e-3)
    assert low * high == pytest.approx(found.ttft_s.mean**2, rel=1e-9)


def test_measured_is_surer_than_assumed_and_a_queue_widens_both() -> None:
    calm, crowded = documents(12, 8192, every_s=10.0), documents(12, 8192, every_s=0.1)
    measured, _ = run(calm, gpu_kv="16GiB")
    assumed, _ = run(calm, gpu_kv="16GiB", sets=ASSUMED)
    queued, _ = run(crowded, gpu_kv="16GiB")
    assert 1.0 < width(measured) < width(assumed)
    assert width(queued) > width(measured)
    assert [doubt.what for doubt in measured.interval.rests_on] == ["prefill speed", "host of the engine"]


def test_nothing_ran_nothing_is_sure() -> None:
    found, _ = run(documents(1, 200_000), gpu_kv="64GiB")
    assert found.requests.rejected == 1
    assert found.interval == Interval()


def _host(tokens: int) -> Doubt:
    found, _ = run(documents(1, tokens), gpu_kv="2GiB")
    return next(doubt for doubt in found.interval.rests_on if doubt.what == "host of the engine")


def test_a_host_is_no_surer_than_it_scatters_within_a_run_and_python_stands_for_launches() -> None:
    # The card's own file knows the host by its Python only (1.3 to 2.9 us in 95 %: 15 %), which is less than requests scatter: 17 %.
    host = _host(600)
    assert (host.kind, host.sigma_rel) == ("derived", HOST_SIGMA) and host.share > 0.9


def test_a_step_whose_host_is_about_as_fast_as_its_gpu_rests_on_both() -> None:
    shares = [_host(tokens).share for tokens in (600, 1300, 1500, 8192)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9 > shares[1] > 0.5 > shares[2] > 0.1 > shares[3]


def test_an_engine_whose_host_takes_no_time_rests_on_its_gpu() -> None:
    free = dict.fromkeys((f"engine.overhead.{one}_s" for one in HOST_TIMES), 0)
    found, _ = run(documents(1, 4096), gpu_kv="2GiB", sets=free)
    assert [doubt.what for doubt in found.interval.rests_on] == ["prefill speed"]


def test_loads_from_a_disk_rest_on_it_the_more_the_busier_it_is() -> None:
    doubts = []
    for every_s in (60.0, 6.0):
        found, _ = run(documents(4, 16_384, rounds=3, every_s=every_s), gpu_kv="3GiB", cpu="3GiB", disk="64GiB")
        doubts.append(next(doubt for doubt in found.interval.rests_on if doubt.what == "disk"))
    assert doubts[0].sigma_rel >= DISK_SIGMA
    assert 0.1 < doubts[0].share < doubts[1].share


def test_replays_at_the_ends_of_an_interval_may_run_beside_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents come 20 times as fast as the server reads them: the same interval on one core and on two."""
    monkeypatch.setattr(ends, "LONG_REQUESTS", 50)
    monkeypatch.setattr(ends, "WINDOW_REQUESTS", 40)
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    crowded = with_setting(with_setting(scenario.load("documents"), "run.speedup", 20.0), "run.limit", 60)
    result = simulate(crowded)[0]
    assert result.overload
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        with ends.ends_of(crowded) as with_ends:
            found.append(with_ends(result))
    assert found[0] == found[1] and found[0].interval.rests_on and found[0].interval != result.interval
