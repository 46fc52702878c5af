"""Replay a scenario: build the replica, feed it the trace, summarise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import simpy

from kvplan.cost import StepCost
from kvplan.errors import InputError
from kvplan.scenario import Scenario
from kvplan.sim.engine import Job, Replica
from kvplan.sim.future import Future
from kvplan.sim.links import DiskQueue, HostLink
from kvplan.sim.policies import Facts
from kvplan.sim.prefix import PrefixTree
from kvplan.sim.record import Recorder
from kvplan.sim.tiers import Tier
from kvplan.sim.transfers import Transfers
from kvplan.sim.user_policy import maker
from kvplan.sizing.formats import resolve_kv_dtype, stored_format
from kvplan.sizing.kv import token_bytes as layer_token_bytes
from kvplan.traces import open_trace
from kvplan.traces.trace import Trace
from kvplan.workload import Request

Progress = Callable[[int, int], None]


class World:
    """A scenario set up to run: clock, trace, replica, records."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario, self.trace = scenario, trace
        self.env = simpy.Environment()
        model, machine, engine, run = scenario.model, scenario.machine, scenario.engine, scenario.run
        self.cost = StepCost(model, machine, engine, tp=run.tp, kv_dtype=run.kv_dtype)
        self.token_bytes = bytes_per_token(scenario)
        self.pool_bytes = scenario.tiers.gpu_kv_bytes or gpu_pool_bytes(scenario)
        self.future: Future | None = None
        self.recorder = Recorder(first_token_s=engine.overhead.first_token_s)
        tree = PrefixTree(key_tokens=trace.block_tokens, grain_tokens=engine.block_tokens, tiers=4)
        usable_bytes = self.pool_bytes - engine.null_blocks * engine.block_tokens * self.token_bytes
        self.tiers = [self._tier("gpu", 0, tree, usable_bytes, "lru", engine.block_tokens)]
        grain = engine.offload.chunk_tokens or engine.block_tokens
        if scenario.tiers.disk_bytes and not scenario.tiers.cpu_bytes:
            raise InputError("a disk tier needs a CPU tier in front of it", hint=f"{engine.name} promotes through host memory: add --cpu SIZE")
        for index, (name, size, policy) in enumerate(
            (("cpu", scenario.tiers.cpu_bytes, engine.offload.policy), ("disk", scenario.tiers.disk_bytes, engine.offload.disk_policy)), 1
        ):
            if size:
                self.tiers.append(self._tier(name, index, tree, size, policy, grain))
        by_name = {tier.name: tier for tier in self.tiers}
        self.link = HostLink(machine.link)
        self.disk_queue = DiskQueue(machine.disk) if "disk" in by_name else None
        self.transfers = Transfers(
            self.env, engine, self.cost, by_name["gpu"], by_name.get("cpu"), by_name.get("disk"), self.link, self.disk_queue,
            token_bytes=self.token_bytes, ranks=run.tp,
        )  # fmt: skip
        self.replica = Replica(
            self.env, engine, self.cost, tree, by_name["gpu"], self.transfers, self.recorder, jump=run.jump, done=self._done
        )
        self.tree = tree
        self.left = len(trace)
        self.all_done = self.env.event()
        self.rejected_prompt_tokens = 0
        self.clipped = 0
        self.max_context = min(filter(None, (engine.max_context_tokens, model.max_context_tokens)), default=1 << 40)

    def _tier(self, name: str, index: int, tree: PrefixTree, size: float, policy: str, grain: int) -> Tier:
        capacity = int(size / self.token_bytes)
        if capacity < grain:
            raise InputError(f"the {name} tier of {size:,.0f} bytes holds less than one block of {grain} tokens ({grain * self.token_bytes:,.0f} bytes)")
        facts = Facts(capacity, self._recompute_s)
        if policy == "belady":
            self.future = self.future or Future(tree, self.trace, self.env, self.scenario.run.speedup)
            facts.next_use_s = self.future.next_use_s
        return Tier(name, index, tree=tree, policy=maker(policy)(facts), capacity_tokens=capacity, grain_tokens=grain)

    def _recompute_s(self, start: int, end: int) -> float:
        return self.cost.prefill_s(end - start, start, self.scenario.engine.step_tokens)

    def run(self, progress: Progress | None = None) -> bool:
        """Run to the last token; False when the user interrupted it."""
        self.env.process(self._arrive(progress))
        try:
            self.env.run(until=self.all_done)
        except KeyboardInterrupt:
            for job in [*self.replica.running, *self.replica.held, *self.replica.waiting]:
                self.recorder.unfinished(job)
            return False
        return True

    def _arrive(self, progress: Progress | None) -> Iterator[Any]:
        env, overhead, total = self.env, self.scenario.engine.overhead, self.left
        speedup = self.scenario.run.speedup
        for count, request in enumerate(self.trace):
            arrival = request.arrival_s / speedup
            if arrival > env.now:
                yield env.timeout(arrival - env.now)
            if progress is not None and count % 64 == 0:
                progress(total - self.left, total)
            output = self._admissible(request)
            if output is None:
                self.recorder.rejected(request)
                self.rejected_prompt_tokens += request.prompt_tokens
                self._one_less()
                continue
            front_s = overhead.request_s + overhead.request_token_s * request.prompt_tokens
            job = Job(request, output, arrival + front_s)
            job.arrival_s = arrival
            env.timeout(front_s).callbacks.append(lambda _, job=job: self.replica.submit(job))

    def _admissible(self, request: Request) -> int | None:
        """The output tokens that a request may have: fewer when the context ends before, None when it cannot run at all."""
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

    def _done(self, _: Job) -> None:
        self._one_less()

    def _one_less(self) -> None:
        self.left -= 1
        if not self.left and not self.all_done.triggered:
            self.all_done.succeed()


def bytes_per_token(scenario: Scenario) -> float:
    """KV bytes of one token over all layers and ranks, as the engine stores them."""
    model, engine, run = scenario.model, scenario.engine, scenario.run
    fmt = stored_format(resolve_kv_dtype(run.kv_dtype, model, engine), engine)
    size = sum(group.count * layer_token_bytes(group, fmt, run.tp) for group in model.layers) * run.tp
    if not size:
        raise InputError(f"{model.name} keeps no KV per token: there is nothing to offload")
    return size


def gpu_pool_bytes(scenario: Scenario) -> int:
    """What the engine leaves for KV on the GPUs of a replica."""
    raise InputError("say how much GPU memory holds KV", hint="add --gpu-kv SIZE")


def simulate(scenario: Scenario, *, progress: Progress | None = None) -> tuple[Any, World]:
    """Replay a scenario to its end; returns the result and the world it ran in."""
    from kvplan.sim.summary import summarise

    run = scenario.run
    trace = open_trace(scenario.trace, limit=run.limit or None, max_input=run.max_input_tokens or None)
    world = World(scenario, trace)
    finished = world.run(progress)
    return summarise(world, partial=not finished), world
