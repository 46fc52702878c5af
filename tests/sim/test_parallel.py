"""Data-parallel ranks in lock-step or apart, and pipelines: nothing is lost, and hand-worked courses."""

from __future__ import annotations

import random

import numpy as np
import pytest

from kvplan.deployment import Parallel
from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.scenario import checked
from kvplan.sim.outcome.summary import summarise
from tests.sim import invariants
from tests.sim.worlds import columns, random_requests, world

MOE = "qwen3-30b-a3b"


def request(index: int, arrival_s: float, prompt: int, output: int, first: int = 0) -> Request:
    keys = tuple(range(first, first + prompt // 16))
    return Request(index=index, arrival_s=arrival_s, prompt_tokens=prompt, output_tokens=output, blocks=keys)


@pytest.mark.parametrize("kinds", [{"dp": 2, "ep": 2}, {"dp": 4, "tp": 2, "ep": 8}, {"dp": 2}, {"pp": 2}, {"pp": 2, "tp": 2, "dp": 2}])
@pytest.mark.parametrize("seed", range(3))
def test_every_token_is_a_hit_or_computed_and_every_request_ends(kinds: dict[str, int], seed: int) -> None:
    built = world(random_requests(seed, 60), gpu_blocks=96, cpu_blocks=64, model=MOE, parallel=kinds)
    found = summarise(built.run())
    tokens = found.prompt_tokens
    assert found.requests.completed == 60
    assert tokens.gpu_hit + tokens.cpu_hit + tokens.computed == tokens.total
    for server in built.servers:
        assert not server.replica.load and not server.replica.inflight.steps
    invariants.check(built)


def test_ranks_of_a_dense_model_are_replicas() -> None:
    """Nothing joins them: as so many replicas behind the engine's own router, which hears of loads every 100 ms."""
    requests = random_requests(7, 80)
    apart = columns(world(requests, parallel={"dp": 3}))
    replicas = columns(world(requests, cluster={"replicas": 3, "router": "least_loaded", "stale_s": 0.1}))
    for name in apart:
        assert np.array_equal(apart[name], replicas[name], equal_nan=True), name


def test_a_prompt_on_one_rank_holds_up_the_tokens_of_the_other() -> None:
    """One of two ranks decodes when a long prompt comes to the other: in lock-step its tokens wait for the prefill, apart they do not."""
    requests = [request(0, 0.0, 64, 200), request(1, 0.5, 8192, 2, first=1000)]
    slow = {}
    for model in (MOE, "llama-3.1-8b"):
        built = world(requests, gpu_blocks=2048, model=model, parallel={"dp": 2})
        rows = columns(built)
        slow[model] = float(rows["e2e_s"][0] - rows["ttft_s"][0])
        alone = columns(world(requests[:1], gpu_blocks=2048, model=model, parallel={"dp": 2}))
        slow[model] -= float(alone["e2e_s"][0] - alone["ttft_s"][0])
    prefill_s = world(requests, gpu_blocks=2048, model=MOE, parallel={"dp": 2}).cost.prefill_s(8192, 0, 8192)
    assert slow[MOE] == pytest.approx(prefill_s, rel=0.1)
    assert slow["llama-3.1-8b"] == pytest.approx(0.0, abs=1e-9)


def test_a_rank_begins_when_the_step_of_the_others_has_ended() -> None:
    """A short prompt comes 30 ms after a long one has begun on the other rank: its step waits for the end of that one."""
    requests = [request(0, 0.0, 4096, 40), request(1, 0.03, 64, 40, first=1000)]
    rows = columns(world(requests, gpu_blocks=2048, model=MOE, parallel={"dp": 2, "ep": 2}))
    alone = columns(world(requests[1:], gpu_blocks=2048, model=MOE, parallel={"dp": 2, "ep": 2}))
    ends_s = rows["ttft_s"][0]
    assert rows["ttft_s"][1] + 0.03 > ends_s
    assert rows["ttft_s"][1] > 2 * alone["ttft_s"][0]


def test_a_lone_prompt_gains_nothing_from_a_pipeline_and_a_long_one_does() -> None:
    """One chunk passes both stages in turn; two chunks take 3/2 of it, not twice."""

    def first_s(prompt: int, **kinds: int) -> float:
        built = world([request(0, 0.0, prompt, 2)], gpu_blocks=2048, model="llama-3.1-8b", parallel=kinds)
        return float(columns(built)["ttft_s"][0])

    assert first_s(8192, pp=2) == pytest.approx(first_s(8192), rel=0.06)
    chunk_s = first_s(16384) - first_s(8192)  # the second chunk, which has more to attend to
    assert first_s(16384, pp=2) == pytest.approx(first_s(8192) / 2 + chunk_s, rel=0.08)


def test_jumps_and_steps_agree_through_a_pipeline() -> None:
    requests = random_requests(3, 40)
    jumped = columns(world(requests, gpu_blocks=96, parallel={"pp": 2}))
    stepped = columns(world(requests, gpu_blocks=96, parallel={"pp": 2}, jump=False))
    for name in ("ttft_s", "e2e_s"):
        assert np.allclose(jumped[name], stepped[name], atol=1e-9)


def apart(prompt: int, *, hands_over: str = "whole", Bps: float = 25e9, **prefill: int) -> tuple[float, float]:
    """Time to the first token of a lone prompt on replicas that prefill and decode apart, and its bytes over the network."""
    cluster = {"prefill_replicas": 1, "transfer_Bps": Bps, "prefill_parallel": Parallel(**prefill) if prefill else None}
    built = world([request(0, 0.0, prompt, 4)], gpu_blocks=4096, engine={"hands_over": hands_over}, cluster=cluster)
    return float(columns(built)["ttft_s"][0]), prompt * built.token_bytes


def test_prefill_on_more_ranks_than_decode() -> None:
    """16,384 tokens on two ranks of the prefill side, and whole to a decode side of one: 2.15 GB at 25 GB/s whatever the sides are."""
    one, size = apart(16384)
    two, same = apart(16384, tp=2)
    fast, _ = apart(16384, Bps=1e13)
    assert size == same == 2**31
    assert one - fast == pytest.approx(size / 25e9, rel=0.05)
    assert two < 0.75 * one


def test_chunks_are_sent_while_the_next_is_computed() -> None:
    """Of two chunks of 8,192 tokens only the last is waited for, where the network keeps up: 1.07 GB at 25 GB/s instead of 2.15 GB. Where
    it does not, as much is saved as was sent during the prefill."""
    whole, size = apart(16384)
    chunks, _ = apart(16384, hands_over="chunks")
    assert whole - chunks == pytest.approx(size / 2 / 25e9, rel=0.05)
    slow, _ = apart(16384, hands_over="chunks", Bps=2e9)
    late, _ = apart(16384, Bps=2e9)
    prefill_s = apart(16384, Bps=1e13)[0]
    assert late - slow == pytest.approx(prefill_s, rel=0.2)


def test_a_decoder_that_caches_fetches_only_the_rest() -> None:
    """The same 8,192 tokens twice, at 1 GB/s: 1.07 GB the first time; the second time one block of 16, or all of it again."""
    requests = [request(index, 20.0 * index, 8192, 4) for index in range(2)]
    times = {}
    for caches in (True, False):
        engine = {"hands_over": "whole", "decoder_caches": caches}
        rows = columns(world(requests, gpu_blocks=4096, engine=engine, cluster={"prefill_replicas": 1, "transfer_Bps": 1e9}))
        times[caches] = rows["ttft_s"]
    assert times[True][0] == times[False][0]
    assert times[False][1] - times[True][1] == pytest.approx(2**30 / 1e9, rel=0.01)


def test_chunks_of_two_prompts_share_the_port_of_the_sender() -> None:
    """Two prompts of 16,384 tokens at once, 2.15 GB each over 2 GB/s, chunk by chunk: the second waits for all of the first, and has sent
    nothing before that is through."""
    requests = [request(index, 0.0, 16384, 4, first=10_000 * index) for index in range(2)]
    cluster = {"prefill_replicas": 1, "transfer_Bps": 2e9}
    built = world(requests, gpu_blocks=4096, engine={"hands_over": "chunks"}, cluster=cluster)
    first_s, second_s = sorted(columns(built)["ttft_s"])
    alone_s, size = apart(16384, hands_over="chunks", Bps=2e9)
    assert first_s == pytest.approx(alone_s, rel=0.2)
    assert second_s > first_s + 0.9 * size / 2e9
    assert built.prefillers[0].port.busy_s[1] == pytest.approx(2 * size / 2e9, rel=0.01)


def test_a_decoder_finds_in_its_own_host_memory_what_a_preemption_took() -> None:
    """Two prompts of 128 blocks in a pool of 300, which they and their answers of 64 outgrow: the second is preempted. The first ends
    with 192 blocks, so that 108 of the second's prompt are still there; the other 20 come back over the link instead of being computed. The
    prompts themselves are fetched from the sender, and stored once each."""
    requests = [request(index, 0.0, 2048, 1024, first=1000 * index) for index in range(2)]
    built = world(requests, gpu_blocks=300, cluster={"prefill_replicas": 1, "decode_cpu_bytes": 2**33})
    assert built.run().columns["preemptions"].tolist() == [0, 1]
    (tier,) = (one.pool.tier for one in built.servers[0].below)
    assert tier.stored_tokens == 2 * 2048
    assert tier.loaded_tokens == 20 * 16


@pytest.mark.parametrize("seed", range(4))
def test_decoders_with_host_memory_end_and_jump_as_they_step(seed: int) -> None:
    sides = {"prefill_replicas": 1, "replicas": 2, "decode_cpu_bytes": 2**27}
    worlds = [world(random_requests(seed, 40), gpu_blocks=48, cpu_blocks=32, cluster=sides, jump=jump) for jump in (True, False)]
    jumped, stepped = map(columns, worlds)
    for name in ("ttft_s", "e2e_s"):
        assert np.allclose(jumped[name], stepped[name], atol=1e-9)
    for built in worlds:
        assert not built.left
        invariants.check(built)


def test_decoders_of_an_engine_without_such_a_tier_are_refused() -> None:
    cluster = {"prefill_replicas": 1, "decode_cpu_bytes": 2**30}
    built = world([request(0, 0.0, 64, 2)], offload={"load": "layerwise"}, cluster=cluster)
    with pytest.raises(InputError, match="keep nothing in host memory"):
        checked(built.scenario)
    together = world([request(0, 0.0, 64, 2)], cluster={"decode_cpu_bytes": 2**30})
    with pytest.raises(InputError, match="no replica only decodes"):
        checked(together.scenario)


def test_what_decoders_do_without_is_said() -> None:
    cluster = {"prefill_replicas": 1}
    plain = checked(world([request(0, 0.0, 64, 2)], cluster=cluster).scenario)
    assert not any("only decode" in note for note in plain.notes)
    built = world([request(0, 0.0, 64, 2)], cpu_blocks=64, engine={"decoder_caches": False}, cluster=cluster)
    (said,) = (note for note in checked(built.scenario).notes if "only decode" in note)
    assert "no tiers below the GPU" in said and "find no prefix" in said


def test_sides_that_no_engine_joins_are_refused() -> None:
    def scenario_of(prefill: Parallel, **decode: int) -> object:
        cluster = {"prefill_replicas": 1, "prefill_parallel": prefill}
        return checked(world([request(0, 0.0, 64, 2)], parallel=decode, cluster=cluster).scenario)

    scenario_of(Parallel(tp=4, pp=2), tp=2)
    with pytest.raises(InputError, match="no pipeline stages"):
        scenario_of(Parallel(tp=2), tp=2, pp=2)


@pytest.mark.parametrize("seed", range(24))
def test_ranks_left_alone_and_ranks_that_step_agree(seed: int) -> None:
    """Ranks of a group of which most only decode, in small pools with preemptions and tiers, by stretches and step by step."""
    rng = random.Random(seed)
    requests = random_requests(seed, 50, longest_output=80, span_s=rng.choice([1.0, 4.0, 12.0]))
    chosen = {
        "gpu_blocks": rng.choice([40, 96, 400]),
        "cpu_blocks": rng.choice([0, 0, 40]),
        "model": rng.choice([MOE, "gpt-oss-20b"]),
        "parallel": rng.choice([{"dp": 2, "ep": 2}, {"dp": 4, "tp": 2, "ep": 8}, {"dp": 3}, {"dp": 2, "pp": 2}]),
        "engine": {"step_tokens": rng.choice([64, 8192]), "plan_ahead": rng.random() < 0.8, "prefill_apart": rng.random() < 0.3},
        "overhead": {"pause_tokens": rng.choice([0, 100]), "collect_s": rng.choice([0.0, 0.001])},
    }
    worlds = [world(requests, **chosen, jump=jump) for jump in (True, False)]
    alone, stepped = (columns(one) for one in worlds)
    for name, values in alone.items():
        np.testing.assert_allclose(values, stepped[name], rtol=0, atol=1e-9, err_msg=name)
    left, right = (one.recorder.intervals_s for one in worlds)
    assert (left.count, left.total) == (right.count, pytest.approx(right.total, rel=1e-9))


def taken(ranks: int) -> float:
    """Steps taken one by one, for each of ten requests a rank, of 60 to 240 tokens, one a second on each."""
    rng, arrival_s, requests = random.Random(1), 0.0, []
    for index in range(10 * ranks):
        arrival_s += rng.expovariate(ranks)
        requests.append(request(index, arrival_s, rng.randint(500, 4000), rng.randint(60, 240), first=1000 * index))
    built = world(requests, gpu_blocks=4096, model=MOE, parallel={"dp": ranks, "ep": ranks} if ranks > 1 else {})
    built.run()
    return sum(server.replica.inflight.started for server in built.servers) / len(requests)


def test_a_rank_takes_no_more_steps_one_by_one_than_a_replica_alone() -> None:
    alone = taken(1)
    assert alone < 8
    assert taken(32) < 1.3 * alone
