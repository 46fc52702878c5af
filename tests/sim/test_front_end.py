"""Requests enter one after the other: nobody overtakes, and a burst leaves the front end spread out."""

from __future__ import annotations

import pytest

from kvplan.request import Request
from tests.sim.worlds import columns, world

OVERHEAD = {"request_s": 0.001, "request_token_s": 1e-6, "transit_s": 0.002, "input_s": 0.003, "input_token_s": 2e-6, "admit_token_s": 0.0}


def request(index: int, arrival_s: float, tokens: int) -> Request:
    return Request(index=index, arrival_s=arrival_s, prompt_tokens=tokens, output_tokens=1, blocks=())


def test_a_short_prompt_does_not_overtake_a_long_one() -> None:
    found = columns(world([request(0, 0.0, 100_000), request(1, 0.01, 16)], gpu_blocks=10_000, overhead=OVERHEAD))
    first = found["arrival_s"] + found["ttft_s"]
    assert first[1] >= first[0]


@pytest.mark.parametrize("servers", [1, 2])
def test_a_burst_is_spread_by_the_slowest_stage(servers: int) -> None:
    # Ten requests of 1,000 tokens at once. An API server gives one each 1 + 1 = 2 ms (two servers: two each 2 ms), the engine's input
    # thread takes 3 + 2 = 5 ms each: the last is in after 2 + 2 + 10 * 5 ms, and as all prompts fit one step they wait for the first's.
    rows = [request(index, 0.0, 1000) for index in range(10)]
    built = world(rows, gpu_blocks=10_000, engine={"api_servers": servers, "plan_ahead": False}, overhead=OVERHEAD)
    entered = []
    submit = built.replica.submit
    built.replica.submit = lambda seq: (entered.append(built.clock.now), submit(seq))[1]  # type: ignore[method-assign]
    columns(built)
    assert entered == pytest.approx([0.002 + 0.002 + 0.005 * (1 + index) for index in range(10)])
