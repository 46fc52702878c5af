"""What a history becomes: peaks stay, means are those of the whole time, links are busy for as long as they send."""

from __future__ import annotations

import numpy as np
import pytest

from kvplan import scenario_of
from kvplan.sim.outcome.timeline import PARTS, parts
from kvplan.sim.simulate import simulate


def test_parts_keep_every_peak_and_the_mean() -> None:
    random = np.random.default_rng(3)
    at_s = np.sort(random.uniform(0.0, 100.0, 5000))
    values = random.exponential(1.0, 5000)
    largest, means = parts(at_s, values, 100.0)
    assert len(largest) == PARTS and largest.max() == values.max()
    assert means.mean() * 100.0 == pytest.approx((values * np.diff(at_s, append=100.0)).sum())
    assert (largest >= means - 1e-9).all()


def test_a_value_holds_until_the_next() -> None:
    largest, means = parts(np.array([25.0]), np.array([4.0]), 100.0)  # 0 for a quarter of the time, then 4
    assert means.mean() == pytest.approx(3.0)
    assert largest[0] == 0.0 and largest[-1] == 4.0


def test_the_timeline_of_a_run_agrees_with_its_result() -> None:
    result, record = simulate(scenario_of("chat"), history=True)
    told = result.timeline
    assert told is not None and record.history is not None
    for tier in result.tiers:
        series = next(one for one in told.tiers if one.name == tier.name)
        assert max(series.values) == pytest.approx(tier.peak_bytes, rel=1e-6) and series.most == pytest.approx(tier.capacity_bytes)
    cpu = next(tier for tier in result.tiers if tier.name == "cpu")
    busy = [sum(one.means) / PARTS for one in told.links]
    assert max(busy) == pytest.approx(cpu.link_busy_fraction, rel=0.3)  # answers are accounted for without a transfer of their own
    assert len(told.loads) + told.loads_left_out == result.loads.count
    assert sum(one.load_s for one in told.loads) == pytest.approx(result.loads.stall_s)
    seconds = told.phases[0].seconds
    assert sum(seconds.values()) - seconds["decoding"] == pytest.approx(result.ttft_s.mean, rel=1e-6)
