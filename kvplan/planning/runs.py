"""Simulations for a plan: placements made into scenarios, many run side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from kvplan.errors import KvplanError
from kvplan.executor import Executor, Watch, fitting, run_all
from kvplan.results.placement import RULES, Placement
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario
from kvplan.sim.outcome.summary import summarise
from kvplan.sim.simulate import World, opened
from kvplan.traces.thinned import Thinned

LEAST_RUNS = 8
"""Simulations that even a short plan takes."""

WINDOW_REQUESTS = 2000
"""Of a long trace, side questions (what an answer rests on, other loads and widths) are asked of so many requests from its start."""


def unwatched(done: int, about: int, so_far: str) -> None:
    """A watch that looks away."""


class Simulation(msgspec.Struct, frozen=True):
    """A scenario to run; `reuse` below 1: only that share of its requests keeps the content it has in common with
    others.
    """

    scenario: Scenario
    reuse: float = 1.0


Outcome = SimResult | KvplanError
Answer = TypeVar("Answer")


class Runner:
    """Runs simulations and returns their outcomes in order; an impossible one becomes the error that says why.

    What was run before, for whatever question, is not run again. An interrupt stops it: what has not been run by then never is.
    """

    def __init__(self, executor: Executor, watch: Watch, about: int) -> None:
        self._executor, self._watch, self._about = executor, watch, about
        self._known: list[tuple[Simulation, Outcome]] = []
        self._ahead: list[Simulation] = []
        self._so_far, self.stopped = "", False
        watch(0, about, "")

    @property
    def runs(self) -> int:
        """Simulations made so far."""
        return len(self._known)

    def __call__(self, jobs: Sequence[Simulation]) -> list[Outcome]:
        fresh: list[Simulation] = []
        for job in (*jobs, *self._ahead):
            if job not in fresh and self._outcome(job) is None:
                fresh.append(job)
        fresh.sort(key=_size, reverse=True)  # the longest first: then no worker is left with one at the end
        self._ahead = []
        try:
            if not self.stopped:
                self._made(fresh)
        except KeyboardInterrupt:
            self.stopped = True
        return [self._outcome(job) or KvplanError("interrupted before it was simulated") for job in jobs]

    def _made(self, fresh: Sequence[Simulation]) -> None:
        for left, (place, outcome) in zip(range(len(fresh) - 1, -1, -1), run_all(run_one, fresh, self._executor), strict=True):
            self._known.append((fresh[place], outcome))
            self._watch(self.runs, max(self._about, self.runs + left), self._so_far)

    def unless_stopped(self, question: Callable[[], Answer]) -> Answer | None:
        """The answer to a question beside the main one; None where an interrupt came first."""
        try:
            answer = None if self.stopped else question()
        except KvplanError:
            if not self.stopped:
                raise
        return None if self.stopped else answer

    def ahead(self, job: Simulation) -> None:
        """Run beside the next ones what will be asked for later."""
        self._ahead.append(job)

    def tell(self, so_far: str) -> None:
        """Let those who wait know the best answer so far."""
        self._so_far = so_far
        self._watch(self.runs, max(self._about, self.runs), so_far)

    def _outcome(self, job: Simulation) -> Outcome | None:
        return next((outcome for known, outcome in self._known if known == job), None)


def _size(job: Simulation) -> int:
    """What orders simulations by how long they take, about."""
    tiers = job.scenario.tiers
    return tiers.cpu_bytes + tiers.disk_bytes + tiers.remote_bytes


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
        record = World(job.scenario, Thinned(trace, job.reuse) if job.reuse < 1 else trace).run()
        if record.partial:  # an interrupt ends a run with what it has: that is not what was asked
            raise KeyboardInterrupt
        return summarise(record)
    except KvplanError as error:
        return error


def runner(requests: int, watch: Watch, about: int) -> Runner:
    """A runner with a process for each core where there is enough to do; `about` so many runs are expected."""
    return Runner(fitting(Executor(), requests * LEAST_RUNS), watch, about)
