"""A slow, obvious engine: every block is an entry of a dict, every step is taken. The simulator must agree with it.

It shares the time model (StepCost, Pauses, HostLink, DiskQueue) with the simulator, and nothing of the prefix tree,
tiers, jumps or transfers.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from typing import Any

from kvplan.memory.below import Moved, below
from kvplan.request import Request
from kvplan.sim.build import blocks_below
from kvplan.sim.replica.step import Pauses
from kvplan.sim.simulate import World
from kvplan.sim.transfer.file_threads import LEAST_SHARE
from kvplan.sim.transfer.links import IN, OUT, DiskQueue, HostLink

Name = tuple[Any, ...]


class Blocks:
    """One tier: which blocks it holds or expects, how often each is pinned, and the order in which it gives them up."""

    def __init__(self, capacity: int) -> None:
        self.empty = capacity
        self.held: set[Name] = set()
        self.coming: set[Name] = set()
        self.pins: Counter[Name] = Counter()
        self.reused: Callable[[Name | None], None] = lambda name: None
        self.order: list[Name | None] = []  # oldest first; None: a block that nobody can find again

    def room(self) -> int:
        return self.empty + len(self.order)

    def take(self, count: int) -> bool:
        if count > self.room():
            return False
        while self.empty < count:
            name = self.order.pop(0)
            self.held.discard(name)  # type: ignore[arg-type]
            self.reused(name)
            self.empty += 1
        self.empty -= count
        return True

    def pin(self, names: list[Name]) -> None:
        for name in names:
            self.pins[name] += 1
            if name in self.order:
                self.order.remove(name)

    def unpin(self, names: list[Name]) -> None:
        for name in reversed(names):
            self.pins[name] -= 1
            if not self.pins[name] and name in self.held:
                self.order.append(name)

    def touch(self, names: list[Name]) -> None:
        for name in reversed(names):
            if name in self.order:
                self.order.remove(name)
                self.order.append(name)

    def reach(self, names: list[Name], start: int) -> int:
        while start < len(names) and names[start] in self.held:
            start += 1
        return start

    def lacking(self, names: list[Name]) -> list[Name]:
        return [name for name in names if name not in self.held and name not in self.coming]

    def arrived(self, names: list[Name]) -> None:
        self.coming -= set(names)
        self.held |= set(names)


class Seq:
    """A request and its progress."""

    def __init__(self, request: Request, output: int, names: list[Name]) -> None:
        self.index, self.prompt, self.output = request.index, request.prompt_tokens, output
        self.arrival = request.arrival_s
        self.target = self.prompt
        self.prompt_names, self.generated = names, []  # type: ignore[var-annotated]
        self.names: list[Name] = []
        self.blocks = self.named = self.computed = self.planned = self.emitted = 0
        self.stored = self.preemptions = self.seen_step = 0
        self.running = self.waits = self.counted = self.probed = False
        self.waiters: list[Seq] = []
        self.hits = (0, 0, 0)
        self.from_disk: set[int] = set()
        self.first = self.last = self.load = 0.0


class Step(dict[str, Any]):
    """Chunks, decodes, who gets a token, seconds; two steps are the same only when they are one."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # type: ignore[assignment]


