"""Several replicas: one behind a router is the single server; routers differ in whose cache a request meets; prefill
apart from decode."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.sim.cluster.router import ROUTERS, Fleet
from kvplan.sim.outcome.compare import compare
from tests.sim.runs import documents, run
from tests.sim.worlds import random_requests


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_one_replica_is_byte_identical_to_the_single_server(router: str) -> None:
    trace = random_requests(4, 60, longest_keys=30)
    tiers = {"gpu_kv": "0.2GiB", "cpu": "0.5GiB", "disk": "1GiB"}
    plain, routed = (
        run(trace, **tiers)[0],
        run(trace, **tiers, sets={"cluster.router": router, "cluster.replicas": 1})[0],
    )
    assert msgspec.json.encode(plain) == msgspec.json.encode(routed)


def test_an_unknown_router_is_refused() -> None:
    with pytest.raises(InputError, match="no router named 'prefix'"):
        run(documents(1, 64), gpu_kv="1GiB", sets={"cluster.router": "prefix"})


class Clock:
    now = 0.0


def fleet(loads: list[int], **options: Any) -> Fleet:
    return Fleet(
        Clock(),
        lambda: loads,
        **{"replicas": len(loads), "key_tokens": 16, "cache_tokens": 160, "stale_s": 0.0, **options},
    )


def ask(*keys: int, session: str = "") -> Request:
    return Request(index=0, arrival_s=0.0, prompt_tokens=16 * len(keys), output_tokens=1, blocks=keys, session=session)


def test_choices() -> None:
    loads = [3, 1, 2]
    assert [ROUTERS["round_robin"](fleet(loads)).choose(ask(1)) for _ in range(1)] == [0]
    turns = ROUTERS["round_robin"](fleet(loads))
    assert [turns.choose(ask(1)) for _ in range(4)] == [0, 1, 2, 0]
    assert ROUTERS["least_loaded"](fleet(loads)).choose(ask(1)) == 1
    sticky = ROUTERS["session_sticky"](fleet(loads))
    assert sticky.choose(ask(1, session="a")) == 1
    loads[:] = [0, 9, 9]
    assert sticky.choose(ask(2, session="a")) == 1 and sticky.choose(ask(2, session="b")) == 0


def test_prefix_aware_goes_where_most_of_the_prompt_is_unless_it_is_crowded() -> None:
    loads = [0, 1]
    router = ROUTERS["prefix_aware"](fleet(loads))
    assert router.choose(ask(1, 2, 3, 4)) == 0
    loads[:] = [4, 0]
    assert router.choose(ask(1, 2, 3, 5)) == 0  # three of four keys
    assert router.choose(ask(1, 7, 8, 9)) == 1  # one of four: like a shared system prompt
    loads[:] = [5, 0]
    assert router.choose(ask(1, 2, 3, 4)) == 1  # more than four requests above the least loaded


def test_a_router_forgets_what_the_caches_cannot_hold_and_hears_late() -> None:
    loads = [0, 1]
    router = ROUTERS["prefix_aware"](fleet(loads, cache_tokens=64))
    assert router.choose(ask(1, 2, 3, 4)) == 0 and router.choose(ask(5, 6, 7, 8)) == 0
    loads[:] = [1, 0]
    assert router.choose(ask(1, 2, 3, 4)) == 1  # four keys are remembered a replica, those sent last
    loads[:] = [0, 1]
    late = fleet(loads, stale_s=5.0)
    router = ROUTERS["prefix_aware"](late)
    assert router.choose(ask(1, 2, 3, 4)) == 0
    loads[:] = [3, 0]
    late.clock.now = 4.0
    assert late.loads() == [1, 1]  # as heard at 0 s, and what was sent since
    late.clock.now = 6.0
    assert late.loads() == [3, 0] and router.choose(ask(1, 2, 3, 4)) == 0


def chats(seed: int, users: int = 40, turns: int = 6) -> list[Request]:
    """Users whose prompts grow by 512 tokens a turn, interleaved at random."""
    rng, found, done = random.Random(seed), [], [0] * users
    while min(done) < turns:
        user = rng.choice([user for user in range(users) if done[user] < turns])
        done[user] += 1
        blocks = tuple(user * 10_000 + key for key in range(1, done[user] * 32 + 1))
        found.append(
            Request(
                index=len(found),
                arrival_s=len(found) * 0.2,
                prompt_tokens=512 * done[user],
                output_tokens=8,
                blocks=blocks,
                session=f"u{user}",
            )
        )
    return found


def hit_rate(**sets: Any) -> float:
    result, _ = run(chats(1), gpu_kv="8GiB", sets={"cluster.replicas": 4, **sets})
    return result.prompt_tokens.gpu_hit / result.prompt_tokens.total


def test_prefix_aware_and_sticky_routing_keep_what_round_robin_scatters() -> None:
    """A prompt's reusable share is (turn - 1)/turn: 15/21 of all tokens. Two routers find it all; turn by turn
    elsewhere, less than half."""
    for router in ("prefix_aware", "session_sticky"):
        assert hit_rate(**{"cluster.router": router}) == pytest.approx(15 / 21, abs=1e-9)
    assert hit_rate(**{"cluster.router": "round_robin"}) < 0.5


def test_a_shared_pool_multiplies_the_hits_of_isolated_ones() -> None:
    """PegaFlow, eight instances on one host: 11.8 % with 62.5 GiB each, 52.4 % with 500 GiB in common. The same shape,
    smaller."""
    rng = random.Random(5)
    asked = [rng.randrange(150) for _ in range(400)]
    trace = [
        Request(
            index=at,
            arrival_s=at * 0.5,
            prompt_tokens=2048,
            output_tokens=1,
            blocks=tuple(range(doc * 1000 + 1, doc * 1000 + 129)),
        )
        for at, doc in enumerate(asked)
    ]
    found = {}
    for shared in (False, True):
        result, _ = run(trace, gpu_kv="0.6GiB", cpu="3.2GiB", sets={"cluster.replicas": 8, "cluster.shared_cpu": shared})
        found[shared] = (result.prompt_tokens.cpu_hit + result.prompt_tokens.gpu_hit) / result.prompt_tokens.total
        capacity = next(tier.capacity_bytes for tier in result.tiers if tier.name == "cpu")
        assert capacity == pytest.approx(8 * 3.2 * 2**30, rel=0.01)
    assert found[False] < 0.2 and found[True] > 0.5


def interference(prefill_replicas: int, Bps: float = 25e9) -> Any:
    """Chats that decode while prompts of 16k tokens arrive: two replicas, or one that prefills for one that decodes."""
    short = [Request(index=0, arrival_s=at * 0.25, prompt_tokens=200, output_tokens=150) for at in range(40)]
    long = [Request(index=0, arrival_s=0.5 + at * 1.5, prompt_tokens=16384, output_tokens=20) for at in range(6)]
    trace = sorted(short + long, key=lambda request: request.arrival_s)
    trace = [msgspec.structs.replace(request, index=index) for index, request in enumerate(trace)]
    sets = {
        "cluster.replicas": 2 - prefill_replicas,
        "cluster.prefill_replicas": prefill_replicas,
        "cluster.transfer_Bps": Bps,
    }
    return run(trace, gpu_kv="40GiB", sets=sets)


def test_prefill_apart_keeps_long_prompts_out_of_the_decode_steps() -> None:
    together, apart = interference(0)[0], interference(1)[0]
    assert apart.requests.completed == together.requests.completed == 46
    assert together.itl_s.max > 0.2 and apart.itl_s.max < 0.12


def test_the_handover_costs_bytes_over_the_network_and_has_a_break_even() -> None:
    """16,384 tokens are 2.15 GB: 86 ms at 25 GB/s, 2.15 s at 1 GB/s, more than prefilling them again takes (0.5 s)."""
    ttft = {Bps: float(interference(1, Bps)[1].recorder.arrays()["ttft_s"][3]) for Bps in (1e12, 25e9, 1e9)}
    size = 16384 * 131072
    assert interference(1)[1].scenario.trace == "" and size == 2**31
    assert ttft[25e9] - ttft[1e12] == pytest.approx(size / 25e9, abs=0.02)
    assert ttft[1e9] - ttft[1e12] == pytest.approx(size / 1e9, rel=0.05)
    together = float(interference(0)[1].recorder.arrays()["ttft_s"][3])
    assert ttft[25e9] - together < 0.15 < ttft[1e9] - together


def test_the_comparison_names_the_network_at_which_prefill_apart_breaks_even() -> None:
    """By arithmetic from the two results; and the simulator, given twice and half that rate, gains and loses."""
    result, together = interference(0)

    def against(Bps: float) -> Any:
        other, apart = interference(1, Bps)
        return compare([together.scenario, apart.scenario], [result, other]).handovers[0]

    found = against(100e9)
    assert result.prompt_tokens.total == 40 * 200 + 6 * 16384
    assert found.prompt_bytes == pytest.approx(131072 * (40 * 200 + 6 * 16384) / 46)
    assert found.break_even_Bps == pytest.approx(found.prompt_bytes / (found.prompt_bytes / 100e9 + found.gain_s))
    assert found.gain_s > 0 and 0 < found.break_even_Bps < 100e9
    assert against(2 * found.break_even_Bps).gain_s > 0 > against(found.break_even_Bps / 2).gain_s


def test_runs_that_all_serve_alike_have_no_handover() -> None:
    result, together = interference(0)
    assert compare([together.scenario, together.scenario], [result, result]).handovers == []
