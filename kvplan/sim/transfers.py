"""The tiers below the GPU: what is stored downwards, what is loaded back, and what has to wait for what.

vLLM's rules: every full block of a prompt is copied to host memory when its step has run, on its own stream; a lookup goes on where the
GPU's prefix ends; what the host holds is loaded whole before the request is scheduled; what only the disk holds is first promoted to host
memory; a request whose blocks are being loaded by another waits for that load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvplan.cost import StepCost
from kvplan.engine import EngineSpec
from kvplan.sim.links import IN, OUT, DiskQueue, HostLink
from kvplan.sim.prefix import Node
from kvplan.sim.tiers import Gap, Tier

if TYPE_CHECKING:
    from kvplan.sim.engine import Job, Replica

CPU, DISK = 1, 2


class Load:
    """Tokens [start, end) of the path to `leaf` on their way to a tier; `waiters` go on when they have come."""

    __slots__ = ("leaf", "tier", "start", "end", "waiters")

    def __init__(self, leaf: Node, tier: Tier, start: int, end: int) -> None:
        self.leaf, self.tier, self.start, self.end = leaf, tier, start, end
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
        self.freed: Callable[[], None] = lambda: None  # called when a store no longer needs its blocks on the GPU
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

    def inputs_sent_s(self, now: float) -> float:
        """When a step may start: behind the loads already queued, on the same copy engine."""
        if self.cpu is None or not self.engine.offload.loads_exclude_steps:
            return now
        return max(now, self.link.free_at[IN])

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
        leaf = job.own_tail or job.leaf
        assert job.leaf is not None and leaf is not None
        end = min(upto, job.leaf.end) // cpu.grain_tokens * cpu.grain_tokens
        if end <= job.stored:
            return
        cpu.touch(span(job.leaf, 0))
        cpu.pin(leaf)
        gaps = cpu.lacking(job.leaf, end)
        tokens = _total(gaps)
        if not tokens or not cpu.take(tokens):
            self.dropped_tokens += tokens
            cpu.unpin(leaf)
            job.stored = job.stored if tokens else end
            return
        job.stored = end
        cpu.stored_tokens += tokens
        cpu.expect(gaps)
        self.gpu.pin(leaf)
        _, done_s = self.link.send(OUT, self.env.now, self._link_s(OUT, tokens), round(tokens * self.token_bytes))

        def stored() -> None:
            cpu.arrived(gaps)
            self._cascade(leaf, end)
            cpu.unpin(leaf)
            self.gpu.unpin(leaf)
            self.freed()

        self._at(done_s, stored)

    def _cascade(self, leaf: Node, end: int) -> None:
        """What reached host memory goes on to the disk."""
        cpu, disk, queue = self.cpu, self.disk, self.queue
        if cpu is None or disk is None or queue is None:
            return
        disk.pin(leaf)
        gaps = disk.lacking(leaf, end)
        tokens = _total(gaps)
        if not tokens or not disk.take(tokens):
            self.dropped_tokens += tokens
            disk.unpin(leaf)
            return
        disk.stored_tokens += tokens
        disk.expect(gaps)
        cpu.pin(leaf)
        size, pieces = round(tokens * self.token_bytes), max(1, tokens // self.engine.block_tokens)
        service_s = queue.service_s(OUT, size, pieces, self.engine.offload.disk_write_threads)
        _, done_s = queue.send(OUT, self.env.now, service_s, size)

        def written() -> None:
            disk.arrived(gaps)
            disk.unpin(leaf)
            cpu.unpin(leaf)

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
        cpu.pin(node)
        if not cpu.lacking(node, node.start) and cpu.take(tokens):
            cpu.stored_tokens += tokens
            entry = node.entries[CPU]
            assert entry is not None
            cpu.grow(entry, tokens)
        cpu.unpin(node)

    # -- up ----------------------------------------------------------------------------------------------------------------

    def begin(self, replica: Replica, job: Job, path: list[Node], reach: int) -> bool | None:
        """Start what a waiting job needs from below. True: it waits; False: nothing to wait for; None: no room on the GPU for it."""
        cpu = self.cpu
        if cpu is None or self.rule == "never":
            return False
        cpu.touch(path)
        limit = job.target // cpu.grain_tokens * cpu.grain_tokens
        held = min(limit, cpu.reach(path, reach))
        if self.disk is not None:
            self.disk.touch(path)
            below = min(limit, self.disk.reach(path, held))
            if below > held and self._worth(job, reach, below, held):
                waits = self._wait_for(replica, job, path, cpu, held, below)
                if waits or self._promote(replica, job, path, held, below):
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
        if self._wait_for(replica, job, path, self.gpu, reach, held):
            return True
        if not replica.hold(job, path, reach, held):
            return None
        tokens, leaf = held - reach, path[-1]
        load = self._under_way(path, job, self.gpu, reach, held)
        cpu.pin(leaf)
        overhead = self.engine.overhead
        began = self.env.now
        ready = replica.busy_until_s() if self.engine.offload.loads_exclude_steps else began
        ready += overhead.load_s + overhead.load_block_s * tokens / self.engine.block_tokens
        _, done_s = self.link.send(IN, ready, self._link_s(IN, tokens), round(tokens * self.token_bytes))

        def loaded() -> None:
            cpu.unpin(leaf)
            cpu.loaded_tokens += tokens
            job.computed = held
            replica.share(job)
            job.computed = min(held, job.target - 1)
            if not job.counted:
                disk = len(range(max(reach, job.promoted.start), min(held, job.promoted.stop))) if job.promoted else 0
                job.hits = (reach, tokens - disk, disk, 0)
            job.load_s += self.env.now - began
            self._weigh(job, reach, held)
            self._over(load, job)
            replica.loaded(job)

        self._at(done_s, loaded)
        return True

    def _promote(self, replica: Replica, job: Job, path: list[Node], held: int, below: int) -> bool:
        """Read tokens [held, below) of the disk into host memory, for which there must be room."""
        cpu, disk, queue = self.cpu, self.disk, self.queue
        assert cpu is not None and disk is not None and queue is not None
        leaf = path[-1]
        gaps = cpu.lacking(leaf, below)
        tokens = _total(gaps)
        if not 0 < tokens <= cpu.room_tokens - cpu.pinnable_tokens(path):
            return False
        cpu.pin(leaf)
        cpu.take(tokens)
        load = self._under_way(path, job, cpu, held, below)
        cpu.expect(gaps)
        disk.pin(leaf)
        size, pieces = round(tokens * self.token_bytes), max(1, tokens // self.engine.block_tokens)
        service_s = queue.service_s(IN, size, pieces, self.engine.offload.disk_read_threads)
        began = self.env.now
        _, done_s = queue.send(IN, began, service_s, size)

        def promoted() -> None:
            cpu.arrived(gaps)
            disk.unpin(leaf)
            disk.loaded_tokens += tokens
            job.promoted = range(min(held, job.promoted.start), below) if job.promoted else range(held, below)
            job.load_s += self.env.now - began
            self._over(load, job)
            cpu.unpin(leaf)
            replica.unblocked()

        self._at(done_s, promoted)
        return True

    def _under_way(self, path: list[Node], job: Job, tier: Tier, start: int, end: int) -> Load:
        """Mark tokens [start, end) of a path as on their way to a tier that has them pinned, on behalf of a job."""
        load = job.blocked_on = Load(path[-1], tier, start, end)
        for node in path:
            if node.end > start and node.start < end:
                node.entries[tier.index].load = load  # type: ignore[union-attr]
        return load

    def _over(self, load: Load, job: Job) -> None:
        for node in span(load.leaf, 0):
            entry = node.entries[load.tier.index]
            if entry is not None and entry.load is load:
                entry.load = None
        job.blocked_on = None
        for replica, waiter in load.waiters:
            waiter.blocked_on = None
            replica.unblocked()

    def _wait_for(self, replica: Replica, job: Job, path: list[Node], tier: Tier, start: int, end: int) -> bool:
        """Is some of [start, end) on its way to a tier for another job; if so the job waits for that load."""
        for node in path:
            entry = node.entries[tier.index]
            load: Load | None = entry.load if entry is not None else None
            if load is not None and max(start, load.start, node.start) < min(end, load.end, node.end):
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

    def _weigh(self, job: Job, start: int, end: int) -> None:
        """Compare what a load took, its promotion included, with computing tokens [start, end) again."""
        seconds = job.load_s - job.weighed_s
        job.weighed_s = job.load_s
        self.count += 1
        self.stall_s += seconds
        lost = seconds - self.recompute_s(job, start, end)
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


def _total(gaps: list[Gap]) -> int:
    return sum(want - have for _, have, want in gaps)
