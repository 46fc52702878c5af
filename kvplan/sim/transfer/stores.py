"""What is stored downwards, and when: after each step, from the n-th lookup on, or when the tier above gives it up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from kvplan.engine.spec import Offload, Overhead
from kvplan.request import Request
from kvplan.sim.cache.pool import Keys, Pool, keys_of
from kvplan.sim.cache.prefix import Node
from kvplan.sim.cache.tier import Tier
from kvplan.sim.clock import Clock
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.links import OUT, HostLink
from kvplan.sim.transfer.paths import REMOTE, TierBelow

SPILL_BLOCKS = 64
"""Blocks of a run that an engine with on-evict stores gives up at once, so that a run does not fall to single blocks. Assumed: a whole
node of SGLang's tree goes at once, however long it is."""

DUE: dict[str, Callable[[Pool, Keys, int, int], int]] = {
    "write_through": lambda pool, keys, end, times: end,
    "selective": lambda pool, keys, end, times: min(end, pool.asked_for(keys, times)),
    "on_evict": lambda pool, keys, end, times: 0,
}
"""Store rule -> how many leading tokens are due, of `end` that the tier above has."""


class Stores:
    """Stores of one replica into host memory and on into the tiers behind it."""

    def __init__(
        self,
        clock: Clock,
        rules: Offload,
        overhead: Overhead,
        gpu: Tier,
        link: HostLink,
        host: TierBelow,
        lower: tuple[TierBelow, ...],
        *,
        block_tokens: int,
    ) -> None:
        self.clock, self.rules, self.overhead, self.gpu, self.link, self.host, self.lower = clock, rules, overhead, gpu, link, host, lower
        self.block_tokens = block_tokens
        self.freed: Callable[[], None] = lambda: None  # called when a store no longer needs its blocks on the GPU
        self.unstored_tokens = 0
        self.refused: dict[Sequence, int] = {}  # up to which token was offered in vain
        self.submitted_s = 0.0  # when the worker has handed over the stores so far
        self.blocked_until_s = 0.0  # a step that has ended waits for its stores until then
        self.space_s = 0.0  # when the blocks given up last have been copied and can be written
        self._under_copy: deque[tuple[float, Keys, int, int]] = deque()  # until when which tokens of some content are read, oldest first
        self._aside: list[Callable[[], None]] = []  # stores that begin when the next step ends
        if not rules.store_holds_blocks:
            gpu.reused = self._reused
        if rules.store == "on_evict":
            gpu.spill, gpu.spill_tokens = self._spilled, SPILL_BLOCKS * block_tokens
        if rules.lower_store == "on_evict" and lower:
            host.pool.tier.spill, host.pool.tier.spill_tokens = self._spilled_below, SPILL_BLOCKS * block_tokens

    def after_step(self, job: Sequence, upto: int) -> None:
        """Offer the full blocks of a job's prompt up to a token to host memory."""
        pool, keys, leaf = self.host.pool, job.request.blocks, job.own_tail or job.leaf
        assert job.leaf is not None and leaf is not None
        upto = min(upto, job.leaf.end)
        end = DUE[self.rules.store](pool, keys, upto, self.rules.store_after_lookups) // pool.grain_tokens * pool.grain_tokens
        if end <= job.stored:
            return
        start = max(job.offered_from, job.stored) if self.rules.job_order != "position" else 0
        reserved = pool.store(keys, start, end, keep=job.prompt, since=job.offered_from, retention=job.request.retention)
        if reserved is None:
            if self.rules.streams_stores and self.lower:
                self._stream(job, keys, end)
                return
            self.unstored_tokens += end - job.stored
            if self.rules.offers_again:
                self.refused[job] = upto
            return
        job.stored = end
        if not reserved.tokens:
            reserved.commit()
            return
        holds = self.rules.store_holds_blocks
        if holds:
            self.gpu.pin(leaf)

        def stored() -> None:
            reserved.commit()
            self._cascade(keys, start, end, job.prompt)
            if holds:
                self.gpu.unpin(leaf)
                self.freed()

        def send() -> None:
            done_s = self._sent_s(reserved.tokens)
            if not holds:
                self._under_copy.append((done_s, keys, reserved.start, end))
            self.clock.at(done_s, stored)

        if self.rules.store_start == "step_end":
            send()
        else:
            self._aside.append(send)

    def step_ended(self) -> None:
        """Stores that were put aside when the step before ended begin."""
        aside, self._aside = self._aside, []
        for send in aside:
            send()

    def _stream(self, job: Sequence, keys: Keys, end: int) -> None:
        """Through a buffer past host memory, which has no room beside what it has of the prompt."""
        job.stored = end
        for lower in self.lower:
            due = self._due(lower, keys, end)
            reserved = lower.pool.store(keys, 0, due, keep=job.prompt)
            if reserved is None:
                self.unstored_tokens += due
                continue
            _, down_s = self.host.path.send(OUT, self.clock.now, reserved.tokens) if reserved.tokens else (0.0, self.clock.now)
            done_s = lower.path.send(OUT, down_s, reserved.tokens)[1] if reserved.tokens else down_s
            self.clock.at(done_s, partial(reserved.commit, None))

    def offer_again(self) -> None:
        """A step has ended: what was refused is offered again by those that still run."""
        refused, self.refused = self.refused, {}
        for seq, upto in refused.items():
            if seq.running:
                self.after_step(seq, upto)

    def _reused(self, node: Node, start: int, end: int) -> None:
        """Blocks are allocated again: where they are still being copied the step that does so waits."""
        if isinstance(node.keys[0], tuple):  # what a preempted sequence generated is not stored
            return
        copies, now, key_tokens = self._under_copy, self.clock.now, self.gpu.tree.key_tokens
        while copies and copies[0][0] <= now:
            copies.popleft()
        for done_s, keys, first, last in copies:
            shared = min(end, last)
            if max(start, first) < shared:
                at, there = (shared - 1) // key_tokens, (shared - 1) // key_tokens - node.start // key_tokens
                if at < len(keys) and there < len(node.keys) and keys[at] == node.keys[there]:  # a last, partial block has no name
                    self.space_s = max(self.space_s, done_s)

    def _sent_s(self, tokens: int) -> float:
        """When a store that is queued now is down; where the step waits for its stores, one follows the other."""
        now = self.clock.now
        if not self.rules.store_in_step:
            self.submitted_s = max(now, self.submitted_s) + self.overhead.submit_block_s * tokens / self.block_tokens
            return self.host.path.send(OUT, now, tokens)[1]
        if self.blocked_until_s < now:
            self.blocked_until_s = now + self.overhead.store_s
        _, self.blocked_until_s = self.host.path.send(OUT, self.blocked_until_s, tokens)
        return self.blocked_until_s

    def _cascade(self, keys: Keys, start: int, end: int, keep: int) -> None:
        """What reached host memory goes on to the tiers behind it; of the content, what they have up to `keep` stays
        meanwhile."""
        for lower in self.lower:
            due = self._due(lower, keys, end)
            self._write(lower, keys, min(start, due), due, keep)

    def _due(self, lower: TierBelow, keys: Keys, end: int) -> int:
        """Leading tokens, of `end` that host memory was given, which are due in a tier behind it."""
        rule = self.rules.remote_store if lower.slot == REMOTE and self.rules.remote_store else self.rules.lower_store
        return DUE[rule](lower.pool, keys, end, self.rules.lower_store_after_lookups)

    def _write(self, lower: TierBelow, keys: Keys, start: int, end: int, keep: int) -> None:
        pool, above = lower.pool, self.host.pool
        reserved = pool.store(keys, 0, end, keep=keep)
        if reserved is None:
            self.unstored_tokens += end
            return
        if not reserved.tokens:
            reserved.commit()
            return
        source = above.pin(keys, keep, used=(start, end))
        _, done_s = lower.path.send(OUT, self.clock.now, reserved.tokens)

        def written() -> None:
            reserved.commit()
            source.release()

        self.clock.at(done_s, written)

    def _spilled(self, node: Node, start: int, end: int) -> None:
        """The GPU gives up a part of a run: it is copied to host memory before the blocks are written again."""
        if isinstance(node.keys[0], tuple):  # what a preempted job generated: computed again
            return
        pool, keys = self.host.pool, keys_of(node, self.gpu.tree.key_tokens)
        reserved = pool.store(keys, start, end, retention=node.retention)
        if reserved is None:
            self.unstored_tokens += end - start
            return
        if not reserved.tokens:
            reserved.commit()
            return
        _, self.space_s = self.host.path.send(OUT, self.clock.now, reserved.tokens)

        def stored() -> None:
            reserved.commit()
            self._cascade(keys, start, end, end)

        self.clock.at(self.space_s, stored)

    def _spilled_below(self, node: Node, start: int, end: int) -> None:
        """Host memory gives up a part of a run. The write is staged, so that its place can be used at once."""
        keys = keys_of(node, self.host.pool.tree.key_tokens)
        for lower in self.lower:
            reserved = lower.pool.store(keys, start, end, retention=node.retention)
            if reserved is None:
                self.unstored_tokens += end - start
            elif not reserved.tokens:
                reserved.commit()
            else:
                _, done_s = lower.path.send(OUT, self.clock.now, reserved.tokens)
                self.clock.at(done_s, partial(reserved.commit, None))

    def generated(self, job: Sequence) -> None:
        """Full blocks that were filled while decoding: each is small and stored alone, so they are accounted when the
        job ends."""
        if not self.rules.store_generated or self.rules.store == "on_evict":
            return
        if job.following is not None and self._goes_on(job, job.following):
            self._answer(job, job.following)
            return
        tier = self.host.pool.tier
        grain = tier.grain_tokens
        tokens = (job.prompt + job.emitted - 1) // grain * grain - max(job.stored, job.prompt // grain * grain)
        if tokens <= 0 or not tier.take(tokens):
            return
        tier.stored_tokens += tokens
        tier.leave(tokens)
        self.link.busy_s[OUT] += self.host.path.service_s(OUT, tokens)

    def _goes_on(self, job: Sequence, following: Request) -> bool:
        """Does the next turn's prompt begin with this one's."""
        size = self.host.pool.tree.key_tokens
        whole = job.prompt // size
        return following.prompt_tokens > job.prompt and following.blocks[:whole] == job.request.blocks[:whole]

    def _answer(self, job: Sequence, following: Request) -> None:
        """The answer as the beginning of the next turn's prompt, which will look for it."""
        pool, keys = self.host.pool, following.blocks
        end = min(job.prompt + job.emitted - 1, following.prompt_tokens)
        reserved = pool.store(keys, 0, end, retention=job.request.retention)
        if reserved is None:
            self.unstored_tokens += end - job.prompt
            return
        reserved.commit()
        self._cascade(keys, 0, end, end)
        self.link.busy_s[OUT] += self.host.path.service_s(OUT, reserved.tokens)
