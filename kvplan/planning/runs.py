"""Simulations for a plan: placements made into scenarios, many run side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import msgspec

from kvplan.errors import KvplanError
from kvplan.results.placement import RULES, Placement
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario
from kvplan.sim.outcome.summary import summarise
from kvplan.sim.simulate import World, opened
from kvplan.traces.thinned import Thinned

SMALL_REQUESTS = 2000
"""So few requests in all are simulated faster than a process starts."""


class Simulation(msgspec.Struct, frozen=True):
    """A scenario to run; `reuse` below 1: only that share of its requests keeps the content it has in common with
    others.
    """

    scenario: Scenario
    reuse: float = 1.0


Outcome = SimResult | KvplanError


class Runner:
    """Runs jobs and returns their outcomes in order; an impossible one becomes the error that says why."""

    def __init__(self, mapper: Callable[[Callable[[Simulation], Outcome], Sequence[Simulation]], Iterable[Outcome]]) -> None:
        self._map = mapper
        self.runs = 0

    def __call__(self, jobs: Sequence[Simulation]) -> list[Outcome]:
        self.runs += len(jobs)
        return list(self._map(run_one, jobs))


def realise(base: Scenario, placement: Placement) -> Scenario:
    """The scenario that simulates a placement: its tiers, and the engine's rules as the placement sets them."""
    offload = msgspec.structs.replace(base.engine.offload, **{name: getattr(placement, name) for name in RULES})
    sizes = {name: getattr(placement, name) for name in ("cpu_bytes", "disk_bytes", "remote_bytes")}
    return base.changed(
        engine=msgspec.structs.replace(base.engine, offload=offload),
        tiers=msgspec.structs.replace(base.tiers, **sizes),
        tp=placement.tp,
        kv_dtype=placement.kv_dtype,
    )


def run_one(job: Simulation) -> Outcome:
    """Simulate one job."""
    try:
        trace = opened(job.scenario)
        world = World(job.scenario, Thinned(trace, job.reuse) if job.reuse < 1 else trace)
        return summarise(world.run())
    except KvplanError as error:
        return error


@contextmanager
def runner(requests: int) -> Iterator[Runner]:
    """A runner with a process for each core, started when there is enough to do."""
    workers = os.cpu_count() or 1
    if workers == 1 or requests * 8 < SMALL_REQUESTS:
        yield Runner(map)
        return
    with ProcessPoolExecutor(max_workers=workers) as pool:
        yield Runner(pool.map)
