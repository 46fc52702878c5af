"""Simulated time: simpy's environment, with plain callbacks beside its processes.

The step loop asks for millions of callbacks: they are queued as they are, without an event around each.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.core import EmptySchedule
from simpy.events import NORMAL, Event
from simpy.resources.resource import Resource

Steps = Generator[Event, Any, None]
"""A process: it yields the events that it waits for."""

__all__ = ["Clock", "Event", "Steps"]


class Moment(Event):
    """An event that happens at a time, to the last bit; simpy's Timeout adds a delay, which rounds."""

    def __init__(self, clock: Clock, time_s: float) -> None:
        super().__init__(clock)
        self._ok, self._value = True, None
        clock.at(time_s, self)


class Clock(simpy.Environment):
    """Seconds since the run began, and what is to happen later. Of actions for one moment the one asked for first comes first."""

    __slots__ = ("_now", "now")
    now: float  # simpy's is a property, whose call every reading would pay for
    _queue: list[tuple[float, int, int, Any]]  # of events and actions

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def at(self, time_s: float, action: Callable[[], object] | Event) -> None:
        """Call `action` at a time, or as soon as what is due now has happened when it has passed."""
        now = self.now
        heappush(self._queue, (time_s if time_s > now else now, NORMAL, next(self._eid), action))

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Call `action` so many seconds from now."""
        heappush(self._queue, (self.now + delay_s, NORMAL, next(self._eid), action))

    def until(self, time_s: float) -> Event:
        """For a process to wait until a time, not at all when it has passed."""
        return Moment(self, time_s)

    def places(self, count: int) -> Resource:
        """So many places, given in the order in which they are asked for."""
        return Resource(self, count)

    def pass_until(self, event: Event) -> bool:
        """Let time pass until an event; False when nothing is left that could bring it."""
        awaited: Any = event
        while awaited.callbacks is not None:  # it has not happened
            if not self._queue:
                return False
            self.step()
        return True

    def step(self) -> None:
        """One action or event further; simpy's EmptySchedule where none is left."""
        queue = self._queue
        if not queue:
            raise EmptySchedule
        self.now, _, _, action = queue[0]
        if isinstance(action, Event):
            super().step()
        else:
            heappop(queue)
            self._now = self.now
            action()
