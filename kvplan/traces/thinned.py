"""A trace whose requests have less in common than they had."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvplan.request import Request
from kvplan.traces.trace import RequestSource

_FIRST_OWN = 2**48
"""Names of blocks from here on belong to one request alone."""


class Thinned:
    """The requests of a trace of which only a share, chosen evenly, keeps the content that it has in common with others."""

    def __init__(self, trace: RequestSource, keep: float) -> None:
        self._trace, self._keep = trace, keep
        self.name, self.format, self.block_tokens, self.report = trace.name, trace.format, trace.block_tokens, trace.report
        self.names_sessions = trace.names_sessions

    def __iter__(self) -> Iterator[Request]:
        fresh = _FIRST_OWN
        for position, request in enumerate(self._trace):
            if int((position + 1) * self._keep) > int(position * self._keep):
                yield request
                continue
            own = tuple(range(fresh, fresh + len(request.blocks)))
            fresh += len(own)
            yield msgspec.structs.replace(request, blocks=own)

    def __len__(self) -> int:
        return len(self._trace)
