"""Simulated time: a typed front of simpy, for callbacks of the step loop and for processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import simpy
from simpy.events import Condition, Event, Process, Timeout
from simpy.resources.resource import Request as Place
from simpy.resources.resource import Resource

Steps = Generator[Event, Any, None]
"""A process: it yields the events that it waits for."""

__all__ = ["Clock", "Event", "Place", "Steps"]


class Clock:
    """Seconds since the run began, and what is to happen later. Of actions for one moment the one asked for first comes first."""

    __slots__ = ("_env",)

    def __init__(self) -> None:
        self._env = simpy.Environment()

    @property
    def now(self) -> float:
        return self._env.now

    def at(self, time_s: float, action: Callable[[], object]) -> None:
        """Call `action` at a time, or as soon as what is due now has happened when it has passed."""
        self.after(self._delay_s(time_s), action)

    def _delay_s(self, time_s: float) -> float:
        """The delay that ends at a time to the last bit, so that what happens at one time is not torn apart by rounding."""
        now = self._env.now
        if time_s <= now:
            return 0.0
        delay_s = time_s - now
        if now + delay_s != time_s:
            delay_s = math.nextafter(delay_s, math.inf if now + delay_s < time_s else 0.0)
        return delay_s

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Call `action` so many seconds from now."""
        callbacks = self._env.timeout(delay_s).callbacks
        assert callbacks is not None
        callbacks.append(lambda _: action())

    def timeout(self, delay_s: float) -> Timeout:
        """For a process to wait so many seconds."""
        return self._env.timeout(delay_s)

    def until(self, time_s: float) -> Timeout:
        """For a process to wait until a time, not at all when it has passed."""
        return self._env.timeout(self._delay_s(time_s))

    def event(self) -> Event:
        """Something that will happen once: `succeed()` lets those go on who wait for it."""
        return self._env.event()

    def any_of(self, *events: Event) -> Condition:
        """The first of some events."""
        return self._env.any_of(events)

    def places(self, count: int) -> Resource:
        """So many places, given in the order in which they are asked for."""
        return Resource(self._env, count)

    def process(self, steps: Steps) -> Process:
        """Start a process."""
        return self._env.process(steps)

    def run(self, until: Event) -> bool:
        """Let time pass until an event; False when nothing is left that could bring it."""
        try:
            self._env.run(until=until)
        except RuntimeError:
            if self._env.peek() != math.inf:
                raise
            return False
        return True

    def step(self) -> bool:
        """One event further; False when none is left."""
        if self._env.peek() == math.inf:
            return False
        self._env.step()
        return True
