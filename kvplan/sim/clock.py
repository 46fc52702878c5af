"""Simulated time: a queue of actions, and processes that wait for events.

Of actions for one moment the one asked for first comes first; a process that is started now goes before them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from heapq import heappop, heappush
from typing import Any


class Signal:
    """Something that happens once: `succeed()` lets those go on who wait for it."""

    __slots__ = ("clock", "triggered", "happened", "waiters", "value")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.triggered = self.happened = False
        self.waiters: list[Callable[[Signal], object]] = []
        self.value: Any = None  # of the first of several events: those that have happened

    def succeed(self) -> None:
        """It happens as soon as what is due now has happened."""
        self.triggered = True
        self.clock.after(0.0, self._happen)

    def _happen(self) -> None:
        self.happened = True
        for waiter in self.waiters:
            waiter(self)


Steps = Generator[Signal, Any, None]
"""A process: it yields the events that it waits for."""


class Places:
    """So many places, given in the order in which they are asked for."""

    __slots__ = ("clock", "count", "most", "_asked")

    def __init__(self, clock: Clock, most: int) -> None:
        self.clock, self.most = clock, most
        self.count = 0  # taken
        self._asked: deque[Signal] = deque()

    def request(self) -> Signal:
        """A place: the event is when it is given."""
        place = Signal(self.clock)
        self._asked.append(place)
        self._give()
        return place

    def release(self, place: Signal) -> None:
        """A place that was given, and is free again."""
        self.count -= 1
        self._give()

    def _give(self) -> None:
        while self.count < self.most and self._asked:
            self.count += 1
            self._asked.popleft().succeed()


class Clock:
    """Seconds since the run began, and what is to happen later."""

    __slots__ = ("now", "_queue", "_count")

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, int, Callable[[], object]]] = []
        self._count = 0

    def at(self, time_s: float, action: Callable[[], object]) -> None:
        """Call `action` at a time, or as soon as what is due now has happened when it has passed."""
        self._count = count = self._count + 1
        now = self.now
        heappush(self._queue, (time_s if time_s > now else now, 1, count, action))

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Call `action` so many seconds from now."""
        self._count = count = self._count + 1
        heappush(self._queue, (self.now + delay_s, 1, count, action))

    def event(self) -> Signal:
        """Something that will happen once."""
        return Signal(self)

    def timeout(self, delay_s: float) -> Signal:
        """For a process to wait so many seconds."""
        return self.until(self.now + delay_s)

    def until(self, time_s: float) -> Signal:
        """For a process to wait until a time, not at all when it has passed."""
        event = Signal(self)
        event.triggered = True
        self.at(time_s, event._happen)
        return event

    def any_of(self, *events: Signal) -> Signal:
        """The first of some events."""
        first = Signal(self)

        def come(_: Signal) -> None:
            if not first.triggered:
                first.succeed()

        for event in events:
            if event.happened:
                come(event)
            else:
                event.waiters.append(come)
        first.waiters.append(lambda first: setattr(first, "value", [event for event in events if event.happened]))
        return first

    def places(self, count: int) -> Places:
        """So many places, given in the order in which they are asked for."""
        return Places(self, count)

    def process(self, steps: Steps) -> None:
        """Start a process."""

        def go_on(event: Signal) -> None:
            value = event.value
            while True:
                try:
                    event = steps.send(value)
                except StopIteration:
                    return
                if not event.happened:
                    event.waiters.append(go_on)
                    return
                value = event.value

        self._count = count = self._count + 1
        heappush(self._queue, (self.now, 0, count, lambda: go_on(Signal(self))))

    def run(self, until: Signal) -> bool:
        """Let time pass until an event; False when nothing is left that could bring it."""
        queue = self._queue
        while not until.happened:
            if not queue:
                return False
            self.now, _, _, action = heappop(queue)
            action()
        return True

    def step(self) -> bool:
        """One action further; False when none is left."""
        if not self._queue:
            return False
        self.now, _, _, action = heappop(self._queue)
        action()
        return True
