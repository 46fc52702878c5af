"""The simulator against the per-block, per-step oracle: the same hits and the same times, request by request."""

from __future__ import annotations

import math

import pytest

from kvplan.engine.spec import Memory
from tests.sim.oracle import Oracle
from tests.sim.test_random import options, requests
from tests.sim.worlds import columns, world


@pytest.mark.parametrize("seed", [*range(300, 380), 384, 387, 391, 395, 446])
def test_hits_and_times_equal_the_oracle(seed: int) -> None:
    chosen = options(seed)
    chosen["engine"]["memory"] = Memory(hybrid_groups=False)  # the oracle's blocks hold all layers
    chosen["offload"] |= {"chunk_tokens": 0, "load_rule": "never" if seed % 10 == 0 else "always"}
    trace = requests(seed, chosen["key_tokens"], count=30)
    found = columns(world(trace, **chosen))
    reference = Oracle(world(trace, **chosen)).run()
    ran = [at for at, status in enumerate(found["status"]) if status == 0]
    assert [seq.index for seq in reference] == [found["index"][at] for at in ran]
    lag = world([], **chosen).recorder.first_token_s
    for at, seq in zip(ran, reference, strict=True):
        hits = tuple(int(found[f"{tier}_hit_tokens"][at]) for tier in ("gpu", "cpu", "disk"))
        assert hits == seq.hits, seq.index
        assert found["preemptions"][at] == seq.preemptions
        assert math.isclose(found["ttft_s"][at], seq.first + lag - seq.arrival, abs_tol=1e-9), seq.index
        assert math.isclose(found["e2e_s"][at], seq.last + lag - seq.arrival, abs_tol=1e-9), seq.index
        assert math.isclose(found["load_s"][at], seq.load, abs_tol=1e-9), seq.index
