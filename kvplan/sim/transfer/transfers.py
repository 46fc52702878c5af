"""What a replica sees of the tiers below its GPU."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.engine.spec import Offload
from kvplan.sim.cache.prefix import Node
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.replica.step import ScheduledStep
from kvplan.sim.transfer.disaggregated import Deliveries
from kvplan.sim.transfer.links import IN, OUT
from kvplan.sim.transfer.loads import Loads, Outcome
from kvplan.sim.transfer.prefetch import Done
from kvplan.sim.transfer.stores import Stores
from kvplan.sim.transfer.streamed import Streamed


class Transfers:
    """Stores and loads of one replica, both None without a tier below; `deliveries` of one that only decodes."""

    def __init__(
        self,
        rules: Offload,
        stores: Stores | None = None,
        loads: Loads | None = None,
        *,
        streamed: Streamed | None = None,
        deliveries: Deliveries | None = None,
    ) -> None:
        self.rules, self.stores, self.loads, self.streamed, self.deliveries = rules, stores, loads, streamed, deliveries

    def attach(self, freed: Callable[[], None], busy_until_s: Callable[[], float], steps_run: Callable[[], bool]) -> None:
        """Call `freed` when blocks become evictable without a step of the engine; ask the others when the step in progress ends,
        and whether there is one."""
        if self.stores is not None:
            self.stores.freed, self.stores.busy_until_s = freed, busy_until_s
        if self.loads is not None:
            self.loads.steps_run = steps_run

    def hold_back(self, step: ScheduledStep, following: ScheduledStep, now: float) -> None:
        """A step with prompts has ended on the GPU: where the host waited for that, it only now prepares the one scheduled behind it."""
        if self.rules.waits_for_prompts and self.stores is not None:
            late_s = now + self.stores.overhead.prepare_s
            following.launched_s += max(0.0, late_s - following.ready_s)
            following.ready_s = max(following.ready_s, late_s)

    def outputs_seen_s(self, now: float) -> float:
        """When the tokens of a step that ends now reach the host: behind the stores already queued, on the same copy
        engine."""
        if self.stores is None or not self.rules.outputs_behind_stores:
            return now
        free_s = self.stores.link.free_at[OUT]
        return free_s if free_s > now else now

    def inputs_sent_s(self, now: float) -> float:
        """When a step may start: behind the loads already queued, on the same copy engine."""
        stores = self.stores
        if stores is None:
            return now
        if self.rules.loads_exclude_steps and stores.link.free_at[IN] > now:
            now = stores.link.free_at[IN]
        return now if now > stores.blocked_until_s else stores.blocked_until_s

    @property
    def unstored_tokens(self) -> int:
        """Tokens that a tier below had no room for when they were offered."""
        return self.stores.unstored_tokens if self.stores is not None else 0

    def step_ended(self, step: ScheduledStep, now: float, *, last: bool) -> float:
        """A step has ended, the last one scheduled or not: stores that waited for it begin, those of its prompts are queued. Returns when
        its tokens reach the host: at once, or when stores are down."""
        stores = self.stores
        if stores is None:
            return now
        seen_s, put_off = self.outputs_seen_s(now), self.rules.store_start == "next_step_end"
        if put_off:
            stores.step_ended()
        if stores.refused:
            stores.offer_again()
        for seq, new, context in step.chunks:
            if seq.running:
                stores.after_step(seq, context + new)
        if put_off and last:
            stores.step_ended()
        return max(seen_s, stores.blocked_until_s)

    @property
    def refused(self) -> bool:
        """Has host memory had no room for something that is offered again with every step."""
        return self.stores is not None and bool(self.stores.refused)

    def store_generated(self, seq: Sequence) -> None:
        """A seq has ended."""
        if self.stores is not None:
            self.stores.generated(seq)

    @property
    def prefetches(self) -> bool:
        """Is anything read for requests that are still queued."""
        return self.loads is not None and self.rules.prefetch != "none"

    def submitted(self, seq: Sequence, reach: int, done: Done) -> None:
        """A sequence enters the waiting line, of whose prompt the GPU has `reach` tokens."""
        if self.loads is not None:
            self.loads.prefetch(seq, reach, done)

    def begin(self, seq: Sequence, leaf: Node, reach: int, budget: int, busy_until_s: float, done: Done) -> Outcome:
        """Start what a waiting sequence needs from below; see Loads."""
        if self.deliveries is not None:
            fetched = self.deliveries.begin(seq, leaf, reach, done)
            if fetched is not Outcome.NOTHING:
                return fetched
        if self.loads is None:
            return Outcome.NOTHING
        return self.loads.begin(seq, leaf, reach, budget, busy_until_s, done)

    def planned(self, step: ScheduledStep) -> None:
        """A step has just been planned: it gets the loads that begin when it ends, and those that run inside it."""
        loads = self.loads
        if loads is None:
            return
        if loads.begins:
            step.begins, loads.begins = loads.begins, []
        if loads.pending and not step.empty:
            step.loads, loads.pending = loads.pending, []

    def submitted_s(self) -> float:
        """When the worker has handed over all transfers so far, which it does before it launches another step."""
        loads_s = self.loads.submitted_s if self.loads is not None else 0.0
        return max(loads_s, self.stores.submitted_s) if self.stores is not None else loads_s

    def handed_over_s(self, last: ScheduledStep) -> float:
        """Seconds in which the worker hands over the stores of the last step in flight, one with prompts, before it launches another."""
        if self.stores is None or not self.rules.stores_before_launch or self.rules.store == "on_evict":
            return 0.0
        return sum([self.stores.host.path.submit_s(OUT, new) for _, new, _ in last.chunks])

    def space_s(self) -> float:
        """From when on every block that may be allocated can be written: none is still being copied."""
        stores = self.stores
        if stores is None:
            return 0.0
        return stores.space_s if self.rules.store_holds_blocks else max(stores.space_s, stores.link.free_at[OUT])

    def settled_s(self, now: float) -> float:
        """From when on no transfer holds up a step or its tokens."""
        return max(self.space_s(), self.outputs_seen_s(now), self.inputs_sent_s(now), self.submitted_s())

    def stall_s(self, plan: ScheduledStep, now: float) -> float:
        """Seconds that a step which starts now is longer than its computation: for its loads, and for space that is
        still being copied."""
        if self.streamed is not None:
            return self.streamed.stall_s(plan, now)
        if self.stores is None:
            return 0.0
        start_s = now if now > self.stores.space_s else self.stores.space_s
        if not plan.loads:
            return start_s - now
        assert self.loads is not None
        return start_s - now + self.loads.step_s(plan.loads, start_s, plan.duration_s) - plan.duration_s
