"""Every rule with every other, drawn at random: nothing is lost, and jumps equal steps."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from kvplan.sim.cache.eviction.by_name import POLICIES
from tests.sim.test_random import options, requests
from tests.sim.worlds import columns, world


def drawn(seed: int) -> dict[str, Any]:
    """Options of test_random with the rules of stores, loads, prefetch and eviction drawn as well."""
    rng, chosen = random.Random(seed), options(seed)
    stores = ["write_through", "selective", "on_evict"]
    chosen["offload"] |= {
        "store": rng.choice(stores),
        "lower_store": rng.choice(stores),
        "load": rng.choice(["whole_request", "layerwise", "blocking"]),
        "exclusive": rng.random() < 0.3,
        "prefetch": rng.choice(["none", "none", "best_effort", "wait_complete", "timeout"]),
        "prefetch_timeout_s": 0.05,
        "prefetch_timeout_most_s": 1.0,
        "policy": rng.choice(sorted(POLICIES)),
        "disk_policy": rng.choice(sorted(POLICIES)),
    }
    return chosen


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_lost_and_jumps_equal_steps(seed: int) -> None:
    chosen = drawn(seed)
    trace = requests(seed, chosen["key_tokens"])
    built = world(trace, **chosen)
    fast = columns(built)
    built.clock.run()
    for tier in built.tiers:
        assert tier.used_tokens == tier.evictable_tokens <= tier.capacity_tokens, tier.name
    ran = fast["status"] == 0
    hits = sum(fast[f"{tier}_hit_tokens"] for tier in ("gpu", "cpu", "disk", "remote"))
    assert ((hits + fast["computed_tokens"] == fast["prompt_tokens"]) | ~ran).all()
    assert all((fast[f"{name}_tokens"] >= 0).all() for name in ("gpu_hit", "cpu_hit", "disk_hit", "computed"))
    slow = columns(world(trace, **chosen, jump=False))
    for name, values in fast.items():
        if values.dtype == np.float64:
            np.testing.assert_allclose(values, slow[name], rtol=0, atol=1e-9, err_msg=name)
        else:
            np.testing.assert_array_equal(values, slow[name], err_msg=name)
