"""Sessions: which request follows which, when a turn arrives, and how many sessions are open at once."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

import msgspec
import numpy as np

from kvplan.request import Request
from kvplan.sim.clock import Clock, Event, Steps
from kvplan.sim.cluster.arrivals import Arrivals
from kvplan.traces.packed import packed_of


class Sessions:
    """The turns of a trace by session, in the order of the file; they are kept packed.

    A turn with `think_s` >= 0 arrives that long after the client had the answer to the one before it, which is `lag_s` after the engine
    had; `most` sessions are open at once (0: any number). `enter` takes a request to the server's front end.
    """

    def __init__(
        self, requests: Iterable[Request], clock: Clock, enter: Callable[[Request], None], *, most: int = 0, lag_s: float = 0.0
    ) -> None:
        self._clock, self._enter, self._lag_s = clock, enter, lag_s
        packed = requests.packed() if isinstance(requests, Arrivals) else packed_of(requests)
        self._requests, self._names = packed, list(packed.session_names)
        rows = np.frombuffer(packed.index, dtype=np.int64)
        order = np.argsort(rows, kind="stable")  # places of requests in the order of rows
        self._order, self._rows = array("i", order.astype(np.int32).tobytes()), array("q", rows[order].tobytes())
        self._next = array("i", [-1]) * len(packed)  # by place: the place of the session's next request; -1: none
        self._later = bytearray(len(packed))  # by place: is it not the first of its session
        by_stamp = array("i")  # places
        last: dict[int, int] = {}
        for place in self._order:
            session = packed.session[place]
            before = last.get(session, -1) if session else -1
            if before >= 0:
                self._next[before], self._later[place] = place, True
            if before < 0 or packed.think_s[place] < 0:
                by_stamp.append(place)
            last[session] = place
        stamped = np.frombuffer(by_stamp, dtype=np.int32)
        stamps = np.frombuffer(packed.arrival_s)[stamped]
        self._by_stamp = array("i", stamped[np.argsort(stamps, kind="stable")].tobytes())  # places
        self._places = clock.places(most) if most else None
        self._held: dict[str, Event] = {}
        self._answered: dict[int, Event] = {}
        self.peak = 0  # most sessions that were open at once; counted where their number is limited

    def __iter__(self) -> Iterator[Request]:
        """The requests whose arrival does not hang on an answer, in the order of arrival."""
        return map(self._request, self._by_stamp)

    def _request(self, place: int) -> Request:
        return self._requests.request(place, self._names)

    def _place(self, request: Request) -> int:
        return self._order[bisect_left(self._rows, request.index)]

    @property
    def closed(self) -> bool:
        """Does every later turn wait for the answer before it."""
        return not any(self._later[place] for place in self._by_stamp)

    def following(self, request: Request) -> Request | None:
        """The next turn of a request's session."""
        place = self._next[self._place(request)]
        return self._request(place) if place >= 0 else None

    def arrive(self, request: Request) -> None:
        """A request with a stamp has arrived; the turns that wait for its answer follow by themselves."""
        if self._places is None or not request.session or self._later[self._place(request)]:
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
        elif request.session in self._held and self._next[self._place(request)] < 0:
            self._leave(request.session)

    def _go(self, request: Request) -> None:
        place = self._next[self._place(request)]
        if place >= 0 and self._requests.think_s[place] >= 0:
            answered = self._answered[request.index] = self._clock.event()
            self._clock.process(self._turns(self._request(place), answered))
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
