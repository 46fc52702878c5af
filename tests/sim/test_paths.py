"""What small requests to disks and remote pools share, what loads queue for, and how a replica that prefills sends what it computed."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan import catalog
from kvplan.deployment import Deployment, Parallel, Remote
from kvplan.engine.spec import Offload
from kvplan.hardware.spec import Network
from kvplan.hardware.timing import disk_s
from kvplan.loading import Loading
from kvplan.memory.below import below
from kvplan.request import Request
from kvplan.sim.clock import Clock
from kvplan.sim.transfer.links import IN, DiskQueue
from kvplan.sim.transfer.paths import DiskPath, PoolRate, RemotePath
from tests.sim.runs import documents, run

SERVER = catalog.machine("h100-sxm")
DEPLOYMENT = Deployment(model=catalog.model("llama-3.1-8b"), engine=catalog.engine("vllm"), server=SERVER)
BELOW = below(DEPLOYMENT)
"""Blocks of 16 tokens and 2 MiB."""


def disk(**rules: Any) -> DiskPath:
    settings = Offload(**{"disk_read_threads": 16, "disk_write_threads": 16, **rules})
    return DiskPath(Clock(), DiskQueue(SERVER.disk), BELOW, chunk_tokens=16, rules=settings)


def remote(latency_s: float) -> RemotePath:
    network = Network(Bps=1e10, latency_s=latency_s)
    return RemotePath(Clock(), network, Remote(), PoolRate(0.0), Loading(DEPLOYMENT), BELOW, chunk_tokens=256)


def test_small_reads_add_their_depths_up() -> None:
    # 64 reads of one block take the device as long as one of 64 blocks; the last of them has its own latency on top.
    one, many = disk(), disk()
    alone_s = one.send(IN, 0.0, 64 * 16)[1]
    last_s = max(many.send(IN, 0.0, 16)[1] for _ in range(64))
    assert last_s == pytest.approx(alone_s, abs=disk().service_s(IN, 16))
    assert many.busy_s == pytest.approx(one.busy_s)


def test_an_engine_that_reads_chunk_by_chunk_is_slow_alone_and_scales_with_requests() -> None:
    serial = disk(disk_request_reads=1)
    assert serial.service_s(IN, 64 * 16) > 2 * disk().service_s(IN, 64 * 16)
    last_s = max(serial.send(IN, 0.0, 64 * 16)[1] for _ in range(16))
    assert last_s == pytest.approx(15 * disk().service_s(IN, 64 * 16) + disk(disk_request_reads=1).service_s(IN, 64 * 16), rel=0.01)


def test_round_trips_to_a_remote_pool_overlap() -> None:
    # 16 gets of one object of 32 MiB at 10 GB/s and 30 ms: 16 x 3.36 ms on the wire and one round trip, as one get of 16 objects.
    far = remote(0.03)
    last_s = max(far.send(IN, 0.0, 256)[1] for _ in range(16))
    assert last_s == pytest.approx(0.03 + 16 * 256 * 131_072 / 1e10, rel=1e-6)
    assert last_s == pytest.approx(remote(0.03).send(IN, 0.0, 16 * 256)[1], rel=1e-6)


def test_block_lists_of_loads_are_made_one_after_the_other() -> None:
    # Twelve prompts of 32,000 tokens, of which host memory keeps all; four are asked for again at once. At 9 us for each of 2,000 blocks
    # the i-th load is made i x 18 ms later than with no such cost.
    rows = documents(12, 32_000)
    rows += [Request(index=12 + at, arrival_s=200.0, prompt_tokens=32_000, output_tokens=1, blocks=rows[at].blocks) for at in range(4)]
    loads = {}
    for block_s in (0.0, 9e-6):
        sets: dict[str, Any] = {"machine.link.h2d_Bps": 1e15, "machine.link.copy_s": 0.0, "engine.overhead.load_block_s": block_s}
        sets |= {"machine.host.launch_s": 396e-6, "machine.host.python_s": 2.7e-6}
        sets |= {f"engine.overhead.{name}_s": 0.0 for name in ("request", "request_token", "input", "input_token", "submit_piece")}
        _, world = run(rows, gpu_kv="20GiB", cpu="100GiB", sets=sets)
        loads[block_s] = world.recorder.arrays()["load_s"][12:]
    assert (loads[9e-6] - loads[0.0])[:3] == pytest.approx([0.018, 0.036, 0.054], rel=0.02)


def test_a_prefill_replica_sends_through_one_port() -> None:
    # Four prompts of 8,000 tokens (1.05 GB) are computed on one replica and fetched by one or four others: at 1 GB/s the port of the one
    # that has them is the limit either way.
    rows = [Request(index=at, arrival_s=0.0, prompt_tokens=8000, output_tokens=2) for at in range(4)]
    last = {}
    for replicas in (1, 4):
        sets = {"cluster.prefill_replicas": 1, "cluster.replicas": replicas, "machine.network.Bps": 1e9}
        _, world = run(rows, gpu_kv="8GiB", sets=sets)
        last[replicas] = float(world.recorder.arrays()["ttft_s"].max())
    assert last[4] == pytest.approx(last[1], rel=0.02) and last[1] > 4 * 8000 * 131_072 / 1e9


def test_cold_prompts_wait_for_the_probes_of_a_file_tier() -> None:
    # 7,000 blocks at 0.1 ms each: 0.7 s more to the first token of a prompt that nothing holds.
    rows = documents(1, 112_000)
    ttft = {}
    for probe_s in (0.0, 1e-4):
        sets = {"engine.overhead.probe_s": probe_s, "machine.host.python_s": 2.7e-6, "machine.host.launch_s": 396e-6}
        _, world = run(rows, gpu_kv="20GiB", cpu="20GiB", disk="1TB", sets=sets)
        ttft[probe_s] = float(world.recorder.arrays()["ttft_s"][0])
    assert ttft[1e-4] - ttft[0.0] == pytest.approx(0.7, rel=0.01)


def test_ranks_with_files_of_their_own_read_at_the_depth_of_all() -> None:
    # Llama-3.1-8B over 4 ranks: 32,768 tokens are 128 chunks of 256 tokens, 512 files of 8 MiB, 4 x 4 at a time.
    by_block = Deployment(model=catalog.model("llama-3.1-8b"), engine=catalog.engine("vllm"), server=SERVER, parallel=Parallel(tp=4))
    path = DiskPath(Clock(), DiskQueue(SERVER.disk), below(by_block), chunk_tokens=256, rules=catalog.engine("lmcache").offload)
    assert path.service_s(IN, 32_768) == pytest.approx(disk_s(SERVER.disk, IN, 32_768 * 131_072, 512, 16))
