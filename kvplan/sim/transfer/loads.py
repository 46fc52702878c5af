"""What is loaded back, and how a step meets its loads.

`whole_request`: everything is on the GPU before the request is scheduled, as vLLM's native connector does. `blocking`:
the step that starts a request waits for its loads, and everybody in it. `layerwise`: that step starts at once and each
layer waits for its own part. What only a lower tier holds first comes into host memory: on demand, or while the request
is queued (`prefetch`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial

from kvplan.engine.spec import EngineSpec, Overhead
from kvplan.loading import Loading
from kvplan.sim.cache.gpu_cache import GpuCache
from kvplan.sim.cache.pool import Pin, Reservation
from kvplan.sim.cache.prefix import Node
from kvplan.sim.clock import Clock
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.answers import Answers
from kvplan.sim.transfer.convoy import Load, ended, let_go, under_way, wait_for
from kvplan.sim.transfer.in_step import IN_STEP, StepLoad
from kvplan.sim.transfer.links import IN
from kvplan.sim.transfer.paths import TierBelow
from kvplan.sim.transfer.prefetch import Done, Prefetches, beyond, first_token, note_promoted
from kvplan.sim.transfer.tally import Tally


class Outcome(enum.Enum):
    """What a waiting seq gets from below."""

    NOTHING = enum.auto()
    WAITS = enum.auto()
    IN_STEP = enum.auto()  # it is admitted, and its step waits
    NO_ROOM = enum.auto()


class Loads:
    """Loads of one replica."""

    def __init__(
        self,
        clock: Clock,
        engine: EngineSpec,
        overhead: Overhead,
        loading: Loading,
        gpu: GpuCache,
        host: TierBelow,
        lower: tuple[TierBelow, ...],
        tally: Tally,
    ) -> None:
        self.clock, self.engine, self.rules, self.overhead = clock, engine, engine.offload, overhead
        self.loading, self.cost = loading, loading.cost
        self.gpu, self.host, self.lower, self.tally = gpu, host, lower, tally
        self.pending: list[StepLoad] = []  # of the step that is being planned
        self.prefetches = Prefetches(clock, engine.offload, host, lower, block_tokens=engine.block_tokens)
        self.answers = Answers(clock, engine, overhead, lower=bool(lower))
        self._promotes = engine.offload.prefetch == "none" and (engine.offload.load not in IN_STEP or engine.offload.lower_loads_first)
        self._promoted_for: dict[Sequence, Node] = {}  # who waits for a lower tier, and the end of what comes
        self.begins: list[Callable[[], None]] = []  # of the loads that are scheduled with the step being planned
        self.submitted_s = 0.0  # when the worker has handed over the loads so far
        self.steps_run: Callable[[], bool] = lambda: False  # does the GPU compute a step
        self._over_s = 0.0  # when the last load is over
        self._built_s = 0.0  # when the block lists of the last load are made

    # -- a waiting seq ------------------------------------------------------------------------------------------------

    def begin(self, seq: Sequence, leaf: Node, reach: int, budget: int, busy_until_s: float, done: Done) -> Outcome:
        """Start what a waiting sequence needs from below, of whose prompt the GPU knows the path to `leaf` and has `reach` tokens; the step
        in progress ends at `busy_until_s`."""
        rules, pool, keys = self.rules, self.host.pool, seq.request.blocks
        if rules.load_rule == "never":
            return Outcome.NOTHING
        again, seq.looked = seq.looked, True
        pool.tend(self.clock.now)
        if not again:
            for counted in (pool, *(lower.pool for lower in self.lower)):
                counted.asked(keys)
        if self.prefetches.wait(seq):
            return Outcome.WAITS
        limit = self._limit(seq)
        in_host = pool.walk(keys, limit, again=again, retention=seq.request.retention)
        held = pool.held(in_host, reach, limit)
        if not again:
            seq.looked_from = reach
            seq.found_below = pool.look(keys, 0, limit, again=True) if rules.stores_again else held
        if rules.waits_for_stores and wait_for(seq, self, done, in_host, held, held + pool.grain_tokens):
            return Outcome.WAITS
        pool.missed(keys, held, limit)
        if self.engine.drafts:
            held = max(reach, held - pool.grain_tokens)
        if self.answers.wait(seq, held, busy_until_s, done):
            return Outcome.WAITS
        if rules.lower_direct:
            return self._whole(seq, leaf, reach, held, busy_until_s, done, beyond(self.lower, seq, held, limit, again=again))
        in_step = rules.load in IN_STEP
        for lower in self.lower if self._promotes else ():
            below = lower.pool.look(keys, held, limit, again=again, retention=seq.request.retention)
            if below > held > seq.held_below and self._worth(seq, reach, below, [(lower, below - held)]):
                waits = wait_for(seq, self, done, pool.tree.known(keys, below), held, below)
                if waits or self._promote(seq, done, lower, held, below):
                    return Outcome.WAITS
        return self._in_step(seq, leaf, reach, held, budget) if in_step else self._whole(seq, leaf, reach, held, busy_until_s, done)

    def _limit(self, seq: Sequence) -> int:
        """Tokens of a prompt that may be loaded: all, or all but the block of the last one."""
        block = self.engine.block_tokens
        return seq.prompt if self.rules.load_last_block and self.gpu.footprint.plain else (seq.prompt - 1) // block * block

    def _whole(
        self,
        seq: Sequence,
        leaf: Node,
        reach: int,
        held: int,
        busy_until_s: float,
        done: Done,
        lower_part: tuple[TierBelow, int] | None = None,
    ) -> Outcome:
        """Load tokens [reach, held) of host memory, and what a lower tier has beyond, before the sequence is scheduled."""
        end = lower_part[1] if lower_part else held
        least = self.host.pool.grain_tokens if self.rules.load_whole_chunks else self.engine.block_tokens
        parts = [(lower_part[0], end - held)] if lower_part else []
        if end - reach < max(least, self.rules.load_min_tokens) or not self._worth(seq, reach, end, parts):
            return Outcome.NOTHING
        if wait_for(seq, self, done, leaf, reach, end):
            return Outcome.WAITS
        if not self.gpu.hold(seq, leaf, reach, end, loaded=True):
            return Outcome.NO_ROOM
        held_to = seq.own_tail or seq.leaf
        assert held_to is not None
        load = under_way(seq, held_to, reach, end)
        sources = [self.host.pool.pin(seq.request.blocks, seq.prompt, used=(reach, held))]
        for lower, tokens in parts:
            sources.append(lower.pool.pin(seq.request.blocks, end))
            note_promoted(seq, lower, held, end)
            lower.pool.tier.loaded_tokens += tokens
            self.host.pool.tier.loaded_tokens -= tokens
        loaded = partial(self._loaded, seq, load, sources, done, self.clock.now)
        if self.rules.load_start == "next_step_end":
            self.begins.append(lambda: self._at_end(self._sent_s(self.clock.now, held - reach, parts), loaded))
        else:
            ready_s = busy_until_s if self.rules.load_start == "step_end" else self.clock.now
            self._at_end(self._sent_s(ready_s, held - reach, parts), loaded)
        return Outcome.WAITS

    def _sent_s(self, ready_s: float, tokens: int, parts: list[tuple[TierBelow, int]]) -> float:
        """When a load has come that is handed over now and can start at `ready_s`: its part of host memory, then those of lower tiers."""
        now = self.clock.now
        self.submitted_s = max(now, self.submitted_s) + self.host.path.submit_s(IN, tokens)
        if self.rules.loads_in_turn:
            ready_s = max(ready_s, self._over_s)
        if tokens > 0:
            _, ready_s = self.host.path.send(IN, self._built(ready_s, tokens), tokens)
        for lower, part in parts:
            _, ready_s = lower.path.send(IN, ready_s, part)
        self._over_s = ready_s + self.overhead.load_s
        return ready_s

    def _at_end(self, over_s: float, loaded: Callable[[float], None]) -> None:
        """A load's bytes have all come at `over_s`: an idle engine takes its time to see it, a busy one sees it with a step."""

        def over() -> None:
            seen = self.rules.loads_seen_after_step and self.steps_run()
            self.clock.after(0.0 if seen else self.overhead.load_s, lambda: loaded(over_s))

        self.clock.at(over_s, over)

    def _loaded(self, seq: Sequence, load: Load, sources: list[Pin], done: Done, began_s: float, sent_s: float) -> None:
        """A load asked for at `began_s`, which came at `sent_s`, is seen. What the engine did for it has held up this sequence."""
        for source in sources:
            source.release(moved_from=self._moved_from(seq, load.start))
        self._on_gpu(seq, load.start, load.end)
        seq.load_s += self.clock.now - began_s
        self._weigh(seq, load.start, load.end, sent_s)
        ended(load)
        let_go(load, seq, self, done, on_gpu=True)

    def _built(self, ready_s: float, tokens: int) -> float:
        """When the host has made the block lists of a load: one load after the other."""
        self._built_s = max(ready_s, self._built_s) + self.loading.lookup_s(tokens)
        return self._built_s

    def _on_gpu(self, seq: Sequence, reach: int, held: int) -> None:
        """Count what came, and enter it into the GPU's index; the last token of a prompt is always computed."""
        self.host.pool.tier.loaded_tokens += held - reach
        seq.offered_from = held
        seq.computed = held
        self.gpu.share(seq)
        seq.computed = min(held, seq.target - 1)
        if not seq.counted:
            found = min(held, seq.prompt - 1)
            hits = [reach, 0, 0, 0]
            hits[self.host.slot] = found - reach
            for slot, came in seq.promoted.items():
                tokens = len(range(max(reach, came.start), min(found, came.stop)))
                hits[slot] += tokens
                hits[self.host.slot] -= tokens
            seq.hits = tuple(hits)

    # -- loads inside a step ------------------------------------------------------------------------------------------

    def _in_step(self, seq: Sequence, leaf: Node, reach: int, held: int, budget: int) -> Outcome:
        parts, upto = self._parts(seq, reach, held)
        if upto - reach < max(self.engine.block_tokens, self.rules.load_min_tokens) or not self._worth(seq, reach, upto, []):
            self._give_up(parts)
            return Outcome.NOTHING
        if not self.gpu.hold(seq, leaf, reach, min(seq.target, upto + budget)):
            self._give_up(parts)
            return Outcome.NO_ROOM
        source = self.host.pool.pin(seq.request.blocks, seq.prompt, used=(reach, upto))
        self.pending.append(StepLoad(seq, reach, upto, source, parts))
        for lower, reserved, _ in parts:
            note_promoted(seq, lower, reserved.start, reserved.end)
        self._on_gpu(seq, reach, upto)
        return Outcome.IN_STEP

    def _parts(self, seq: Sequence, reach: int, held: int) -> tuple[list[tuple[TierBelow, Reservation, Pin]], int]:
        """What lower tiers add behind token `held`, on its way through host memory."""
        parts: list[tuple[TierBelow, Reservation, Pin]] = []
        keys = seq.request.blocks
        for lower in self.lower if self.rules.prefetch == "none" and not self._promotes else ():
            below = lower.pool.look(keys, held, self._limit(seq), again=True, retention=seq.request.retention)
            if below <= held or not self._worth(seq, reach, below, [(lower, below - held)]):
                continue
            below = self._promotable(seq, held, below)
            reserved = self.host.pool.reserve(keys, first_token(self.rules, held), below, keep=seq.prompt) if below > held else None
            if reserved is None:
                break
            if not reserved.tokens:  # on its way for somebody else
                reserved.commit()
                break
            parts.append((lower, reserved, lower.pool.pin(keys, below)))
            held = below
        return parts, held

    def _give_up(self, parts: list[tuple[TierBelow, Reservation, Pin]]) -> None:
        for _, reserved, source in parts:
            reserved.commit(0)
            source.release()

    def step_s(self, loads: list[StepLoad], start_s: float, step_s: float) -> float:
        """Seconds of a step that starts now with these loads, which are queued here."""
        first_s, last_s = float("inf"), start_s
        for load in loads:
            ready_s = last_s if self.rules.load == "blocking" else start_s  # the host waits for one load before it turns to the next
            for lower, reserved, _ in load.parts:
                _, ready_s = lower.path.send(IN, ready_s, reserved.tokens)
            tokens = load.held - load.reach
            began_s, load.done_s = self.host.path.send(IN, self._built(ready_s, tokens) + self.overhead.load_s, tokens)
            first_s, last_s = min(first_s, began_s), max(last_s, load.done_s)
            self.clock.at(load.done_s, lambda load=load: self._step_loaded(load))  # type: ignore[misc]
        duration_s = IN_STEP[self.rules.load](start_s, step_s, first_s, last_s, self.cost.model.depth)
        for load in loads:
            load.seq.load_s += duration_s - step_s
            self._weigh(load.seq, load.reach, load.held, load.done_s)
        return duration_s

    def _step_loaded(self, load: StepLoad) -> None:
        for lower, reserved, source in load.parts:
            reserved.commit()
            lower.pool.tier.loaded_tokens += reserved.tokens
            source.release()
        load.source.release(moved_from=self._moved_from(load.seq, load.reach))

    def _moved_from(self, seq: Sequence, start: int) -> int | None:
        """From which token on what has been loaded leaves host memory; None: it stays."""
        if self.rules.exclusive:
            return start
        if not self.rules.promotes_for_one or not seq.promoted:
            return None
        first = max(start, min(came.start for came in seq.promoted.values()))
        self.host.pool.tree.path(seq.request.blocks, first)  # a run ends here
        return first

    # -- from lower tiers into host memory ----------------------------------------------------------------------------

    def _promotable(self, seq: Sequence, held: int, below: int) -> int:
        """Up to which token a lower tier's part comes into host memory, which has `held`."""
        if not self.rules.promotes_part:
            return below
        return self.host.pool.fitting(seq.request.blocks, first_token(self.rules, held), held, below, keep=seq.prompt)

    def _promote(self, seq: Sequence, done: Done, lower: TierBelow, held: int, below: int) -> bool:
        """Read tokens [held, below) of a lower tier into host memory, for which there must be room."""
        pool, keys = self.host.pool, seq.request.blocks
        self._ask_again()
        below = self._promotable(seq, held, below)
        reserved = pool.reserve(keys, first_token(self.rules, held), below, keep=seq.prompt) if below > held else None
        if reserved is None:
            return False
        if not reserved.tokens:
            reserved.commit()
            return False
        load = under_way(seq, pool.tree.known(keys, below), held, below)
        self._promoted_for[seq] = load.leaf
        if pool.order != "position":  # while it waits others may take what it had, and it theirs: it asks again for more, not for the same
            seq.held_below = held
        source = lower.pool.pin(keys, below)
        _, done_s = lower.path.send(IN, self.clock.now, reserved.tokens)
        self.clock.at(done_s, partial(self._promoted, seq, load, lower, reserved, source, done, self.clock.now))
        return True

    def _ask_again(self) -> None:
        """Who waits for a lower tier is asked for with every step, which marks all of its content as used: the first in line first."""
        if self.host.pool.order == "arbitrary":
            self.host.pool.tier.touch_all(list(self._promoted_for.values()))

    def _promoted(
        self, seq: Sequence, load: Load, lower: TierBelow, reserved: Reservation, source: Pin, done: Done, began_s: float
    ) -> None:
        """What was asked for at `began_s` has come from a lower tier into host memory."""
        ended(load)
        del self._promoted_for[seq]
        reserved.commit()
        source.release(moved_from=load.start if self.rules.exclusive else None)
        lower.pool.tier.loaded_tokens += reserved.tokens
        note_promoted(seq, lower, load.start, load.end)
        seq.load_s += self.clock.now - began_s
        let_go(load, seq, self, done, on_gpu=False)

    def prefetch(self, seq: Sequence, reach: int, done: Done) -> None:
        """A request enters the queue, of whose prompt the GPU has `reach` tokens."""
        self.prefetches.start(seq, reach, done)

    # -- worth --------------------------------------------------------------------------------------------------------

    def recompute_s(self, seq: Sequence, start: int, end: int) -> float:
        """Seconds of prefill that having tokens [start, end) saves a seq."""
        steps = self.engine.step_tokens
        return self.cost.prefill_s(seq.target - start, start, steps) - self.cost.prefill_s(seq.target - end, end, steps)

    def _worth(self, seq: Sequence, start: int, end: int, parts: list[tuple[TierBelow, int]]) -> bool:
        """By the break-even rule: do the queues in front of the links and the transfers take less than
        computing again."""
        if self.rules.load_rule != "break_even":
            return True
        seconds = self.loading.engine_s(end - start)
        seconds += self.host.path.wait_s(IN) + self.host.path.service_s(IN, end - start)
        seconds += sum(lower.path.wait_s(IN) + lower.path.service_s(IN, tokens) for lower, tokens in parts)
        return seconds < self.recompute_s(seq, start, end)

    def _weigh(self, seq: Sequence, start: int, end: int, sent_s: float) -> None:
        """Compare what a load took, its promotion included, with computing tokens [start, end) again; its bytes came at `sent_s`."""
        seconds = seq.load_s - seq.weighed_s
        seq.weighed_s = seq.load_s
        self.tally.weigh(seq, end - start, seconds, self.recompute_s(seq, start, end), sent_s)
