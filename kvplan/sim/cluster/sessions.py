"""Sessions: which request follows which, when a turn arrives, and how many sessions are open at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from kvplan.request import Request
from kvplan.sim.clock import Clock, Event, Steps


class Sessions:
    """The turns of a trace by session, in the order of the file.

    A turn with `think_s` >= 0 arrives that long after the client had the answer to the one before it, which is `lag_s` after the engine
    had; `most` sessions are open at once (0: any number). `enter` takes a request to the server's front end.
    """

    def __init__(
        self, requests: Iterable[Request], clock: Clock, enter: Callable[[Request], None], *, most: int = 0, lag_s: float = 0.0
    ) -> None:
        self._clock, self._enter, self._lag_s = clock, enter, lag_s
        self._next: dict[int, Request] = {}
        self._later: set[int] = set()  # requests that are not the first of their session
        self._by_stamp: list[Request] = []
        last: dict[str, Request] = {}
        for request in sorted(requests, key=lambda request: request.index):
            before = last.get(request.session) if request.session else None
            if before is not None:
                self._next[before.index] = request
                self._later.add(request.index)
            if before is None or request.think_s < 0:
                self._by_stamp.append(request)
            if request.session:
                last[request.session] = request
        self._by_stamp.sort(key=lambda request: request.arrival_s)
        self._places = clock.places(most) if most else None
        self._held: dict[str, Event] = {}
        self._answered: dict[int, Event] = {}
        self.peak = 0  # most sessions that were open at once; counted where their number is limited

    def __iter__(self) -> Iterator[Request]:
        """The requests whose arrival does not hang on an answer, in the order of arrival."""
        return iter(self._by_stamp)

    @property
    def closed(self) -> bool:
        """Does every later turn wait for the answer before it."""
        return not any(request.index in self._later for request in self._by_stamp)

    def following(self, request: Request) -> Request | None:
        """The next turn of a request's session."""
        return self._next.get(request.index)

    def arrive(self, request: Request) -> None:
        """A request with a stamp has arrived; the turns that wait for its answer follow by themselves."""
        if self._places is None or not request.session or request.index in self._later:
            self._go(request)
            return
        place = self._held[request.session] = self._places.request()
        if place.triggered:
            self.peak = max(self.peak, self._places.count)
            self._go(request)
        else:
            self._clock.process(self._admitted(request, place))

    def ended(self, request: Request) -> None:
        """A request has its answer, or was refused."""
        answered = self._answered.pop(request.index, None)
        if answered is not None:
            answered.succeed()
        elif request.index not in self._next and request.session in self._held:
            self._leave(request.session)

    def _go(self, request: Request) -> None:
        following = self._next.get(request.index)
        if following is not None and following.think_s >= 0:
            answered = self._answered[request.index] = self._clock.event()
            self._clock.process(self._turns(following, answered))
        self._enter(request)

    def _admitted(self, request: Request, place: Event) -> Steps:
        """A session's first request waits for another session to end."""
        yield place
        assert self._places is not None
        self.peak = max(self.peak, self._places.count)
        self._go(msgspec.structs.replace(request, arrival_s=self._clock.now))

    def _turns(self, turn: Request, answered: Event) -> Steps:
        """A user reads an answer, thinks, and asks again."""
        yield answered
        yield self._clock.timeout(turn.think_s + self._lag_s)
        self._go(msgspec.structs.replace(turn, arrival_s=self._clock.now))

    def _leave(self, session: str) -> None:
        assert self._places is not None
        self._places.release(self._held.pop(session))
