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
from kvplan.sim.cache.gpu_cache import GpuCache
from kvplan.sim.clock import Clock
from kvplan.sim.outcome.record import Recorder
from kvplan.sim.replica.decode_run import Bulk
from kvplan.sim.replica.scheduler import SCHEDULING
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.replica.step import Pauses, ScheduledStep
from kvplan.sim.transfer.loads import Outcome
from kvplan.sim.transfer.transfers import Transfers
from kvplan.step_time import StepCost


class Replica:
    """An engine with its tiers. `done(seq)` is called when a seq has finished."""

    def __init__(
        self,
        clock: Clock,
        engine: EngineSpec,
        cost: StepCost,
        gpu: GpuCache,
        transfers: Transfers,
        recorder: Recorder,
        *,
        jump: bool = True,
        done: Callable[[Sequence], None] = lambda seq: None,
    ) -> None:
        self.clock, self.engine, self.cost, self.gpu = clock, engine, cost, gpu
        self.transfers, self.recorder, self.jump, self.done = transfers, recorder, jump, done
        self.block = engine.block_tokens
        self.depth = 2 if engine.plan_ahead else 1
        self.order = SCHEDULING[engine.scheduling]
        self.waiting: deque[Sequence] = deque()
        self.held: list[Sequence] = []  # taken from the waiting line, loading or waiting for somebody's load
        self.running: list[Sequence] = []
        self.inflight: deque[ScheduledStep] = deque()  # planned and not yet handled, oldest first
        self.executing: ScheduledStep | None = None
        self.pauses = Pauses(engine, offloading=transfers.stores is not None)
        self.steps = 0  # started
        self.busy_s = 0.0  # in steps
        self.handled_s = 0.0  # when the results of the last step were seen
        self.stuck: Sequence | None = None  # cannot be admitted before something is freed, nor can anybody behind it
        self._bulk: Bulk | None = None
        self._timer = 0
        transfers.on_freed(self.freed)

    # -- life of a request -------------------------------------------------------------------------------------------------

    def submit(self, seq: Sequence) -> None:
        """A seq enters the waiting line."""
        self.order.join(self.waiting, seq)
        if self.stuck is not None and self.order.overtakes(seq, self.stuck):
            self.stuck = None
        if self.transfers.prefetches:
            self.transfers.submitted(seq, self.gpu.peek(seq), lambda on_gpu: self._loaded(seq, on_gpu))
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

    def _loaded(self, seq: Sequence, on_gpu: bool) -> None:
        """What a held sequence waited for has happened; with `on_gpu` its own load has ended.

        While steps run, the one that starts next reports a load, and it is seen when that has ended.
        """
        if on_gpu:
            if self._bulk is not None:
                self._end_bulk()
            late = self.executing is not None and self.engine.offload.loads_seen_after_step
            seq.seen_step = self.steps + 1 if late else 0
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

    def _execute(self, plan: ScheduledStep) -> None:
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
        for seq, new, context in plan.chunks:
            if seq.running:
                self.transfers.store(seq, context + new)
        index = self.inflight.index(plan)
        if index + 1 < len(self.inflight):
            self._execute(self.inflight[index + 1])
        if seen_s <= now:
            self._handle(plan)
        else:
            self.clock.at(seen_s, lambda: self._handle(plan))

    def _handle(self, plan: ScheduledStep) -> None:
        now = self.clock.now
        self.inflight.remove(plan)
        tokens = 0
        for seq, epoch in plan.sampled:
            if seq.epoch != epoch:
                continue
            seq.emitted += 1
            if seq.emitted == 1:
                seq.first_s, seq.held_s = now, plan.held_s
            elif seq.paused_s >= 0:  # its last token came before it was preempted
                self.recorder.intervals(now - seq.paused_s, 1)
                seq.paused_s = -1.0
            else:
                tokens += 1
            if seq.emitted >= seq.output:
                self._finish(seq)
        if tokens:
            self._interval(plan, now - self.handled_s, tokens)
        self.handled_s = now
        self._pump()

    def _interval(self, plan: ScheduledStep, seconds: float, tokens: int) -> None:
        """A step has given `tokens` tokens that came `seconds` after the ones before them."""
        self.recorder.intervals(seconds, tokens)
        slow = self.recorder.slow
        if seconds > slow.limit_s and self.recorder.measuring:
            attention_s = self.cost.decode_attention_s([seq.computed for seq in plan.decodes])
            decode_s = self.cost.busy_s((), len(plan.decodes), attention_s, len(plan.decodes))
            slow.add(seconds, tokens, step_s=plan.duration_s, decode_s=decode_s, held_s=plan.held_s)

    def _finish(self, seq: Sequence) -> None:
        seq.last_s = self.clock.now
        self.running.remove(seq)
        self.transfers.store_generated(seq)
        self.gpu.name_answer(seq)
        self._release(seq)
        self.recorder.finished(seq)
        self.done(seq)

    def _release(self, seq: Sequence) -> None:
        seq.running = False
        self.gpu.release(seq)
        self.stuck = None

    # -- planning a step ---------------------------------------------------------------------------------------------------

    def _plan(self) -> ScheduledStep | None:
        """The next step, or None when nothing can run."""
        now = self.clock.now
        prepare_s = self.engine.overhead.prepare_s if self.executing is None else 0.0
        plan = ScheduledStep(now, max(now + prepare_s, self.transfers.inputs_sent_s(now)))
        budget = self.engine.step_tokens
        preempted = False
        for seq in list(self.running):
            if not seq.running:
                continue
            need = seq.target - seq.computed
            if need <= 0 and seq.planned >= seq.output:
                continue  # its last token is on the way
            new = min(need, budget) if need > 0 else 1
            if new <= 0 or budget <= 0:
                break
            upto = seq.computed + new
            if upto > seq.blocks * self.block:
                while seq.running and not self.gpu.allocate(seq, upto):
                    victim = self.order.victim(self.running)
                    budget += plan.withdraw(victim)
                    self._preempt(victim)
                    preempted = True
                if not seq.running:
                    break
            self._add(plan, seq, new)
            budget -= new
        if not preempted or plan.empty:  # after a preemption nobody is admitted in the same step
            self._admit(plan, budget)
        if plan.empty:
            return None
        plan.loads = self.transfers.planned()
        self._time(plan)
        return plan

    def _add(self, plan: ScheduledStep, seq: Sequence, new: int) -> None:
        context = seq.computed
        seq.computed += new
        if context < seq.target:
            plan.chunks.append((seq, new, context))
            self.gpu.share(seq)
            if seq.computed < seq.target:
                return
        else:
            plan.decodes.append(seq)
        seq.planned += 1
        plan.sampled.append((seq, seq.epoch))

    def _time(self, plan: ScheduledStep) -> None:
        attention = 0.0
        if plan.decodes:
            attention = self.cost.decode_attention_s([seq.computed for seq in plan.decodes])
        chunks = [(new, context) for _, new, context in plan.chunks]
        plan.launched_s += self.cost.host_s(chunks, len(plan.decodes))
        pause_s = self.pauses.due_s()
        plan.paused = pause_s > 0
        plan.duration_s = self.cost.busy_s(chunks, len(plan.decodes), attention, len(plan.sampled)) + pause_s
        if not chunks:  # the host prepares one step while another runs: no two can be closer
            plan.duration_s = max(plan.duration_s, self.cost.host_s(chunks, len(plan.decodes)))

    def _preempt(self, seq: Sequence) -> None:
        """Take a running seq's blocks away; it will compute again what the tiers do not hold."""
        self.running.remove(seq)
        self.gpu.keep_generated(seq)
        self._release(seq)
        if seq.emitted and seq.paused_s < 0:
            seq.paused_s = self.handled_s
        seq.computed = 0
        seq.planned = seq.emitted
        seq.target = seq.prompt + seq.emitted
        seq.epoch += 1
        seq.preemptions += 1
        seq.stored = 0
        self.order.rejoin(self.waiting, seq)

    # -- admission ---------------------------------------------------------------------------------------------------------

    def _admit(self, plan: ScheduledStep, budget: int) -> None:
        for seq in self._line():
            if budget <= 0 or len(self.running) >= self.engine.max_batch:
                return
            new = self._try(seq, budget)
            if new is None:
                self.stuck = seq
                break
            if self.waiting and self.waiting[0] is seq:
                self.waiting.popleft()
                if not new:
                    self.held.append(seq)
            elif new:
                self.held.remove(seq)
            if new:
                self._start(plan, seq, new)
                budget -= new
        if self.stuck is not None:
            self._unwedge()

    def _line(self) -> Iterator[Sequence]:
        """Who may be admitted, in order: held seqs that can go on, then the waiting line; nobody behind one that did not fit."""
        for seq in self.order.held(self.held):
            while self.waiting and self.stuck is None and self.order.overtakes(self.waiting[0], seq):
                yield self.waiting[0]
            if seq is self.stuck:
                return
            if self._ready(seq):
                yield seq
        while self.waiting and self.stuck is None:
            yield self.waiting[0]

    def _ready(self, seq: Sequence) -> bool:
        """Can a held seq go on: nothing is on its way for it, and the scheduler has been told so."""
        return not seq.waiting_for_remote_kv and not (self.running and seq.seen_step > self.steps - len(self.inflight))

    def _unwedge(self) -> None:
        """Nothing runs and the head does not fit: seqs that hold loaded blocks while they wait give them back, newest first."""
        if self.running or self.inflight:
            return
        for seq in reversed(self.held):
            if seq.blocks and not seq.waiting_for_remote_kv:
                self._release(seq)
                seq.computed = 0
                self.clock.after(0.0, self.wake)
                return

    def _start(self, plan: ScheduledStep, seq: Sequence, new: int) -> None:
        if seq.admit_s < 0:
            seq.admit_s = self.clock.now
        if not seq.counted:
            seq.counted = True
            self.pauses.owed += self.pauses.per_token * seq.output
        seq.running = True
        self.running.append(seq)
        self._add(plan, seq, new)

    def _try(self, seq: Sequence, budget: int) -> int | None:
        """Tokens that a waiting seq computes in this step; 0: it waits for a load; None: it does not fit now."""
        if seq.blocks:  # what it waited for is in place
            return self._resume(seq, budget)
        path = self.gpu.find(seq)
        reach = self.gpu.reach(seq, path)
        outcome = self.transfers.begin(seq, path, reach, budget, self.busy_until_s(), lambda on_gpu: self._loaded(seq, on_gpu))
        if outcome is Outcome.WAITS:
            return 0
        if outcome is Outcome.IN_STEP:
            return self._resume(seq, budget)
        if outcome is Outcome.NO_ROOM or not self.gpu.hold(seq, path, reach, reach + min(seq.target - reach, budget)):
            self.gpu.drop(seq)
            return None
        seq.computed = reach
        if not seq.counted:
            seq.hits = (reach, 0, 0, 0)
        return min(seq.target - reach, budget)

    def _resume(self, seq: Sequence, budget: int) -> int | None:
        """Tokens that a seq with blocks computes in this step; None: they do not fit now."""
        new = min(seq.target - seq.computed, budget)
        return new if self.gpu.extend(seq, seq.computed + new) else None

    # -- many decode steps at once -----------------------------------------------------------------------------------------

    def _try_bulk(self) -> None:
        """Take as many equal decode steps as nothing can change, in one event."""
        first = self.executing
        assert first is not None
        if first.chunks or len(self.inflight) < 2 or self.inflight[0] is not first or first.start_s > self.clock.now:
            return
        seqs = first.decodes
        now = self.clock.now
        for plan in self.inflight:
            if plan.chunks or plan.decodes != seqs or len(plan.sampled) != len(seqs) or plan.paused:
                return
        if max(self.inflight[1].ready_s, first.launched_s) > first.start_s + first.duration_s + 1e-12:
            return  # the GPU will wait for the host
        if self._may_admit() or any(plan.stall_s for plan in self.inflight) or self.transfers.space_s() > now:
            return
        if len(seqs) != len(self.running) or max(self.transfers.outputs_seen_s(now), self.transfers.inputs_sent_s(now)) > now:
            return  # copies still hold up tokens or inputs
        steps = min(seq.output - seq.planned for seq in seqs)
        steps = min(steps, self._steps_with_blocks(seqs, steps))
        if steps < 2:
            return
        bulk = Bulk(self, seqs, first, steps)
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
        return any(not seq.waiting_for_remote_kv for seq in takewhile(lambda seq: seq is not self.stuck, self.held))

    def _steps_with_blocks(self, seqs: list[Sequence], steps: int) -> int:
        block = self.block
        room = self.gpu.free_tokens // block
        if len(seqs) * (steps // block + 1) <= room:
            return steps
        low, high = 0, steps
        while low < high:
            middle = (low + high + 1) // 2
            if sum(max(0, -(-(seq.computed + middle) // block) - seq.blocks) for seq in seqs) <= room:
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
