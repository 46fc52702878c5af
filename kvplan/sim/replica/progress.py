"""Guards that turn a run which cannot go on into an error that names the request."""

from __future__ import annotations

from collections.abc import Collection

from kvplan.errors import KvplanError
from kvplan.sim.replica.sequence import Sequence

MOST_FRUITLESS = 100
"""Preemptions in a row between which a sequence may get no token before the run is given up."""

MOST_EMPTY = 50
"""Times per waiting sequence that a replica may look for one to run and find none before the run is given up."""


def check_progress(seq: Sequence) -> None:
    """A sequence was preempted."""
    seq.fruitless = seq.fruitless + 1 if seq.emitted == seq.emitted_before else 0
    seq.emitted_before = seq.emitted
    if seq.fruitless > MOST_FRUITLESS:
        raise KvplanError(
            f"request {seq.request.index} ({seq.prompt:,} prompt tokens) was preempted {seq.fruitless:,} times without a new token",
            hint="a larger GPU pool avoids it; so does engine.reserve_in_flight, where loads take what prompts still need. "
            "If neither holds, please report this trace",
        )


class AdmissionGuard:
    """Counts steps in a row in which somebody waited and nobody ran."""

    __slots__ = ("empty_steps",)

    def __init__(self) -> None:
        self.empty_steps = 0

    def scheduled(self, empty: bool, skipped: Collection[Sequence], waiting: Collection[Sequence]) -> None:
        """A step was scheduled, in which perhaps nobody runs."""
        left = len(waiting) + len(skipped) if empty else 0
        self.empty_steps = self.empty_steps + 1 if left else 0
        if self.empty_steps > MOST_EMPTY * (left + 10):
            first = next(iter(skipped or waiting))
            raise KvplanError(
                f"request {first.request.index} ({first.prompt:,} prompt tokens) and {left - 1:,} others were asked for "
                f"{self.empty_steps:,} times and none of them could run",
                hint="please report this trace; a larger tier of host memory avoids it",
            )
