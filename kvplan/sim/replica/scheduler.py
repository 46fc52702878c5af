"""Which sequences run in a step: running ones first, then waiting ones as blocks and the token budget allow.

The rules follow vLLM's V1 scheduler: decodes and the chunk of a prompt that is under way, then admission in the queue's order by free
blocks; a sequence without a block preempts the last (or least urgent) one, which computes again what the tiers do not hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

from kvplan.engine.spec import EngineSpec, Overhead
from kvplan.sim.cache.gpu_cache import GpuCache
from kvplan.sim.clock import Clock
from kvplan.sim.replica.aside import Aside
from kvplan.sim.replica.decode_batch import DecodeBatch
from kvplan.sim.replica.progress import AdmissionGuard, check_progress
from kvplan.sim.replica.queue_order import QUEUE_ORDERS
from kvplan.sim.replica.sequence import NEVER, Sequence
from kvplan.sim.replica.step import Pauses, ScheduledStep, StepsInFlight
from kvplan.sim.transfer.loads import Outcome
from kvplan.sim.transfer.prefetch import Done
from kvplan.sim.transfer.transfers import Transfers


class Scheduler:
    """The queues of a replica: `waiting`, `skipped` (set aside: loading, or waiting for somebody's load) and `running`."""

    def __init__(
        self,
        clock: Clock,
        engine: EngineSpec,
        overhead: Overhead,
        gpu: GpuCache,
        transfers: Transfers,
        batch: DecodeBatch,
        inflight: StepsInFlight,
        loaded: Callable[[Sequence], Done],
    ) -> None:
        self.clock, self.engine, self.gpu, self.transfers, self.batch, self.inflight = clock, engine, gpu, transfers, batch, inflight
        self.order = QUEUE_ORDERS[engine.scheduling]
        self.pauses = Pauses(overhead, offloading=transfers.stores is not None)
        self.waiting: deque[Sequence] = deque()
        self.skipped = Aside()
        self.loading: dict[Sequence, None] = {}  # skipped, with blocks for what is loaded
        self.running: list[Sequence] = []
        self.prefilling: list[Sequence] = []  # running, and not all of their prompt is scheduled
        self.resting: list[Sequence] = []  # running, left out of a step that ran out of blocks before them
        self.leaving: list[Sequence] = []  # preempted, with a step in flight whose token they still get
        self.no_room: Sequence | None = None  # cannot be admitted before something is freed, nor can anybody behind it
        self.blocks_in_flight = engine.offload.blocks_in_flight if transfers.stores is not None else "freed"
        self.preempted = False  # was somebody, in the step being scheduled
        self.guard, self._loaded = AdmissionGuard(), loaded
        if engine.reserve_in_flight:
            gpu.promised_tokens = self._promised_tokens
        if engine.memory.batches_in_flight > 1:
            gpu.unsettled_tokens = inflight.chunk_tokens

    def _promised_tokens(self, seq: Sequence) -> int:
        """What prompts that are computed or loaded still take of the pool."""
        return sum(self.gpu.outstanding_tokens(other) for other in (*self.prefilling, *self.loading) if other is not seq)

    # -- queues ------------------------------------------------------------------------------------------------------------

    def submit(self, seq: Sequence) -> None:
        """A sequence enters the waiting queue."""
        self.order.join(self.waiting, seq)
        if self.no_room is not None and self.order.overtakes(seq, self.no_room):
            self.no_room = None
        if self.transfers.prefetches:
            self.transfers.submitted(seq, self.gpu.peek(seq), self._loaded(seq))

    @property
    def load(self) -> int:
        """Sequences that wait or run."""
        return len(self.waiting) + len(self.skipped) + len(self.running) + len(self.leaving)

    def finish(self, seq: Sequence) -> None:
        """A sequence has got its last token: its blocks are free, and stay cached."""
        self.batch.settle(seq)
        if seq in self.leaving:  # preempted while that token was on its way
            self.leaving.remove(seq)
        else:
            self.running.remove(seq)
            self.transfers.store_generated(seq)
            self.gpu.name_answer(seq)
        if seq.blocks:
            self._release(seq)

    def _release(self, seq: Sequence, *, preempted: bool = False) -> None:
        if preempted:
            self.gpu.keep_generated(seq, self.batch.emitted(seq))
        seq.running = False
        self.gpu.release(seq)
        self.no_room = None

    # -- preemption --------------------------------------------------------------------------------------------------------

    def _preempt(self, seq: Sequence) -> None:
        """Take the blocks of a running sequence away; it will compute again what the tiers do not hold.

        It still gets the token of a step in flight, and its blocks are free then where the engine cannot do so before.
        """
        self.preempted = True
        self.running.remove(seq)
        for group in (self.prefilling, self.resting):
            if seq in group:
                group.remove(seq)
        if seq in self.batch:
            self.batch.leave(seq)
        seq.running = False
        in_flight = self._in_flight(seq)
        if not in_flight or self.blocks_in_flight == "freed":
            self._release(seq, preempted=True)
        if in_flight:
            self.leaving.append(seq)
        else:
            self._requeue(seq, self.inflight.handled_s)

    def _in_flight(self, seq: Sequence) -> bool:
        """Is a sequence in a step whose results are not handled yet."""
        decodes = seq.joined != NEVER and max(self.batch.handled, seq.joined) < min(seq.left, self.batch.steps)
        return decodes or any(chunk[0] is seq for step in self.inflight.steps for chunk in step.chunks)

    def _requeue(self, seq: Sequence, paused_s: float) -> None:
        self.batch.settle(seq)
        if seq.emitted and seq.paused_s < 0:
            seq.paused_s = paused_s
        seq.computed = seq.stored = seq.offered_from = 0
        seq.planned, seq.target = seq.emitted, seq.prompt + seq.emitted
        seq.preemptions, seq.held_below = seq.preemptions + 1, -1
        check_progress(seq)
        self.order.rejoin(self.waiting, seq)
        self.no_room = None

    def handled(self, now: float) -> None:
        """The results of a step are there: who was preempted meanwhile waits again."""
        for seq in list(self.leaving):
            if not self._in_flight(seq):
                self.leaving.remove(seq)
                if seq.blocks:
                    self._release(seq, preempted=True)
                self._requeue(seq, now)

    # -- a step ------------------------------------------------------------------------------------------------------------

    def schedule(self, step: ScheduledStep) -> None:
        """Fill a step."""
        for seq in list(self.resting):
            if self.batch.handled >= seq.left:
                self.resting.remove(seq)
                self.batch.settle(seq)
                self.batch.join(seq)
        fill = self._prefill_or_decode if self.engine.prefill_apart else self._mix
        self.preempted = True
        while self.preempted and step.empty and not self.leaving:  # a pass that only preempts is followed by another
            self.preempted = False
            fill(step)
        self.guard.scheduled(step.empty, self.skipped, self.waiting)

    def _prefill_or_decode(self, step: ScheduledStep) -> None:
        """Prompts alone as long as there are any that fit; else all that decode."""
        budget = self.engine.step_tokens
        self._compute(step, self._allocate_in_order(self.prefilling, budget), budget)
        if not step.chunks:
            if not self._allocate_decodes():
                self._allocate_in_order([seq for seq in self.running if seq in self.batch], budget)
            self._decode(step)
        step.index, step.version = self.batch.steps, self.batch.version

    def _mix(self, step: ScheduledStep) -> None:
        """Who runs, in order of admission, as far as blocks and the budget go; then new ones."""
        budget, last = self.engine.step_tokens, len(self.running) - len(self.prefilling)
        if self.running[last:] == self.prefilling and self._allocate_decodes():  # as ever: one who lacks a block is the last
            chunks = self._allocate_in_order(self.prefilling, budget - len(self.batch)) if self.prefilling else []
        else:
            chunks = self._allocate_in_order(self.running, budget)
        self._decode(step)
        self._compute(step, chunks, budget - step.decodes)

    def _compute(self, step: ScheduledStep, chunks: list[tuple[Sequence, int]], budget: int) -> None:
        """Prompts under way, then new ones; after a preemption nobody is admitted in the same step."""
        for seq, new in chunks:
            if seq.running:
                self._chunk(step, seq, new)
                budget -= new
        if not self.leaving and not self.preempted and (self.waiting or self.skipped.ready or self.no_room is not None):
            self._admit(step, budget)

    def _allocate_decodes(self) -> bool:
        """Blocks for the next token of every decoding sequence; False, and nothing done: there are too few for all."""
        taken, slid = self.batch.needs(1)
        if taken and not self.gpu.take(taken, slid):
            return False
        self.batch.granted = self.batch.steps + 1
        return True

    def _allocate_in_order(self, running: list[Sequence], budget: int) -> list[tuple[Sequence, int]]:
        """Blocks for sequences in order, up to one that cannot have them or the budget's end; returns the next chunks of prompts."""
        batch, chunks, order = self.batch, list[tuple[Sequence, int]](), list(running)
        for at, seq in enumerate(order):
            decodes = seq in batch
            if not decodes and (not seq.running or seq not in self.prefilling):
                continue
            new, upto = min(seq.target - seq.computed, budget), min(seq.target, seq.computed + budget)
            if decodes:
                batch.count(seq)
                new, upto = 1, batch.context(seq) + 1
            if (budget <= 0 and chunks) or new <= 0 or not self._allocate(seq, upto, new):
                for behind in order[at:]:
                    if behind in batch:
                        batch.leave(behind)
                        self.resting.append(behind)
                break
            if not decodes:
                chunks.append((seq, new))
            budget -= new
        return chunks

    def _allocate(self, seq: Sequence, upto: int, new: int) -> bool:
        """Blocks for a running sequence. False: it was preempted itself for want of them, or the step goes without it."""
        while not self.gpu.allocate(seq, upto, new):
            victim = self.order.victim(self.running)
            if self.blocks_in_flight == "wait" and self._in_flight(victim):
                return False
            self._preempt(victim)
            if not seq.running:
                return False
        return True

    def _decode(self, step: ScheduledStep) -> None:
        batch = self.batch
        step.decodes = len(batch)
        if step.decodes:
            batch.advance(1)
            step.contexts, step.uneven = [each.total for each in batch.sums], [each.uneven for each in batch.sums]
            step.last_tokens = batch.ended()
        batch.granted = 0
        step.index, step.version = batch.steps, batch.version

    def _chunk(self, step: ScheduledStep, seq: Sequence, new: int) -> None:
        """Add the next part of a prompt to a step."""
        step.chunks.append((seq, new, seq.computed))
        seq.computed += new
        self.gpu.share(seq)
        if seq.computed < seq.target:
            if seq not in self.prefilling:
                self.prefilling.append(seq)
            return
        if seq in self.prefilling:
            self.prefilling.remove(seq)
        seq.planned += 1
        step.sampled.append(seq)
        if seq.planned < seq.output:
            self.gpu.decodes(seq)
            self.batch.join(seq)

    # -- admission ---------------------------------------------------------------------------------------------------------

    def _admit(self, step: ScheduledStep, budget: int) -> None:
        if self.engine.reserve_output and (self.waiting or self.skipped):
            left = sum(seq.output - self.batch.emitted(seq) for seq in self.running)
            self.gpu.output_tokens = round(self.engine.reserve_output * left)
        for seq in self._candidates():
            if budget <= 0 or len(self.running) >= self.engine.max_batch:
                return
            new = self._allocate_waiting(seq, budget)
            if new is None:
                self.no_room, seq.held_below = seq, -1
                break
            if self.waiting and self.waiting[0] is seq:
                self.waiting.popleft()
                if not new:
                    self.skipped.add(seq)
            else:
                self.skipped.asked(seq, admitted=bool(new))
            if new:
                self.loading.pop(seq, None)
                self._start(step, seq, new)
                budget -= new
            elif seq.blocks:
                self.loading[seq] = None
        if self.no_room is not None and not self.running and not self.inflight.steps:
            self._reclaim()

    def _candidates(self) -> Iterator[Sequence]:
        """Who may be admitted, in order: skipped sequences that can go on, then the queue; nobody behind one that did not fit."""
        for seq in self.order.skipped(self.skipped.ready):
            while self.waiting and self.no_room is None and self.order.overtakes(self.waiting[0], seq):
                yield self.waiting[0]
            if seq is self.no_room:
                return
            if not seq.waiting_for_remote_kv and not (self.running and seq.seen_step > self.inflight.reported):
                yield seq
        while self.waiting and self.no_room is None:
            yield self.waiting[0]

    def may_admit(self) -> bool:
        """Could a step scheduled after the next one admit somebody."""
        if len(self.running) >= self.engine.max_batch:
            return False
        if self.waiting and self.no_room is None:
            return True
        return self.skipped.ready_before(self.no_room)

    def _reclaim(self) -> None:
        """Nothing runs and the head does not fit: who holds loaded blocks gives them back, the newest first, the head last."""
        holders = [seq for seq in reversed(self.skipped) if seq.blocks]
        others = [seq for seq in holders if seq is not self.no_room]
        seq = next((seq for seq in others or holders if not seq.waiting_for_remote_kv), None)
        if seq is not None:
            self._release(seq)
            del self.loading[seq]
            seq.computed = 0
            self.clock.after(0.0, partial(self._loaded(seq), False))

    def _start(self, step: ScheduledStep, seq: Sequence, new: int) -> None:
        if seq.admit_s < 0:
            seq.admit_s = self.clock.now
        step.admitted_tokens += seq.target
        if not seq.counted:
            seq.counted = True
            self.pauses.admitted(seq.output)
        seq.running = True
        self.running.append(seq)
        if self.engine.reserve_output:
            self.gpu.output_tokens += round(self.engine.reserve_output * (seq.output - seq.emitted))
        self._chunk(step, seq, new)

    def _allocate_waiting(self, seq: Sequence, budget: int) -> int | None:
        """Tokens that a waiting sequence computes in this step; 0: it waits for a load; None: it does not fit now."""
        if seq.blocks:  # what it waited for is in place
            return self._extend(seq, budget)
        leaf = self.gpu.find(seq)
        reach = self.gpu.reach(seq, leaf)
        outcome = self.transfers.begin(seq, leaf, reach, budget, self.inflight.busy_until_s(self.clock.now), self._loaded(seq))
        if outcome is Outcome.WAITS:
            return 0
        if outcome is Outcome.IN_STEP:
            return self._extend(seq, budget)
        if outcome is Outcome.NO_ROOM or not self.gpu.hold(seq, leaf, reach, reach + min(seq.target - reach, budget)):
            return None
        if not seq.counted:
            seq.hits = (seq.computed, 0, 0, 0)
        return min(seq.target - seq.computed, budget)

    def _extend(self, seq: Sequence, budget: int) -> int | None:
        new = min(seq.target - seq.computed, budget)
        return new if self.gpu.extend(seq, seq.computed + new) else None
