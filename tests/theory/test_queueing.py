"""Links and batches against results of queueing theory."""

from __future__ import annotations

import numpy as np
import pytest

from kvplan.sim.transfer.links import Duplex


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7, 0.8])
def test_a_link_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    # M/D/1: Poisson arrivals, constant service s, one server, first in first out: mean wait = load * s / (2 * (1 -
    # load)).
    service_s, count = 0.01, 400_000
    arrivals = np.random.default_rng(7).exponential(service_s / load, count).cumsum()
    link = Duplex(1.0)
    waited = sum(link.send(0, now, service_s)[0] - now for now in arrivals.tolist())
    assert waited / count == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.02)
    assert link.busy_s[0] == pytest.approx(count * service_s)


def test_both_directions_slow_each_other() -> None:
    # 10 s of work each way, started together, each at 0.8 of its rate while both are busy: both end at 10 / 0.8 = 12.5 s.
    link = Duplex(0.8)
    assert link.send(0, 0.0, 10.0) == (0.0, 10.0)
    start, end = link.send(1, 0.0, 10.0)
    assert (start, end) == (0.0, pytest.approx(12.5))
    assert link.free_at[0] == pytest.approx(12.5)


def test_a_short_transfer_beside_a_long_one() -> None:
    # 4 s beside 10 s, each at half of its rate while both are busy: the short one ends at 8 s; the long one has then done 4 s of its work
    # and ends 6 s later, at 14 s.
    link = Duplex(0.5)
    link.send(0, 0.0, 10.0)
    assert link.send(1, 0.0, 4.0)[1] == pytest.approx(8.0)
    assert link.free_at[0] == pytest.approx(14.0)


@pytest.mark.parametrize("fraction", [0.5, 0.8, 1.0])
def test_the_sustained_rate_both_ways_is_the_fraction(fraction: float) -> None:
    # A direction that always has work moves a second's worth in 1 / fraction seconds while the other is busy as well.
    link = Duplex(fraction)
    for _ in range(1000):
        link.send(0, 0.0, 1.0)
        link.send(1, 0.0, 1.0)
    assert 1000 / max(link.free_at) == pytest.approx(fraction, rel=0.01)
