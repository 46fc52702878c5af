"""What a run did moment by moment, for pictures: attached to a run only when asked for, so that others pay nothing.

Rows of numbers in flat arrays, one array a kind: states of a replica after its steps, the steps, transfers, loads, requests.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from kvplan.sim.cache.tier import Tier
from kvplan.sim.clock import Clock
from kvplan.sim.replica.jump import Course
from kvplan.sim.replica.scheduler import Scheduler
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.replica.step import ScheduledStep
from kvplan.sim.transfer.links import IN
from kvplan.sim.transfer.paths import Path

TIERS = ("gpu", "cpu", "disk", "remote")
LINKS = ("", "host memory", "disk", "remote pool")
COLUMNS = {
    "states": ("at_s", "replica", "waiting", "loading", "running", "gpu_active", *TIERS),  # tokens; -1 where there is no such tier
    "steps": ("start_s", "end_s", "replica", "steps", "prefill_tokens", "decodes", "stall_s"),
    "sends": ("start_s", "end_s", "ready_s", "replica", "tier", "direction", "tokens"),
    "loads": ("sent_s", "end_s", "index", "tier", "tokens", "load_s", "recompute_s"),
    "requests": ("index", "replica", "arrival_s", "enter_s", "admit_s", "first_s", "last_s", "load_s"),
}
"""Kind of row -> its numbers; times are seconds since the run began."""


class History:
    """The rows of a run; `replicas` are counted over prefill and other replicas in the order in which they are built."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rows = {kind: array("d") for kind in COLUMNS}
        self.token_bytes = (0.0, 0.0, 0.0, 0.0)  # of the tiers
        self.capacity_tokens = dict.fromkeys(TIERS, 0)  # over all replicas
        self.shared: set[str] = set()  # tiers that several replicas share
        self.replicas = 0
        self._seen: set[int] = set()

    def table(self, kind: str) -> dict[str, Any]:
        """The rows of a kind as numpy arrays by name."""
        names = COLUMNS[kind]
        rows = np.frombuffer(self.rows[kind], dtype=float).reshape(-1, len(names)) if self.rows[kind] else np.empty((0, len(names)))
        return {name: rows[:, at] for at, name in enumerate(names)}

    def sent(self) -> list[int]:
        """For each load, the transfer into the GPU that brought its last bytes, as its row; -1 where none is known."""
        sends, loads = self.table("sends"), self.table("loads")
        inwards = np.flatnonzero((sends["direction"] == IN) & (sends["tier"] == 1))
        ends = zip(inwards.tolist(), sends["end_s"][inwards].tolist(), sends["tokens"][inwards].tolist(), strict=True)
        coming = {(round(end_s * 1e8), tokens): row for row, end_s, tokens in ends}
        keys = zip(loads["sent_s"].tolist(), loads["tokens"].tolist(), strict=True)
        return [coming.get((round(sent_s * 1e8), tokens), -1) for sent_s, tokens in keys]

    def finishing(self, replica: int, done: Callable[[Sequence], None]) -> Callable[[Sequence], None]:
        """`done` of a replica, which also leaves the request's row."""
        add, clock = self.rows["requests"].extend, self.clock

        def finished(seq: Sequence) -> None:
            add((seq.request.index, replica, seq.arrival_s, seq.enter_s, seq.admit_s, seq.first_s, clock.now, seq.load_s))
            done(seq)

        return finished

    def weighed(self, seq: Sequence, tokens: int, seconds: float, recompute_s: float, sent_s: float) -> None:
        """A load of a sequence has come, whose bytes were there at `sent_s`."""
        tier = max(seq.promoted, default=1)
        self.rows["loads"].extend((sent_s, self.clock.now, seq.request.index, tier, tokens, seconds, recompute_s))

    def watch(self, scheduler: Scheduler, tiers: list[Tier]) -> Watch:
        """What sees the steps of one more replica."""
        for tier in tiers:
            if id(tier) in self._seen:
                self.shared.add(tier.name)
            else:
                self.capacity_tokens[tier.name] += tier.capacity_tokens
            self._seen.add(id(tier))
        self.replicas += 1
        return Watch(self, self.replicas - 1, scheduler, tiers)


class Watch:
    """Sees the steps of one replica."""

    __slots__ = ("place", "scheduler", "gpu", "tiers", "_steps", "_states")

    def __init__(self, history: History, place: int, scheduler: Scheduler, tiers: list[Tier]) -> None:
        by_name = {tier.name: tier for tier in tiers}
        self.place, self.scheduler, self.gpu = place, scheduler, by_name["gpu"]
        self.tiers = [by_name.get(name) for name in TIERS]
        self._steps, self._states = history.rows["steps"].extend, history.rows["states"].extend

    def stepped(self, step: ScheduledStep, end_s: float) -> None:
        """The GPU has finished a step."""
        new = sum([chunk[1] for chunk in step.chunks]) if step.chunks else 0
        self._steps((step.start_s, end_s, self.place, 1, new, step.decodes, step.stall_s))
        self._state(end_s)

    def jumped(self, jump: Course, steps: int, decodes: int) -> None:
        """So many decode steps have been taken at once."""
        end_s = jump.start_s + jump.elapsed_s(steps)
        self._steps((jump.start_s, end_s, self.place, steps, 0, decodes, 0.0))
        self._state(end_s)

    def _state(self, now: float) -> None:
        scheduler, gpu = self.scheduler, self.gpu
        used = [tier.used_tokens if tier is not None else -1 for tier in self.tiers]
        active = gpu.used_tokens - gpu.evictable_tokens
        self._states((now, self.place, len(scheduler.waiting), len(scheduler.skipped), len(scheduler.running), active, *used))


class WatchedPath:
    """A way between tiers that notes what is sent over it."""

    __slots__ = ("path", "_add", "_place", "_tier")

    def __init__(self, path: Path, history: History, place: int, tier: int) -> None:
        self.path, self._place, self._tier = path, place, tier
        self._add = history.rows["sends"].extend

    @property
    def busy_s(self) -> float:
        return self.path.busy_s

    def wait_s(self, direction: int) -> float:
        return self.path.wait_s(direction)

    def service_s(self, direction: int, tokens: int) -> float:
        return self.path.service_s(direction, tokens)

    def submit_s(self, direction: int, tokens: int) -> float:
        return self.path.submit_s(direction, tokens)

    def send(self, direction: int, ready_s: float, tokens: int) -> tuple[float, float]:
        start_s, end_s = self.path.send(direction, ready_s, tokens)
        self._add((start_s, end_s, ready_s, self._place, self._tier, direction, tokens))
        return start_s, end_s
