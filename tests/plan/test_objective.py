"""Targets, goals and prices as users write them."""

from __future__ import annotations

import pytest

from kvplan.economics.prices import price_source
from kvplan.errors import InputError
from kvplan.planning.objective import parse_target
from kvplan.planning.session_traffic import parse_sessions, spec_of
from kvplan.traces.generate.generate import generate


def test_a_target_has_limits_and_a_goal() -> None:
    target = parse_target("ttft_p95<2s, itl_p95<=50ms, cost")
    assert [(one.name, one.limit_s) for one in target.clauses] == [("ttft_p95", 2.0), ("itl_p95", 0.05)]
    assert target.goal == "cost"


@pytest.mark.parametrize("text", ["ttft<2s", "ttft_p95<fast", "ttft_p42<2s", "tff_p95<2s", "ttft_p95<0s", "cost,throughput", "ttft_p95>2s"])
def test_a_bad_target_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_target(text)


@pytest.mark.parametrize("text", ["gpu", "gpu=x", "gpu=-1", "tpu=3"])
def test_a_bad_price_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        price_source(None, text)


def test_prices() -> None:
    priced = price_source(None, "gpu=2.5, cpu=0.004")
    assert priced is not None and priced.given["cpu"].value == 0.004


def test_sessions_keep_their_number_of_users() -> None:
    sessions = parse_sessions("users=50,turns=6,input=400,output=200,think=30s,shared=1k")
    assert (sessions.shared, sessions.think) == (1024, 30.0)
    _, requests = generate(spec_of(sessions))
    rows = list(requests)
    # A session lasts 6 x (30 + 200 x 0.02) = 204 s, so that 50 of them ask 50 x 6 / 204 = 1.47 times a second.
    steady = [row for row in rows if 204 < row.arrival_s < 612]
    assert len(steady) / 408 == pytest.approx(50 * 6 / 204, rel=0.25)


@pytest.mark.parametrize("text", ["users", "users=", "user=3", "turns=0", "think=soon"])
def test_bad_sessions_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_sessions(text)
