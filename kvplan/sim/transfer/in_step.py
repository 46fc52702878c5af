"""Loads that run inside a step, and how long the step then is."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.sim.cache.pool import Pin, Reservation
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.paths import TierBelow


class StepLoad:
    """A load that runs inside a step: tokens [reach, held) of host memory, and what comes into that from
    below first."""

    __slots__ = ("seq", "reach", "held", "source", "parts", "done_s")

    def __init__(self, seq: Sequence, reach: int, held: int, source: Pin, parts: list[tuple[TierBelow, Reservation, Pin]]) -> None:
        self.seq, self.reach, self.held, self.source, self.parts = seq, reach, held, source, parts
        self.done_s = 0.0  # when its bytes are there


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
