"""What is stored downwards, and when: after each step, from the n-th lookup on, or when the tier above gives it up."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from kvplan.engine.spec import Offload, Overhead
from kvplan.request import Request
from kvplan.sim.cache.mirror import Mirror
from kvplan.sim.cache.pool import Keys, keys_of
from kvplan.sim.cache.prefix import Node
from kvplan.sim.cache.tier import Tier
from kvplan.sim.clock import Clock
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.convoy import being_written, written
from kvplan.sim.transfer.due import due
from kvplan.sim.transfer.links import OUT, HostLink
from kvplan.sim.transfer.paths import REMOTE, TierBelow


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
        drafts: bool = False,
    ) -> None:
        self.clock, self.rules, self.overhead, self.gpu, self.link, self.host, self.lower = clock, rules, overhead, gpu, link, host, lower
        self.block_tokens = block_tokens
        self.hole_tokens = host.pool.grain_tokens if drafts and rules.draft_holes else 0
        self.due = due(rules.store, rules.store_counts)
        self.mirror = Mirror(gpu, host.pool) if rules.keeps_gpu_content and rules.store != "on_evict" else None
        self.freed: Callable[[], None] = lambda: None  # called when a store no longer needs its blocks on the GPU
        self.busy_until_s: Callable[[], float] = lambda: clock.now  # when the step in progress ends
        self.unstored_tokens = 0
        self.refused: dict[Sequence, int] = {}  # up to which token was offered in vain
        self.submitted_s = 0.0  # when the worker has handed over the stores so far
        self.blocked_until_s = 0.0  # a step that has ended waits for its stores until then
        self.space_s = 0.0  # when the blocks given up last have been copied and can be written
        self._under_copy: deque[tuple[float, Keys, int, int]] = deque()  # until when which tokens of some content are read, oldest first
        self._aside: list[Callable[[], None]] = []  # stores that begin when the next step ends
        if rules.store == "on_evict":
            gpu.spill, gpu.spill_tokens = self._spilled, max(gpu.spill_tokens, rules.spill_blocks * block_tokens)
        if rules.lower_store == "on_evict" and lower:
            host.pool.tier.spill, host.pool.tier.spill_tokens = self._spilled_below, rules.spill_blocks * block_tokens

    def after_step(self, job: Sequence, upto: int) -> None:
        """Offer the full blocks of a job's prompt up to a token to host memory."""
        pool, keys, leaf = self.host.pool, job.request.blocks, job.own_tail or job.leaf
        pool.tend(self.clock.now)
        assert job.leaf is not None and leaf is not None
        upto = min(upto, job.leaf.end)
        first, end = self.due(pool, job, upto, self.rules.store_after_lookups)
        end = end // pool.grain_tokens * pool.grain_tokens
        if end <= job.stored:
            return
        start, since = self._offered(job, first)
        index, end = end, end - self.hole_tokens
        reserved = pool.store(keys, start, end, keep=job.prompt, since=since, retention=job.request.retention)
        if reserved is None:
            if self.rules.streams_stores and self.lower:
                self._stream(job, keys, end)
                return
            self.unstored_tokens += end - job.stored
            if self.rules.offers_again:
                self.refused[job] = upto
            return
        copied, job.stored = self._copied(job, end, reserved.tokens), index
        if not copied:
            reserved.commit()
            if self.mirror is not None:
                self.mirror.hold(leaf, keys, end)
            return
        fresh = (reserved.start, reserved.end) if reserved.tokens else (end, end)
        holds = self.rules.store_holds_blocks
        if holds:
            self.gpu.pin(leaf)

        writing = being_written(reserved, *fresh) if self.rules.waits_for_stores else None

        def stored() -> None:
            reserved.commit()
            self._cascade(keys, start, end, job.prompt, fresh)
            if writing is not None:
                written(writing)
            if self.mirror is not None:
                self.mirror.hold(leaf, keys, end)
            if holds:
                self.gpu.unpin(leaf)
                self.freed()

        def send() -> None:
            done_s = self._sent_s(copied)
            if not holds:
                self._under_copy.append((done_s, keys, fresh[0], end))
                self.gpu.reused = self._reused
            self.clock.at(done_s, stored)

        if self.rules.store_start == "step_end":
            send()
        else:
            self._aside.append(send)

    def _offered(self, job: Sequence, first: int) -> tuple[int, int]:
        """From which token on a job offers its prompt, and from which token on that counts as used."""
        if self.rules.job_order == "position":  # what was loaded for this one alone is not stored again
            return (max(first, job.offered_from) if self.rules.promotes_for_one else first), 0
        since = job.offered_from if self.rules.stores_gpu_hits else max(job.offered_from, job.hits[0])
        return max(first, since, job.stored), since

    def _copied(self, job: Sequence, end: int, lacking: int) -> int:
        """Tokens that a job copies of a prompt up to `end`, of which host memory lacks some. What others have brought since the lookup is
        given a place, which may cost somebody else's, and dropped again."""
        if not self.rules.stores_again:
            return lacking
        tier = self.host.pool.tier
        copied = max(lacking, end - max(job.stored, job.found_below // tier.grain_tokens * tier.grain_tokens))
        if copied > lacking and tier.take(copied - lacking):
            tier.give_back(copied - lacking)
        return copied

    def step_ended(self) -> None:
        """Stores that were put aside when the step before ended begin."""
        aside, self._aside = self._aside, []
        for send in aside:
            send()

    def _stream(self, job: Sequence, keys: Keys, end: int) -> None:
        """Through a buffer past host memory, which has no room beside what it has of the prompt."""
        job.stored = end
        for lower in self.lower:
            _, due = self._due(lower, keys, 0, end, (0, end))
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
        if not copies:
            self.gpu.reused = None
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
            if not self.rules.stores_before_launch:
                self.submitted_s = max(now, self.submitted_s) + self.host.path.submit_s(OUT, tokens)
            return self.host.path.send(OUT, now, tokens)[1]
        if self.blocked_until_s < now:
            self.blocked_until_s = now + self.overhead.store_s
        _, self.blocked_until_s = self.host.path.send(OUT, self.blocked_until_s, tokens)
        return self.blocked_until_s

    def _cascade(self, keys: Keys, start: int, end: int, keep: int, fresh: tuple[int, int]) -> None:
        """What reached host memory goes on to the tiers behind it; of the content, what they have up to `keep` stays
        meanwhile. Tokens [start, end) of `fresh` are new there."""
        for lower in self.lower:
            first, due = self._due(lower, keys, start, end, fresh)
            self._write(lower, keys, min(first, due), due, keep)

    def _due(self, lower: TierBelow, keys: Keys, start: int, end: int, fresh: tuple[int, int]) -> tuple[int, int]:
        """Of tokens [start, end) that host memory was given, those that are due in a tier behind it."""
        rule = self.rules.remote_store if lower.slot == REMOTE and self.rules.remote_store else self.rules.lower_store
        if rule != "selective":
            return start, end if rule == "write_through" else 0
        pool, times = lower.pool, self.rules.lower_store_after_lookups
        if pool.counting == "stores":
            pool.stored(keys, *fresh, self.clock.now)
            return fresh[0], pool.asked_for(keys, *fresh, times)
        return start, pool.asked_for(keys, 0, end, times)

    def _write(self, lower: TierBelow, keys: Keys, start: int, end: int, keep: int) -> None:
        pool, above = lower.pool, self.host.pool
        reserved = pool.store(keys, start if pool.counting == "stores" else 0, end, keep=keep)
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
        if (
            isinstance(node.keys[0], tuple) or node.retention < self.rules.spill_min_retention
        ):  # what a preempted job generated, or not worth it
            return
        pool, keys = self.host.pool, keys_of(node, self.gpu.tree.key_tokens)
        reserved = pool.store(keys, start, end, retention=node.retention)
        if reserved is None:
            self.unstored_tokens += end - start
            return
        if not reserved.tokens:
            reserved.commit()
            return
        ready_s = self.busy_until_s() if self.rules.spills_behind_step else self.clock.now
        _, self.space_s = self.host.path.send(OUT, ready_s, reserved.tokens)
        if self.rules.spill_waits:
            self.submitted_s = max(self.submitted_s, self.space_s)

        def stored() -> None:
            reserved.commit()
            self._cascade(keys, start, end, end, (start, end))

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
        self._cascade(keys, 0, end, end, (job.prompt, end))
        self.link.busy_s[OUT] += self.host.path.service_s(OUT, reserved.tokens)
