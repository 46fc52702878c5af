"""Active sequences partly below the GPU: at every step what is needed of their KV crosses the link, as in FlexGen.

Layers overlap: while one computes, the next one's share arrives. New KV goes down on the other direction.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.memory.kv import token_bytes
from kvplan.sim.replica.step import ScheduledStep
from kvplan.sim.transfer.in_step import IN_STEP
from kvplan.sim.transfer.links import IN, OUT, HostLink
from kvplan.sim.transfer.tally import Tally
from kvplan.step_time import StepCost


class Streamed:
    """A share of every active sequence's KV lives in host memory; each rank's link carries its part."""

    def __init__(self, cost: StepCost, link: HostLink, tally: Tally, *, share: float) -> None:
        self.link, self.tally, self.share, self.layers = link, tally, share, cost.model.depth
        self._windows = [window for _, window in cost.decode_rates]
        self._groups = [(group.count * token_bytes(group, cost.kv_format, cost.tp), group.window_tokens) for group in cost.model.layers]

    def bytes_read(self, contexts: Iterable[int]) -> float:
        """Bytes that one rank reads for sequences of these lengths; a window layer reads its window."""
        return self.share * sum(size * (min(length, window) if window else length) for length in contexts for size, window in self._groups)

    def stall_s(self, plan: ScheduledStep, start_s: float) -> float:
        """Seconds that a step waits for the link beyond its own computation."""
        read = self.bytes_read([context for _, _, context in plan.chunks if context])
        if plan.decodes:
            tokens = dict(zip(self._windows, plan.contexts, strict=True))
            read += self.share * sum(size * tokens[window] for size, window in self._groups if size)
        written = plan.decodes * self.bytes_read([1]) + self.bytes_read([new for _, new, _ in plan.chunks])
        began_s, done_s = self._send(IN, start_s, read)
        _, down_s = self._send(OUT, start_s, written)
        took_s = IN_STEP["layerwise"](start_s, plan.duration_s, began_s, done_s, self.layers)
        stall_s = max(took_s, down_s - start_s) - plan.duration_s
        self.tally.count += 1
        self.tally.stall_s += stall_s
        return stall_s

    def _send(self, direction: int, start_s: float, size: float) -> tuple[float, float]:
        if not size:
            return start_s, start_s
        return self.link.send(direction, start_s, self.link.service_s(direction, round(size), self.layers))
