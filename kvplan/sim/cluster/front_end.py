"""In front of the replicas: what can never run is refused, and requests are prepared one after the other before a scheduler sees them."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.engine.spec import Overhead
from kvplan.request import Request
from kvplan.sim.cache.footprint import Footprint
from kvplan.sim.clock import Clock


class Stage:
    """One thread that handles requests in the order in which they come."""

    __slots__ = ("clock", "free_at_s")

    def __init__(self, clock: Clock) -> None:
        self.clock, self.free_at_s = clock, 0.0

    def after(self, seconds: float, action: Callable[[], None], *, latency_s: float = 0.0) -> None:
        """Call `action` when a request that takes so long is done; it comes here after `latency_s`."""
        self.free_at_s = max(self.clock.now + latency_s, self.free_at_s) + seconds
        self.clock.at(self.free_at_s, action)


class FrontEnd:
    """API servers, each of which takes every n-th request and keeps their order.

    `pool_tokens` is the largest request that a replica can hold, by the `footprint` of its model; `max_context` the model's or the engine's
    limit. `submit(request, output_tokens)` takes a request on when it is prepared; `refuse(request)` what can never run.
    """

    def __init__(
        self,
        clock: Clock,
        overhead: Overhead,
        *,
        servers: int,
        max_context: int,
        pool_tokens: int,
        footprint: Footprint,
        submit: Callable[[Request, int], None],
        refuse: Callable[[Request], None],
    ) -> None:
        self._overhead, self._submit, self._refuse = overhead, submit, refuse
        self._servers, self._next = [Stage(clock) for _ in range(servers)], 0
        self.max_context, self._pool_tokens = max_context, pool_tokens
        self._footprint = footprint
        self.clipped = 0  # outputs cut at the end of the context

    def enter(self, request: Request) -> None:
        """A request reaches the server."""
        output = self.admissible(request)
        if output is None:
            self._refuse(request)
            return
        if output < request.output_tokens:
            self.clipped += 1
        server = self._servers[self._next]
        self._next = (self._next + 1) % len(self._servers)
        seconds = self._overhead.request_s + self._overhead.request_token_s * request.prompt_tokens
        server.after(seconds, lambda: self._submit(request, output))

    def admissible(self, request: Request) -> int | None:
        """The output tokens that a request may have: fewer when the context ends before, None when it cannot run at all."""
        room = self.max_context - request.prompt_tokens
        if room < 1:
            return None
        output = min(room, max(1, request.output_tokens))
        if self._footprint.request(request.prompt_tokens + output) > self._pool_tokens:
            return None
        return output
