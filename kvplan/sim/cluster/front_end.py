"""In front of the replicas: what can never run is refused, and a request is prepared before a scheduler sees it."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.engine.spec import Overhead
from kvplan.request import Request
from kvplan.sim.cache.footprint import Footprint
from kvplan.sim.clock import Clock


class FrontEnd:
    """`pool_tokens` is the largest request that a replica can hold, by the `footprint` of its model; `max_context` the model's or the
    engine's limit. `submit(request, output_tokens, enter_s)` takes a request on, at the time `enter_s`; `refuse(request)` what can never
    run."""

    def __init__(
        self,
        clock: Clock,
        overhead: Overhead,
        *,
        max_context: int,
        pool_tokens: int,
        footprint: Footprint,
        step_tokens: int,
        submit: Callable[[Request, int, float], None],
        refuse: Callable[[Request], None],
    ) -> None:
        self._clock, self._overhead, self._submit, self._refuse = clock, overhead, submit, refuse
        self.max_context, self._pool_tokens = max_context, pool_tokens
        self._footprint, self._step_tokens = footprint, step_tokens
        self.clipped = 0  # outputs cut at the end of the context

    def enter(self, request: Request) -> None:
        """A request reaches the server."""
        output = self.admissible(request)
        if output is None:
            self._refuse(request)
            return
        if output < request.output_tokens:
            self.clipped += 1
        enter_s = request.arrival_s + self._overhead.request_s + self._overhead.request_token_s * request.prompt_tokens
        self._clock.at(enter_s, lambda: self._submit(request, output, enter_s))

    def admissible(self, request: Request) -> int | None:
        """The output tokens that a request may have: fewer when the context ends before, None when it cannot run at all."""
        room = self.max_context - request.prompt_tokens
        if room < 1:
            return None
        output = min(room, max(1, request.output_tokens))
        if self._footprint.request(request.prompt_tokens + output, self._step_tokens) > self._pool_tokens:
            return None
        return output
