"""How much of the traffic is served within limits, with a tier and without."""

from __future__ import annotations

import pytest

from kvplan import scenario
from kvplan.planning.objective import between, changed, parse_target
from kvplan.planning.plan import plan
from kvplan.planning.session_traffic import parse_sessions, trace_of
from kvplan.traces import open_trace


def test_a_tier_serves_more_at_the_same_time_to_first_token() -> None:
    found = plan(scenario.load("chat")).capacity
    assert found is not None and found.chosen is not None
    assert found.without.factor == 1
    assert found.chosen.factor > 1.5
    # 151 requests in 32.3 minutes: the rate grows with the factor while the replica keeps up
    assert found.chosen.requests_per_s == pytest.approx(found.chosen.factor * found.without.requests_per_s, rel=0.1)


def test_within_a_target_both_are_searched() -> None:
    found = plan(scenario.load("chat"), target=parse_target("ttft_p95<1s")).capacity
    assert found is not None and found.chosen is not None
    assert found.ttft_p95_s is None
    assert found.chosen.factor > found.without.factor


def test_more_users_are_more_sessions() -> None:
    with trace_of(parse_sessions("users=4,turns=3")) as made:
        path, users = made.more(2.0)
        assert users == 8
        assert open_trace(path).report is not None
        once, twice = (sum(1 for _ in open_trace(one)) for one in (made.path, path))
    assert twice == pytest.approx(2 * once, rel=0.3)


def test_gains_in_words() -> None:
    assert changed("ttft", 0.41) == "41% less"
    assert changed("ttft", -0.08) == "8.0% more"
    assert changed("ttft", 0.0001) == "no change"
    # a request takes a third less of the machine: it serves half more
    assert changed("throughput", 1 / 3) == "50% more"
    assert between("ttft", 0.31, 0.49) == "95%: 31% to 49%"
    assert between("ttft", -0.02, 0.05) == "95%: 2.0% more to 5.0% less"
