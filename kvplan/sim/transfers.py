"""The tiers below the GPU: what is stored downwards, what is loaded back, and what has to wait for what.

vLLM's rules: every full block of a prompt is copied to host memory when its step has run, on its own stream; a lookup goes on where the
GPU's prefix ends; what the host holds is loaded whole before the request is scheduled; what only the disk holds is first promoted to host
memory; a request whose blocks are being loaded by another waits for that load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvplan.cost import StepCost
from kvplan.engine import EngineSpec
from kvplan.sim.links import IN, OUT, DiskQueue, HostLink
from kvplan.sim.prefix import Node
from kvplan.sim.tiers import Tier

if TYPE_CHECKING:
    from kvplan.sim.engine import Job, Replica

CPU, DISK = 1, 2


Gap = tuple[Node, int, int]
"""A run, the token up to which a tier holds it, and the token up to which it should."""


class Load:
    """A transfer of some runs to a tier above; `waiters` go on when it has ended."""

    __slots__ = ("nodes", "waiters")

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes
        self.waiters: list[tuple[Replica, Job]] = []


class Transfers:
    """Stores and loads of one replica. `token_bytes` is the KV of one token over all ranks, of which each link carries 1/ranks."""

    def __init__(
        self,
        env: Any,
        engine: EngineSpec,
        cost: StepCost,
        gpu: Tier,
        cpu: Tier | None,
        disk: Tier | None,
        link: HostLink,
        queue: DiskQueue | None,
        *,
        token_bytes: float,
        ranks: int,
    ) -> None:
        self.env, self.engine, self.cost = env, engine, cost
        self.gpu, self.cpu, self.disk = gpu, cpu, disk
        self.link, self.queue = link, queue
        self.token_bytes, self.ranks = token_bytes, ranks
        self.rule = engine.offload.load_rule
        self.loading: dict[Node, Load] = {}  # runs on their way up, and by whom
        self.count = 0
        self.losing = 0
        self.stall_s = 0.0
        self.losing_s = 0.0
        self.dropped_tokens = 0

    def outputs_seen_s(self, now: float) -> float:
        """When the tokens of a step that ends now reach the host: behind the stores already queued, on the same copy engine."""
        if self.cpu is None or not self.engine.offload.outputs_behind_stores:
            return now
        return max(now, self.link.free_at[OUT])

    def _at(self, time: float, action: Any) -> None:
        self.env.timeout(max(0.0, time - self.env.now)).callbacks.append(lambda _: action())

    def _link_s(self, direction: int, tokens: int) -> float:
        pieces = max(1, tokens // self.engine.block_tokens)
        return self.link.service_s(direction, round(tokens * self.token_bytes / self.ranks), pieces)

    # -- down --------------------------------------------------------------------------------------------------------------

    def store(self, job: Job, upto: int) -> None:
        """Offer the full blocks of a job's prompt up to a token to host memory."""
        cpu = self.cpu
        if cpu is None:
            return
        end = upto // cpu.grain_tokens * cpu.grain_tokens
        if end <= job.stored:
            return
        assert job.leaf is not None
        path = span(job.leaf, 0)
        missing = _missing(cpu, path, end)
        tokens = sum(want - have for _, have, want in missing)
        if tokens and not cpu.take(tokens):
            self.dropped_tokens += tokens
            return
        job.stored = end
        cpu.touch(path, again=True)
        if tokens:
            cpu.stored_tokens += tokens
            self._use(missing[-1][0], missing[0][1])
            _, done_s = self.link.send(OUT, self.env.now, self._link_s(OUT, tokens), round(tokens * self.token_bytes))
            self._at(done_s, lambda: self._stored(missing))

    def _use(self, leaf: Node, start: int) -> None:
        """Keep the runs from token `start` down to `leaf` in the index and on the GPU."""
        for node in span(leaf, start):
            node.users += 1
            entry = node.entries[0]
            if entry is not None:
                self.gpu.pin(entry)

    def _leave(self, leaf: Node, start: int) -> None:
        """Undo `_use`, deepest run first."""
        for node in reversed(span(leaf, start)):
            node.users -= 1
            entry = node.entries[0]
            if entry is not None:
                self.gpu.unpin(entry)
            self.gpu.tree.prune(node)

    def _stored(self, missing: list[Gap]) -> None:
        cpu = self.cpu
        assert cpu is not None
        for node, have, want in missing:
            _fill(cpu, node, have, want)
        self._cascade(missing)
        self._leave(missing[-1][0], missing[0][1])

    def _cascade(self, stored: list[tuple[Node, int, int]]) -> None:
        """What reached host memory goes on to the disk."""
        disk, queue = self.disk, self.queue
        if disk is None or queue is None:
            return
        missing = [gap for node, have, want in stored for gap in _missing(disk, span(node, have), want)]
        tokens = sum(want - have for _, have, want in missing)
        if not tokens:
            return
        if not disk.take(tokens):
            self.dropped_tokens += tokens
            return
        disk.stored_tokens += tokens
        leaf, start = missing[-1][0], missing[0][1]
        self._use(leaf, start)
        size, pieces = round(tokens * self.token_bytes), max(1, tokens // self.engine.block_tokens)
        service_s = queue.service_s(OUT, size, pieces, self.engine.offload.disk_write_threads)
        _, done_s = queue.send(OUT, self.env.now, service_s, size)

        def written() -> None:
            for node, have, want in missing:
                _fill(disk, node, have, want)
            self._leave(leaf, start)

        self._at(done_s, written)

    def store_generated(self, job: Job) -> None:
        """Full blocks that were filled while decoding: each is small and stored alone, so they are accounted when the job ends."""
        cpu = self.cpu
        if cpu is None or not self.engine.offload.store_generated:
            return
        grain = cpu.grain_tokens
        tokens = (job.prompt + job.emitted - 1) // grain * grain - max(job.stored, job.prompt // grain * grain)
        if tokens <= 0 or not cpu.take(tokens):
            return
        cpu.stored_tokens += tokens
        cpu.leave(tokens)
        size = round(tokens * self.token_bytes)
        self.link.bytes[OUT] += size
        self.link.busy_s[OUT] += self._link_s(OUT, tokens)

    def store_own(self, job: Job, node: Node) -> None:
        """What a preempted job generated is in host memory already, block by block."""
        cpu = self.cpu
        if cpu is None or not self.engine.offload.store_generated or job.stored < node.start:
            return
        tokens = node.end - node.start
        if cpu.take(tokens):
            cpu.stored_tokens += tokens
            cpu.grow(node, tokens)

    # -- up ----------------------------------------------------------------------------------------------------------------

    def begin(self, replica: Replica, job: Job, path: list[Node], reach: int) -> bool | None:
        """Start what a waiting job needs from below. True: it waits; False: nothing to wait for; None: no room on the GPU for it."""
        cpu = self.cpu
        if cpu is None or self.rule == "never":
            return False
        again, job.looked = job.looked, True
        cpu.touch(path, again=again)
        limit = job.target // cpu.grain_tokens * cpu.grain_tokens
        held = min(limit, cpu.reach(path, reach))
        if self.disk is not None:
            self.disk.touch(path, again=again)
            below = min(limit, self.disk.reach(path, held))
            if below > held and self._worth(job, reach, below, held):
                waits = self._wait_for(replica, job, path, held, below)
                if waits or self._promote(replica, job, path, reach, held, below):
                    return True
        return self._raise(replica, job, path, reach, held)

    def _raise(self, replica: Replica, job: Job, path: list[Node], reach: int, held: int) -> bool | None:
        """Load tokens [reach, held) of host memory to the GPU."""
        cpu = self.cpu
        assert cpu is not None
        if held - reach < max(cpu.grain_tokens, self.engine.offload.load_min_tokens):
            return False
        if not self._worth(job, reach, held, held):
            return False
        if self._wait_for(replica, job, path, reach, held):
            return True
        if not replica.hold(job, path, reach, held):
            return None
        if not job.counted:
            job.hits[0] = reach
        tokens = held - reach
        leaf = next(node for node in path if node.end >= held)
        load = self._under_way(path, job, reach, held)
        _pin(cpu, leaf, reach)
        overhead = self.engine.overhead
        blocks = tokens / self.engine.block_tokens
        began = self.env.now
        ready = began + overhead.load_s + overhead.load_block_s * blocks
        _, done_s = self.link.send(IN, ready, self._link_s(IN, tokens), round(tokens * self.token_bytes))

        def loaded() -> None:
            _unpin(cpu, leaf, reach)
            cpu.loaded_tokens += tokens
            job.computed = held
            replica.share(job)
            job.computed = min(held, job.target - 1)
            if not job.counted:
                job.hits[CPU] = held - job.hits[0] - job.hits[DISK]
            self._account(job, reach, held, self.env.now - began)
            self._over(load, job)
            replica.wake()

        self._at(done_s, loaded)
        return True

    def _promote(self, replica: Replica, job: Job, path: list[Node], reach: int, held: int, below: int) -> bool:
        """Read tokens [held, below) of the disk into host memory, for which there must be room."""
        cpu, disk, queue = self.cpu, self.disk, self.queue
        assert cpu is not None and disk is not None and queue is not None
        tokens = below - held
        leaf = next(node for node in path if node.end >= below)
        above = next((node for node in path if node.end >= held), None) if held > reach else None
        if above is not None:
            _pin(cpu, above, reach)
        if not cpu.take(tokens):
            if above is not None:
                _unpin(cpu, above, reach)
            return False
        load = self._under_way(path, job, held, below)
        _pin(disk, leaf, held)
        self._use(leaf, held)
        size, pieces = round(tokens * self.token_bytes), max(1, tokens // self.engine.block_tokens)
        service_s = queue.service_s(IN, size, pieces, self.engine.offload.disk_read_threads)
        began = self.env.now
        _, done_s = queue.send(IN, began, service_s, size)

        def promoted() -> None:
            _fill(cpu, leaf, held, below)
            if above is not None:
                _unpin(cpu, above, reach)
            _unpin(disk, leaf, held)
            self._leave(leaf, held)
            disk.loaded_tokens += tokens
            if not job.counted:
                job.hits[DISK] += tokens
            job.load_s += self.env.now - began
            self._over(load, job)
            replica.wake()

        self._at(done_s, promoted)
        return True

    def _under_way(self, path: list[Node], job: Job, start: int, end: int) -> Load:
        load = Load([node for node in path if node.end > start and node.start < end])
        job.blocked_on = load
        for node in load.nodes:
            self.loading[node] = load
        return load

    def _over(self, load: Load, job: Job) -> None:
        for node in load.nodes:
            if self.loading.get(node) is load:
                del self.loading[node]
        job.blocked_on = None
        for replica, waiter in load.waiters:
            waiter.blocked_on = None
            replica.wake()

    def _wait_for(self, replica: Replica, job: Job, path: list[Node], start: int, end: int) -> bool:
        """Is some of [start, end) being loaded for another job; if so the job waits for that load."""
        if not self.loading:
            return False
        for node in path:
            if node.end > start and node.start < end and node in self.loading:
                load = self.loading[node]
                job.blocked_on = load
                load.waiters.append((replica, job))
                return True
        return False

    # -- worth -------------------------------------------------------------------------------------------------------------

    def recompute_s(self, job: Job, start: int, end: int) -> float:
        """Seconds of prefill that having tokens [start, end) saves a job."""
        return self.cost.prefill_s(job.target - start, start, self.engine.step_tokens) - self.cost.prefill_s(
            job.target - end, end, self.engine.step_tokens
        )

    def _worth(self, job: Job, start: int, end: int, held: int) -> bool:
        """By the break-even rule: do the queues in front of link and disk and the transfer itself take less than computing again."""
        if self.rule != "break_even":
            return True
        now = self.env.now
        seconds = self.engine.overhead.load_s + max(0.0, self.link.free_at[IN] - now) + self._link_s(IN, end - start)
        if end > held and self.queue is not None:
            tokens = end - held
            seconds += max(0.0, self.queue.free_at[IN] - now) + self.queue.service_s(
                IN,
                round(tokens * self.token_bytes),
                max(1, tokens // self.engine.block_tokens),
                self.engine.offload.disk_read_threads,
            )
        return seconds < self.recompute_s(job, start, end)

    def _account(self, job: Job, start: int, end: int, seconds: float) -> None:
        job.load_s += seconds
        self.count += 1
        self.stall_s += job.load_s
        lost = job.load_s - self.recompute_s(job, start, end)
        if lost > 0:
            self.losing += 1
            self.losing_s += lost


def span(leaf: Node, start: int) -> list[Node]:
    """The runs that cover the content from token `start` to the end of `leaf`, in order. Splits since then are followed."""
    found: list[Node] = []
    node: Node | None = leaf
    while node is not None and node.parent is not None and node.end > start:
        found.append(node)
        node = node.parent
    found.reverse()
    return found


def _pin(tier: Tier, leaf: Node, start: int) -> None:
    for node in span(leaf, start):
        entry = node.entries[tier.index]
        assert entry is not None
        tier.pin(entry)


def _unpin(tier: Tier, leaf: Node, start: int) -> None:
    for node in reversed(span(leaf, start)):
        entry = node.entries[tier.index]
        if entry is not None and entry.pins:
            tier.unpin(entry)


def _missing(tier: Tier, path: list[Node], end: int) -> list[Gap]:
    """The gaps of a tier in a path before token `end`."""
    found = []
    for node in path:
        if node.start >= end:
            break
        entry = node.entries[tier.index]
        have = node.start + (entry.tokens if entry is not None else 0)
        want = min(node.end, end)
        if have < want:
            found.append((node, have, want))
    return found


def _fill(tier: Tier, leaf: Node, have: int, want: int) -> None:
    """Put tokens [have, want) of a run, whose space is taken, in place; what came meanwhile, or lost its start, is given back."""
    for node in span(leaf, have):
        start, end = max(have, node.start), min(want, node.end)
        if end <= start:
            continue
        entry = node.entries[tier.index]
        now = node.start + (entry.tokens if entry is not None else 0)
        add = max(0, end - now) if now >= start else 0
        if add:
            tier.grow(node, add)
        tier.give_back(end - start - add)
