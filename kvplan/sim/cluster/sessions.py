"""Sessions: which request follows which, when a turn arrives, and how many sessions are open at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from kvplan.request import Request


class Sessions:
    """The turns of a trace by session, in the order of the file.

    A turn with `think_s` >= 0 arrives that long after the answer to the one before it; `most` sessions are open at once
    (0: any number).
    """

    def __init__(self, requests: Iterable[Request], *, most: int = 0) -> None:
        self._next: dict[int, Request] = {}
        self._later: set[int] = set()  # requests that are not the first of their session
        self._open: list[Request] = []
        self._last: dict[str, Request] = {}
        for request in sorted(requests, key=lambda request: request.index):
            before = self._last.get(request.session) if request.session else None
            if before is not None:
                self._next[before.index] = request
                self._later.add(request.index)
            if before is None or request.think_s < 0:
                self._open.append(request)
            if request.session:
                self._last[request.session] = request
        self._open.sort(key=lambda request: request.arrival_s)
        self._most, self._active = most, 0
        self.peak = 0  # most sessions that were open at once; counted where their number is limited
        self._waiting: deque[Request] = deque()

    def __iter__(self) -> Iterator[Request]:
        """The requests whose arrival does not hang on an answer, in the order of arrival."""
        return iter(self._open)

    @property
    def closed(self) -> bool:
        """Does every later turn wait for the answer before it."""
        return not any(request.index in self._later for request in self._open)

    def following(self, request: Request) -> Request | None:
        """The next turn of a request's session."""
        return self._next.get(request.index)

    def admit(self, request: Request) -> bool:
        """May a request that has arrived enter now; if not it is kept, and `ended` returns it."""
        if not self._most or not request.session or request.index in self._later:
            return True
        if self._active < self._most:
            self._active += 1
            self.peak = max(self.peak, self._active)
            return True
        self._waiting.append(request)
        return False

    def ended(self, request: Request) -> tuple[Request | None, Request | None]:
        """A request has its answer: the turn that now waits for its user to think, and a session's first request that
        may enter."""
        following = self._next.get(request.index)
        if following is not None:
            return (following if following.think_s >= 0 else None), None
        if self._most and request.session:
            self._active -= 1
            if self._waiting:
                self._active += 1
                return None, self._waiting.popleft()
        return None, None