class Oracle:
    """Runs the requests of a world, whose settings, capacities and time model it takes."""

    def __init__(self, world: World) -> None:
        self.world, self.engine, self.cost = world, world.scenario.engine, world.cost
        self.block = self.engine.block_tokens
        tiers = {tier.name: Blocks(tier.capacity_tokens // self.block) for tier in world.tiers}
        self.gpu, self.cpu, self.disk = tiers["gpu"], tiers.get("cpu"), tiers.get("disk")
        self.link, self.queue = HostLink(world.scenario.machine.link), DiskQueue(world.scenario.machine.disk)
        self.below = blocks_below(world.scenario)
        self.tensors = below(world.scenario.deployment).tensors
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.count, self.now = 0, 0.0
        self.waiting: list[Seq] = []
        self.held: list[Seq] = []
        self.running: list[Seq] = []
        self.leaving: list[Seq] = []  # preempted, with a step in flight
        self.inflight: list[Step] = []
        self.executing: Step | None = None
        self.submitted = [0.0, 0.0]
        self.copied: list[tuple[float, set[Name]]] = []
        self.space = 0.0
        self.gpu.reused = self.reused
        self.loading: dict[tuple[str, Name], Seq] = {}
        self.stuck: Seq | None = None
        self.parents: dict[Name, Name] = {}
        self.steps = 0
        self.pauses = Pauses(self.cost.overhead, offloading=self.cpu is not None)
        self.file_s = self.cost.overhead.disk_file_s if self.cost.tp == 1 else 0.0
        self.files: list[tuple[float, float, float]] = []
        self.busy_until = self.built = self.probed = self.launching = 0.0
        self.done: list[Seq] = []

    def at(self, time: float, action: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.heap, (max(self.now, time), self.count, action))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.heap, (self.now + delay, self.count, action))

    def run(self) -> list[Seq]:
        overhead, kt = self.cost.overhead, self.world.trace.block_tokens
        front = entered = 0.0
        for request in self.world.trace:
            output = self.world.front_end.admissible(request)
            if output is None:
                continue
            full = min(request.prompt_tokens, len(request.blocks) * kt) // self.block
            names = [(i, request.blocks[: (self.block * (i + 1) - 1) // kt + 1]) for i in range(full)]
            self.parents.update(zip(names[1:], names, strict=False))  # type: ignore[arg-type]
            seq = Seq(request, output, names)  # type: ignore[arg-type]
            seq.arrival = request.arrival_s / self.world.scenario.run.speedup
            front = max(seq.arrival, front) + overhead.request_s + overhead.request_token_s * request.prompt_tokens
            entered = max(front + overhead.transit_s, entered) + overhead.input_s + overhead.input_token_s * request.prompt_tokens
            self.at(entered, lambda seq=seq: self.submit(seq))  # type: ignore[misc]
        while self.heap:
            self.now, _, action = heapq.heappop(self.heap)
            action()
        return sorted(self.done, key=lambda seq: seq.index)

    def submit(self, seq: Seq) -> None:
        self.waiting.append(seq)
        self.pump()

    # -- steps

    def pump(self) -> None:
        while len(self.inflight) < (2 if self.engine.plan_ahead else 1) and self.now >= self.launching:
            plan = self.plan()
            if not plan["chunks"] and not plan["decodes"]:
                return
            self.inflight.append(plan)
            if plan["chunks"] and self.engine.plan_ahead:
                self.launching = plan["launched"]
                self.at(self.launching, self.pump)
            if self.executing is None:
                self.execute(plan)

    def execute(self, plan: Step) -> None:
        self.executing = plan
        self.steps += 1
        plan["start"] = max(self.inputs_sent(), plan["ready"])
        plan["s"] += max(0.0, self.space - plan["start"])
        self.busy_until = max(plan["start"] + plan["s"], plan["launched"])
        self.after(self.busy_until - self.now, lambda: self.executed(plan))

    def inputs_sent(self) -> float:
        if self.cpu is None or not self.engine.offload.loads_exclude_steps:
            return self.now
        return max(self.now, self.link.free_at[IN])

    def executed(self, plan: Step) -> None:
        self.executing = None
        seen = self.now
        if self.cpu is not None and self.engine.offload.outputs_behind_stores:
            seen = max(seen, self.link.free_at[OUT])
        seen += self.cost.overhead.collect_s
        for seq, new, context in plan["chunks"]:
            if seq.running:
                self.store(seq, context + new)
        after = self.inflight.index(plan) + 1
        if after < len(self.inflight):
            if self.inflight[after]["chunks"] or (plan["chunks"] and self.engine.launches_first):
                seen = max(seen, self.inflight[after]["launched"])
            self.execute(self.inflight[after])
        if seen > self.now or self.inflight[0] is not plan:
            self.at(seen, lambda: self.handle(plan))
        else:
            self.handle(plan)

    def handle(self, plan: Step) -> None:
        self.inflight.remove(plan)
        for seq in plan["sampled"]:
            seq.emitted += 1
            seq.first = seq.first or self.now
            if seq.emitted == seq.output:
                self.finish(seq)
        for seq in [seq for seq in self.leaving if not self.in_flight(seq)]:
            self.leaving.remove(seq)
            self.requeue(seq)
        self.pump()

    def in_flight(self, seq: Seq) -> bool:
        return any(seq in plan["decodes"] or any(chunk[0] is seq for chunk in plan["chunks"]) for plan in self.inflight)

    def finish(self, seq: Seq) -> None:
        seq.last = self.now
        if seq in self.leaving:  # preempted while its last token was on its way
            self.leaving.remove(seq)
            self.done.append(seq)
            return
        self.running.remove(seq)
        if self.cpu is not None and self.engine.offload.store_generated:
            full = (seq.prompt + seq.emitted - 1) // self.block
            count = full - max(seq.stored, seq.prompt // self.block)
            if count > 0 and self.cpu.take(count):
                self.cpu.order += [None] * count
        self.release(seq)
        self.done.append(seq)

    def release(self, seq: Seq) -> None:
        seq.running = False
        full = min(seq.blocks, max(seq.computed - 1, 0) // self.block)
        self.gpu.order += [None] * max(0, full - seq.named)
        self.gpu.empty += seq.blocks - max(full, seq.named)
        self.gpu.unpin(seq.names)
        seq.blocks = seq.named = 0
        self.stuck = None

    def plan(self) -> Step:
        plan: Step = Step({"chunks": [], "decodes": [], "sampled": [], "admitted": 0})
        prepare = self.cost.overhead.prepare_s if self.executing is None or self.busy_until <= self.now else 0.0
        plan["ready"] = max(self.now + prepare, self.inputs_sent())
        budget, preempted = self.engine.step_tokens, False
        for seq in list(self.running):
            need = seq.target - seq.computed
            if not seq.running or (need <= 0 and seq.planned >= seq.output):
                continue
            if budget <= 0:
                break
            new = min(need, budget) if need > 0 else 1
            while seq.running and not self.allocate(seq, seq.computed + new):
                self.preempt(self.running[-1])
                preempted = True
            if not seq.running:
                break
            self.add(plan, seq, new)
            budget -= new
        if not self.leaving and (not preempted or not (plan["chunks"] or plan["decodes"])):
            self.admit(plan, budget)
        chunks, contexts = plan["chunks"], [seq.computed for seq in plan["decodes"]]
        attention = self.cost.decode_attention_s(contexts) if contexts else 0.0
        if not chunks and not contexts:
            return plan
        sizes = [(new, context) for _, new, context in chunks]
        admit = self.cost.schedule_s(plan["admitted"], sum(new for new, _ in sizes)) + max(0.0, max(self.submitted) - self.now)
        if self.inflight and self.cpu is not None and self.engine.offload.stores_before_launch:
            admit += sum(self.submit_s(new // self.block) for _, new, _ in self.inflight[-1]["chunks"])
        host = self.beside_files(self.cost.host_s(sizes, len(contexts)))
        plan["ready"] += admit
        plan["launched"] = self.now + (admit + host)
        plan["s"] = self.cost.busy_s(sizes, len(contexts), attention, len(plan["sampled"])) + self.pauses.due_s()
        if not chunks:
            plan["s"] = max(plan["s"], host)
        return plan

    def add(self, plan: Step, seq: Seq, new: int) -> None:
        context = seq.computed
        seq.computed += new
        if context < seq.target:
            plan["chunks"].append((seq, new, context))
            self.share(seq)
            if seq.computed < seq.target:
                return
        else:
            plan["decodes"].append(seq)
        seq.planned += 1
        plan["sampled"].append(seq)

    def share(self, seq: Seq) -> None:
        for name in seq.names[: seq.computed // self.block]:
            if name not in self.gpu.held:
                self.gpu.held.add(name)
                seq.named += 1

    def allocate(self, seq: Seq, upto: int) -> bool:
        missing = max(0, -(-upto // self.block) - seq.blocks)
        if not self.gpu.take(missing):
            return False
        seq.blocks += missing
        return True

    def preempt(self, seq: Seq) -> None:
        self.running.remove(seq)
        start, end = len(seq.names), min(seq.computed, seq.prompt + seq.emitted) // self.block
        if end > start and seq.named == start:
            own = [("own", seq.index, seq.preemptions, i) for i in range(start, end)]
            self.parents.update(zip(own, [*seq.names[-1:], *own], strict=False) if seq.names else zip(own[1:], own, strict=False))
            self.gpu.pin(own)
            self.gpu.held |= set(own)
            seq.generated.append(own)
            seq.names = [*seq.names, *own]
            seq.named = end
        self.release(seq)
        if self.in_flight(seq):
            self.leaving.append(seq)
        else:
            self.requeue(seq)

    def requeue(self, seq: Seq) -> None:
        seq.computed = seq.stored = 0
        seq.planned = seq.emitted
        seq.target = seq.prompt + seq.emitted
        seq.preemptions += 1
        self.waiting.insert(0, seq)
        self.stuck = None

    # -- admission

    def admit(self, plan: Step, budget: int) -> None:
        late = self.steps - len(self.inflight)
        line = [(seq, self.held) for seq in self.held] + [(seq, self.waiting) for seq in self.waiting]
        for seq, place in line:
            if seq is self.stuck:
                break
            if place is self.held and (seq.waits or (self.running and seq.seen_step > late)):
                continue
            if budget <= 0 or len(self.running) >= self.engine.max_batch:
                return
            new = self.attempt(seq, budget)
            if new is None:
                self.stuck = seq
                break
            if new:
                place.remove(seq)
                if not seq.counted:
                    self.pauses.admitted(seq.output)
                seq.running = seq.counted = True
                self.running.append(seq)
                plan["admitted"] += seq.target
                self.add(plan, seq, new)
                budget -= new
            elif place is self.waiting:
                self.waiting.remove(seq)
                self.held.append(seq)
        if self.stuck is not None:
            self.unwedge()

    def unwedge(self) -> None:
        if self.running or self.inflight:
            return
        holders = [seq for seq in reversed(self.held) if seq.blocks]
        for seq in [seq for seq in holders if seq is not self.stuck] or holders:
            if not seq.waits:
                self.release(seq)
                seq.computed = 0
                self.at(self.now, self.pump)
                return

    def wanted(self, seq: Seq, upto: int) -> int:
        return max(upto, seq.target) if self.engine.reserve_full_prompt else upto

    def attempt(self, seq: Seq, budget: int) -> int | None:
        """Tokens to compute now; 0: waits for a load; None: no room."""
        if seq.blocks:
            new = min(seq.target - seq.computed, budget)
            if -(-self.wanted(seq, seq.computed + new) // self.block) - seq.blocks > self.gpu.room():
                return None
            self.allocate(seq, seq.computed + new)
            return new
        while seq.generated and not self.known(seq.generated[-1]):
            seq.generated.pop()
        names = seq.names = [*seq.prompt_names, *(name for own in seq.generated for name in own)]
        reach = min(self.gpu.reach(names, 0), (seq.target - 1) // self.block)
        outcome = self.begin(seq, names, reach)
        if outcome is not False:
            return 0 if outcome else None
        new = min(seq.target - reach * self.block, budget)
        if not self.hold(seq, reach, reach * self.block + new):
            return None
        seq.computed = reach * self.block
        seq.hits = seq.hits if seq.counted else (reach * self.block, 0, 0)
        return new

    def known(self, names: list[Name]) -> bool:
        return any(name in self.gpu.held or self.gpu.pins[name] for name in names)

    def hold(self, seq: Seq, reach: int, upto: int) -> bool:
        evictable = sum(name in self.gpu.order for name in seq.names[:reach])
        if -(-(self.wanted(seq, upto) - reach * self.block) // self.block) > self.gpu.room() - evictable:
            return False
        for name in reversed(seq.names[reach:]):  # computed again, in blocks of its own
            if self.goes_on(name):
                break
            if name in self.gpu.order:
                self.gpu.order[self.gpu.order.index(name)] = None
                self.gpu.held.discard(name)
        self.gpu.pin(seq.names)
        seq.blocks = seq.named = reach
        self.allocate(seq, upto)
        return True

    def goes_on(self, name: Name) -> bool:
        """Is something cached or in use that continues a block."""
        return any(self.parents.get(other) == name for other in {*self.gpu.held, *(+self.gpu.pins)})

    # -- tiers below

    def begin(self, seq: Seq, names: list[Name], reach: int) -> bool | None:
        cpu, disk = self.cpu, self.disk
        if cpu is None or self.engine.offload.load_rule == "never":
            return False
        cpu.touch(names)
        limit = seq.target // self.block
        held = min(limit, cpu.reach(names, reach))
        if disk is not None and not seq.probed and self.cost.overhead.probe_s:
            seq.probed = seq.waits = True
            self.probed = max(self.now, self.probed) + max(1, seq.prompt // self.block - held) * self.cost.overhead.probe_s

            def answered() -> None:
                seq.waits, self.stuck = False, None
                self.pump()

            self.at(self.probed, answered)
            return True
        if disk is not None:
            disk.touch(names)
            below = min(limit, disk.reach(names, held))
            if below > held and (self.joins(seq, "cpu", names[held:below]) or self.promote(seq, names, held, below)):
                return True
        if held <= reach:
            return False
        if self.joins(seq, "gpu", names[reach:held]):
            return True
        if not self.hold(seq, reach, held * self.block):
            return None
        cpu.pin(names)
        self.under_way(seq, "gpu", names[reach:held])
        overhead, began, count = self.cost.overhead, self.now, held - reach
        ready = began
        self.hand_over(IN, count)
        if self.engine.offload.load_start == "step_end" and self.executing is not None:
            ready = max(began, self.busy_until)
        handed = overhead.submit_piece_s * self.tensors * count
        batched = min(handed, overhead.submit_piece_s * self.engine.offload.batch_copies)
        ready = self.built = max(ready, self.built) + ((overhead.load_block_s + overhead.load_piece_s * self.tensors) * count + batched)
        _, done = self.link.send(IN, ready, max(handed - batched, self.link_s(IN, count)))

        def loaded() -> None:
            cpu.unpin(names)
            seq.computed = held * self.block
            self.share(seq)
            seq.computed = min(seq.computed, seq.target - 1)
            found = min(held * self.block, seq.prompt - 1)  # the last token is computed again
            last = held * self.block - found if held - 1 in seq.from_disk else 0
            from_disk = len(seq.from_disk & set(range(reach, held))) * self.block - last
            seq.hits = seq.hits if seq.counted else (reach * self.block, found - reach * self.block - from_disk, from_disk)
            seq.load += self.now - began
            seen = self.engine.offload.loads_seen_after_step and self.executing is not None
            self.over(seq, "gpu", self.launched_next() if seen else 0)

        def over() -> None:
            seen = self.engine.offload.loads_seen_after_step and self.executing is not None
            self.after(0.0 if seen else overhead.load_s, loaded)

        self.at(done, over)
        return True

    def launched_next(self) -> int:
        assert self.executing is not None
        first = self.steps - self.inflight.index(self.executing)
        return next((first + at for at, plan in enumerate(self.inflight) if plan["launched"] > self.now), first + len(self.inflight))

    def promote(self, seq: Seq, names: list[Name], held: int, below: int) -> bool:
        cpu, disk = self.cpu, self.disk
        assert cpu is not None and disk is not None
        gaps = cpu.lacking(names[:below])
        if not gaps or len(gaps) > cpu.room() - sum(name in cpu.order for name in names):
            return False
        cpu.pin(names)
        disk.pin(names)
        cpu.take(len(gaps))
        cpu.coming |= set(gaps)
        self.under_way(seq, "cpu", names[held:below])
        began = self.now
        done = self.disk_done(IN, len(gaps), self.engine.offload.disk_read_threads)

        def promoted() -> None:
            cpu.arrived(gaps)
            disk.unpin(names)
            seq.from_disk |= set(range(held, below))
            seq.load += self.now - began
            cpu.unpin(names)
            self.over(seq, "cpu", seq.seen_step)

        self.at(done, promoted)
        return True

    def under_way(self, seq: Seq, tier: str, names: list[Name]) -> None:
        seq.waits = True
        for name in names:
            self.loading[tier, name] = seq

    def joins(self, seq: Seq, tier: str, names: list[Name]) -> bool:
        for name in names:
            if (tier, name) in self.loading:
                self.loading[tier, name].waiters.append(seq)
                seq.waits = True
                return True
        return False

    def over(self, seq: Seq, tier: str, seen_step: int) -> None:
        self.loading = {key: by for key, by in self.loading.items() if by is not seq or key[0] != tier}
        released, seq.waiters = seq.waiters, []
        seq.waits, self.stuck = False, None
        for waiter in released:
            waiter.waits = False
            if tier == "gpu":
                waiter.seen_step = seen_step
        seq.seen_step, self.stuck = seen_step, None
        self.pump()

    def link_s(self, direction: int, count: int) -> float:
        moved = self.moved(direction, count)
        return self.link.service_s(direction, moved.rank_bytes, moved.pieces)

    def moved(self, direction: int, count: int) -> Moved:
        return self.below.loaded(count * self.block) if direction == IN else self.below.stored(count * self.block)

    def disk_done(self, direction: int, count: int, threads: int) -> float:
        """A request takes the device for its share of a full queue, and alone as long as its own depth makes it."""
        moved = self.moved(direction, count)
        size, count = moved.tier_bytes, moved.keys
        handled = count * self.file_s
        start, free = self.queue.send(direction, self.now, max(handled, self.queue.share_s(direction, size, count, threads)))
        end = max(free, start + max(handled, self.queue.service_s(direction, size, count, threads)))
        if handled > LEAST_SHARE * (end - start):
            self.files.append((start, end, handled))
        return end

    def beside_files(self, work: float) -> float:
        """What the engine's work takes beside threads that handle files in its interpreter."""
        running = [(handled / (end - start), end - self.now) for start, end, handled in self.files if start <= self.now < end]
        share, left = sum(one for one, _ in running), sum(one * more for one, more in running)
        return work + (min(left, work * share / (1 - share)) if share < 1 else left)

    def store(self, seq: Seq, upto: int) -> None:
        cpu, end = self.cpu, min(upto // self.block, len(seq.prompt_names))
        if cpu is None or end <= seq.stored:
            return
        names, wanted = seq.names, seq.prompt_names[:end]
        cpu.touch(seq.prompt_names)
        cpu.pin(names)
        gaps = cpu.lacking(wanted)
        if not gaps or not cpu.take(len(gaps)):
            cpu.unpin(names)
            seq.stored = seq.stored if gaps else end
            return
        seq.stored = end
        cpu.coming |= set(gaps)
        _, done = self.link.send(OUT, self.now, self.link_s(OUT, len(gaps)))
        self.hand_over(OUT, len(gaps))
        holds = self.engine.offload.store_holds_blocks
        if holds:
            self.gpu.pin(names)
        else:
            self.copied.append((done, set(wanted[wanted.index(gaps[0]) :])))

        def stored() -> None:
            cpu.arrived(gaps)
            self.cascade(names, wanted)
            cpu.unpin(names)
            if holds:
                self.gpu.unpin(names)
                if self.stuck:
                    self.stuck = None
                    self.pump()

        self.at(done, stored)

    def hand_over(self, direction: int, count: int) -> None:
        if direction == IN or not self.engine.offload.stores_before_launch:
            self.submitted[direction] = max(self.now, self.submitted[direction]) + self.submit_s(count)

    def submit_s(self, count: int) -> float:
        return count * self.cost.overhead.submit_piece_s * self.tensors

    def reused(self, name: Name | None) -> None:
        for done, names in self.copied:
            if done > self.now and name in names:
                self.space = max(self.space, done)

    def cascade(self, names: list[Name], wanted: list[Name]) -> None:
        disk, cpu = self.disk, self.cpu
        if disk is None or cpu is None:
            return
        disk.pin(names)
        gaps = disk.lacking(wanted)
        if not gaps or not disk.take(len(gaps)):
            disk.unpin(names)
            return
        disk.coming |= set(gaps)
        cpu.pin(names)
        done = self.disk_done(OUT, len(gaps), self.engine.offload.disk_write_threads)

        def written() -> None:
            disk.arrived(gaps)
            disk.unpin(names)
            cpu.unpin(names)

        self.at(done, written)
