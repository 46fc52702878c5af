"""What reaches host memory and the disk, engine by engine: hits worked out by hand from each engine's source."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.request import Request
from tests.sim.runs import run
from tests.sim.test_by_hand import by_hand, request, rows

BLOCK_BYTES = 16 * 131072


def again(count: int, blocks: tuple[int, ...], other: tuple[int, ...]) -> list[Request]:
    """One prompt so often, and each time another after it that takes all of the GPU."""
    trace = []
    for turn in range(count):
        trace.append(request(2 * turn, 100.0 * turn, 16 * len(blocks), 1, *blocks))
        fresh = tuple(turn * 10_000 + key for key in other)
        trace.append(request(2 * turn + 1, 100.0 * turn + 50.0, 16 * len(fresh) - 1, 1, *fresh))
    return trace


@pytest.mark.parametrize(("counts", "turns", "stored"), [("misses", 2, 1), ("misses", 8, 4), ("requests", 2, 10), ("requests", 8, 10)])
def test_selective_stores_count_the_key_that_a_lookup_stops_at(counts: str, turns: int, stored: int) -> None:
    # vLLM 0.24, threshold 2, a prompt of 10 blocks that the GPU forgets each time. A lookup ends at its first miss, so that each counts one
    # key: the first request counts block 1, the second counts it twice and stores it; the third stops at block 2, the fourth stores that.
    # 0.33 counts what is offered: the second request stores all. The last answer is that of one more request.
    trace = again(turns, tuple(range(1, 11)), tuple(range(101, 114)))
    trace.append(request(len(trace), 100.0 * turns, 161, 1, *range(1, 11)))
    built = by_hand(trace, gpu_blocks=13, cpu_blocks=1000, offload={"store": "selective", "store_counts": counts})
    assert rows(built, "cpu_hit_tokens")[-1] == (16 * stored,)


def test_blocks_under_a_GPU_hit_are_not_counted() -> None:
    # vLLM 0.24, threshold 2. A head of 4 blocks that the GPU always has, tails of 2 that it forgets. Lookups begin behind the head, so that
    # nothing counts it, however often it is used: of the head nothing is ever stored, of the tail one block for two requests.
    trace = [request(turn, 10.0 * turn, 97, 1, 1, 2, 3, 4, 5, 6) for turn in range(5)]
    built = by_hand(trace, gpu_blocks=50, cpu_blocks=100, offload={"store": "selective", "store_counts": "misses"})
    rows(built, "gpu_hit_tokens")
    assert built.tiers[1].stored_tokens == 0


def test_the_disk_of_vllm_has_no_bound() -> None:
    # A disk of 4 blocks by its size, prompts of 4: vLLM's file tier never deletes, so that the first is still there after three others.
    trace = [request(turn, 100.0 * turn, 64, 1, *range(10 * turn, 10 * turn + 4)) for turn in range(4)]
    trace.append(request(4, 400.0, 65, 1, *range(4)))
    built = by_hand(trace, gpu_blocks=6, cpu_blocks=5, disk_blocks=4)
    assert rows(built, "disk_hit_tokens")[4] == (64,)
    assert built.tiers[2].evicted_tokens == 0


def test_the_disk_filter_of_dynamo_counts_stores() -> None:
    # Host memory of 8 blocks, prompts of 4. A is stored into it once and hit there ten times: the filter has seen one store, so that
    # nothing is on the disk. Pushed out by two others and computed again, it is stored a second time within 600 s, and goes to the disk;
    # after 600 s the count has fallen.
    def disk_hit(pause_s: float) -> int:
        first = tuple(range(1, 5))
        trace: list[Request] = []

        def ask(at: float, blocks: tuple[int, ...], tokens: int = 0) -> None:
            trace.append(request(len(trace), at, tokens or 16 * len(blocks), 1, *blocks))

        for turn in range(11):
            ask(10.0 * turn, first, 65)
            ask(10.0 * turn + 5, tuple(range(1000 + 3 * turn, 1003 + 3 * turn)))  # takes the GPU's place of it
        for turn in range(4):
            ask(150.0 + 10 * turn, tuple(range(2000 + 4 * turn, 2004 + 4 * turn)))
        ask(200.0 + pause_s, first)  # computed and stored again
        for turn in range(4):
            ask(300.0 + pause_s + 10 * turn, tuple(range(3000 + 4 * turn, 3004 + 4 * turn)))
        ask(400.0 + pause_s, first, 65)
        sizes: dict[str, str] = {"gpu_kv": str(7 * BLOCK_BYTES), "cpu": str(8 * BLOCK_BYTES), "disk": str(100 * BLOCK_BYTES)}
        found = run(trace, engine="dynamo", **sizes)[1].recorder.arrays()
        assert sum(found["disk_hit_tokens"][:-1]) == 0
        return int(found["disk_hit_tokens"][-1])

    assert disk_hit(0.0) == 64
    assert disk_hit(600.0) == 0


def test_a_prompt_that_the_GPU_always_has_ages_below_under_dynamo() -> None:
    # A system prompt of 2 blocks, asked for with 6 tails of 2 blocks. The GPU always has the head, and host memory of 8 blocks has it once:
    # LRU by use would keep it. Under KVBM a GPU hit neither refreshes nor stores it again: the fourth tail pushes it out. When the GPU has
    # lost everything, the head is gone below as well, and the last tails, whole there, are of no use.
    head = (1, 2)
    trace = [request(turn, 10.0 * turn, 65, 1, *head, 10 + 2 * turn, 11 + 2 * turn) for turn in range(6)]
    trace.append(request(6, 100.0, 16 * 14, 1, *range(500, 514)))  # all of the GPU; computed, and stored as far as it goes
    trace.append(request(7, 200.0, 65, 1, *head, 20, 21))
    sizes: dict[str, str] = {"gpu_kv": str(15 * BLOCK_BYTES), "cpu": str(8 * BLOCK_BYTES)}
    found = run(trace[:6] + trace[7:], engine="dynamo", **sizes)[1].recorder.arrays()
    assert list(found["gpu_hit_tokens"][1:6]) == [32] * 5
    refused = run(trace, engine="dynamo", **sizes)[1]
    assert refused.recorder.arrays()["cpu_hit_tokens"][7] == 0


def test_host_memory_of_sglang_gives_up_only_what_has_left_the_GPU() -> None:
    # Pages of 16. GPU of 12 pages, host memory of 6, prompts of 4. A is stored (4 of 6). B finds 2 free pages and A on the GPU still:
    # its store is given up. C as well. D takes A's place on the GPU (A's 4 pages may go now), and D is stored. Asked again, A is computed
    # (host memory gave it up for D), B and C are computed (never stored, and gone from the GPU), D is found.
    names = {name: tuple(range(10 * at, 10 * at + 4)) for at, name in enumerate("ABCD")}
    order = [*"ABCD", "X", "D", "B"]
    names["X"] = tuple(range(100, 111))
    trace = [request(at, 50.0 * at, 16 * len(names[name]) + (name == "D" and at > 3), 1, *names[name]) for at, name in enumerate(order)]
    sets: dict[str, Any] = {"engine.block_tokens": 16}
    found = run(trace, engine="sglang", gpu_kv=str(13 * BLOCK_BYTES), cpu=str(7 * BLOCK_BYTES), sets=sets)[1]
    rows = found.recorder.arrays()
    assert list(rows["cpu_hit_tokens"][5:]) == [64, 0]
    assert rows["gpu_hit_tokens"][6] == 0


def test_selective_stores_of_sglang_count_while_the_GPU_has_it() -> None:
    # Pages of 16, GPU of 8. A, then others that push it out of the GPU, then A again: its count went with it, so that the second request
    # is the first of a new count, and nothing is ever stored. Asked for twice while the GPU has it, it is stored.
    def stored(reuse_on_gpu: bool) -> int:
        first, other = tuple(range(1, 5)), tuple(range(100, 107))
        order = [first, first, other] if reuse_on_gpu else [first, other, first, other, first, other]
        trace = [request(at, 50.0 * at, 16 * len(blocks), 1, *blocks) for at, blocks in enumerate(order)]
        sets: dict[str, Any] = {"engine.block_tokens": 16, "engine.offload.store": "selective"}
        found = run(trace, engine="sglang", gpu_kv=str(8 * BLOCK_BYTES), cpu=str(100 * BLOCK_BYTES), sets=sets)[1]
        rows = found.recorder.arrays()
        assert len(rows["ttft_s"])
        return found.tiers[1].stored_tokens

    assert stored(reuse_on_gpu=False) == 0
    assert stored(reuse_on_gpu=True) == 64


def test_lmcache_copies_one_prefix_as_often_as_requests_miss_it_in_a_step() -> None:
    # While a prompt of 8,192 tokens (32 chunks) is computed, 8 requests with one new system prompt of 1,024 tokens come. They run in one
    # step; each has looked in vain, and each copies its 4 chunks: the link carries 32 + 8 x 4 chunks, host memory keeps 32 + 4. One after
    # the other the first alone copies.
    def busy_s(every_s: float) -> tuple[float, int]:
        trace = [request(0, 0.0, 8192, 1, *range(1000, 1512))]
        trace += [request(at, 0.1 + every_s * at, 1025, 1, *range(64)) for at in range(1, 9)]
        sets: dict[str, Any] = {"engine.step_tokens": 16384}
        _, world = run(trace, engine="lmcache", gpu_kv="8GiB", cpu="8GiB", sets=sets)
        tier = world.tiers[1]
        return float(world.servers[0].below[0].path.busy_s), tier.stored_tokens

    at_once, kept = busy_s(0.0)
    apart, same = busy_s(10.0)
    assert kept == same == 9 * 1024
    assert at_once == pytest.approx((32 + 8 * 4) / (32 + 4) * apart, rel=1e-6)


def test_a_key_of_a_model_with_windows_takes_a_whole_row_under_vllm() -> None:
    # gpt-oss-20b: 12 layers of full attention and 12 of a window, two groups of 12 layers. A block of 16 tokens of a group has
    # 12 x 16 x 2 x 8 heads x 64 x 2 bytes = 393,216 bytes, and 16 tokens take a key in each group: 1 GiB holds 1,365 blocks of 16.
    _, world = run([request(0, 0.0, 64, 1, 1, 2, 3, 4)], model="gpt-oss-20b", gpu_kv="4GiB", cpu="1GiB")
    assert world.tiers[1].capacity_tokens == 2**30 // (2 * 393_216) * 16
