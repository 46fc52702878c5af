"""Small worlds for the simulator's tests: traces in memory, tiers of a few blocks, random prompts that share and
diverge.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from kvplan import catalog
from kvplan.deployment import Deployment, Parallel, Tiers
from kvplan.engine.spec import EngineSpec
from kvplan.request import Request
from kvplan.results.trace import ReadReport
from kvplan.scenario import Cluster, Run, Scenario
from kvplan.sim.simulate import World, bytes_per_token

BLOCK = 16
PLAIN = {"job_order": "position", "blocks_in_flight": "freed", "offers_again": False, "waits_for_stores": False, "promotes_part": False}
"""Rules of host memory and of preemption that the oracle knows."""


class ListTrace:
    """A trace in memory, with what the simulator asks of one."""

    def __init__(self, requests: Sequence[Request], block_tokens: int) -> None:
        self.name, self.format = "list", "list"
        self.requests, self.block_tokens = list(requests), block_tokens
        self.report = ReadReport(rows_read=len(requests), requests=len(requests))
        self.names_sessions = any(request.session for request in requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


def world(
    requests: Sequence[Request],
    *,
    key_tokens: int = BLOCK,
    gpu_blocks: int = 64,
    cpu_blocks: int = 0,
    disk_blocks: int = 0,
    model: str = "llama-3.1-8b",
    engine: dict[str, Any] | None = None,
    offload: dict[str, Any] | None = None,
    overhead: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    parallel: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    **run: Any,
) -> World:
    """A world whose tiers hold that many blocks of 16 tokens; `engine`, `offload`, `overhead` and `machine` replace
    fields; what a job leaves in host memory goes from its tail on, which the oracle knows, unless `offload` says otherwise.
    """
    base = catalog.engine("vllm")
    spec: EngineSpec = msgspec.structs.replace(
        base,
        offload=msgspec.structs.replace(base.offload, **{**PLAIN, **(offload or {})}),
        overhead=msgspec.structs.replace(base.overhead, **(overhead or {})),
        **{"null_blocks": 0, "reserve_in_flight": False, **(engine or {})},
    )
    server = catalog.machine("h100-sxm")
    for part, fields in (machine or {}).items():
        server = msgspec.structs.replace(server, **{part: msgspec.structs.replace(getattr(server, part), **fields)})
    scenario = Scenario(
        name="test",
        trace="",
        deployment=Deployment(model=catalog.model(model), server=server, engine=spec, parallel=Parallel(**(parallel or {}))),
        run=Run(**run),
        cluster=Cluster(**(cluster or {})),
    )
    block_bytes = bytes_per_token(scenario) * BLOCK
    tiers = Tiers(
        gpu_kv_bytes=round(gpu_blocks * block_bytes),
        cpu_bytes=round(cpu_blocks * block_bytes),
        disk_bytes=round(disk_blocks * block_bytes),
    )
    return World(scenario.changed(tiers=tiers), ListTrace(requests, key_tokens))  # type: ignore[arg-type]


def columns(built: World) -> dict[str, Any]:
    """Run a world to its end; the columns of its requests in the order of the trace."""
    record = built.run()
    assert not record.partial
    return record.columns


def random_requests(
    seed: int,
    count: int,
    *,
    key_tokens: int = BLOCK,
    longest_keys: int = 20,
    longest_output: int = 40,
    span_s: float = 2.0,
) -> list[Request]:
    """Requests whose prompts continue, repeat or leave earlier ones at any key, with partial tails and missing last
    keys.
    """
    rng, fresh = random.Random(seed), iter(range(1, 10**9))
    prompts: list[list[int]] = []
    arrivals = sorted(rng.choice([rng.uniform(0, span_s), round(rng.uniform(0, span_s), 1)]) for _ in range(count))
    found = []
    for index, arrival_s in enumerate(arrivals):
        keys = list(rng.choice(prompts)) if prompts and rng.random() < 0.7 else []
        keys = keys[: rng.randint(0, len(keys))]
        extra = rng.randint(0 if keys else 1, longest_keys)
        keys = (keys + [next(fresh) for _ in range(extra)])[:longest_keys]
        prompts.append(keys)
        tail = rng.choice([0, 0, rng.randint(1, key_tokens)])
        prompt = max(1, len(keys) * key_tokens - rng.choice([0, rng.randint(0, key_tokens - 1)]) + tail)
        found.append(
            Request(
                index=index,
                arrival_s=arrival_s,
                prompt_tokens=prompt,
                output_tokens=rng.choice([1, 2, rng.randint(1, longest_output)]),
                blocks=tuple(keys),
            )
        )
    return found
