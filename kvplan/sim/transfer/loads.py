"""What is loaded back, and how a step meets its loads.

`whole_request`: everything is on the GPU before the request is scheduled, as vLLM's native connector does. `blocking`:
the step that starts a request waits for its loads, and everybody in it. `layerwise`: that step starts at once and each
layer waits for its own part. What only a lower tier holds first comes into host memory: on demand, or while the request
is queued (`prefetch`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from kvplan.engine.spec import EngineSpec
from kvplan.sim.cache.gpu_cache import GpuCache
from kvplan.sim.cache.pool import Coming, span
from kvplan.sim.cache.prefix import Node
from kvplan.sim.cache.tier import Tier
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.links import IN
from kvplan.sim.transfer.lower import Lower
from kvplan.sim.transfer.paths import Host
from kvplan.step_time import StepCost

Done = Callable[[bool], None]
"""Called when what a sequence waited for has happened; with True its own load is on the GPU, with False it should ask again."""


class Outcome(enum.Enum):
    """What a waiting seq gets from below."""

    NOTHING = enum.auto()
    WAITS = enum.auto()
    IN_STEP = enum.auto()  # it is admitted, and its step waits
    NO_ROOM = enum.auto()


class Tally:
    """Loads of a run: how many, how many lost against computing again, seconds waited and lost."""

    def __init__(self) -> None:
        self.count = self.losing = 0
        self.stall_s = self.losing_s = 0.0


class Load:
    """Tokens [start, end) of the path to `leaf` on their way to a tier; `waiters` go on when they have come."""

    __slots__ = ("leaf", "tier", "start", "end", "waiters")

    def __init__(self, leaf: Node, tier: Tier, start: int, end: int) -> None:
        self.leaf, self.tier, self.start, self.end = leaf, tier, start, end
        self.waiters: list[tuple[Sequence, Done]] = []


class StepLoad:
    """A load that runs inside a step: tokens [reach, held) of host memory, and what comes into that from
    below first."""

    __slots__ = ("seq", "reach", "held", "source", "parts")

    def __init__(self, seq: Sequence, reach: int, held: int, source: Node, parts: list[tuple[Lower, Coming, Node]]) -> None:
        self.seq, self.reach, self.held, self.source, self.parts = seq, reach, held, source, parts


class Prefetch:
    """A read from a lower tier into host memory for a queued request; `blocks`: the request is scheduled and waits for it."""

    __slots__ = ("done", "blocks", "lower", "coming", "source", "start", "began_s", "done_s", "deadline_s")

    def __init__(
        self, done: Done, lower: Lower, coming: Coming, source: Node, start: int, began_s: float, done_s: float, deadline_s: float
    ) -> None:
        self.done, self.blocks = done, False
        self.lower, self.coming, self.source, self.start = lower, coming, source, start
        self.began_s, self.done_s, self.deadline_s = began_s, done_s, deadline_s


def _blocking(start_s: float, step_s: float, first_s: float, last_s: float, layers: int) -> float:
    """All layers of all loads, then the step."""
    return max(0.0, last_s - start_s) + step_s


def _layerwise(start_s: float, step_s: float, first_s: float, last_s: float, layers: int) -> float:
    """Layer l computes when layer l-1 has and its own part is there: the later of a step behind the first layer's part
    and of the last layer's computation behind the last part."""
    first_layer_s = first_s + (last_s - first_s) / layers
    return max(max(start_s, first_layer_s) + step_s, last_s + step_s / layers) - start_s


IN_STEP: dict[str, Callable[[float, float, float, float, int], float]] = {
    "blocking": _blocking,
    "layerwise": _layerwise,
}
"""Load rule -> seconds of a step that starts at `start_s`, computes for `step_s`, and whose loads take the link from
`first_s` to `last_s`."""


