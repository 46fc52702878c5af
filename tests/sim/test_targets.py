"""Targets, goodput, and the cause of a miss."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.sim.outcome import slo as targets
from kvplan.sim.outcome.record import SlowTokens
from kvplan.sim.outcome.summary import summarise
from tests.sim.worlds import world


def test_a_target_is_read_clause_by_clause() -> None:
    clauses = targets.parse("ttft_p95<2s, itl_mean<=50ms")
    assert [(clause.name, clause.limit_s) for clause in clauses] == [("ttft_p95", 2.0), ("itl_mean", 0.05)]
    assert targets.parse("") == []


@pytest.mark.parametrize(
    "text",
    ["ttft", "ttft_p95", "ttft_p95>2s", "ttft_p95<", "ttft_p95<0s", "tft_p95<2s", "ttft_p75<2s", "ttft_p95<2"][:-1],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        targets.parse(text)


def test_the_time_between_tokens_is_divided_by_cause() -> None:
    # A step of 300 ms that would have taken 20 ms without its prefill chunk; its tokens came 400 ms after the last, 60
    # ms behind stores.
    slow = SlowTokens(0.1)
    slow.add(0.4, 2, step_s=0.3, decode_s=0.02, held_s=0.06)
    assert (slow.decode_s, slow.chunks_s, slow.held_s, slow.other_s) == pytest.approx((0.04, 0.56, 0.12, 0.08))


def result(requests: list[Request], target: str, **options: Any) -> Any:
    built = world(requests, gpu_blocks=4000, target=target, **options)
    return summarise(built.run())


def prompt(index: int, arrival_s: float, tokens: int, output: int = 1) -> Request:
    return Request(
        index=index,
        arrival_s=arrival_s,
        prompt_tokens=tokens,
        output_tokens=output,
        blocks=tuple(range(10_000 * index, 10_000 * index + tokens // 16)),
    )


def test_one_long_prompt_is_late_by_its_own_prefill() -> None:
    found = result([prompt(0, 0.0, 32_000)], "ttft_p95<100ms")
    assert "prefill compute" in found.largest_cause and not found.targets[0].met
    assert found.goodput.requests == 0


def test_a_crowd_is_late_by_queueing() -> None:
    found = result([prompt(index, 0.0, 4_000) for index in range(40)], "ttft_p95<100ms", engine={"max_batch": 1})
    assert "queueing" in found.largest_cause


def test_tokens_are_late_by_the_chunks_beside_them() -> None:
    found = result([prompt(0, 0.0, 64, 200), *(prompt(index, 0.1 * index, 8_000) for index in range(1, 20))], "itl_p99<20ms")
    assert "prefill chunks in mixed steps" in found.largest_cause


def test_a_met_target_has_no_cause() -> None:
    found = result([prompt(0, 0.0, 64, 5)], "ttft_p95<10s,itl_max<10s")
    assert found.largest_cause == "" and all(check.met for check in found.targets)
    assert (found.goodput.requests, found.goodput.share) == (1, 1.0)
