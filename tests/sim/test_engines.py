"""Engines as data: the shapes that published measurements show come out of their rules."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from kvplan import catalog
from kvplan.engine.spec import Overhead
from kvplan.errors import InputError
from kvplan.request import Request
from tests.sim.runs import documents, run

ENGINES = ("vllm", "lmcache", "sglang", "trtllm", "dynamo")


def column(world: Any, name: str) -> Any:
    return world.recorder.arrays()[name]


def test_numbers_that_an_engine_takes_from_another_count_as_assumed() -> None:
    engine = catalog.engine("dynamo")
    assert engine.overhead == msgspec.structs.replace(catalog.engine("vllm").overhead, probe_s=0.0, disk_file_s=0.0)
    assert engine.provenance["overhead.load_s"].kind == "assumed" and "vllm" in engine.provenance["overhead.load_s"].source
    assert catalog.engine("lmcache").provenance["offload.chunk_tokens"].kind == "datasheet"
    assert catalog.engine("sglang").block_tokens == 64 and "block_tokens" in catalog.engine("sglang").provenance


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_finds_below_what_the_gpu_has_lost(engine: str) -> None:
    """12 documents of 8k tokens (1 GiB each) in 8 GiB: in the second and third round all but the last block comes from
    host memory."""
    result, _ = run(documents(12, 8192, rounds=3, every_s=2), engine=engine, gpu_kv="8GiB", cpu="32GiB")
    assert result.prompt_tokens.gpu_hit == 0
    assert result.prompt_tokens.cpu_hit == pytest.approx(2 / 3 * result.prompt_tokens.total, rel=0.01)


# -- how a step meets its loads --------------------------------------------------------------------------------------


def half_cached(load: str) -> tuple[float, float]:
    """TTFT and load seconds of a 32k prompt whose first half lies in host memory, for LMCache with a load rule."""
    first, other = (
        documents(1, 16384)[0],
        Request(index=1, arrival_s=30.0, prompt_tokens=32768, output_tokens=1, blocks=tuple(range(10**5, 10**5 + 2048))),
    )
    later = Request(
        index=2,
        arrival_s=60.0,
        prompt_tokens=32768,
        output_tokens=1,
        blocks=(*first.blocks, *range(10**6, 10**6 + 1024)),
    )
    sets: dict[str, Any] = {"engine.offload.load": load, "engine.offload.copies": "engine", "engine.offload.store_in_step": False}
    sets["engine.overhead.load_chunk_s"] = 0.0
    _, world = run([first, other, later], engine="lmcache", version="0.5.3", gpu_kv="4.02GiB", cpu="64GiB", sets=sets)
    assert column(world, "cpu_hit_tokens")[2] > 16_000
    return float(column(world, "ttft_s")[2]), float(column(world, "load_s")[2])


def test_layerwise_loads_hide_behind_the_computation() -> None:
    """2 GiB over 55 GB/s take 39 ms and the overheads 16 ms, of which a step of 0.7 s hides all but the first layer's
    1/32."""
    whole, blocking, layerwise = half_cached("whole_request"), half_cached("blocking"), half_cached("layerwise")
    transfer_s = 16384 * 131072 / 5.49e10
    assert blocking[1] >= transfer_s and whole[1] >= transfer_s
    assert layerwise[1] < 0.5 * blocking[1]
    assert blocking[0] - layerwise[0] == pytest.approx(transfer_s * 31 / 32, rel=0.15)
    assert whole[0] - layerwise[0] > 0.8 * transfer_s


def test_a_blocking_load_stops_everybody_in_the_step() -> None:
    """A sequence decodes while a 32k prompt is loaded: its longest gap holds the whole load under LMCache, and not
    under SGLang."""
    first, other, again = documents(2, 32768, rounds=2)[:3]
    decoding = Request(index=3, arrival_s=49.5, prompt_tokens=64, output_tokens=200)
    trace = [
        first,
        other,
        Request(index=2, arrival_s=50.0, prompt_tokens=32768, output_tokens=1, blocks=again.blocks),
        decoding,
    ]
    trace.sort(key=lambda request: request.arrival_s)
    longest = {}
    for load in ("blocking", "whole_request"):
        result, _ = run(trace, engine="lmcache", gpu_kv="5GiB", cpu="64GiB", sets={"engine.offload.load": load})
        longest[load] = result.itl_s.max
    assert longest["blocking"] > longest["whole_request"] + 0.06  # 4 GiB take 78 ms


# -- inclusive, exclusive, on evict ----------------------------------------------------------------------------------


def test_an_inclusive_tier_no_larger_than_the_gpu_adds_no_hits_and_costs() -> None:
    """12 documents of 1 GiB in turn, 8 GiB on the GPU: 4 and 8 GiB of host memory hit nothing, 16 GiB hit all but the
    first round."""
    docs = documents(12, 8192, rounds=3, every_s=2)
    alone, _ = run(docs, gpu_kv="8GiB")
    for cpu in ("4GiB", "8GiB"):
        small, _ = run(docs, gpu_kv="8GiB", cpu=cpu)
        assert small.prompt_tokens.cpu_hit == 0
        assert small.ttft_s.mean >= alone.ttft_s.mean  # type: ignore[operator]
        assert small.tiers[1].stored_bytes == 36 * 2**30  # every prompt goes down again
    decoding = Request(index=36, arrival_s=0.0, prompt_tokens=64, output_tokens=2000)  # its tokens wait behind the stores
    with_tier, without = (run([decoding, *docs], gpu_kv="8.2GiB", **tiers)[0] for tiers in ({"cpu": "8GiB"}, {}))
    assert with_tier.prompt_tokens.cpu_hit == 0
    assert with_tier.itl_s.mean > without.itl_s.mean  # type: ignore[operator]
    large, _ = run(docs, gpu_kv="8GiB", cpu="16GiB")
    assert large.prompt_tokens.cpu_hit > 0.66 * large.prompt_tokens.total


def test_an_exclusive_tier_adds_its_size() -> None:
    """The same documents: 8 GiB on the GPU and 6 GiB below hold all twelve when content is in one place only; when what
    came up stays below as well, less than half is found."""
    docs = documents(12, 8192, rounds=3, every_s=2)
    both, _ = run(docs, engine="trtllm", gpu_kv="8GiB", cpu="6GiB", sets={"engine.offload.exclusive": False})
    one, _ = run(docs, engine="trtllm", gpu_kv="8GiB", cpu="6GiB")
    assert both.prompt_tokens.cpu_hit + both.prompt_tokens.gpu_hit < 0.45 * both.prompt_tokens.total
    assert one.prompt_tokens.cpu_hit + one.prompt_tokens.gpu_hit > 0.6 * one.prompt_tokens.total


def test_on_evict_stores_move_nothing_while_all_fits_and_again_what_comes_back() -> None:
    """Six documents of 1 GiB fit 8 GiB: write-through moves 6 GiB, on-evict none. Twelve do not: on-evict moves what is
    given up, over and over."""
    fits = {
        engine: run(documents(6, 8192, rounds=3, every_s=2), engine=engine, gpu_kv="8GiB", cpu="32GiB")[0] for engine in ("vllm", "trtllm")
    }
    assert fits["vllm"].tiers[1].stored_bytes == 6 * 2**30
    assert fits["trtllm"].tiers[1].stored_bytes == 0
    spills = {
        engine: run(documents(12, 8192, rounds=3, every_s=2), engine=engine, gpu_kv="8GiB", cpu="32GiB")[0] for engine in ("vllm", "trtllm")
    }
    assert spills["vllm"].tiers[1].stored_bytes == 12 * 2**30
    assert spills["trtllm"].tiers[1].stored_bytes == pytest.approx(28 * 2**30, rel=0.01)  # 36 come in, 8 stay


def test_selective_stores_wait_for_the_second_lookup() -> None:
    docs = documents(4, 8192, rounds=3)
    for rule, rounds in (("write_through", 1), ("selective", 2)):
        _, world = run(docs, gpu_kv="2.5GiB", cpu="32GiB", sets={"engine.offload.store": rule})
        hits = column(world, "cpu_hit_tokens") > 0
        assert not hits[: 4 * rounds].any() and hits[4 * rounds :].all()


def test_the_disk_filter_of_dynamo_keeps_what_is_asked_for_once_off_the_disk() -> None:
    once, _ = run(documents(8, 8192), engine="dynamo", gpu_kv="2.5GiB", cpu="4GiB", disk="64GiB")
    assert once.tiers[2].stored_bytes == 0
    all_of_it, _ = run(documents(8, 8192), engine="vllm", gpu_kv="2.5GiB", cpu="4GiB", disk="64GiB")
    assert all_of_it.tiers[2].stored_bytes >= 7 * 2**30  # the run ends before the last write does


# -- what was measured elsewhere -------------------------------------------------------------------------------------


def rounds(seed: int, *, clients: int = 80, turns: int = 10, tokens: int = 2048, page: int = 64) -> list[Request]:
    """Each client's prompt grows by `tokens` a round; rounds follow one another, clients in random order, four at a
    time."""
    rng, found, per = random.Random(seed), [], tokens // page
    for turn in range(turns):
        order = list(range(clients))
        rng.shuffle(order)
        for client in order:
            blocks = tuple(client * 10_000 + block for block in range(1, (turn + 1) * per + 1))
            at = len(found) // 4 * 12.0
            found.append(Request(index=len(found), arrival_s=at, prompt_tokens=(turn + 1) * tokens, output_tokens=1, blocks=blocks))
    return found


def hit_percent_by_round(**tiers: str) -> Any:
    """Qwen3-235B, TP 8 on 8 x H800, SGLang HiCache: mean over eight orders."""
    found = []
    for seed in range(8):
        _, world = run(rounds(seed), engine="sglang", model="qwen3-235b-a22b", machine="h800-sxm", key_tokens=64, tp=8, **tiers)
        prompt, hits = column(world, "prompt_tokens"), column(world, "gpu_hit_tokens") + column(world, "cpu_hit_tokens")
        found.append([100 * hits[prompt == 2048 * turn].sum() / prompt[prompt == 2048 * turn].sum() for turn in range(1, 11)])
    return np.mean(found, axis=0)


def test_hit_rates_by_round_and_the_cliff_on_8_h800() -> None:
    """Mooncake's measurement of HiCache with 30 GB a rank: (r-1)/r per round until the pool is full, then a fall to 8
    %.

    A pool of 68 GB on the GPUs gives what was measured without host memory. Where the pool has just filled (rounds 4
    and 5) the measured rates are lower than any LRU of 240 GB gives.
    """
    measured = np.array([0, 49, 66, 64, 34, 27, 21, 15, 9, 8])
    found = hit_percent_by_round(gpu_kv="68GB", cpu="240GB")
    off = np.abs(found - measured)
    assert np.delete(off, [3, 4]).max() <= 3.0
    assert off[3] <= 6.0 and off[4] <= 9.0
    assert found[:3] == pytest.approx([0, 50, 66.7], abs=0.1)


def test_a_latent_stored_on_each_rank_loses_a_third_of_the_hits() -> None:
    """PegaFlow, DeepSeek-V3.2 on TP 8: 97.2 % with one copy of the latent, 65.2 % with one a rank, an eighth of the
    room.

    The same shape at a tenth of the size: documents asked for at random, so that the smaller pool holds about two
    thirds of them.
    """
    rng, docs, tokens = random.Random(2), 74, 1984
    pool_tokens = docs * tokens * 0.66 * 8
    size = f"{pool_tokens * 61 * 576 * 2 / 2**30:.2f}GiB"
    trace = [
        Request(
            index=at,
            arrival_s=at * 1.0,
            prompt_tokens=tokens,
            output_tokens=1,
            blocks=tuple(range(doc * 200 + 1, doc * 200 + 125)),
        )
        for at, doc in enumerate(rng.randrange(docs) for _ in range(2600))
    ]
    hits = {}
    for per_rank in (False, True):
        result, _ = run(
            trace,
            model="deepseek-v3",
            machine="h200-sxm",
            tp=8,
            gpu_kv="2GiB",
            cpu=size,
            sets={"engine.offload.latent_per_rank": per_rank},
        )
        hits[per_rank] = 100 * (result.prompt_tokens.cpu_hit + result.prompt_tokens.gpu_hit) / result.prompt_tokens.total
    assert hits[False] == pytest.approx(97.2, abs=3)
    assert hits[False] - hits[True] == pytest.approx(32, abs=4)


# -- from storage while queued ---------------------------------------------------------------------------------------


def from_storage(tokens: int, **sets: Any) -> Any:
    """Hits from the disk of a prompt that only the disk still holds, under SGLang. Host memory has room for two: what the GPU has stays."""
    docs = documents(3, tokens)
    again = Request(index=3, arrival_s=100.0, prompt_tokens=tokens, output_tokens=1, blocks=docs[0].blocks)
    room = str((tokens + 64) * 131072)
    below = str((2 * tokens + 128) * 131072)
    result, world = run([*docs, again], engine="sglang", gpu_kv=room, cpu=below, disk="64GiB", sets=sets)
    return column(world, "disk_hit_tokens")[3], column(world, "load_s")[3]


def test_storage_is_read_only_beyond_its_threshold() -> None:
    assert from_storage(256 - 64)[0] == 0
    assert from_storage(256)[0] > 0
    assert from_storage(8192)[0] == 8192 - 64  # the last page is computed


def test_a_prefetch_is_cut_when_patience_ends() -> None:
    """1 GiB from a disk of 0.2 GB/s takes 5.4 s. Waiting to the end brings all of it. Reads come in batches of 128 pages = 8,192 tokens:
    best effort takes what has come when the request is scheduled: nothing; a patience of 1 s + 0.25 s per 1,024 tokens = 3 s ends before
    the first batch; 9 s for 32,768 tokens, of which 13,700 have come, bring one batch."""
    slow: dict[str, Any] = {"machine.disk.read_Bps": 2e8, "engine.overhead.disk_byte_s": 0.0}
    whole, waited = from_storage(8192, **slow, **{"engine.offload.prefetch": "wait_complete"})
    assert whole == 8192 - 64 and waited == pytest.approx(8192 * 131072 / 2e8, rel=0.05)
    some, waited = from_storage(8192, **slow)
    assert (some, waited) == (0, pytest.approx(3.0, abs=0.1))
    some, waited = from_storage(32_768, **slow)
    assert (some, waited) == (8192, pytest.approx(9.0, abs=0.1))
    assert from_storage(8192, **slow, **{"engine.offload.prefetch": "best_effort"})[0] < 256


# -- active sequences below the GPU ----------------------------------------------------------------------------------


def streamed(share: float, kv_dtype: str = "auto") -> tuple[float, float]:
    """Median gap between tokens and stalled seconds of the decode steps of eight sequences of 30,000 tokens over 25
    GB/s."""
    trace = [Request(index=at, arrival_s=0.0, prompt_tokens=30_000, output_tokens=30) for at in range(8)]
    sets = {
        "machine.link.h2d_Bps": 25e9,
        "machine.link.d2h_Bps": 25e9,
        "engine.offload.streamed_share": share,
        "run.kv_dtype": kv_dtype,
    }
    sets |= {
        "engine.step_tokens": 262_144,
        "engine.overhead.pause_tokens": 0,
        "engine.overhead.pause_offload_tokens": 0,
    }
    result, _ = run(trace, engine="streamed", gpu_kv="64GiB", cpu="512GiB", sets=sets)
    return result.itl_s.p50, result.loads.stall_s  # type: ignore[return-value]


def test_streamed_decoding_runs_at_bytes_over_bandwidth() -> None:
    """8 x 30,015 tokens x 131,072 bytes / 25 GB/s = 1.259 s a step; half of it offloaded, or 8-bit KV: half of that."""
    whole_s = 8 * 30_015 * 131_072 / 25e9
    gap, _ = streamed(1.0)
    assert gap == pytest.approx(whole_s, rel=0.02)
    for other in (streamed(0.5), streamed(1.0, "fp8")):
        assert other[0] == pytest.approx(whole_s / 2, rel=0.03)
    assert streamed(0.5, "fp8")[0] == pytest.approx(whole_s / 4, rel=0.05)


def test_streamed_needs_host_memory() -> None:
    with pytest.raises(InputError, match="host memory"):
        run(documents(1, 64), engine="streamed", gpu_kv="8GiB")


# -- remote ----------------------------------------------------------------------------------------------------------


def remote_load_s(**sets: Any) -> float:
    """Seconds to read 8,192 tokens (1 GiB) that only the remote pool holds."""
    docs = documents(3, 8192)
    again = Request(index=3, arrival_s=100.0, prompt_tokens=8192, output_tokens=1, blocks=docs[0].blocks)
    result, world = run([*docs, again], gpu_kv="1.01GiB", cpu="1.01GiB", remote="64GiB", sets=sets)
    assert column(world, "remote_hit_tokens")[3] == 8191  # the last token is computed
    return float(column(world, "load_s")[3])


def test_remote_reads_take_latency_and_the_slower_of_client_and_pool() -> None:
    fast = remote_load_s(**{"remote.client_Bps": 1e12, "remote.latency_s": 1e-6})
    size = 8192 * 131072
    assert remote_load_s(**{"remote.client_Bps": 1e10, "remote.latency_s": 1e-6}) - fast == pytest.approx(size / 1e10, rel=0.02)
    shared = {"remote.client_Bps": 1e10, "remote.total_Bps": 5e9, "remote.latency_s": 1e-6}
    assert remote_load_s(**shared) - fast == pytest.approx(size / 5e9, rel=0.02)
    # an object store: 64 objects of 16 MiB, four at a time, 50 ms each: 16 rounds
    objects = {"remote.client_Bps": 1e12, "remote.latency_s": 0.05, "remote.object_bytes": 2**24, "remote.parallel": 4}
    assert remote_load_s(**objects) - fast == pytest.approx(16 * 0.05, rel=0.02)


def test_lower_tiers_need_host_memory() -> None:
    for tier in ("disk", "remote"):
        with pytest.raises(InputError, match=f"a {tier} tier needs a CPU tier"):
            run(documents(1, 64), gpu_kv="8GiB", **{tier: "8GiB"})


@pytest.mark.parametrize("version", ["0.5.6", "0.5.3"])
def test_lmcache_stores_inside_the_step(version: str) -> None:
    # 8,192 tokens are 32 chunks of 256 tokens and 131,072 bytes each token; they are down before the first token is seen, one chunk after
    # the other. Compiled copies run at the rate of mapped host memory, later versions through the host's threads.
    sets = {"machine.link.mapped_write_Bps": 50e9, "engine.offload.store_in_step": True}
    ttft, overheads = {}, list[Overhead]()
    for copies in (True, False):
        rules = sets if copies else {**sets, "engine.overhead.store_s": 0.0, "engine.overhead.store_chunk_s": 0.0}
        if not copies:
            rules |= {"engine.offload.copies": "host", "engine.overhead.store_byte_s": 0.0}
        _, world = run(documents(1, 8192), engine="lmcache", version=version, gpu_kv="8GiB", cpu="32GiB", sets=rules)
        ttft[copies], overheads = float(column(world, "ttft_s")[0]), [*overheads, world.overhead]
    overhead = overheads[0]
    byte_s = overhead.store_byte_s if version == "0.5.6" else 1 / 50e9
    expected = overhead.store_s + 32 * (overhead.store_chunk_s + 256 * 131_072 * byte_s)
    assert ttft[True] - ttft[False] == pytest.approx(expected, rel=1e-6)


def test_one_workload_on_which_the_engines_differ() -> None:
    """Twelve documents of 2,048 tokens, each asked twice in a row, then all again in reverse; a GPU pool of 4, host memory of 8, and a
    request that decodes beside. What an engine finds differs by what it stores: SGLang not what host memory cannot give up, Dynamo not
    twice, LMCache's server not above 0.8 of its pool, TensorRT-LLM only what leaves the GPU. So does how long it takes."""
    once = documents(12, 2048, every_s=0.0)
    order = [document for document in once for _ in range(2)] + once[::-1]
    trace = [Request(index=0, arrival_s=0.0, prompt_tokens=64, output_tokens=2000, blocks=tuple(range(9000_000, 9000_004)))]
    for at, document in enumerate(order, start=1):
        trace.append(Request(index=at, arrival_s=1.0 * at, prompt_tokens=2048, output_tokens=4, blocks=document.blocks))
    found = {}
    for engine in ("vllm", "lmcache", "lmcache-mp", "sglang", "dynamo", "trtllm"):
        _, world = run(trace, engine=engine, gpu_kv="1.3GiB", cpu="2GiB", sets={"engine.max_batch": 64})
        rows = world.recorder.arrays()
        found[engine] = int(rows["cpu_hit_tokens"].sum()), round(float(rows["ttft_s"][1:].mean()), 5)
    assert len(set(found.values())) == len(found)
    assert len({seconds for _, seconds in found.values()}) == len(found)
