"""What a replica knows of the group that it steps with."""

from __future__ import annotations

from typing import Protocol, TypeVar

from kvplan.sim.replica.jump import Course
from kvplan.sim.replica.step import ScheduledStep

Rank = TypeVar("Rank", contravariant=True)


class Group(Protocol[Rank]):
    """Ranks that take their steps together."""

    def ready(self, replica: Rank, step: ScheduledStep) -> None:
        """A rank's next step could begin."""

    def look(self) -> None:
        """A rank has handled a step."""

    def course(self, replica: Rank, step: ScheduledStep, most: int) -> Course | None:
        """A rank decodes for at most `most` steps, from a step in progress on, in which nothing can happen to it."""

    def goes_on(self, replica: Rank, step: ScheduledStep) -> None:
        """A course has ended: a step in progress, or the next, is the rank's own."""
