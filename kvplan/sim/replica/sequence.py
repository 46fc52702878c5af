"""A request on its way through a replica."""

from __future__ import annotations

from kvplan.request import Request
from kvplan.sim.cache.prefix import Node

NEVER = 1 << 62


class Sequence:
    """What a replica knows of a request: what it needs, holds, has computed and emitted.

    While it decodes, `computed`, `planned`, `emitted` and `blocks` are those of the moment when it joined its batch (see DecodeBatch).
    """

    __slots__ = (
        "request", "prompt", "target", "output", "arrival_s", "enter_s", "admit_s", "first_s", "last_s", "load_s", "leaf", "own_tail",
        "computed", "planned", "emitted", "blocks", "beside", "shared_tokens", "stored", "offered_from", "hits", "counted", "running",
        "fruitless", "emitted_before", "place",
        "looked_from", "found_below", "passes", "probed", "inserted", "waiting_for_remote_kv", "preemptions", "seen_step", "joined", "left",
        "promoted", "held_below", "weighed_s", "looked", "following", "whole", "held_s", "paused_s",
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
        self.held_below = -1  # what host memory had of its prompt when the last read from below began; -1: none since it was put off
        self.looked = False  # has it asked the tiers below before
        self.looked_from = self.found_below = 0  # from which token on it asked host memory first, and up to which that had it
        self.passes = 0  # in which the scheduler has asked for the answer of its lookup
        self.probed = False  # have lower tiers been asked for its chunks
        self.inserted = False  # is it counted among the requests that went through its content on the GPU
        self.following: Request | None = None  # the next turn of its session, whose prompt may go on with this one's answer
        self.whole: Sequence | None = None  # the request whose prompt this sequence computes for another replica
        self.leaf: Node | None = None  # deepest run of its prompt's content
        self.own_tail: Node | None = None  # what it generated before it was preempted
        self.computed = 0  # tokens whose KV is on the GPU once scheduled steps have run
        self.planned = 0  # output tokens scheduled
        self.emitted = 0  # output tokens seen
        self.blocks = 0  # GPU blocks held, shared ones included
        self.beside = 0  # tokens of the pool that its windows and states hold
        self.shared_tokens = 0  # of them in the prefix index
        self.stored = 0  # tokens offered to the tier below
        self.offered_from = 0  # the first of them: behind what was loaded
        self.hits: tuple[int, ...] = (0, 0, 0, 0)  # prompt tokens found on the GPU, in host memory, on the disk, remote, when it first ran
        self.counted = False
        self.running = False
        self.fruitless = 0  # preemptions in a row between which it got no token
        self.emitted_before = -1  # tokens it had at the last preemption
        self.joined = self.left = NEVER  # after and up to which step of its batch it decodes
        self.waiting_for_remote_kv = False  # something is on its way that it needs before it can be admitted
        self.place = -1  # among those that were set aside
        self.preemptions = 0
        self.seen_step = 0  # the step after which the scheduler knows that its load has ended
