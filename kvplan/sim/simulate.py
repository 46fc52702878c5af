"""Replay a scenario: build the replicas, feed them the trace, record what happened, summarise it."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from functools import partial

import numpy as np

from kvplan.errors import InputError, KvplanError
from kvplan.memory.pool import kv_pool
from kvplan.request import Request
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario
from kvplan.sim.build import Builder, Server, bytes_per_token, tier_records
from kvplan.sim.cache.afterlife import afterlife
from kvplan.sim.cache.tier import Tier
from kvplan.sim.clock import Clock, Steps
from kvplan.sim.cluster.arrivals import Arrivals
from kvplan.sim.cluster.dispatch import Dispatch
from kvplan.sim.cluster.front_end import FrontEnd
from kvplan.sim.cluster.sessions import Sessions
from kvplan.sim.outcome import slo
from kvplan.sim.outcome.history import History
from kvplan.sim.outcome.record import Recorder, RunRecord
from kvplan.sim.outcome.summary import summarise
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.tally import Tally
from kvplan.step_time import StepCost
from kvplan.traces.trace import RequestSource, Trace, open_once
from kvplan.units import format_bytes, format_count

Progress = Callable[[int, int], None]

RARELY = 50_000
"""New objects after which Python's collector of circles looks for some during a run."""


