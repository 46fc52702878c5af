"""Requests packed into columns of machine numbers: 8 bytes a block where Python's own objects take about 40."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, islice

import numpy as np

from kvplan.request import Request

CHUNK = 16_384  # requests that are Python objects at a time
_WRAP = 2**64


class PackedRequests:
    """A list of requests that grows at its end.

    Ids of blocks are kept modulo 2^64: equal ids stay equal, and those above 2^63 (hashes that other tools write as
    unsigned numbers) come back as they were.
    """

    __slots__ = (
        "arrival_s",
        "ids",
        "index",
        "output_tokens",
        "priority",
        "prompt_tokens",
        "retention",
        "session",
        "session_names",
        "starts",
        "think_s",
        "unsigned",
    )  # fmt: skip

    def __init__(self) -> None:
        self.index, self.arrival_s, self.think_s = array("q"), array("d"), array("d")
        self.prompt_tokens, self.output_tokens = array("i"), array("i")
        self.priority, self.retention, self.session = array("q"), array("b"), array("i")
        self.starts, self.ids = array("q", [0]), array("q")
        self.unsigned = False
        self.session_names: dict[str, int] = {"": 0}

    def extend(self, requests: Sequence[Request]) -> None:
        """Append some. Raises OverflowError for an id of a block of more than 64 bits, leaving this list as it was."""
        before, blocks = len(self.ids), [request.blocks for request in requests]
        try:
            self.ids.frombytes(np.fromiter(chain.from_iterable(blocks), dtype=np.int64).data.cast("B"))
        except OverflowError:
            self._extend_unsigned(requests)
        starts = accumulate(map(len, blocks), initial=before)
        self.starts.extend(islice(starts, 1, None))
        self.index.extend([request.index for request in requests])
        self.arrival_s.extend([request.arrival_s for request in requests])
        self.prompt_tokens.extend([request.prompt_tokens for request in requests])
        self.output_tokens.extend([request.output_tokens for request in requests])
        self.think_s.extend([request.think_s for request in requests])
        self.priority.extend([request.priority for request in requests])
        self.retention.extend([request.retention for request in requests])
        names = self.session_names
        self.session.extend([names.setdefault(request.session, len(names)) for request in requests])

    def _extend_unsigned(self, requests: Sequence[Request]) -> None:
        if any(max(request.blocks, default=0) >= _WRAP or min(request.blocks, default=0) < -_WRAP // 2 for request in requests):
            raise OverflowError
        self.ids.extend(block - _WRAP if block >= _WRAP // 2 else block for request in requests for block in request.blocks)
        self.unsigned = True

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Request]:
        names = list(self.session_names)
        for at in range(len(self)):
            yield self.request(at, names)

    def request(self, at: int, names: Sequence[str]) -> Request:
        """One of them; `names` are those of `session_names` in order."""
        blocks = self.ids[self.starts[at] : self.starts[at + 1]]
        return Request(
            index=self.index[at],
            arrival_s=self.arrival_s[at],
            prompt_tokens=self.prompt_tokens[at],
            output_tokens=self.output_tokens[at],
            blocks=tuple(block % _WRAP for block in blocks) if self.unsigned else tuple(blocks),
            session=names[self.session[at]],
            think_s=self.think_s[at],
            priority=self.priority[at],
            retention=self.retention[at],
        )

    def names_a_row_twice(self) -> bool:
        """Do two requests have one index."""
        return self.index != array("q", range(len(self))) and len(set(self.index)) < len(self)

    def sorted_from_zero(self, *, in_order: bool) -> tuple[PackedRequests, float]:
        """The same in order of arrival (stable), the first at 0 s, and when it was."""
        first_s = min(self.arrival_s)
        done = self if in_order else self._reordered()
        if first_s:
            done.arrival_s = array("d", (round(arrival_s - first_s, 9) for arrival_s in done.arrival_s))
        return done, first_s

    def _reordered(self) -> PackedRequests:
        sorted_, names = PackedRequests(), list(self.session_names)
        order = sorted(range(len(self)), key=self.arrival_s.__getitem__)
        for at in range(0, len(order), CHUNK):
            sorted_.extend([self.request(row, names) for row in order[at : at + CHUNK]])
        return sorted_
