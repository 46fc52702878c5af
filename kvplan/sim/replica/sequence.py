"""What runs on a replica: jobs, the steps that advance them, and the stops between."""

from __future__ import annotations

from typing import Any

from kvplan.engine.spec import EngineSpec
from kvplan.request import Request
from kvplan.sim.cache.prefix import Node
from kvplan.sim.transfer.loads import Prefetch, StepLoad


class Job:
    """A request on its way through a replica."""

    __slots__ = (
        "request", "prompt", "target", "output", "arrival_s", "enter_s", "admit_s", "first_s", "last_s", "load_s", "leaf", "own_tail",
        "computed", "planned", "emitted", "blocks", "shared_tokens", "stored", "hits", "counted", "running", "epoch",
        "blocked_on", "preemptions", "seen_step",
        "promoted", "weighed_s", "looked", "prefetch", "following", "whole", "held_s", "paused_s",
    )  # fmt: skip

    def __init__(self, request: Request, output: int, enter_s: float) -> None:
        self.request = request
        self.prompt = request.prompt_tokens
        self.target = self.prompt  # tokens whose KV it needs before it decodes: the prompt, after a preemption also what it generated
        self.output = output
        self.arrival_s = request.arrival_s
        self.enter_s = enter_s
        self.admit_s = self.first_s = self.last_s = -1.0
        self.load_s = 0.0
        self.paused_s = -1.0  # when it got the last token before a preemption; -1: it runs
        self.held_s = 0.0  # its first token waited so long behind stores
        self.weighed_s = 0.0  # of load_s, what has been compared with computing again
        self.promoted: dict[int, range] = {}  # by lower tier, tokens that came into host memory for it
        self.looked = False  # has it asked the tiers below before
        self.following: Request | None = None  # the next turn of its session, whose prompt may go on with this one's answer
        self.whole: Job | None = None  # the request whose prompt this job computes for another replica
        self.prefetch: Prefetch | None = None  # what is being read for it while it is queued
        self.leaf: Node | None = None  # deepest run of its prompt's content
        self.own_tail: Node | None = None  # what it generated before it was preempted
        self.computed = 0  # tokens whose KV is on the GPU once planned steps have run
        self.planned = 0  # output tokens planned
        self.emitted = 0  # output tokens seen
        self.blocks = 0  # GPU blocks held, shared ones included
        self.shared_tokens = 0  # of them in the prefix index
        self.stored = 0  # tokens offered to the tier below
        self.hits: tuple[int, ...] = (0, 0, 0, 0)  # prompt tokens found on the GPU, in host memory, on the disk, remote, when it first ran
        self.counted = False
        self.running = False
        self.epoch = 0  # counts preemptions: results of steps planned before one are dropped
        self.blocked_on: Any = None  # what the job waits for before it can be admitted
        self.preemptions = 0
        self.seen_step = 0  # the step after which the scheduler knows that the job's load has ended


class Plan:
    """One step: prefill chunks, decoding jobs, and who gets a token out of it."""

    __slots__ = (
        "chunks", "decodes", "sampled", "loads", "duration_s", "stall_s", "start_s", "ready_s", "launched_s", "paused", "held_s",
    )  # fmt: skip

    def __init__(self, made_s: float, ready_s: float) -> None:
        self.launched_s = made_s  # when the host has launched all of it
        self.ready_s = ready_s  # when the host has prepared it, and its inputs have reached the GPU behind the loads queued before
        self.chunks: list[tuple[Job, int, int]] = []  # job, new tokens, context
        self.decodes: list[Job] = []
        self.sampled: list[tuple[Job, int]] = []  # job and its epoch
        self.loads: list[StepLoad] = []
        self.duration_s = 0.0
        self.stall_s = 0.0  # of the duration, what the step waits for transfers
        self.held_s = 0.0  # its tokens waited so long behind stores
        self.paused = False
        self.start_s = -1.0

    @property
    def empty(self) -> bool:
        return not self.chunks and not self.decodes

    def withdraw(self, job: Job) -> int:
        """Take a job that is preempted out of a step being planned; returns the tokens it leaves free."""
        freed = sum(new for other, new, _ in self.chunks if other is job) + self.decodes.count(job)
        if freed:
            self.chunks = [chunk for chunk in self.chunks if chunk[0] is not job]
            self.decodes = [other for other in self.decodes if other is not job]
            self.sampled = [pair for pair in self.sampled if pair[0] is not job]
            job.computed -= freed  # full blocks of the chunk stay in the index: they are named when they are allocated, as in vLLM
        return freed


class Pauses:
    """Stops of the engine's process for its garbage collector: one per so many output tokens of the jobs it has admitted."""

    def __init__(self, engine: EngineSpec, *, offloading: bool) -> None:
        overhead = engine.overhead
        self.pause_s = overhead.pause_s
        rates = [overhead.pause_tokens, overhead.pause_offload_tokens if offloading else 0]
        self.per_token = sum(1 / tokens for tokens in rates if tokens)
        self.owed = 0.0

    def due_s(self) -> float:
        """Seconds of the stop that has come due, if one has."""
        if self.owed < 1:
            return 0.0
        self.owed -= 1
        return self.pause_s