class World:
    """A scenario set up to run once: requests arrive, pass the front end, run on a replica, and leave a row."""

    def __init__(self, scenario: Scenario, trace: RequestSource, *, history: bool = False) -> None:
        self.scenario, self.trace = scenario, trace
        engine, run = scenario.engine, scenario.run
        self.clock, self.tally = Clock(), Tally()
        self.history = History(self.clock) if history else None
        self.tally.weighed = self.history.weighed if self.history else None
        self.cost = StepCost(scenario.deployment)
        self.pool_bytes = scenario.tiers.gpu_kv_bytes or gpu_pool_bytes(scenario)
        self.target = slo.parse(run.target)
        slow_s = min((clause.limit_s for clause in self.target if clause.metric == "itl"), default=math.inf)
        self.overhead = scenario.deployment.overhead
        self.recorder = Recorder(first_token_s=self.overhead.first_token_s, slow_s=slow_s)
        self.arrivals = Arrivals(trace, run, grain_tokens=engine.block_tokens)
        self._build()
        self.front_end = FrontEnd(
            self.clock,
            self.overhead,
            servers=engine.api_servers,
            max_context=min(filter(None, (engine.max_context_tokens, scenario.model.max_context_tokens)), default=1 << 40),
            pool_tokens=self.tiers[0].capacity_tokens,
            footprint=self.servers[0].replica.gpu.footprint,
            submit=self._submit,
            refuse=self._refuse,
        )
        self.sessions: Sessions | None = None
        if trace.names_sessions:
            lag_s = self.overhead.first_token_s
            self.sessions = Sessions(self.arrivals, self.clock, self.front_end.enter, most=run.max_sessions, lag_s=lag_s)
        below = (one.pool for server in (*self.prefillers, *self.servers) for one in server.below)
        self.afterlife = afterlife(trace, below)
        self.left, self.warm_s = len(trace), 0.0
        self.all_done = self.clock.event()

    def _build(self) -> None:
        """The replicas and the way to them."""
        settings = self.scenario.cluster
        builder = Builder(self.clock, self.scenario, self.trace, self.cost, self.tally, self.history)
        self.pool_token_bytes = builder.pool_token_bytes
        self.token_bytes, self.host_token_bytes = builder.token_bytes, builder.host_token_bytes
        dp = self.scenario.deployment.parallel.dp
        serve = builder.decoder if settings.prefill_replicas else builder.server
        self.servers = [
            serve(self.pool_bytes, self.recorder, self.history.finishing(place, self._done) if self.history else self._done)
            for place in range(settings.replicas * dp)
        ]
        self.prefillers: list[Server] = []
        before = builder.prefilling()
        pool = self.pool_bytes if before is builder else gpu_pool_bytes(before.scenario)
        # a prefill replica's part of a request is no request: nobody reads its rows
        for place in range(settings.prefill_replicas * before.scenario.deployment.parallel.dp):
            self.prefillers.append(before.server(pool, Recorder(), partial(self._handed_over, place)))
        builder.ranks(self.servers)
        before.ranks(self.prefillers)
        prefilling = before.behind_router(self.prefillers) if self.prefillers else None
        if self.history is not None:
            self.history.token_bytes = (self.pool_token_bytes, self.host_token_bytes, self.host_token_bytes, self.host_token_bytes)
        self.dispatch = Dispatch(builder.behind_router(self.servers), prefilling, builder.senders)
        self.replica = self.servers[0].replica
        self.tiers: list[Tier] = (self.prefillers or self.servers)[0].tiers

    # -- a run --------------------------------------------------------------------------------------------------------

    def run(self, progress: Progress | None = None) -> RunRecord:
        """Run to the last token, or until the user interrupts it."""
        self.clock.process(self.arriving(progress))
        collected = gc.get_threshold()
        gc.set_threshold(RARELY)  # a run makes many objects that live for long, and hardly a circle
        try:
            if not self.clock.pass_until(self.all_done):
                raise self._stuck()
        except KeyboardInterrupt:
            self.recorder.trim()
            for server in (*self.prefillers, *self.servers):
                for job in server.replica.unfinished():
                    self.recorder.unfinished(job)
        finally:
            gc.set_threshold(*collected)
        return self.record()

    def _stuck(self) -> KvplanError:
        """Nothing is left to happen and requests are not finished."""
        left = [seq.request for server in (*self.prefillers, *self.servers) for seq in server.replica.unfinished()]
        first = min(left, key=lambda request: request.index, default=None)
        name = f"request {first.index} ({first.prompt_tokens:,} prompt tokens)" if first is not None else "a request"
        return KvplanError(f"{name} and {max(0, self.left - 1)} others can never go on", hint="please report this trace")

    def arriving(self, progress: Progress | None = None) -> Steps:
        """The requests whose arrival does not hang on an answer, one after the other."""
        clock, total, warm = self.clock, self.left, self.arrivals.warm
        self.recorder.measuring = not self.scenario.run.warmup
        for count, request in enumerate(self.sessions or self.arrivals):
            if request.arrival_s > clock.now:
                yield clock.until(request.arrival_s)
            if not self.recorder.measuring and request.index not in warm:
                self.recorder.measuring, self.warm_s = True, request.arrival_s
            if progress is not None and count % 64 == 0:
                progress(total - self.left, total)
            if self.sessions is not None:
                self.sessions.arrive(request)
            else:
                self.front_end.enter(request)

    def _submit(self, request: Request, output_tokens: int) -> None:
        job = Sequence(request, output_tokens, request.arrival_s + self.overhead.entry_s(request.prompt_tokens))
        if self.sessions is not None:
            job.following = self.sessions.following(request)
        self.dispatch.submit(job)

    def _refuse(self, request: Request) -> None:
        self.recorder.rejected(request)
        self._ended(request)

    def _handed_over(self, place: int, first: Sequence) -> None:
        self.dispatch.hand_over(first, self.prefillers[place].port)

    def _done(self, job: Sequence) -> None:
        self._ended(job.request)

    def _ended(self, request: Request) -> None:
        if self.sessions is not None:
            self.sessions.ended(request)
        if self.afterlife is not None:
            self.afterlife.ended(request.index)
        self.left -= 1
        if not self.left:
            self.all_done.succeed()

    def record(self) -> RunRecord:
        """What the run has left behind so far."""
        columns, arrivals = self.recorder.arrays(), self.arrivals
        servers = [*self.prefillers, *self.servers]
        ran_s = max(self.recorder.finished_s, 1e-12)
        return RunRecord(
            scenario=self.scenario,
            trace=self.trace,
            cost=self.cost,
            columns=columns,
            warm=np.isin(columns["index"], list(arrivals.warm)),
            warm_s=self.warm_s,
            intervals_s=self.recorder.intervals_s,
            slow=self.recorder.slow,
            finished_s=self.recorder.finished_s,
            tally=self.tally,
            tiers=tier_records(servers, gpu_token_bytes=self.pool_token_bytes, host_token_bytes=self.host_token_bytes),
            used_share=sum(server.replica.busy_s for server in servers) / (len(servers) * ran_s),
            pool_bytes=round(self.pool_bytes),
            pool_tokens=self.tiers[0].capacity_tokens,
            token_bytes=self.token_bytes,
            max_context=self.front_end.max_context,
            clipped=self.front_end.clipped,
            unstored_tokens=sum(server.replica.transfers.unstored_tokens for server in servers),
            target=self.target,
            stamps=arrivals.stamps,
            ideal_hit_rate=arrivals.ceiling.rate if self.trace.block_tokens else None,
            partial=self.left > 0,
            history=self.history,
        )


def gpu_pool_bytes(scenario: Scenario) -> int:
    """What the engine leaves for KV on the GPUs of a replica."""
    deployed, pool = scenario.deployment, kv_pool(scenario.deployment)
    if pool.kv_bytes <= 0:
        raise InputError(
            f"{deployed.model.name} does not fit {format_count(deployed.tp, 'GPU')} of {deployed.machine.name}: "
            f"the weights take {format_bytes(pool.weight_bytes)} of each",
            hint="see `kvplan size` for the ways out, or give --gpu-kv SIZE",
        )
    return pool.kv_bytes


def opened(scenario: Scenario) -> Trace:
    """The trace of a scenario, with what its run leaves out left out."""
    run = scenario.run
    return open_once(scenario.trace, limit=run.limit or None, max_input=run.max_input_tokens or None)


def simulate(scenario: Scenario, *, progress: Progress | None = None, history: bool = False) -> tuple[SimResult, RunRecord]:
    """Replay a scenario to its end; returns the result and the record that it sums up. `history`: also what happened when."""
    record = World(scenario, opened(scenario), history=history).run(progress)
    return summarise(record), record


__all__ = ["World", "bytes_per_token", "gpu_pool_bytes", "simulate"]
