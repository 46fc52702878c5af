"""The interval of a result follows from the provenance of the numbers behind it."""

from __future__ import annotations

import math

import pytest

from kvplan.provenance import SIGMA_REL
from kvplan.results.simulate import Interval, SimResult
from kvplan.sim.outcome.uncertainty import MODEL_SIGMA
from tests.sim.runs import documents, run

ASSUMED = {"machine.gpu.gemm_efficiency": 0.75}
"""A number that the user sets counts as assumed."""


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
