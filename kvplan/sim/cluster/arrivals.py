"""When requests arrive: the trace's stamps at another speed, equal stamps spread; and what the stamps and the content
allow at best.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterator

import msgspec
import numpy as np

from kvplan.request import Request
from kvplan.scenario import Run
from kvplan.traces.packed import PackedRequests, packed_of
from kvplan.traces.trace import RequestSource, Trace

MOST_KEYS = 500_000
"""Distinct blocks up to which the ceiling of the hit rate is counted: about 50 MB."""


class Arrivals:
    """The requests of a trace in the order of arrival, each with its arrival time; counts stamps and reuse as they
    pass.
    """

    def __init__(self, trace: RequestSource, run: Run, *, grain_tokens: int) -> None:
        self.trace, self.run, self.grain_tokens = trace, run, grain_tokens
        self.stamps = Stamps()
        self.ceiling = Ceiling(trace.block_tokens, grain_tokens)
        self._warm_requests = math.floor(run.warmup * len(trace))
        self.warm: set[int] = set()  # rows of the requests that have passed and belong to the warm-up

    def __iter__(self) -> Iterator[Request]:
        """Requests with `arrival_s` as the engine sees it."""
        requests = _jittered(self._watched(), self.run.jitter_s, self.run.seed) if self.run.jitter_s else self._watched()
        if self.run.speedup == 1:
            yield from requests
            return
        for request in requests:
            yield msgspec.structs.replace(request, arrival_s=request.arrival_s / self.run.speedup)

    def packed(self) -> PackedRequests:
        """All of them; those of a file share its columns, but for their times."""
        if not isinstance(self.trace, Trace) or self.run.jitter_s:
            return packed_of(self)
        return self.trace.requests().at(array("d", (request.arrival_s for request in self)))

    def _watched(self) -> Iterator[Request]:
        for position, request in enumerate(self.trace):
            self.stamps.count(request.arrival_s)
            measured = position >= self._warm_requests
            if not measured:
                self.warm.add(request.index)
            self.ceiling.count(request, measured=measured)
            yield request


def _jittered(requests: Iterator[Request], jitter_s: float, seed: int) -> Iterator[Request]:
    """Requests each up to `jitter_s` later, evenly spread, in their new order."""
    rng = np.random.default_rng(seed)
    waiting: list[tuple[float, int, Request]] = []
    for request in requests:
        while waiting and waiting[0][0] <= request.arrival_s:
            yield _at(*heapq.heappop(waiting))
        heapq.heappush(waiting, (request.arrival_s + jitter_s * rng.random(), request.index, request))
    while waiting:
        yield _at(*heapq.heappop(waiting))


def _at(arrival_s: float, _: int, request: Request) -> Request:
    return msgspec.structs.replace(request, arrival_s=arrival_s)


class Stamps:
    """How many different arrival stamps a trace has."""

    def __init__(self) -> None:
        self.requests = self.distinct = 0
        self.last_s = -1.0

    def count(self, arrival_s: float) -> None:
        self.requests += 1
        if arrival_s != self.last_s:
            self.distinct += 1
            self.last_s = arrival_s

    @property
    def gap_s(self) -> float:
        """Mean time between stamps when arrivals are quantised (three or more requests a stamp on average); 0 when
        they are not.
        """
        if self.distinct < 2 or self.requests < 3 * self.distinct:
            return 0.0
        return self.last_s / (self.distinct - 1)


class Ceiling:
    """The ceiling of the hit rate: leading whole blocks that an earlier request named, with memory for everything and
    no delay.
    """

    def __init__(self, key_tokens: int, grain_tokens: int) -> None:
        self.key_tokens, self.grain_tokens = key_tokens, grain_tokens
        self.hit_tokens = self.tokens = 0
        self._seen: set[int] = set()
        self._last: dict[str, Request] = {}  # by session
        self.complete = True  # has it counted every block

    def count(self, request: Request, *, measured: bool) -> None:
        if not self.complete:
            return
        seen, blocks = self._seen, request.blocks
        answered = self._answered(request) if request.session else 0
        if measured:
            leading = 0
            for key in blocks:
                if key not in seen:
                    break
                leading += 1
            known = max(leading * self.key_tokens, answered)
            self.hit_tokens += min(known, request.prompt_tokens) // self.grain_tokens * self.grain_tokens
            self.tokens += request.prompt_tokens
        seen.update(blocks)
        if len(seen) > MOST_KEYS:
            self.complete = False
            seen.clear()
            self._last.clear()

    def _answered(self, request: Request) -> int:
        """Leading tokens that the session's last turn named or generated, when this prompt goes on from there."""
        before = self._last.get(request.session)
        self._last[request.session] = request
        if before is None or not self.key_tokens:  # a trace may name no content
            return 0
        whole = before.prompt_tokens // self.key_tokens
        if request.blocks[:whole] != before.blocks[:whole]:
            return 0
        known = min(before.prompt_tokens + before.output_tokens - 1, request.prompt_tokens)
        self._seen.update(request.blocks[: known // self.key_tokens])
        return known

    @property
    def rate(self) -> float | None:
        """Share of all prompt tokens; None when the trace has too many blocks to count."""
        return self.hit_tokens / self.tokens if self.complete and self.tokens else None
