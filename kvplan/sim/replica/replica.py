"""One replica: sequences wait, are scheduled in steps of a token budget, and leave their blocks behind.

A step is scheduled while the one before it still runs (`plan_ahead`), so that an arrival is seen one step later. Between changes of the
batch, decode steps are taken many at a time in closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from kvplan.engine.spec import EngineSpec
from kvplan.sim.cache.gpu_cache import GpuCache
from kvplan.sim.clock import Clock
from kvplan.sim.outcome.record import Recorder
from kvplan.sim.replica.decode_batch import DecodeBatch
from kvplan.sim.replica.group import Group
from kvplan.sim.replica.jump import Course, StepWatch, equal_steps, gaps_of, jump_of
from kvplan.sim.replica.scheduler import Scheduler
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.replica.step import ScheduledStep, StepsInFlight
from kvplan.sim.transfer.prefetch import Done
from kvplan.sim.transfer.transfers import Transfers
from kvplan.step_time import StepCost


class Replica:
    """An engine with its tiers. `done(seq)` is called when a sequence has finished."""

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
        self.overhead, self.depth = cost.overhead, 2 if engine.plan_ahead else 1
        self.inflight = StepsInFlight()
        self.batch = DecodeBatch([window for _, window in cost.decode_rates], gpu.footprint)
        self.scheduler = Scheduler(clock, engine, cost.overhead, gpu, transfers, self.batch, self.inflight, self._on_loaded)
        self.busy_s = 0.0  # in steps that have ended
        self.watch: StepWatch | None = None
        self.group: Group[Replica] | None = None
        self._jump: Course | None = None
        self._timer = 0
        self._launching_s, self._drained_s = 0.0, -1.0  # until when the host launches a step with prefill; when the pipeline is empty
        transfers.attach(self._freed, lambda: self.inflight.busy_until_s(clock.now), lambda: self.inflight.executing is not None)

    def submit(self, seq: Sequence) -> None:
        """A sequence enters the waiting queue."""
        self.scheduler.submit(seq)
        self._wake()

    @property
    def load(self) -> int:
        """Sequences that wait or run."""
        return self.scheduler.load

    def unfinished(self) -> Iterator[Sequence]:
        """Sequences that wait or run, their numbers brought up to date: for the end of a run that was interrupted."""
        for seq in list(self.batch):
            self.batch.leave(seq)
        for seq in (*self.scheduler.running, *self.scheduler.leaving, *self.scheduler.skipped, *self.scheduler.waiting):
            self.batch.settle(seq)
            yield seq

    def _finish(self, seq: Sequence) -> None:
        seq.last_s = self.clock.now
        self.scheduler.finish(seq)
        self.recorder.finished(seq)
        self.done(seq)

    # -- what happens outside ----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Something happened that a step could use: an arrival, a finished load, space."""
        if self._jump is not None:
            self._end_jump()
        self._fill()

    def _freed(self) -> None:
        """Blocks have become evictable without a step of the engine."""
        if self.scheduler.no_room is not None:
            self.scheduler.no_room = None
            self._wake()

    def _on_loaded(self, seq: Sequence) -> Done:
        """What to call when that has happened which a sequence waits for; with True its own load has ended.

        While steps run, the one that the host launches next reports a load, and it is seen when that has ended.
        """

        def loaded(on_gpu: bool, waiters: Iterable[Sequence] = ()) -> None:
            if self._jump is not None:
                self._end_jump()
            if on_gpu:
                late = self.inflight.executing is not None and self.engine.offload.loads_seen_after_step
                for each in (seq, *waiters):
                    each.seen_step = self.inflight.launched_next(self.clock.now) if late else 0
            self.scheduler.skipped.wake((seq, *waiters))
            self.scheduler.no_room = None
            self._fill()

        return loaded

    # -- steps -------------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Schedule steps until as many are in flight as the engine allows; the host launches one before it schedules the next."""
        inflight, now = self.inflight, self.clock.now
        while len(inflight.steps) < self.depth and now >= self._launching_s:
            step = self._schedule()
            if step is None:
                break
            inflight.steps.append(step)
            if step.chunks and self.depth > 1:
                self._launching_s = step.launched_s
                if inflight.executing is None:  # else no results come before it is launched
                    self.clock.at(step.launched_s, self._wake)
            if inflight.executing is None:
                self._execute(step)
        first = inflight.executing
        if self.jump and first is not None and not first.chunks:
            self._try_jump(first)

    def _schedule(self) -> ScheduledStep | None:
        """The next step, or None when nothing can run."""
        now, inflight = self.clock.now, self.inflight
        prepare_s = self.overhead.prepare_s if inflight.busy_until_s(now) <= now else 0.0
        step = ScheduledStep(now, max(now + prepare_s, self.transfers.inputs_sent_s(now)))
        self.scheduler.schedule(step)
        self.transfers.planned(step)
        if not step.decodes and not step.chunks:
            if inflight.steps and inflight.executing is not None:  # loads with no step of their own wait for the last one in flight
                inflight.steps[-1].begins += step.begins
                return None
            for load in step.begins:
                load()
            return None
        self._time(step)
        return step

    def _time(self, step: ScheduledStep) -> None:
        cost, decodes, overhead_s = self.cost, step.decodes, 0.0
        chunks = step.sizes() if step.chunks else []
        if decodes:
            step.attention_s = cost.decode_attention_of_s(step.contexts, step.uneven, decodes)
        if chunks:
            overhead_s = cost.schedule_s(step.admitted_tokens, sum([new for new, _ in chunks]))
        submitted_s = self.transfers.submitted_s()
        if submitted_s > step.launched_s:
            overhead_s += submitted_s - step.launched_s
        if self.inflight.steps and self.inflight.steps[-1].chunks:
            overhead_s += self.transfers.handed_over_s(self.inflight.steps[-1])
        host_s = cost.host_s(chunks, decodes)
        step.ready_s += overhead_s
        step.launched_s += overhead_s + host_s
        busy_s = step.duration_s = cost.busy_s(chunks, decodes, step.attention_s, decodes + len(step.sampled))
        if self.scheduler.pauses.owed >= 1:
            pause_s = self.scheduler.pauses.due_s()
            step.duration_s, step.paused = busy_s + pause_s, pause_s > 0
        if chunks:
            step.drain_s = cost.drain_s(chunks, decodes, busy_s)
        elif host_s > step.duration_s:  # the host prepares one step while another runs: no two can be closer
            step.duration_s = host_s

    def _execute(self, step: ScheduledStep) -> None:
        now = self.clock.now
        self.inflight.executing = step
        self.inflight.started += 1
        step.start_s = max(self.transfers.inputs_sent_s(now), step.ready_s)
        step.stall_s = self.transfers.stall_s(step, step.start_s)
        step.duration_s += step.stall_s
        if step.loads and self.engine.offload.load == "blocking":  # the host waits as well, and launches then
            step.launched_s += step.stall_s
        if self.group is not None:
            self.group.ready(self, step)
        else:
            self._alarm(step.end_s - now, self.executed)

    def lasts_s(self, step: ScheduledStep, together_s: float) -> float:
        """Seconds of a step of which a group does `together_s` together."""
        chunks = step.sizes()
        busy_s = self.cost.busy_s(chunks, step.decodes, step.attention_s, step.decodes + len(step.sampled), together_s)
        if not chunks:
            busy_s = max(busy_s, self.cost.host_s(chunks, step.decodes))
        return busy_s + step.stall_s + (self.overhead.pause_s if step.paused else 0.0)

    def _alarm(self, delay: float, action: Callable[[], None]) -> None:
        """Call `action` after `delay`, unless a later alarm replaces it."""
        self._timer += 1
        timer = self._timer

        def ring() -> None:
            if timer == self._timer:
                action()

        self.clock.after(delay, ring)

    def executed(self) -> None:
        """The GPU has finished a step: start the next one that is scheduled, and hand the results over when they reach the host."""
        inflight, now = self.inflight, self.clock.now
        step = inflight.executing
        assert step is not None
        inflight.executing = None
        self.busy_s += now - step.start_s
        if self.watch is not None:
            self.watch.stepped(step, now)
        following = inflight.behind(step)
        free_s = self.transfers.step_ended(step, now, last=following is None)
        step.held_s = free_s - now
        if step.drain_s:
            self._drained_s = free_s + step.drain_s  # nothing overtakes it in the pipeline
        seen_s = (free_s if free_s > self._drained_s else self._drained_s) + self.overhead.collect_s
        if following is not None:
            if (following.chunks or (step.chunks and self.engine.launches_first)) and following.launched_s > seen_s:
                seen_s = following.launched_s  # it is launched first
            if step.chunks:
                self.transfers.hold_back(step, following, now)
            self._execute(following)
        for load in step.begins:  # behind the inputs of the step that follows
            load()
        if seen_s <= now and inflight.steps[0] is step:
            self._handle(step)
        else:
            self.clock.at(seen_s, lambda: self._handle(step))

    def _handle(self, step: ScheduledStep) -> None:
        """The tokens of a step have reached the host."""
        now, inflight = self.clock.now, self.inflight
        inflight.steps.remove(step)
        self.batch.handled = step.index
        for seq in step.last_tokens:
            self._finish(seq)
        for seq in step.sampled:
            self._first_token(seq, step)
        if step.decodes:
            if self.engine.prefill_apart:
                for since_s, count in inflight.gaps(now, step.decodes):
                    self._interval(step, now - since_s, count)
            else:
                self._interval(step, now - inflight.handled_s, step.decodes)
        elif step.sampled:
            inflight.fresh.append((now, sum(seq.emitted < seq.output for seq in step.sampled)))
        inflight.handled_s = now
        if self.scheduler.leaving:
            self.scheduler.handled(now)
        self._fill()
        if self.group is not None:
            self.group.look()

    def _first_token(self, seq: Sequence, step: ScheduledStep) -> None:
        """The first token of a sequence, or the first after a preemption."""
        now = self.clock.now
        seq.emitted += 1
        if seq.emitted == 1:
            seq.first_s, seq.held_s = now, step.held_s
        else:
            self.recorder.intervals(now - seq.paused_s, 1)
            seq.paused_s = -1.0
        if seq.emitted >= seq.output:
            self._finish(seq)

    def _interval(self, step: ScheduledStep, seconds: float, tokens: int) -> None:
        """A step has given `tokens` tokens that came `seconds` after the ones before them."""
        recorder = self.recorder
        recorder.intervals(seconds, tokens)
        if seconds > recorder.slow.limit_s and recorder.measuring:
            decode_s = self.cost.busy_s((), step.decodes, step.attention_s, step.decodes)
            recorder.slow.add(seconds, tokens, step_s=step.duration_s, decode_s=decode_s, held_s=step.held_s)

    # -- many decode steps at once -----------------------------------------------------------------------------------------

    def _try_jump(self, first: ScheduledStep) -> None:
        """Take as many equal decode steps as nothing can change, in one event."""
        now = self.clock.now
        if self._jump is not None or first.start_s > now:
            return
        most = equal_steps(self.batch, self.inflight, self.scheduler, now)
        if most < 2:
            return
        if self.group is not None:
            self._jump = self.group.course(self, first, most)
            return
        jump = jump_of(self.cost, self.batch, first, most)
        if jump.steps >= 2:
            self._jump = jump
            self._alarm(jump.handled_s(jump.steps) - now, self._wake)

    def stops(self, course: Course) -> None:
        """The last step of a course has been handled, unless it has ended before."""
        if self._jump is course:
            self._wake()

    def _goes_on(self, step: ScheduledStep, end_s: float) -> None:
        """A jump has ended within a step."""
        if self.group is not None:
            self.group.goes_on(self, step)
        else:
            self._alarm(max(0.0, end_s - self.clock.now), self.executed)

    def _end_jump(self) -> None:
        """Account for the steps of a jump whose results have been handled; the one or two after them go on as ordinary ones."""
        jump, now, inflight, batch = self._jump, self.clock.now, self.inflight, self.batch
        assert jump is not None
        self._jump = None
        steps = jump.ended(now)
        first, second = inflight.steps
        if steps:
            self._taken(jump, steps)
            if self.watch is not None:
                self.watch.jumped(jump, steps, len(batch))
            inflight.jumped(jump.handled_s(steps))
            second.contexts = [each.total for each in batch.sums]
            second.last_tokens = batch.ended()
        self.busy_s += jump.elapsed_s(steps)
        first.start_s = jump.begins_s(steps)
        if steps:
            first.launched_s = second.launched_s if steps == 1 else jump.launched_s(steps)
            second.launched_s = jump.launched_s(steps + 1)
        jump.move(first, steps, 0)
        jump.move(second, steps, 1)
        end_s = first.start_s + first.duration_s
        if jump.under_way(steps, now):
            self._goes_on(first, end_s)
            return
        self.busy_s += first.duration_s
        if self.watch is not None:
            self.watch.stepped(first, end_s)
        inflight.executing, second.start_s = second, end_s
        inflight.started += 1
        self._goes_on(second, end_s + second.duration_s)
        self.clock.at(jump.handled_s(steps + 1), lambda: self._handle(first))

    def _taken(self, jump: Course, steps: int) -> None:
        """So many steps of a jump have passed: their blocks and their tokens."""
        batch = self.batch
        taken = self.gpu.take(*batch.needs(steps))
        assert taken
        batch.advance(steps)
        batch.handled += steps
        if self.group is None:  # which counts them step by step
            for seconds, tokens in gaps_of(jump, steps, self.inflight, len(batch), apart=self.engine.prefill_apart):
                self.recorder.intervals(seconds, tokens)
