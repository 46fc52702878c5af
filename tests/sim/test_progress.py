"""Pools that hold one request and no block more: every run ends, with what the engine's own scheduler would do."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kvplan.errors import InputError, KvplanError
from kvplan.request import Request
from kvplan.sim.replica.replica import Replica
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.loads import Loads, Outcome
from tests.sim.oracle import Oracle
from tests.sim.test_random import options
from tests.sim.worlds import columns, random_requests, world


def request(index: int, arrival_s: float, tokens: int, output: int, *blocks: int) -> Request:
    return Request(index=index, arrival_s=arrival_s, prompt_tokens=tokens, output_tokens=output, blocks=blocks)


def test_a_prompt_of_whole_blocks_twice_in_a_pool_of_just_that() -> None:
    # 64 tokens and 2 more: 5 blocks. The second finds 3 of 4 (its last token is computed again) and takes 2: its own fourth
    # one in place of the cached one, which nobody holds. Nothing is preempted.
    trace = [request(0, 0.0, 64, 2, 1, 2, 3, 4), request(1, 9.0, 64, 2, 1, 2, 3, 4)]
    found = columns(world(trace, gpu_blocks=5))
    assert list(found["gpu_hit_tokens"]) == [0, 48]
    assert list(found["preemptions"]) == [0, 0]


@pytest.mark.parametrize("blocks", [7, 8])
def test_a_long_prompt_behind_a_short_one(blocks: int) -> None:
    # Both need 1 and 7 blocks in the end. With 8 both run; with 7 the long one, which came last, gives way once its first token needs
    # a block, and goes on when the short one has ended. It keeps the token that was on its way when it was preempted.
    trace = [request(0, 0.01, 96, 3, 1, 2, 3, 4, 5, 6), request(1, 0.01, 8, 5, 1)]
    found = columns(world(trace, gpu_blocks=blocks))
    assert list(found["status"]) == [0, 0]
    assert sum(found["preemptions"]) <= 8 - blocks


@pytest.mark.parametrize("blocks", [7, 8])
def test_without_a_prefix_cache_a_preempted_request_keeps_nothing(blocks: int) -> None:
    # 58 + 43 and 31 + 22 tokens: 7 and 4 blocks. In 8 blocks one is preempted; what it had is free, not kept for it.
    trace = [request(0, 0.0, 58, 43), request(1, 0.0, 31, 22)]
    built = world(trace, gpu_blocks=blocks, engine={"prefix_caching": False})
    found = columns(built)
    assert list(found["status"]) == [0, 0]
    assert sum(found["preemptions"]) >= 1
    assert built.tiers[0].used_tokens == built.tiers[0].evictable_tokens


def tiny(seed: int) -> tuple[list[Request], dict[str, Any]]:
    rng, chosen = random.Random(seed), options(seed)
    chosen |= {"gpu_blocks": rng.randint(5, 9), "key_tokens": 16, "model": "llama-3.1-8b"}
    chosen["cpu_blocks"] = rng.choice([0, 2, 4, 20])
    chosen["disk_blocks"] = rng.choice([0, 3, 30]) if chosen["cpu_blocks"] else 0
    return random_requests(seed, rng.randint(1, 4), longest_keys=6, longest_output=40, span_s=0.3), chosen


@pytest.mark.parametrize("seed", range(1000, 1150))
def test_tiny_pools_end(seed: int) -> None:
    trace, chosen = tiny(seed)
    chosen["engine"]["prefix_caching"] = seed % 3 > 0
    found = columns(world(trace, **chosen))
    assert set(found["status"]) <= {0, 1}


def convoy(seed: int, count: int) -> tuple[list[Request], dict[str, Any]]:
    """Prompts of few heads and few tails that come again and again, through tiers of which none holds them all."""
    rng, chosen = random.Random(seed), options(seed)
    heads, tails, head, gap_s = rng.randint(1, 4), rng.randint(2, 9), rng.randint(1, 5), rng.choice([0, 1e-4, 5e-3, 0.05])
    trace, arrival_s = [], 0.0
    for index in range(count):
        first, second = 1000 * (1 + rng.randrange(heads)), 100_000 * (1 + rng.randrange(tails))
        blocks = (*range(first, first + head), *range(second, second + second // 100_000 * 7 % 5 + rng.choice([0, 0, 1])))
        trace.append(request(index, arrival_s, len(blocks) * 16, rng.choice([1, 5, 40]), *blocks))
        arrival_s += rng.random() * gap_s
    chosen |= {"gpu_blocks": rng.randint(5, 14), "key_tokens": 16, "model": "llama-3.1-8b"}
    chosen |= {"cpu_blocks": rng.choice([1, 2, 4, 8, 20]), "disk_blocks": rng.choice([30, 300])}
    chosen["engine"]["max_batch"] = rng.choice([1, 2, 8, 128])
    chosen["engine"]["prefix_caching"] = seed % 7 > 0
    rules = {
        "job_order": ["position", "arbitrary", "arbitrary", "rank"],
        "blocks_in_flight": ["freed", "cascade", "wait"],
        "promotes_part": [True, False],
        "offers_again": [True, False],
        "load": ["whole_request", "whole_request", "layerwise", "blocking"],
        "load_start": ["at_once", "step_end", "next_step_end"],
        "prefetch": ["none", "none", "none", "best_effort", "wait_complete", "timeout"],
        "store": ["write_through", "write_through", "write_through", "selective", "on_evict"],
        "lower_store": ["write_through", "write_through", "write_through", "selective", "on_evict"],
        "policy": ["lru", "lru", "lru", "arc", "fifo"],
    }
    chosen["offload"] |= {name: rng.choice(some) for name, some in rules.items()}
    return trace, chosen


@pytest.mark.parametrize("seed", [*range(3000, 3060), 3818, 4674])
def test_convoys_through_tiny_tiers_end(seed: int) -> None:
    trace, chosen = convoy(seed, 40)
    try:
        found = columns(world(trace, **chosen))
    except InputError as refused:  # a host memory of less than a chunk
        assert "less than one block" in str(refused)
        return
    assert set(found["status"]) <= {0, 1}


@pytest.mark.parametrize("seed", [6157, 6196, 6257])
def test_no_jump_passes_a_load_that_begins_when_a_step_has_ended(seed: int) -> None:
    # The step after the next one waits for it.
    trace, chosen = convoy(seed, 40)
    fast, slow = (columns(world(trace, **chosen, jump=jump)) for jump in (True, False))
    assert list(fast["e2e_s"]) == pytest.approx(list(slow["e2e_s"]), abs=1e-9, nan_ok=True)


def test_loads_that_take_what_prompts_still_need_keep_them_from_ever_ending() -> None:
    # Loads hold their blocks and cannot be preempted: two take turns, and each time the prompt that is being computed lacks its last
    # block. Engines that load before a request is scheduled keep free what those before it still need (vLLM from 0.24 on).
    trace, chosen = convoy(3318, 40)
    chosen["overhead"]["load_s"] = 0.004
    with pytest.raises(KvplanError, match=r"request 18 .* preempted 101 times") as failed:
        world(trace, **chosen).run()
    assert "reserve_in_flight" in str(failed.value.hint)
    chosen["engine"]["reserve_in_flight"] = True
    assert set(columns(world(trace, **chosen))["status"]) == {0}


@pytest.mark.parametrize("seed", [*range(2000, 2150), 2220, 2293, 2307])
def test_tiny_pools_agree_with_the_oracle(seed: int) -> None:
    trace, chosen = tiny(seed)
    chosen["offload"] |= {"chunk_tokens": 0, "load_rule": "always"}
    found = columns(world(trace, **chosen))
    reference = {seq.index: seq for seq in Oracle(world(trace, **chosen)).run()}
    for at, index in enumerate(found["index"]):
        if found["status"][at] == 0:
            seq = reference[index]
            assert tuple(int(found[f"{tier}_hit_tokens"][at]) for tier in ("gpu", "cpu", "disk")) == seq.hits, index
            assert found["preemptions"][at] == seq.preemptions, index
            assert found["e2e_s"][at] == pytest.approx(seq.last - seq.arrival, abs=1e-9), index


def test_a_run_that_cannot_go_on_names_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    # No scenario is known that does; here the end of every step is lost.
    monkeypatch.setattr(Replica, "_alarm", lambda self, delay, action: None)
    with pytest.raises(KvplanError, match="request 0"):
        world([request(0, 0.0, 64, 2, 1, 2, 3, 4)]).run()


def test_a_run_in_which_nobody_gets_anywhere_names_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    # No scenario is known that does; here every load ends with nothing in place.
    def begin(self: Loads, seq: Sequence, *others: Any) -> Outcome:
        self.clock.after(0.001, lambda: others[-1](False))
        return Outcome.WAITS

    monkeypatch.setattr(Loads, "begin", begin)
    with pytest.raises(KvplanError, match=r"request 0 .* and 1 others were asked for"):
        world([request(0, 0.0, 64, 2, 1, 2, 3, 4), request(1, 0.0, 64, 2, 5, 6)], cpu_blocks=10).run()


def test_what_a_preempted_request_generated_is_reused_while_stores_run() -> None:
    # As in the by-hand test of preemption, in a pool of 6 blocks, with host memory behind a slow link: blocks that were generated are
    # allocated again while prompts are still being copied.
    trace = [request(index, 0.0, 32, 60, 2 * index + 1, 2 * index + 2) for index in range(3)]
    built = world(trace, gpu_blocks=8, cpu_blocks=50, machine={"link": {"d2h_Bps": 1e6}}, offload={"store_holds_blocks": False})
    found = columns(built)
    assert set(found["status"]) == {0} and sum(found["preemptions"]) > 0
