"""Which sequences run in a step: running ones first, then waiting ones as blocks and the token budget allow.

The rules follow vLLM's V1 scheduler: decodes and the chunk of a prompt that is under way, then admission in the queue's order by free
blocks; a sequence without a block preempts the last (or least urgent) one, which computes again what the tiers do not hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile

from kvplan.engine.spec import EngineSpec, Overhead
from kvplan.sim.cache.gpu_cache import GpuCache
from kvplan.sim.clock import Clock
from kvplan.sim.replica.decode_batch import DecodeBatch
from kvplan.sim.replica.queue_order import QUEUE_ORDERS
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.replica.step import Pauses, ScheduledStep, StepsInFlight
from kvplan.sim.transfer.loads import Done, Outcome
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
        self.skipped: list[Sequence] = []
        self.running: list[Sequence] = []
        self.prefilling: list[Sequence] = []  # running, and not all of their prompt is scheduled
        self.resting: list[Sequence] = []  # running, left out of a step that ran out of blocks before them
        self.no_room: Sequence | None = None  # cannot be admitted before something is freed, nor can anybody behind it
        self._loaded = loaded

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
        return len(self.waiting) + len(self.skipped) + len(self.running)

    def finish(self, seq: Sequence) -> None:
        """A sequence has got its last token: its blocks are free, and stay cached."""
        self.batch.settle(seq)
        self.running.remove(seq)
        self.transfers.store_generated(seq)
        self.gpu.name_answer(seq)
        self._release(seq)

    def _release(self, seq: Sequence) -> None:
        seq.running = False
        self.gpu.release(seq)
        self.no_room = None

    def _preempt(self, seq: Sequence) -> None:
        self.running.remove(seq)
        if seq in self.prefilling:
            self.prefilling.remove(seq)
        if seq in self.resting:
            self.resting.remove(seq)
        self.batch.drop(seq)
        self.gpu.keep_generated(seq)
        self._release(seq)
        if seq.emitted and seq.paused_s < 0:
            seq.paused_s = self.inflight.handled_s
        seq.computed = 0
        seq.planned = seq.emitted
        seq.target = seq.prompt + seq.emitted
        seq.epoch += 1
        seq.preemptions += 1
        seq.stored = 0
        self.order.rejoin(self.waiting, seq)

    # -- a step ------------------------------------------------------------------------------------------------------------

    def schedule(self, step: ScheduledStep) -> None:
        """Fill a step."""
        for seq in list(self.resting):
            if self.batch.handled >= seq.left:
                self.resting.remove(seq)
                self.batch.settle(seq)
                self.batch.join(seq)
        preempted = self._allocate_decodes()
        chunks, budget = [], self.engine.step_tokens - len(self.batch)
        for seq in list(self.prefilling):
            new = min(seq.target - seq.computed, budget)
            if new <= 0:
                break
            preempted |= self._allocate(seq, seq.computed + new, new)
            if not seq.running:
                break
            chunks.append((seq, new))
            budget -= new
        self._decode(step)
        budget = self.engine.step_tokens - step.decodes
        for seq, new in chunks:
            if seq.running:
                self._chunk(step, seq, new)
                budget -= new
        if not preempted or step.empty:  # after a preemption nobody is admitted in the same step
            self._admit(step, budget)

    def _allocate_decodes(self) -> bool:
        """Blocks for the next token of every decoding sequence; returns whether somebody was preempted for them."""
        batch = self.batch
        if self.gpu.take(*batch.needs(1)):
            batch.granted = batch.steps + 1
            return False
        need, order = set(batch.crossing()), list(self.running)
        for at, seq in enumerate(order):
            if seq not in need or seq not in batch:
                continue
            context = batch.context(seq)
            batch.count(seq)
            self._allocate(seq, context + 1, 1)
            if not seq.running:
                for behind in order[at + 1 :]:
                    if behind in batch:
                        batch.leave(behind)
                        self.resting.append(behind)
                break
        return True

    def _allocate(self, seq: Sequence, upto: int, new: int) -> bool:
        """Blocks for a running sequence, which may be preempted itself for want of them; returns whether somebody was."""
        preempted = False
        while seq.running and not self.gpu.allocate(seq, upto, new):
            self._preempt(self.order.victim(self.running))
            preempted = True
        return preempted

    def _decode(self, step: ScheduledStep) -> None:
        batch = self.batch
        step.decodes = len(batch)
        if step.decodes:
            batch.advance(1)
            step.contexts = [each.total for each in batch.sums]
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
        step.sampled.append((seq, seq.epoch))
        if seq.planned < seq.output:
            self.gpu.decodes(seq)
            self.batch.join(seq)

    # -- admission ---------------------------------------------------------------------------------------------------------

    def _admit(self, step: ScheduledStep, budget: int) -> None:
        for seq in self._candidates():
            if budget <= 0 or len(self.running) >= self.engine.max_batch:
                return
            new = self._allocate_waiting(seq, budget)
            if new is None:
                self.no_room = seq
                break
            if self.waiting and self.waiting[0] is seq:
                self.waiting.popleft()
                if not new:
                    self.skipped.append(seq)
            elif new:
                self.skipped.remove(seq)
            if new:
                self._start(step, seq, new)
                budget -= new
        if self.no_room is not None and not self.running and not self.inflight.steps:
            self._reclaim()

    def _candidates(self) -> Iterator[Sequence]:
        """Who may be admitted, in order: skipped sequences that can go on, then the queue; nobody behind one that did not fit."""
        for seq in self.order.skipped(self.skipped):
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
        return any(not seq.waiting_for_remote_kv for seq in takewhile(lambda seq: seq is not self.no_room, self.skipped))

    def _reclaim(self) -> None:
        """Nothing runs and the head does not fit: sequences that hold loaded blocks while they wait give them back, newest first."""
        for seq in reversed(self.skipped):
            if seq.blocks and not seq.waiting_for_remote_kv:
                self._release(seq)
                seq.computed = 0

                self.clock.after(0.0, partial(self._loaded(seq), False))
                return

    def _start(self, step: ScheduledStep, seq: Sequence, new: int) -> None:
        if seq.admit_s < 0:
            seq.admit_s = self.clock.now
        step.admitted_tokens += seq.target
        if not seq.counted:
            seq.counted = True
            self.pauses.admitted(seq.output, seq.target - seq.computed)
        seq.running = True
        self.running.append(seq)
        self._chunk(step, seq, new)

    def _allocate_waiting(self, seq: Sequence, budget: int) -> int | None:
        """Tokens that a waiting sequence computes in this step; 0: it waits for a load; None: it does not fit now."""
        if seq.blocks:  # what it waited for is in place
            return self._extend(seq, budget)
        path = self.gpu.find(seq)
        reach = self.gpu.reach(seq, path)
        outcome = self.transfers.begin(seq, path, reach, budget, self.inflight.busy_until_s(self.clock.now), self._loaded(seq))
        if outcome is Outcome.WAITS:
            return 0
        if outcome is Outcome.IN_STEP:
            return self._extend(seq, budget)
        if outcome is Outcome.NO_ROOM or not self.gpu.hold(seq, path, reach, reach + min(seq.target - reach, budget)):
            self.gpu.drop(seq)
            return None
        seq.computed = reach
        if not seq.counted:
            seq.hits = (reach, 0, 0, 0)
        return min(seq.target - reach, budget)

    def _extend(self, seq: Sequence, budget: int) -> int | None:
        new = min(seq.target - seq.computed, budget)
        return new if self.gpu.extend(seq, seq.computed + new) else None
