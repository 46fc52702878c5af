"""Whole runs of named engines on small traces, for tests of shapes that measurements show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvplan import catalog, units
from kvplan.deployment import Deployment, Parallel, Tiers
from kvplan.request import Request
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario, with_setting
from kvplan.sim.outcome.summary import summarise
from kvplan.sim.simulate import World
from tests.sim.worlds import ListTrace


def run(
    requests: Sequence[Request],
    *,
    engine: str = "vllm",
    version: str = "",
    model: str = "llama-3.1-8b",
    machine: str = "h100-sxm",
    key_tokens: int = 16,
    sets: Mapping[str, Any] | None = None,
    tp: int = 1,
    **tiers: str,
) -> tuple[SimResult, World]:
    """`tiers` maps gpu_kv, cpu, disk, remote to sizes; `sets` are settings by dotted path."""
    scenario = Scenario(
        name=engine,
        trace="",
        deployment=Deployment(
            model=catalog.model(model),
            server=catalog.machine(machine),
            engine=catalog.engine(engine, version),
            tiers=Tiers(**{f"{name}_bytes": units.parse_bytes(size) for name, size in tiers.items()}),
            parallel=Parallel(tp=tp),
        ),
    )
    for path, value in (sets or {}).items():
        scenario = with_setting(scenario, path, value)
    world = World(scenario, ListTrace(requests, key_tokens))  # type: ignore[arg-type]
    record = world.run()
    assert not record.partial
    return summarise(record), world


def documents(count: int, tokens: int, *, rounds: int = 1, every_s: float = 10.0, output: int = 1, key_tokens: int = 16) -> list[Request]:
    """So many documents asked one after the other, round after round, each far apart."""
    per = -(-tokens // key_tokens)
    return [
        Request(
            index=turn * count + document,
            arrival_s=(turn * count + document) * every_s,
            prompt_tokens=tokens,
            output_tokens=output,
            blocks=tuple(range(document * per + 1, (document + 1) * per + 1)),
        )
        for turn in range(rounds)
        for document in range(count)
    ]
