"""Requests packed into columns of machine numbers: 8 bytes a block where Python's own objects take about 40."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from kvplan.request import Request

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

    def add(self, request: Request) -> None:
        """Append one. Raises OverflowError for an id of a block of more than 64 bits."""
        blocks = request.blocks
        if blocks:
            try:
                self.ids.extend(blocks)
            except OverflowError:
                self._add_unsigned(blocks)
        self.starts.append(len(self.ids))
        self.index.append(request.index)
        self.arrival_s.append(request.arrival_s)
        self.prompt_tokens.append(request.prompt_tokens)
        self.output_tokens.append(request.output_tokens)
        self.think_s.append(request.think_s)
        self.priority.append(request.priority)
        self.retention.append(request.retention)
        name = request.session
        self.session.append(self.session_names.setdefault(name, len(self.session_names)) if name else 0)

    def _add_unsigned(self, blocks: tuple[int, ...]) -> None:
        del self.ids[self.starts[-1] :]
        if max(blocks) >= _WRAP:
            raise OverflowError
        self.ids.extend(block - _WRAP if block >= _WRAP // 2 else block for block in blocks)
        self.unsigned = True

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Request]:
        names = list(self.session_names)
        for at in range(len(self)):
            yield self._request(at, names)

    def _request(self, at: int, names: Sequence[str]) -> Request:
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
        sorted_ = PackedRequests()
        names = list(self.session_names)
        for at in sorted(range(len(self)), key=self.arrival_s.__getitem__):
            sorted_.add(self._request(at, names))
        return sorted_
