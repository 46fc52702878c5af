"""One replica: requests wait, are admitted, run in steps of a token budget, and leave their blocks behind.

The rules follow vLLM's V1 scheduler: decodes first, prefill chunks fill the budget, admission by free blocks, preemption by recompute of
the newest request (or by priority, see scheduling), blocks freed tail first. A step is planned while the one before it still runs
(`plan_ahead`), so that an arrival is seen one step later. Between changes of the batch, decode steps are taken many at a time in closed
form.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import takewhile

from kvplan.engine.spec import EngineSpec
from kvplan.sim.cache.pool import span
from kvplan.sim.cache.prefix import Node, PrefixTree, retain
from kvplan.sim.cache.tier import Tier
from kvplan.sim.clock import Clock
from kvplan.sim.outcome.record import Recorder
from kvplan.sim.replica.decode_run import Bulk
from kvplan.sim.replica.scheduler import SCHEDULING
from kvplan.sim.replica.sequence import Job, Pauses, Plan
from kvplan.sim.transfer.loads import Outcome
from kvplan.sim.transfer.transfers import Transfers
from kvplan.step_time import StepCost


class Replica:
    """An engine with its tiers. `done(job)` is called when a job has finished."""

    def __init__(
        self,
        clock: Clock,
        engine: EngineSpec,
        cost: StepCost,
        tree: PrefixTree,
        gpu: Tier,
        transfers: Transfers,
        recorder: Recorder,
        *,
        jump: bool = True,
        done: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self.clock, self.engine, self.cost, self.tree, self.gpu = clock, engine, cost, tree, gpu
        self.transfers, self.recorder, self.jump, self.done = transfers, recorder, jump, done
        self.block = engine.block_tokens
        self.depth = 2 if engine.plan_ahead else 1
        self.order = SCHEDULING[engine.scheduling]
        self.waiting: deque[Job] = deque()
        self.held: list[Job] = []  # taken from the waiting line, loading or waiting for somebody's load
        self.running: list[Job] = []
        self.inflight: deque[Plan] = deque()  # planned and not yet handled, oldest first
        self.executing: Plan | None = None
        self.pauses = Pauses(engine, offloading=transfers.stores is not None)
        self.steps = 0  # started
        self.busy_s = 0.0  # in steps
        self.handled_s = 0.0  # when the results of the last step were seen
        self.stuck: Job | None = None  # cannot be admitted before something is freed, nor can anybody behind it
        self._bulk: Bulk | None = None
        self._timer = 0
        transfers.on_freed(self.freed)

    # -- life of a request -------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """A job enters the waiting line."""
        self.order.join(self.waiting, job)
        if self.stuck is not None and self.order.overtakes(job, self.stuck):
            self.stuck = None
        self.transfers.submitted(self, job)
        self.wake()

    @property
    def load(self) -> int:
        """Requests that wait or run."""
        return len(self.waiting) + len(self.held) + len(self.running)

    def wake(self) -> None:
        """Something happened that a plan could use: an arrival, a finished load, space."""
        if self._bulk is not None:
            self._end_bulk()
        self._pump()

    def freed(self) -> None:
        """Blocks have become evictable without a step of the engine."""
        if self.stuck is not None:
            self.stuck = None
            self.wake()

    def loaded(self, job: Job) -> None:
        """A job's load has ended; while steps run, the one that starts next reports it, and it is seen when that has ended."""
        if self._bulk is not None:
            self._end_bulk()
        job.seen_step = self.steps + 1 if self.executing is not None and self.engine.offload.loads_seen_after_step else 0
        self.unblocked()

    def unblocked(self) -> None:
        """What a held job waited for has happened."""
        self.stuck = None
        self.wake()

    def busy_until_s(self) -> float:
        """When the step in progress ends; now when none is."""
        plan = self.executing
        return self.clock.now if plan is None else max(self.clock.now, plan.start_s + plan.duration_s, plan.launched_s)

    def _pump(self) -> None:
        while len(self.inflight) < self.depth:
            plan = self._plan()
            if plan is None:
                break
            self.inflight.append(plan)
            if self.executing is None:
                self._execute(plan)
        if self.executing is not None and self.jump:
            self._try_bulk()

    def _execute(self, plan: Plan) -> None:
        self.executing = plan
        self.steps += 1
        plan.start_s = max(self.transfers.inputs_sent_s(self.clock.now), plan.ready_s)
        plan.stall_s = self.transfers.stall_s(plan, plan.start_s)
        plan.duration_s += plan.stall_s
        end_s = max(plan.start_s + plan.duration_s, plan.launched_s)
        self.busy_s += end_s - plan.start_s
        self._alarm(end_s - self.clock.now, self._executed)

    def _alarm(self, delay: float, action: Callable[[], None]) -> None:
        """Call `action` after `delay`, unless a later alarm replaces it."""
        self._timer += 1
        timer = self._timer

        def ring() -> None:
            if timer == self._timer:
                action()

        self.clock.after(delay, ring)

    def _executed(self) -> None:
        """The GPU has finished a step: start the next one that is planned, and hand the results over when they reach the host."""
        plan, now = self.executing, self.clock.now
        assert plan is not None
        self.executing = None
        free_s = self.transfers.outputs_seen_s(now)
        plan.held_s = free_s - now
        seen_s = free_s + self.engine.overhead.collect_s
        for job, new, context in plan.chunks:
            if job.running:
                self.transfers.store(job, context + new)
        index = self.inflight.index(plan)
        if index + 1 < len(self.inflight):
            self._execute(self.inflight[index + 1])
        if seen_s <= now:
            self._handle(plan)
        else:
            self.clock.at(seen_s, lambda: self._handle(plan))

    def _handle(self, plan: Plan) -> None:
        now = self.clock.now
        self.inflight.remove(plan)
        tokens = 0
        for job, epoch in plan.sampled:
            if job.epoch != epoch:
                continue
            job.emitted += 1
            if job.emitted == 1:
                job.first_s, job.held_s = now, plan.held_s
            elif job.paused_s >= 0:  # its last token came before it was preempted
                self.recorder.intervals(now - job.paused_s, 1)
                job.paused_s = -1.0
            else:
                tokens += 1
            if job.emitted >= job.output:
                self._finish(job)
        if tokens:
            self._interval(plan, now - self.handled_s, tokens)
        self.handled_s = now
        self._pump()

    def _interval(self, plan: Plan, seconds: float, tokens: int) -> None:
        """A step has given `tokens` tokens that came `seconds` after the ones before them."""
        self.recorder.intervals(seconds, tokens)
        slow = self.recorder.slow
        if seconds > slow.limit_s and self.recorder.measuring:
            attention_s = self.cost.decode_attention_s([job.computed for job in plan.decodes])
            decode_s = self.cost.busy_s((), len(plan.decodes), attention_s, len(plan.decodes))
            slow.add(seconds, tokens, step_s=plan.duration_s, decode_s=decode_s, held_s=plan.held_s)

    def _finish(self, job: Job) -> None:
        job.last_s = self.clock.now
        self.running.remove(job)
        self.transfers.store_generated(job)
        self._name_answer(job)
        self._release(job)
        self.recorder.finished(job)
        self.done(job)

    def _name_answer(self, job: Job) -> None:
        """Enter a job's answer into the prefix index under the names that the next turn's prompt gives it, if that goes on from here."""
        following, leaf = job.following, job.leaf
        if following is None or leaf is None or job.own_tail is not None or job.shared_tokens != leaf.end or not self.engine.prefix_caching:
            return
        end = min((job.computed - 1) // self.block * self.block, following.prompt_tokens)
        answer = self.tree.path(following.blocks, end)
        added = span(answer, leaf.end)
        if not added or added[0].parent is not leaf or any(node.entries[0] is not None for node in added):
            self.tree.prune(answer)
            return
        self.gpu.pin(answer)
        self.gpu.unpin(leaf)
        for node in added:
            entry = node.entries[0]
            assert entry is not None
            self.gpu.grow(entry, node.end - node.start)
        job.leaf, job.shared_tokens = answer, answer.end

    def _release(self, job: Job) -> None:
        """Free a job's blocks, the tail first: what nobody can share, then its content from the leaf to the root.

        A block that is not full has no hash and is free at once.
        """
        job.running = False
        gpu = self.gpu
        full = min(job.blocks, max(job.computed - 1, 0) // self.block) * self.block
        gpu.leave(max(0, full - job.shared_tokens))
        gpu.give_back(job.blocks * self.block - max(full, job.shared_tokens))
        leaf = job.own_tail or job.leaf
        assert leaf is not None
        gpu.unpin(leaf)
        job.blocks = job.shared_tokens = 0
        job.leaf = job.own_tail = None
        self.stuck = None

    # -- planning a step ---------------------------------------------------------------------------------------------------

    def _plan(self) -> Plan | None:
        """The next step, or None when nothing can run."""
        now = self.clock.now
        prepare_s = self.engine.overhead.prepare_s if self.executing is None else 0.0
        plan = Plan(now, max(now + prepare_s, self.transfers.inputs_sent_s(now)))
        budget = self.engine.step_tokens
        preempted = False
        for job in list(self.running):
            if not job.running:
                continue
            need = job.target - job.computed
            if need <= 0 and job.planned >= job.output:
                continue  # its last token is on the way
            new = min(need, budget) if need > 0 else 1
            if new <= 0 or budget <= 0:
                break
            upto = job.computed + new
            if upto > job.blocks * self.block:
                while job.running and not self._allocate(job, upto):
                    victim = self.order.victim(self.running)
                    budget += plan.withdraw(victim)
                    self._preempt(victim)
                    preempted = True
                if not job.running:
                    break
            self._add(plan, job, new)
            budget -= new
        if not preempted or plan.empty:  # after a preemption nobody is admitted in the same step
            self._admit(plan, budget)
        if plan.empty:
            return None
        plan.loads = self.transfers.planned()
        self._time(plan)
        return plan

    def _add(self, plan: Plan, job: Job, new: int) -> None:
        context = job.computed
        job.computed += new
        if context < job.target:
            plan.chunks.append((job, new, context))
            self.share(job)
            if job.computed < job.target:
                return
        else:
            plan.decodes.append(job)
        job.planned += 1
        plan.sampled.append((job, job.epoch))

    def _time(self, plan: Plan) -> None:
        attention = 0.0
        if plan.decodes:
            attention = self.cost.decode_attention_s([job.computed for job in plan.decodes])
        chunks = [(new, context) for _, new, context in plan.chunks]
        plan.launched_s += self.cost.host_s(chunks, len(plan.decodes))
        pause_s = self.pauses.due_s()
        plan.paused = pause_s > 0
        plan.duration_s = self.cost.busy_s(chunks, len(plan.decodes), attention, len(plan.sampled)) + pause_s
        if not chunks:  # the host prepares one step while another runs: no two can be closer
            plan.duration_s = max(plan.duration_s, self.cost.host_s(chunks, len(plan.decodes)))

    def _preempt(self, job: Job) -> None:
        """Take a running job's blocks away; it will compute again what the tiers do not hold."""
        self.running.remove(job)
        self._keep_generated(job)
        self._release(job)
        if job.emitted and job.paused_s < 0:
            job.paused_s = self.handled_s
        job.computed = 0
        job.planned = job.emitted
        job.target = job.prompt + job.emitted
        job.epoch += 1
        job.preemptions += 1
        job.stored = 0
        self.order.rejoin(self.waiting, job)

    def _keep_generated(self, job: Job) -> None:
        """Give the full blocks that a job generated a place in the prefix index, where it finds them when it comes back."""
        assert job.leaf is not None
        end = min(job.computed, job.prompt + job.emitted) // self.block * self.block
        start = job.own_tail.end if job.own_tail else job.leaf.end
        if end <= start or job.shared_tokens != start:
            return
        parent = job.own_tail or job.leaf
        key = (job.request.index, job.preemptions)
        node = parent.children[key] = Node(parent, (key,), start, end, self.tree.tiers)
        self.gpu.pin(node)
        self.gpu.unpin(parent)
        entry = node.entries[0]
        assert entry is not None
        self.gpu.grow(entry, end - start)
        job.shared_tokens += end - start
        job.own_tail = node

    # -- admission ---------------------------------------------------------------------------------------------------------

    def _admit(self, plan: Plan, budget: int) -> None:
        for job in self._line():
            if budget <= 0 or len(self.running) >= self.engine.max_batch:
                return
            new = self._try(job, budget)
            if new is None:
                self.stuck = job
                break
            if self.waiting and self.waiting[0] is job:
                self.waiting.popleft()
                if not new:
                    self.held.append(job)
            elif new:
                self.held.remove(job)
            if new:
                self._start(plan, job, new)
                budget -= new
        if self.stuck is not None:
            self._unwedge()

    def _line(self) -> Iterator[Job]:
        """Who may be admitted, in order: held jobs that can go on, then the waiting line; nobody behind one that did not fit."""
        for job in self.order.held(self.held):
            while self.waiting and self.stuck is None and self.order.overtakes(self.waiting[0], job):
                yield self.waiting[0]
            if job is self.stuck:
                return
            if self._ready(job):
                yield job
        while self.waiting and self.stuck is None:
            yield self.waiting[0]

    def _ready(self, job: Job) -> bool:
        """Can a held job go on: nothing is on its way for it, and the scheduler has been told so."""
        return job.blocked_on is None and not (self.running and job.seen_step > self.steps - len(self.inflight))

    def _unwedge(self) -> None:
        """Nothing runs and the head does not fit: jobs that hold loaded blocks while they wait give them back, newest first."""
        if self.running or self.inflight:
            return
        for job in reversed(self.held):
            if job.blocks and job.blocked_on is None:
                self._release(job)
                job.computed = 0
                self.clock.after(0.0, self.wake)
                return

    def _start(self, plan: Plan, job: Job, new: int) -> None:
        if job.admit_s < 0:
            job.admit_s = self.clock.now
        if not job.counted:
            job.counted = True
            self.pauses.owed += self.pauses.per_token * job.output
            self.recorder.admitted(job)
        job.running = True
        self.running.append(job)
        self._add(plan, job, new)

    def _try(self, job: Job, budget: int) -> int | None:
        """Tokens that a waiting job computes in this step; 0: it waits for a load; None: it does not fit now."""
        if job.blocks:  # what it waited for is in place
            return self._resume(job, budget)
        path = self._find(job)
        reach = 0
        if self.engine.prefix_caching:
            reach = min(self.gpu.reach(path, 0), (job.target - 1) // self.block * self.block)
        outcome = self.transfers.begin(self, job, path, reach, budget)
        if outcome is Outcome.WAITS:
            return 0
        if outcome is Outcome.IN_STEP:
            return self._resume(job, budget)
        if outcome is Outcome.NO_ROOM or not self.hold(job, path, reach, reach + min(job.target - reach, budget)):
            self._drop(job)
            return None
        job.computed = reach
        if not job.counted:
            job.hits = (reach, 0, 0, 0)
        return min(job.target - reach, budget)

    def _resume(self, job: Job, budget: int) -> int | None:
        """Tokens that a job with blocks computes in this step; None: they do not fit now."""
        new = min(job.target - job.computed, budget)
        if self._missing_tokens(job, self._wanted(job, job.computed + new)) > self.gpu.room_tokens:
            return None
        self._allocate(job, job.computed + new)
        return new

    def gpu_reach(self, job: Job) -> int:
        """Tokens of a job's prompt that the GPU holds now."""
        if not self.engine.prefix_caching:
            return 0
        leaf = self.tree.path(job.request.blocks, job.prompt)
        reach = self.gpu.reach(span(leaf, 0), 0)
        self.tree.prune(leaf)
        return reach

    def _wanted(self, job: Job, upto: int) -> int:
        """Tokens that must fit for a job to be admitted."""
        return max(upto, job.target) if self.engine.reserve_full_prompt else upto

    def _find(self, job: Job) -> list[Node]:
        """The job's content, from the first run to the last, marked as in use."""
        request = job.request
        leaf = self.tree.path(request.blocks, request.prompt_tokens) if request.blocks else self.tree.root
        job.leaf = leaf
        path = span(leaf, 0)
        retain(path, request.retention)
        if job.preemptions:
            self._find_generated(job, path)
        return path

    def _find_generated(self, job: Job, path: list[Node]) -> None:
        node = job.leaf
        for generation in range(job.preemptions):
            child = node.children.get((job.request.index, generation)) if node is not None else None
            if child is not None:
                path.append(child)
                job.own_tail = node = child

    def _drop(self, job: Job) -> None:
        """Forget runs that were made for a job that could not be admitted."""
        for node in (job.own_tail, job.leaf):
            if node is not None and node.parent is not None:
                self.tree.prune(node)
        job.leaf = job.own_tail = None

    def hold(self, job: Job, path: list[Node], reach: int, upto: int) -> bool:
        """Pin a job's path, of which the GPU has `reach` tokens, and take blocks up to token `upto`. False, and nothing done: no room."""
        gpu, block = self.gpu, self.block
        if -(-(self._wanted(job, upto) - reach) // block) * block > gpu.room_tokens - gpu.pinnable_tokens(path):
            return False
        if path:
            gpu.pin(path[-1])
        job.blocks = reach // block
        job.shared_tokens = reach
        self._allocate(job, upto)
        return True

    def _missing_tokens(self, job: Job, upto: int) -> int:
        return max(0, -(-upto // self.block) - job.blocks) * self.block

    def _allocate(self, job: Job, upto: int) -> bool:
        """Blocks for a job's first `upto` tokens; False when they cannot be had."""
        missing = self._missing_tokens(job, upto)
        if missing and not self.gpu.take(missing):
            return False
        job.blocks += missing // self.block
        return True

    def share(self, job: Job) -> None:
        """Enter the full blocks of a job's content into the prefix index as far as they are planned; duplicates stay its own."""
        leaf = job.own_tail or job.leaf
        assert leaf is not None
        if not self.engine.prefix_caching:
            return
        done = job.computed // self.block * self.block
        if done <= job.shared_tokens:
            return
        for node in span(leaf, job.shared_tokens):
            end = min(done, node.end)
            entry = node.entries[0]
            assert entry is not None
            held = node.start + entry.tokens
            if end <= held:
                continue
            self.gpu.grow(entry, end - held)
            job.shared_tokens += end - held

    # -- many decode steps at once -----------------------------------------------------------------------------------------

    def _try_bulk(self) -> None:
        """Take as many equal decode steps as nothing can change, in one event."""
        first = self.executing
        assert first is not None
        if first.chunks or len(self.inflight) < 2 or self.inflight[0] is not first or first.start_s > self.clock.now:
            return
        jobs = first.decodes
        now = self.clock.now
        for plan in self.inflight:
            if plan.chunks or plan.decodes != jobs or len(plan.sampled) != len(jobs) or plan.paused:
                return
        if max(self.inflight[1].ready_s, first.launched_s) > first.start_s + first.duration_s + 1e-12:
            return  # the GPU will wait for the host
        if self._may_admit() or any(plan.stall_s for plan in self.inflight) or self.transfers.space_s() > now:
            return
        if len(jobs) != len(self.running) or max(self.transfers.outputs_seen_s(now), self.transfers.inputs_sent_s(now)) > now:
            return  # copies still hold up tokens or inputs
        steps = min(job.output - job.planned for job in jobs)
        steps = min(steps, self._steps_with_blocks(jobs, steps))
        if steps < 2:
            return
        bulk = Bulk(self, jobs, first, steps)
        if bulk.steps < 2:
            return
        self._bulk = bulk
        self._alarm(bulk.handled_s(bulk.steps) - self.clock.now, self._end_bulk_and_go)

    def _may_admit(self) -> bool:
        """Could a plan made after the next step admit somebody."""
        if len(self.running) >= self.engine.max_batch:
            return False
        if self.waiting and self.stuck is None:
            return True
        return any(job.blocked_on is None for job in takewhile(lambda job: job is not self.stuck, self.held))

    def _steps_with_blocks(self, jobs: list[Job], steps: int) -> int:
        gpu, block = self.gpu, self.block
        free = gpu.room_tokens if gpu.spill is None else gpu.capacity_tokens - gpu.used_tokens  # what is given up takes time to store
        room = free // block
        if len(jobs) * (steps // block + 1) <= room:
            return steps
        low, high = 0, steps
        while low < high:
            middle = (low + high + 1) // 2
            if sum(max(0, -(-(job.computed + middle) // block) - job.blocks) for job in jobs) <= room:
                low = middle
            else:
                high = middle - 1
        return low

    def _end_bulk_and_go(self) -> None:
        self._end_bulk()
        self._pump()

    def _end_bulk(self) -> None:
        """Account for the steps of a bulk whose results have been handled; the one or two after them go on as ordinary ones."""
        bulk, now = self._bulk, self.clock.now
        assert bulk is not None
        self._bulk = None
        steps = bulk.steps_before(now)
        bulk.apply(steps)
        self.busy_s += bulk.elapsed_s(steps)
        if steps:
            self.handled_s = bulk.handled_s(steps)
        first, second = self.inflight
        first.start_s = bulk.start_s + bulk.elapsed_s(steps)
        first.duration_s, second.duration_s = bulk.step_s(steps), bulk.step_s(steps + 1)
        end_s = first.start_s + first.duration_s
        if end_s > now:
            self._alarm(end_s - now, self._executed)
            return
        self.executing, second.start_s = second, end_s
        self.steps += 1
        self._alarm(max(0.0, end_s + second.duration_s - now), self._executed)
        self.clock.at(bulk.handled_s(steps + 1), lambda: self._handle(first))
