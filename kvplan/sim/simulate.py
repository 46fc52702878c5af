"""Replay a scenario: build the replicas, feed them the trace, summarise."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec

from kvplan.errors import InputError, did_you_mean
from kvplan.memory.pool import kv_pool
from kvplan.request import Request
from kvplan.scenario import Scenario
from kvplan.sim.build import Builder, Server, bytes_per_token
from kvplan.sim.clock import Clock, Steps
from kvplan.sim.cluster.arrivals import Arrivals
from kvplan.sim.cluster.router import ROUTERS, Fleet, Router
from kvplan.sim.cluster.sessions import Sessions
from kvplan.sim.outcome import slo as targets
from kvplan.sim.outcome.record import Recorder
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.loads import Tally
from kvplan.step_time import StepCost
from kvplan.traces import open_trace
from kvplan.traces.trace import Trace

Progress = Callable[[int, int], None]


class World:
    """A scenario set up to run: clock, trace, replicas behind a router, records."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario, self.trace = scenario, trace
        self.clock = Clock()
        engine, run = scenario.engine, scenario.run
        self.cost = StepCost(scenario.deployment)
        self.pool_bytes = scenario.tiers.gpu_kv_bytes or gpu_pool_bytes(scenario)
        self.target = targets.parse(run.target)
        slow_s = min((clause.limit_s for clause in self.target if clause.metric == "itl"), default=math.inf)
        self.recorder = Recorder(first_token_s=engine.overhead.first_token_s, slow_s=slow_s)
        self.arrivals = Arrivals(trace, run, grain_tokens=engine.block_tokens)
        self.warm_index, self.warm_s = run.warmup * len(trace), 0.0
        self.tally = Tally()
        builder = Builder(self.clock, scenario, trace, self.cost, self.tally)
        self.token_bytes, self.host_token_bytes = builder.token_bytes, builder.host_token_bytes
        cluster = scenario.cluster
        serve = builder.decoder if cluster.prefill_replicas else builder.server
        self.servers = [serve(self.pool_bytes, self.recorder, self._done) for _ in range(cluster.replicas)]
        unseen = Recorder()  # a prefill replica's part of a request is no request
        self.prefillers = [builder.server(self.pool_bytes, unseen, self._hand_over) for _ in range(cluster.prefill_replicas)]
        self._router = self._routed(self.servers)
        self._prefill_router = self._routed(self.prefillers) if self.prefillers else None
        self.sessions = Sessions(self.arrivals, most=run.max_sessions) if _has_sessions(trace) else None
        self.replica, self.tiers = self.servers[0].replica, (self.prefillers or self.servers)[0].tiers
        self.tree = self.replica.gpu.tree
        self.left = len(trace)
        self.all_done = self.clock.event()
        self.rejected_prompt_tokens = 0
        self.clipped = 0
        self.max_context = min(filter(None, (engine.max_context_tokens, scenario.model.max_context_tokens)), default=1 << 40)

    def _routed(self, servers: list[Server]) -> Router | None:
        """A router in front of several servers; None for one."""
        cluster = self.scenario.cluster
        if cluster.router not in ROUTERS:
            raise InputError(f"no router named {cluster.router!r}", hint=did_you_mean(cluster.router, ROUTERS))
        if len(servers) == 1:
            return None
        replicas = [server.replica for server in servers]
        fleet = Fleet(
            self.clock,
            lambda: [replica.load for replica in replicas],
            replicas=len(servers),
            key_tokens=self.trace.block_tokens,
            cache_tokens=sum(tier.capacity_tokens for tier in servers[0].tiers[:2]),
            stale_s=cluster.stale_s,
        )
        return ROUTERS[cluster.router](fleet)

    def run(self, progress: Progress | None = None) -> bool:
        """Run to the last token; False when the user interrupted it."""
        self.clock.process(self._arrive(progress))
        try:
            self.clock.run(self.all_done)
        except KeyboardInterrupt:
            self.recorder.trim()
            for server in (*self.prefillers, *self.servers):
                replica = server.replica
                for job in [*replica.running, *replica.held, *replica.waiting]:
                    self.recorder.unfinished(job)
            return False
        return True

    # -- arrivals -----------------------------------------------------------------------------------------------------

    def _arrive(self, progress: Progress | None) -> Steps:
        clock, total = self.clock, self.left
        self.recorder.measuring = not self.warm_index
        for count, request in enumerate(self.sessions or self.arrivals):
            arrival = request.arrival_s
            if arrival > clock.now:
                yield clock.until(arrival)
            if not self.recorder.measuring and request.index >= self.warm_index:
                self.recorder.measuring, self.warm_s = True, arrival
            if progress is not None and count % 64 == 0:
                progress(total - self.left, total)
            if self.sessions is None or self.sessions.admit(request):
                self._enter(request)

    def _enter(self, request: Request) -> None:
        """A request reaches the server's front end."""
        output = self._admissible(request)
        if output is None:
            self.recorder.rejected(request)
            self.rejected_prompt_tokens += request.prompt_tokens
            self._ended(request)
            return
        overhead = self.scenario.engine.overhead
        front_s = overhead.request_s + overhead.request_token_s * request.prompt_tokens
        job = Sequence(request, output, request.arrival_s + front_s)
        if self.sessions is not None:
            job.following = self.sessions.following(request)
        self.clock.after(front_s, lambda: self._dispatch(job))

    def _admissible(self, request: Request) -> int | None:
        """The output tokens that a request may have: fewer when the context ends before, None when it cannot run at
        all."""
        room = self.max_context - request.prompt_tokens
        if room < 1:
            return None
        output = max(1, request.output_tokens)
        if output > room:
            self.clipped += 1
            output = room
        block = self.scenario.engine.block_tokens
        if -(-(request.prompt_tokens + output) // block) * block > self.tiers[0].capacity_tokens:
            return None
        return output

    def _dispatch(self, job: Sequence) -> None:
        if not self.prefillers:
            _chosen(self._router, self.servers, job).submit(job)
            return
        first = Sequence(job.request, 1, job.enter_s)
        first.whole = job
        _chosen(self._prefill_router, self.prefillers, first).submit(first)

    def _hand_over(self, first: Sequence) -> None:
        """A prompt is computed: the request goes on where it is decoded."""
        job = first.whole
        assert job is not None
        job.hits, job.counted = first.hits, True
        job.admit_s, job.load_s, job.weighed_s = first.admit_s, first.load_s, first.load_s
        _chosen(self._router, self.servers, job).submit(job)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _done(self, job: Sequence) -> None:
        self._ended(job.request)

    def _ended(self, request: Request) -> None:
        if self.sessions is not None:
            turn, first = self.sessions.ended(request)
            if turn is not None:
                self._after(turn, turn.think_s + self.scenario.engine.overhead.first_token_s)
            if first is not None:
                self._after(first, 0.0)
        self.left -= 1
        if not self.left and not self.all_done.triggered:
            self.all_done.succeed()

    def _after(self, request: Request, delay: float) -> None:
        self.clock.after(delay, lambda: self._enter(msgspec.structs.replace(request, arrival_s=self.clock.now)))


def _chosen(router: Router | None, servers: list[Server], job: Sequence) -> Any:
    return servers[router.choose(job.request) if router is not None else 0].replica


def _has_sessions(trace: Trace) -> bool:
    """Does a trace name sessions: one that does, does so early."""
    return any(request.session for request in islice(trace, 1000))


def gpu_pool_bytes(scenario: Scenario) -> int:
    """What the engine leaves for KV on the GPUs of a replica."""
    deployed, pool = scenario.deployment, kv_pool(scenario.deployment)
    if pool.kv_bytes <= 0:
        raise InputError(
            f"{deployed.model.name} does not fit {deployed.tp} GPU(s) of {deployed.machine.name}: the weights take {pool.weight_bytes:,} bytes of each",
            hint="see `kvplan size` for the ways out, or give --gpu-kv SIZE",
        )
    return pool.kv_bytes


def opened(scenario: Scenario) -> Trace:
    """The trace of a scenario, with what its run leaves out left out."""
    run = scenario.run
    return open_trace(scenario.trace, limit=run.limit or None, max_input=run.max_input_tokens or None)


def simulate(scenario: Scenario, *, progress: Progress | None = None) -> tuple[Any, World]:
    """Replay a scenario to its end; returns the result and the world it ran in."""
    from kvplan.sim.outcome.summary import summarise

    world = World(scenario, opened(scenario))
    finished = world.run(progress)
    return summarise(world, partial=not finished), world


__all__ = ["World", "bytes_per_token", "gpu_pool_bytes", "simulate"]