class Loads:
    """Loads of one replica."""

    def __init__(self, engine: EngineSpec, cost: StepCost, gpu: GpuCache, host: Host, lower: tuple[Lower, ...], tally: Tally) -> None:
        self.engine, self.rules, self.cost = engine, engine.offload, cost
        self.gpu, self.host, self.lower, self.tally = gpu, host, lower, tally
        self.pending: list[StepLoad] = []  # of the step that is being planned
        self._prefetches: dict[Sequence, Prefetch] = {}

    # -- a waiting seq ------------------------------------------------------------------------------------------------

    def begin(self, seq: Sequence, path: list[Node], reach: int, budget: int, busy_until_s: float, done: Done) -> Outcome:
        """Start what a waiting sequence needs from below, of whose prompt the GPU has `reach` tokens; the step in progress
        ends at `busy_until_s`."""
        rules, pool, keys = self.rules, self.host.pool, seq.request.blocks
        if rules.load_rule == "never":
            return Outcome.NOTHING
        again, seq.looked = seq.looked, True
        if not again:
            for counted in (pool, *(lower.pool for lower in self.lower)):
                counted.count(keys)
        fetch = self._prefetches.get(seq)
        if fetch is not None and self._prefetching(seq, fetch):
            return Outcome.WAITS
        held = pool.look(keys, reach, seq.prompt, again=again, retention=seq.request.retention)
        if rules.load in IN_STEP:
            return self._in_step(seq, path, reach, held, budget)
        for lower in self.lower if rules.prefetch == "none" else ():
            below = lower.pool.look(keys, held, seq.prompt, again=again, retention=seq.request.retention)
            if below > held and self._worth(seq, reach, below, [(lower, below - held)]):
                leaf = pool.tree.path(keys, below)
                waits = self._wait_for(seq, done, pool.tier, span(leaf, 0), held, below)
                pool.tree.prune(leaf)
                if waits or self._promote(seq, done, lower, held, below):
                    return Outcome.WAITS
        return self._whole(seq, path, reach, held, busy_until_s, done)

    def _whole(self, seq: Sequence, path: list[Node], reach: int, held: int, busy_until_s: float, done: Done) -> Outcome:
        """Load tokens [reach, held) of host memory before the sequence is scheduled."""
        if held - reach < max(self.engine.block_tokens, self.rules.load_min_tokens) or not self._worth(seq, reach, held, []):
            return Outcome.NOTHING
        if self._wait_for(seq, done, self.gpu.tier, path, reach, held):
            return Outcome.WAITS
        if not self.gpu.hold(seq, path, reach, held):
            return Outcome.NO_ROOM
        tokens, source = held - reach, self.host.pool.pin(seq.request.blocks, seq.prompt)
        load = self._under_way(seq, self.gpu.tier, path, reach, held)
        began_s = self.host.clock.now
        ready_s = busy_until_s if self.rules.loads_exclude_steps else began_s
        overhead = self.engine.overhead
        _, sent_s = self.host.send(IN, ready_s + overhead.load_block_s * tokens / self.engine.block_tokens, tokens)
        done_s = sent_s + overhead.load_s  # dispatch and completion hold up this seq, not the link

        def loaded() -> None:
            self._unpin(source, reach)
            self._on_gpu(seq, reach, held)
            seq.load_s += self.host.clock.now - began_s
            self._weigh(seq, reach, held)
            self._over(load, seq)
            done(True)

        self.host.clock.at(done_s, loaded)
        return Outcome.WAITS

    def _overhead_s(self, tokens: int) -> float:
        overhead = self.engine.overhead
        return overhead.load_s + overhead.load_block_s * tokens / self.engine.block_tokens

    def _unpin(self, source: Node, reach: int) -> None:
        self.host.pool.unpin(source, moved_from=reach if self.rules.exclusive else None)

    def _on_gpu(self, seq: Sequence, reach: int, held: int) -> None:
        """Count what came, and enter it into the GPU's index; the last token of a prompt is always computed."""
        self.host.pool.tier.loaded_tokens += held - reach
        seq.computed = held
        self.gpu.share(seq)
        seq.computed = min(held, seq.target - 1)
        if not seq.counted:
            hits = [reach, held - reach, 0, 0]
            for slot, came in seq.promoted.items():
                tokens = len(range(max(reach, came.start), min(held, came.stop)))
                hits[slot] += tokens
                hits[1] -= tokens
            seq.hits = tuple(hits)

    # -- loads inside a step ------------------------------------------------------------------------------------------

    def _in_step(self, seq: Sequence, path: list[Node], reach: int, held: int, budget: int) -> Outcome:
        parts, upto = self._parts(seq, reach, held)
        if upto - reach < max(self.engine.block_tokens, self.rules.load_min_tokens) or not self._worth(seq, reach, upto, []):
            self._give_up(parts)
            return Outcome.NOTHING
        if not self.gpu.hold(seq, path, reach, min(seq.target, upto + budget)):
            self._give_up(parts)
            return Outcome.NO_ROOM
        source = self.host.pool.pin(seq.request.blocks, seq.prompt)
        self.pending.append(StepLoad(seq, reach, upto, source, parts))
        for lower, coming, _ in parts:
            _note(seq, lower, coming.gaps[0][1], coming.gaps[-1][2])
        self._on_gpu(seq, reach, upto)
        return Outcome.IN_STEP

    def _parts(self, seq: Sequence, reach: int, held: int) -> tuple[list[tuple[Lower, Coming, Node]], int]:
        """What lower tiers add behind token `held`, on its way through host memory."""
        parts: list[tuple[Lower, Coming, Node]] = []
        keys = seq.request.blocks
        for lower in self.lower if self.rules.prefetch == "none" else ():
            below = lower.pool.look(keys, held, seq.prompt, again=True, retention=seq.request.retention)
            if below <= held or not self._worth(seq, reach, below, [(lower, below - held)]):
                continue
            coming = self.host.pool.expect(keys, self._behind(held), below, keep=seq.prompt)
            if coming is None:
                break
            if not coming.tokens:  # on its way for somebody else
                self.host.pool.arrived(coming)
                break
            parts.append((lower, coming, lower.pool.pin(keys, below)))
            held = below
        return parts, held

    def _give_up(self, parts: list[tuple[Lower, Coming, Node]]) -> None:
        for lower, coming, source in parts:
            self.host.pool.cut(coming, 0)
            lower.pool.unpin(source)

    def step_s(self, loads: list[StepLoad], start_s: float, step_s: float) -> float:
        """Seconds of a step that starts now with these loads, which are queued here."""
        first_s, last_s = float("inf"), start_s
        for load in loads:
            ready_s = start_s
            for lower, coming, _ in load.parts:
                ready_s = lower.device.send(IN, ready_s, coming.tokens)
            tokens = load.held - load.reach
            began_s, done_s = self.host.send(IN, ready_s + self._overhead_s(tokens), tokens)
            first_s, last_s = min(first_s, began_s), max(last_s, done_s)
            self.host.clock.at(done_s, lambda load=load: self._step_loaded(load))  # type: ignore[misc]
        duration_s = IN_STEP[self.rules.load](start_s, step_s, first_s, last_s, self.cost.model.depth)
        for load in loads:
            load.seq.load_s += duration_s - step_s
            self._weigh(load.seq, load.reach, load.held)
        return duration_s

    def _step_loaded(self, load: StepLoad) -> None:
        for lower, coming, source in load.parts:
            self.host.pool.arrived(coming)
            lower.pool.tier.loaded_tokens += coming.tokens
            lower.pool.unpin(source)
        self._unpin(load.source, load.reach)

    # -- from lower tiers into host memory ----------------------------------------------------------------------------

    def _behind(self, held: int) -> int:
        """From which token on content comes into host memory: without a gap, unless the GPU's part is meant to be
        missing there."""
        return held if self.rules.store == "on_evict" else 0

    def _promote(self, seq: Sequence, done: Done, lower: Lower, held: int, below: int) -> bool:
        """Read tokens [held, below) of a lower tier into host memory, for which there must be room."""
        pool, keys = self.host.pool, seq.request.blocks
        coming = pool.expect(keys, self._behind(held), below, keep=seq.prompt)
        if coming is None:
            return False
        if not coming.tokens:
            pool.arrived(coming)
            return False
        load = self._under_way(seq, pool.tier, span(coming.leaf, 0), held, below)
        source = lower.pool.pin(keys, below)
        began_s = self.host.clock.now
        done_s = lower.device.send(IN, began_s, coming.tokens)

        def promoted() -> None:
            self._over(load, seq)
            pool.arrived(coming)
            lower.pool.unpin(source, moved_from=held if self.rules.exclusive else None)
            lower.pool.tier.loaded_tokens += coming.tokens
            _note(seq, lower, held, below)
            seq.load_s += self.host.clock.now - began_s
            done(False)

        self.host.clock.at(done_s, promoted)
        return True

    def prefetch(self, seq: Sequence, reach: int, done: Done) -> None:
        """A request enters the queue: start to read what only lower tiers hold of it."""
        rules, pool, keys = self.rules, self.host.pool, seq.request.blocks
        held = pool.look(keys, reach, seq.prompt, again=True, retention=seq.request.retention)
        for lower in self.lower:
            below = lower.pool.look(keys, held, seq.prompt, again=True, retention=seq.request.retention)
            if below - held < max(1, rules.prefetch_min_tokens):
                continue
            coming = pool.expect(keys, self._behind(held), below, keep=seq.prompt)
            if coming is None:
                return
            now = self.host.clock.now
            patience_s = min(rules.prefetch_timeout_most_s, rules.prefetch_timeout_s + rules.prefetch_timeout_token_s * coming.tokens)
            done_s = lower.device.send(IN, now, coming.tokens) if coming.tokens else now
            self._prefetches[seq] = Prefetch(done, lower, coming, lower.pool.pin(keys, below), held, now, done_s, now + patience_s)
            self.host.clock.at(done_s, lambda tokens=coming.tokens: self._prefetched(seq, tokens))  # type: ignore[misc]
            return

    def _prefetching(self, seq: Sequence, fetch: Prefetch) -> bool:
        """Does a scheduled seq still wait for what it prefetches."""
        now = self.host.clock.now
        if self.rules.prefetch == "wait_complete" or (self.rules.prefetch == "timeout" and now < fetch.deadline_s):
            seq.waiting_for_remote_kv = fetch.blocks = True
            if self.rules.prefetch == "timeout" and fetch.deadline_s < fetch.done_s:
                self.host.clock.at(fetch.deadline_s, lambda: self._prefetched(seq, self._come(fetch)))
            return True
        self._prefetched(seq, self._come(fetch))
        return False

    def _come(self, fetch: Prefetch) -> int:
        """Tokens that have come by now, as if they came evenly."""
        share = (self.host.clock.now - fetch.began_s) / max(1e-12, fetch.done_s - fetch.began_s)
        return int(fetch.coming.tokens * min(1.0, share))

    def _prefetched(self, seq: Sequence, tokens: int) -> None:
        fetch = self._prefetches.pop(seq, None)
        if fetch is None:
            return
        came = self.host.pool.cut(fetch.coming, tokens)
        fetch.lower.pool.tier.loaded_tokens += came
        fetch.lower.pool.unpin(fetch.source)
        _note(seq, fetch.lower, fetch.start, fetch.start + came)
        if fetch.blocks:
            seq.waiting_for_remote_kv = False
            seq.load_s += self.host.clock.now - fetch.began_s
            fetch.done(False)

    # -- waiting for a load of somebody else --------------------------------------------------------------------------

    def _under_way(self, seq: Sequence, tier: Tier, path: list[Node], start: int, end: int) -> Load:
        """Mark tokens [start, end) of a path as on their way to a tier that has them pinned, on behalf of a seq."""
        leaf = path[-1] if path else seq.leaf
        assert leaf is not None
        load = Load(leaf, tier, start, end)
        seq.waiting_for_remote_kv = True
        for node in path:
            if node.end > start and node.start < end:
                node.entries[tier.index].load = load  # type: ignore[union-attr]
        return load

    def _over(self, load: Load, seq: Sequence) -> None:
        for node in span(load.leaf, 0):
            entry = node.entries[load.tier.index]
            if entry is not None and entry.load is load:
                entry.load = None
        seq.waiting_for_remote_kv = False
        for waiter, done in load.waiters:
            waiter.waiting_for_remote_kv = False
            done(False)

    def _wait_for(self, seq: Sequence, done: Done, tier: Tier, path: list[Node], start: int, end: int) -> bool:
        """Is some of [start, end) on its way to a tier for another seq; if so the seq waits for that load."""
        for node in path:
            entry = node.entries[tier.index]
            load: Load | None = entry.load if entry is not None else None
            if load is not None and max(start, load.start, node.start) < min(end, load.end, node.end):
                seq.waiting_for_remote_kv = True
                load.waiters.append((seq, done))
                return True
        return False

    # -- worth --------------------------------------------------------------------------------------------------------

    def recompute_s(self, seq: Sequence, start: int, end: int) -> float:
        """Seconds of prefill that having tokens [start, end) saves a seq."""
        steps = self.engine.step_tokens
        return self.cost.prefill_s(seq.target - start, start, steps) - self.cost.prefill_s(seq.target - end, end, steps)

    def _worth(self, seq: Sequence, start: int, end: int, parts: list[tuple[Lower, int]]) -> bool:
        """By the break-even rule: do the queues in front of the links and the transfers take less than
        computing again."""
        if self.rules.load_rule != "break_even":
            return True
        seconds = self.engine.overhead.load_s + self.host.wait_s(IN) + self.host.service_s(IN, end - start)
        seconds += sum(lower.device.wait_s(IN) + lower.device.service_s(IN, tokens) for lower, tokens in parts)
        return seconds < self.recompute_s(seq, start, end)

    def _weigh(self, seq: Sequence, start: int, end: int) -> None:
        """Compare what a load took, its promotion included, with computing tokens [start, end) again."""
        seconds = seq.load_s - seq.weighed_s
        seq.weighed_s = seq.load_s
        self.tally.count += 1
        self.tally.stall_s += seconds
        lost = seconds - self.recompute_s(seq, start, end)
        if lost > 0:
            self.tally.losing += 1
            self.tally.losing_s += lost


def _note(seq: Sequence, lower: Lower, start: int, end: int) -> None:
    """Tokens [start, end) came into host memory from a lower tier on behalf of a seq."""
    before = seq.promoted.get(lower.slot)
    seq.promoted[lower.slot] = range(min(start, before.start) if before else start, end)
