"""Scheduling by priority, by hand: a step takes 1 s, 10 ms more a prefill token and 100 ms a decoding sequence."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
from hypothesis import given, settings

from kvplan.request import Request
from kvplan.sim.simulate import World
from tests.sim.test_by_hand import by_hand, request, rows
from tests.sim.worlds import columns, random_requests, world

PRIORITY = {"scheduling": "priority"}


def ranked(priority: int, *args: Any) -> Request:
    return msgspec.structs.replace(request(*args), priority=priority)


def by_index(built: World) -> list[tuple[float, ...]]:
    return sorted(rows(built, "index", "preemptions", "ttft_s", "e2e_s"))


def test_the_lower_number_is_admitted_first() -> None:
    # One sequence at a time, 16 tokens and one step of 1.16 s each: A from 0 to 1.16; B (0.1 s, priority 1), C (0.2 s, 0) and
    # D (0.3 s, 0) wait. By arrival B, C, D end at 2.32, 3.48, 4.64; by priority C, D, B.
    trace = [ranked(1, 0, 0.0, 16, 1, 1), ranked(1, 1, 0.1, 16, 1, 2), ranked(0, 2, 0.2, 16, 1, 3), ranked(0, 3, 0.3, 16, 1, 4)]
    fcfs = by_hand(trace, engine={"max_batch": 1}, gpu_blocks=8)
    assert rows(fcfs, "index", "e2e_s") == [(0, 1.16), (1, 2.22), (2, 3.28), (3, 4.34)]
    ours = by_hand(trace, engine={"max_batch": 1, **PRIORITY}, gpu_blocks=8)
    assert rows(ours, "index", "e2e_s") == [(0, 1.16), (1, 4.54), (2, 2.12), (3, 3.18)]


def test_the_lowest_priority_is_preempted_though_it_came_first() -> None:
    # Three blocks. A (priority 1) and B (priority 0) have 16 tokens each and need a second block for their second token.
    # t=0     A prefills                          1 + .16        ends 1.16
    # t=1.16  A decodes in its second block, B prefills in the third: 1 + .1 + .16      ends 2.42
    # t=2.42  A is planned; B needs a block: A is taken out of the step again and gives its two back
    #         B decodes twice                     2 x 1.1        ends 4.62
    # t=4.62  A finds its full block of 16 tokens and computes its two answers' 1 + .02  ends 5.64 with the third
    trace = [ranked(1, 0, 0.0, 16, 3, 1), ranked(0, 1, 0.0, 16, 3, 2)]
    ours = by_hand(trace, engine=PRIORITY, gpu_blocks=3)
    assert by_index(ours) == [(0, 1, 1.16, 5.64), (1, 0, 2.42, 4.62)]
    # By arrival B is preempted. A decodes once more and ends at 3.52; B computes one token, 1.01, and decodes, 1.1.
    fcfs = by_hand(trace, gpu_blocks=3)
    assert by_index(fcfs) == [(0, 0, 1.16, 3.52), (1, 1, 2.42, 5.63)]


def test_of_equal_priority_the_latest_arrival_is_preempted() -> None:
    trace = [ranked(3, 0, 0.0, 16, 3, 1), ranked(3, 1, 0.0, 16, 3, 2)]
    assert rows(by_hand(trace, engine=PRIORITY, gpu_blocks=3), "preemptions", "e2e_s") == [(0, 3.52), (1, 5.63)]


def test_an_arrival_overtakes_one_that_does_not_fit() -> None:
    # Four blocks. A has two of them until its prefill, 1.31 s, and one decode have ended; B (0.1 s) needs three and does not
    # fit; C (0.2 s) needs one. By arrival C waits behind B until A's decode, 1.1 s, ends at 2.41. More urgent, C joins that
    # decode at 1.31, which then takes 1 + .1 + .16 and ends at 2.57, when B is admitted.
    trace = [ranked(1, 0, 0.0, 31, 2, 1, 2), ranked(1, 1, 0.1, 48, 1, 3, 4, 5), ranked(0, 2, 0.2, 16, 1, 6)]
    engine = {"reserve_full_prompt": True}
    waits = rows(by_hand(trace, engine=engine, gpu_blocks=4), "index", "queue_s")
    ours = rows(by_hand(trace, engine=engine | PRIORITY, gpu_blocks=4), "index", "queue_s")
    assert waits == [(0, 0.0), (1, 2.31), (2, 2.21)]
    assert ours == [(0, 0.0), (1, 2.47), (2, 1.11)]


def test_no_jump_passes_the_last_token_of_a_sequence_that_was_preempted_meanwhile() -> None:
    nothing_is_lost(40356, 36)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(25, 60))
def test_nothing_is_lost_under_pressure(seed: int, blocks: int) -> None:
    nothing_is_lost(seed, blocks)


def nothing_is_lost(seed: int, blocks: int) -> None:
    """Random priorities in a pool that holds few requests: all end, every block is free again, jumps change nothing."""
    trace = [msgspec.structs.replace(one, priority=(seed >> at % 16) % 3) for at, one in enumerate(random_requests(seed, 12))]
    found: list[World] = []
    times = []
    for jump in (True, False):
        built = world(trace, gpu_blocks=blocks, cpu_blocks=40, engine=PRIORITY, jump=jump)
        times.append(columns(built))
        found.append(built)
    assert sorted(times[0]["index"]) == list(range(12))
    assert np.allclose(times[0]["e2e_s"], times[1]["e2e_s"], rtol=1e-6, equal_nan=True)
    for built in found:
        gpu = built.servers[0].tiers[0]
        assert gpu.room_tokens == gpu.capacity_tokens
