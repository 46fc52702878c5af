"""Simulations for a plan: placements made into scenarios, many run side by side."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children

import msgspec

from kvplan.errors import KvplanError
from kvplan.results.placement import RULES, Placement
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario
from kvplan.sim.outcome.summary import summarise
from kvplan.sim.simulate import World, opened
from kvplan.traces.thinned import Thinned

SMALL_REQUESTS = 1000
"""So few requests in all are simulated faster than a process starts."""

WINDOW_REQUESTS = 2000
"""Of a long trace, side questions (what an answer rests on, other loads and widths) are asked of so many requests from its start."""

Watch = Callable[[int, int, str], None]
"""Told after each run: runs done, about how many there will be, and the answer so far in words."""


def unwatched(done: int, about: int, so_far: str) -> None:
    """A watch that looks away."""


class Simulation(msgspec.Struct, frozen=True):
    """A scenario to run; `reuse` below 1: only that share of its requests keeps the content it has in common with
    others.
    """

    scenario: Scenario
    reuse: float = 1.0


Outcome = SimResult | KvplanError


class Runner:
    """Runs simulations and returns their outcomes in order; an impossible one becomes the error that says why."""

    def __init__(self, pool: ProcessPoolExecutor | None, watch: Watch, about: int) -> None:
        self._pool, self._watch, self._about = pool, watch, about
        self.runs, self.so_far = 0, ""
        watch(0, about, "")

    def __call__(self, jobs: Sequence[Simulation]) -> list[Outcome]:
        found = []
        for outcome in self._pool.map(run_one, jobs) if self._pool else map(run_one, jobs):
            found.append(outcome)
            self.runs += 1
            self._watch(self.runs, max(self._about, self.runs + len(jobs) - len(found)), self.so_far)
        return found


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
def runner(requests: int, watch: Watch, about: int) -> Iterator[Runner]:
    """A runner with a process for each core, started when there is enough to do; `about` so many runs are expected."""
    workers = os.cpu_count() or 1
    if workers == 1 or requests * 8 < SMALL_REQUESTS:
        yield Runner(None, watch, about)
        return
    pool = ProcessPoolExecutor(max_workers=workers, initializer=_deaf)
    try:
        yield Runner(pool, watch, about)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in active_children():
            worker.terminate()
        raise
    pool.shutdown()


def _deaf() -> None:
    """A worker leaves interrupts to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
