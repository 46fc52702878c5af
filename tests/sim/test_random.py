"""Random traces through random engines: invariants after every event, and jumps equal to steps."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.sim.invariants import walk
from tests.sim.worlds import columns, random_requests, world


def options(seed: int) -> dict[str, Any]:
    """An engine, tiers and speeds drawn at random, down to pools that barely hold one request."""
    rng = random.Random(seed)
    cpu = rng.choice([0, 2, 8, 40, 200])
    rate = rng.choice([5e10, 1e9, 1e8])
    return {
        "key_tokens": rng.choice([16, 16, 24, 48, 64, 8]),
        "gpu_blocks": rng.choice([30, 40, 64, 200]),
        "cpu_blocks": cpu,
        "disk_blocks": rng.choice([0, 4, 30, 400]) if cpu else 0,
        "model": rng.choice(["llama-3.1-8b", "gpt-oss-20b"]),
        "engine": {
            "step_tokens": rng.choice([32, 100, 8192]),
            "max_batch": rng.choice([2, 8, 128]),
            "plan_ahead": rng.random() < 0.7,
            "reserve_full_prompt": rng.random() < 0.5,
        },
        "offload": {
            "chunk_tokens": rng.choice([0, 0, 32]),
            "load_rule": rng.choice(["always", "always", "break_even", "never"]),
            "store_generated": rng.random() < 0.3,
            "outputs_behind_stores": rng.random() < 0.5,
            "loads_seen_after_step": rng.random() < 0.5,
            "store_holds_blocks": seed % 3 == 0,
            "loads_exclude_steps": rng.random() < 0.5,
        },
        "overhead": {
            "prepare_s": rng.choice([0.0, 0.003, 0.02]),
            "collect_s": rng.choice([0.0, 0.001]),
            "pause_tokens": rng.choice([0, 30]),
        },
        "machine": {
            "link": {"h2d_Bps": rate, "d2h_Bps": rate * rng.choice([1, 0.3])},
            "disk": {"read_Bps": rate / 3, "write_Bps": rate / 5},
        },
        "speedup": rng.choice([0.3, 1.0, 5.0]),
    }


def requests(seed: int, key_tokens: int, count: int = 40) -> list[Any]:
    return random_requests(seed, count, key_tokens=key_tokens, longest_keys=400 // key_tokens, longest_output=60)


@pytest.mark.parametrize("seed", range(60))
def test_invariants_hold_after_every_event(seed: int) -> None:
    chosen = options(seed)
    trace = requests(seed, chosen["key_tokens"])
    built = world(trace, **chosen)
    walk(built)
    recorded = built.recorder.columns
    assert sorted(recorded["index"]) == list(range(len(trace)))
    for row, status in enumerate(built.recorder.status):
        hits = sum(recorded[f"{name}_hit_tokens"][row] for name in ("gpu", "cpu", "disk", "remote"))
        if status == 0:
            assert hits + recorded["computed_tokens"][row] == recorded["prompt_tokens"][row]
            assert recorded["computed_tokens"][row] >= 0


@pytest.mark.parametrize("seed", range(100, 220))
def test_jumps_equal_steps(seed: int) -> None:
    chosen = options(seed)
    trace = requests(seed, chosen["key_tokens"])
    fast, slow = (columns(world(trace, **chosen, jump=jump)) for jump in (True, False))
    for name, values in fast.items():
        if values.dtype == np.float64:
            np.testing.assert_allclose(values, slow[name], rtol=0, atol=1e-9, err_msg=name)
        else:
            np.testing.assert_array_equal(values, slow[name], err_msg=name)
