"""From lower tiers into host memory for requests that are still queued."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from kvplan.engine.spec import Offload
from kvplan.sim.cache.pool import Pin, Reservation
from kvplan.sim.clock import Clock, Event, Steps
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.links import IN
from kvplan.sim.transfer.paths import TierBelow


class Done(Protocol):
    """Called when what a sequence waited for has happened."""

    def __call__(self, on_gpu: bool, waiters: Iterable[Sequence] = ()) -> None:
        """`on_gpu`: its own load is on the GPU, which `waiters` have waited for as well; else it should ask again."""


class Prefetch:
    """One read of tokens from `start` on, which ends at `done_s` if nothing cuts it short; `waits`: the scheduler has asked for them."""

    __slots__ = ("lower", "reserved", "source", "start", "began_s", "done_s", "deadline_s", "done", "waits", "asked", "over")

    def __init__(self, lower: TierBelow, reserved: Reservation, source: Pin, start: int, done: Done) -> None:
        self.lower, self.reserved, self.source, self.start, self.done = lower, reserved, source, start, done
        self.waits = self.over = False
        self.began_s = self.done_s = 0.0
        self.deadline_s = -1.0  # not asked for yet
        self.asked: Event

    def come(self, now: float, batch_tokens: int) -> int:
        """Tokens that have come by now, as if they came evenly, in whole batches of so many but for the last."""
        if now >= self.done_s:
            return self.reserved.tokens
        share = (now - self.began_s) / max(1e-12, self.done_s - self.began_s)
        return int(self.reserved.tokens * share) // batch_tokens * batch_tokens


class Prefetches:
    """The reads of one replica. A request that the scheduler asks for waits for its own by the engine's rule: not at all, to its end, or
    until a deadline."""

    def __init__(self, clock: Clock, rules: Offload, host: TierBelow, lower: tuple[TierBelow, ...], *, block_tokens: int) -> None:
        self.clock, self.rules, self.host, self.lower = clock, rules, host, lower
        self.batch_tokens = max(1, rules.prefetch_batch_blocks * block_tokens)
        self.room_tokens = int(rules.prefetch_share * host.pool.tier.capacity_tokens)  # left for reads under way
        self._reads: dict[Sequence, Prefetch] = {}

    def start(self, seq: Sequence, reach: int, done: Done) -> None:
        """A request enters the queue, of whose prompt the GPU has `reach` tokens: read what only lower tiers hold of it."""
        pool, keys, retention = self.host.pool, seq.request.blocks, seq.request.retention
        held = pool.look(keys, reach, seq.prompt, again=True, retention=retention)
        for lower in self.lower:
            below = lower.pool.look(keys, held, seq.prompt, again=True, retention=retention)
            if below - held < max(1, self.rules.prefetch_min_tokens):
                continue
            if below - held > self.room_tokens:
                return
            reserved = pool.reserve(keys, first_token(self.rules, held), below, keep=seq.prompt)
            if reserved is not None:
                self.room_tokens -= reserved.tokens
                read = self._reads[seq] = Prefetch(lower, reserved, lower.pool.pin(keys, below), held, done)
                self._queue(seq, read)
            return

    def wait(self, seq: Sequence) -> bool:
        """The scheduler asks for a request: does it wait for a read. If not, what has come by now is all that comes."""
        read = self._reads.get(seq)
        if read is None:
            return False
        if read.deadline_s < 0:  # patience begins when the scheduler first asks, and grows with all that was not found above
            patience_s = self.rules.prefetch_timeout_s + self.rules.prefetch_timeout_token_s * (seq.prompt - read.start)
            read.deadline_s = self.clock.now + min(self.rules.prefetch_timeout_most_s, patience_s)
        if self.rules.prefetch == "wait_complete" or (self.rules.prefetch == "timeout" and self.clock.now < read.deadline_s):
            seq.waiting_for_remote_kv = read.waits = True
            if not read.asked.triggered:
                read.asked.succeed()
            return True
        self._end(seq, read)
        return False

    def _queue(self, seq: Sequence, read: Prefetch) -> None:
        now, tokens = self.clock.now, read.reserved.tokens
        read.began_s, read.done_s = read.lower.path.send(IN, now, tokens) if tokens else (now, now)
        read.asked = self.clock.event()
        self.clock.process(self._reading(seq, read))

    def _reading(self, seq: Sequence, read: Prefetch) -> Steps:
        end = self.clock.until(read.done_s)
        come = yield self.clock.any_of([end, read.asked])
        if end not in come:
            yield self.clock.any_of([end, self.clock.until(read.deadline_s)]) if self.rules.prefetch == "timeout" else end
        self._end(seq, read)

    def _end(self, seq: Sequence, read: Prefetch) -> None:
        if read.over:
            return
        read.over = True
        del self._reads[seq]
        came = read.reserved.commit(read.come(self.clock.now, self.batch_tokens))
        self.room_tokens += read.reserved.tokens
        read.lower.pool.tier.loaded_tokens += came
        read.source.release()
        note_promoted(seq, read.lower, read.start, read.start + came)
        if read.waits:
            seq.waiting_for_remote_kv = False
            seq.load_s += self.clock.now - read.began_s
            read.done(False)


def beyond(tiers: tuple[TierBelow, ...], seq: Sequence, held: int, limit: int, *, again: bool) -> tuple[TierBelow, int] | None:
    """The first of some tiers that goes on where the one above ends, and up to which token."""
    for lower in tiers:
        below = lower.pool.look(seq.request.blocks, held, limit, again=again, retention=seq.request.retention)
        if below > held:
            return lower, below
    return None


def first_token(rules: Offload, held: int) -> int:
    """From which token on content comes into host memory, which holds `held`: without a gap, unless the GPU's part is meant to be missing
    there."""
    return held if rules.store == "on_evict" or rules.job_order != "position" else 0


def note_promoted(seq: Sequence, lower: TierBelow, start: int, end: int) -> None:
    """Tokens [start, end) came into host memory from a lower tier on behalf of a sequence."""
    before = seq.promoted.get(lower.slot)
    seq.promoted[lower.slot] = range(min(start, before.start) if before else start, end)
