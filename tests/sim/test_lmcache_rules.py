"""LMCache in process and as a server: times and hits worked out by hand from its source."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan import catalog
from kvplan.deployment import Deployment, Parallel
from kvplan.memory.pinned import host_memory
from kvplan.request import Request
from tests.sim.runs import documents, run
from tests.sim.test_by_hand import by_hand, request, rows

HOST = {"machine.host.python_s": 2.7e-6, "machine.host.launch_s": 396e-6}


def test_stores_lengthen_each_step_by_their_chunks() -> None:
    # Llama-3.1-8B, a cold prompt of 32,768 tokens in steps of 8,192: 32 chunks a step, which with compiled copies take 0.65 ms and 0.6 ms a
    # chunk beside the copy of 1 GiB by a kernel. A request that decodes beside sees it, though nothing is ever hit.
    def longest_s(cpu: str) -> float:
        trace = [Request(index=0, arrival_s=0.0, prompt_tokens=64, output_tokens=40, blocks=tuple(range(9000, 9004)))]
        trace += [Request(index=1, arrival_s=0.1, prompt_tokens=32_768, output_tokens=1, blocks=tuple(range(2048)))]
        tiers = {"gpu_kv": "16GiB"} | ({"cpu": cpu} if cpu else {})
        _, world = run(trace, engine="lmcache", version="0.5.3", sets=HOST, **tiers)
        return float(world.recorder.arrays()["ttft_s"][1])

    copy_s = 32 * 256 * 131_072 / 5.1e10
    assert longest_s("32GiB") - longest_s("") == pytest.approx(4 * (0.65e-3 + 32 * 0.6e-3 + copy_s), rel=0.1)


def test_loads_of_one_step_add_up_in_process() -> None:
    # 8 prompts of 4,096 tokens that only host memory has, admitted together: the host makes one load after the other, and the step begins
    # behind the last. One load is 2.5 ms, 16 x 0.15 ms and 512 MiB at the kernel's rate.
    def step_s(count: int) -> float:
        known = documents(8, 4096, every_s=5.0)
        other = documents(1, 36_000, every_s=1.0)[0]
        trace = [*known, Request(index=8, arrival_s=60.0, prompt_tokens=36_000, output_tokens=1, blocks=tuple(range(10**6, 10**6 + 2250)))]
        assert other.prompt_tokens == 36_000
        trace += [
            Request(index=9 + at, arrival_s=100.0, prompt_tokens=4097, output_tokens=1, blocks=(*known[at].blocks, 10**7 + at))
            for at in range(count)
        ]
        sets: dict[str, Any] = {**HOST, "engine.max_batch": 8}
        found = run(trace, engine="lmcache", version="0.5.3", gpu_kv="4.5GiB", cpu="32GiB", sets=sets)[1].recorder.arrays()
        assert list(found["cpu_hit_tokens"][9:]) == [4096] * count
        return float(found["ttft_s"].max(where=found["arrival_s"] == 100.0, initial=0.0))

    one_s = 2.5e-3 + 16 * 0.15e-3 + 4096 * 131_072 / 5.1e10
    assert step_s(8) - step_s(2) == pytest.approx(6 * one_s, rel=0.25)


def test_asynchronous_loading_moves_only_the_disk_out_of_the_step() -> None:
    # A decodes, B is found on the disk only (2 s a block of 4). In the step all wait 8 s for it; loaded first, only its host-memory part
    # (0.5 s a block) is left in a step.
    def longest_s(first: bool) -> float:
        trace = [request(at, 50.0 * at, 64, 1, *range(10 * at, 10 * at + 4)) for at in range(3)]
        trace += [request(3, 200.0, 16, 40, 99), request(4, 203.0, 65, 1, 0, 1, 2, 3)]
        rules = {"load": "blocking", "lower_loads_first": first}
        built = by_hand(trace, gpu_blocks=8, cpu_blocks=5, disk_blocks=100, offload=rules)
        found = rows(built, "disk_hit_tokens", "e2e_s")
        assert found[4][0] == 64
        return found[3][1]

    assert longest_s(False) - longest_s(True) == pytest.approx(8.0, abs=1.2)


def test_a_lookup_of_the_server_takes_scheduling_passes_on_a_miss_too() -> None:
    # A decodes in steps of 1.1 s. B, which nobody has, comes in the middle of one. Known at once it runs with the next step; under the
    # server its lookup is sent with that pass, acknowledged in the next and answered in the one after: two steps later.
    trace = [request(0, 0.0, 16, 60, 1), request(1, 10.0, 16, 1, 2)]
    ttft = {}
    for passes in (0, 2):
        built = by_hand(trace, gpu_blocks=20, cpu_blocks=20, offload={"lookup_passes": passes})
        ttft[passes] = rows(built, "ttft_s")[1][0]
    assert ttft[2] - ttft[0] == pytest.approx(2 * 1.1, rel=1e-6)


def test_the_server_empties_its_pool_once_a_second() -> None:
    # 20 blocks. 5 prompts of 3 are 15, below 0.8 of it. The sixth makes 18: at the next second 0.2 of them, 3 blocks, are dropped, the
    # oldest first: A is gone though 2 blocks were free, B is there.
    sweep = {"sweep_s": 1.0, "sweep_full": 0.8, "sweep_lost": 0.2}
    trace = [request(at, 10.0 * at, 48, 1, *range(10 * at, 10 * at + 3)) for at in range(6)]
    trace += [request(6, 100.0, 49, 1, 10, 11, 12), request(7, 150.0, 49, 1, 0, 1, 2)]
    found = rows(by_hand(trace, gpu_blocks=4, cpu_blocks=20, offload=sweep), "cpu_hit_tokens")
    assert [hit for (hit,) in found[6:]] == [48, 0]


def test_a_store_that_finds_the_server_full_is_lost() -> None:
    # 20 blocks and no sweep in time: A has 15, B's 10 find 5. B is not stored, A stays.
    sweep = {"sweep_s": 9999.0, "sweep_full": 0.8, "sweep_lost": 0.2, "offers_again": False}
    trace = [request(0, 0.0, 240, 1, *range(15)), request(1, 50.0, 160, 1, *range(100, 110)), request(2, 100.0, 241, 1, *range(15))]
    built = by_hand(trace, gpu_blocks=16, cpu_blocks=20, offload=sweep, engine={"step_tokens": 8192})
    assert rows(built, "gpu_hit_tokens", "cpu_hit_tokens")[2] == (6 * 16, 9 * 16)
    assert built.tiers[1].stored_tokens == 240


def test_what_an_l2_read_brings_leaves_the_server_with_the_load() -> None:
    # Host memory of 5 blocks, A of 4, B of 5, and one of 8 that does not fit. A is found on the disk twice: the second time it is read from
    # there again. Where it stays it is found in host memory.
    trace = [request(0, 0.0, 64, 1, 0, 1, 2, 3), request(1, 50.0, 80, 1, 10, 11, 12, 13, 14)]
    for at in (2, 4):
        trace.append(request(at, 50.0 * at, 127, 1, *range(100 * at, 100 * at + 8)))
        trace.append(request(at + 1, 50.0 * at + 50, 65, 1, 0, 1, 2, 3))
    for once, expected in ((True, (0, 64)), (False, (64, 0))):
        rules = {"promotes_for_one": once}
        built = by_hand(trace, gpu_blocks=8, cpu_blocks=5, disk_blocks=100, offload=rules, engine={"step_tokens": 8192})
        assert rows(built, "cpu_hit_tokens", "disk_hit_tokens")[5] == expected


def test_a_disk_hit_reads_a_file_for_each_chunk_and_rank() -> None:
    # 32,768 tokens of Llama-3.1-8B on 4 ranks: 128 chunks x 4 ranks = 512 files of 8 MiB, 4 threads in each of 4 processes.
    _, world = run(documents(1, 64), engine="lmcache", tp=4, gpu_kv="8GiB", cpu="8GiB", disk="64GiB")
    path = world.servers[0].below[1].path
    assert path._pieces(0, 32_768) == (32_768 * 131_072, 512)  # type: ignore[attr-defined]
    assert path.threads == (16, 16)  # type: ignore[attr-defined]


def test_the_server_keeps_blocks_on_the_gpu_until_they_are_stored() -> None:
    # A's 4 blocks take 2 s to store, from 1.64 to 3.64. B needs all 8 of the GPU: under the server it is admitted when they are down, under
    # vLLM at 1.64, where its second step of 64 tokens waits for the copies.
    admitted = {}
    for holds in (True, False):
        trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 0.5, 127, 1, *range(11, 18))]
        built = by_hand(trace, gpu_blocks=8, cpu_blocks=50, offload={"store_holds_blocks": holds}, engine={"reserve_full_prompt": True})
        admitted[holds] = rows(built, "queue_s")[1][0]
    assert admitted == {True: pytest.approx(3.14), False: pytest.approx(1.14)}
    assert catalog.engine("lmcache-mp").offload.store_holds_blocks


def test_one_pool_of_the_server_serves_all_engines_of_a_node() -> None:
    # Four data-parallel ranks: in process each has a pool of its own, of the server there is one.
    taken = {}
    for name in ("lmcache", "lmcache-mp"):
        deployment = Deployment(
            model=catalog.model("llama-3.1-8b"),
            server=catalog.machine("h100-sxm"),
            engine=catalog.engine(name),
            parallel=Parallel(dp=4),
        )
        taken[name] = host_memory(deployment, 2**34).asked_bytes
    assert taken["lmcache"] == 4 * taken["lmcache-mp"]
