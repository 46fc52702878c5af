"""Requests packed into columns of machine numbers: 9 bytes a run of blocks where Python's own objects take about 40 a block."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import chain, islice
from operator import add, attrgetter
from struct import error as StructError
from struct import pack

import numpy as np
import numpy.typing as npt

from kvplan.request import Request

CHUNK = 512  # requests that are Python objects at a time: few, so that they stay in a core's cache
_WRAP = 2**64
_LEAST, _LONGEST_RUN = -(2**63), 255
_NUMBERS = ("arrival_s", "index", "output_tokens", "priority", "prompt_tokens", "retention", "think_s")
_PLAIN = (*_NUMBERS, "firsts", "lengths")


class PackedRequests:
    """A list of requests that grows at its end.

    Ids of blocks are kept as runs of consecutive numbers, which takes 9 bytes a run, and modulo 2^64: equal ids stay
    equal, and those above 2^63 (hashes that other tools write as unsigned numbers) come back as they were.
    """

    __slots__ = (
        "arrival_s",
        "firsts",
        "index",
        "lengths",
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
        self.starts, self.firsts, self.lengths = array("q", [0]), array("q"), array("B")
        self.unsigned = False
        self.session_names: dict[str, int] = {"": 0}

    def extend(self, requests: Sequence[Request]) -> None:
        """Append some. Raises OverflowError for an id of a block of more than 64 bits, leaving this list as it was."""
        self.add(
            [request.blocks for request in requests],
            [request.session for request in requests],
            **{name: map(attrgetter(name), requests) for name in _NUMBERS},
        )

    def add(self, blocks: Sequence[tuple[int, ...]], sessions: Sequence[str], **numbers: Iterable[float]) -> None:
        """The same from columns: the fields of Request by name."""
        counts = np.array([len(ids) for ids in blocks], dtype=np.int64)
        try:
            ids = pack(f"={counts.sum()}q", *chain.from_iterable(blocks))
        except StructError:
            ids = self._unsigned(blocks)
        self._add_ids(np.frombuffer(ids, dtype=np.int64), counts)
        for name, values in numbers.items():
            getattr(self, name).extend(values)
        self.session.extend(self._numbered(sessions))

    def _unsigned(self, blocks: Sequence[tuple[int, ...]]) -> bytes:
        if any(too_wide(ids) for ids in blocks):
            raise OverflowError
        self.unsigned = True
        return array("q", [block - _WRAP if block >= _WRAP // 2 else block for ids in blocks for block in ids]).tobytes()

    def _add_ids(self, ids: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> None:
        """Append the ids of requests with so many each, as runs of numbers that count up by one within a request."""
        ends, before = np.cumsum(counts), len(self.firsts)
        first = np.ones(len(ids) + 1, dtype=np.bool_)
        first[1:-1] = (ids[1:] - 1 != ids[:-1]) | (ids[1:] == _LEAST)
        first[ends] = True
        at = np.flatnonzero(first)
        if np.diff(at).max(initial=0) > _LONGEST_RUN:
            first[:-1] |= (np.arange(len(ids)) - np.repeat(at[:-1], np.diff(at))) % _LONGEST_RUN == 0
            at = np.flatnonzero(first)
        self.firsts.frombytes(ids[at[:-1]].tobytes())
        self.lengths.frombytes(np.diff(at).astype(np.uint8).tobytes())
        self.starts.frombytes((before + np.searchsorted(at, ends)).astype(np.int64).tobytes())

    def ids(self, first: int = 0, last: int | None = None) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The ids of all blocks one request after another, of all or of some, and where those of each begin, with the end."""
        runs = np.frombuffer(self.starts, dtype=np.int64)[first : None if last is None else last + 1]
        lengths = np.frombuffer(self.lengths, dtype=np.uint8)[runs[0] : runs[-1]]
        starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        firsts = np.frombuffer(self.firsts, dtype=np.int64)[runs[0] : runs[-1]]
        return np.repeat(firsts - starts[:-1], lengths) + np.arange(starts[-1]), starts[runs - runs[0]]

    def _numbered(self, sessions: Iterable[str]) -> list[int]:
        names = self.session_names
        return [names.setdefault(name, len(names)) for name in sessions]

    def join(self, others: Iterable[PackedRequests]) -> PackedRequests:
        """This list with others behind it."""
        for other in others:
            before, renamed = len(self.firsts), self._numbered(other.session_names)
            self.starts.extend([before + start for start in other.starts[1:]])
            self.session.extend([renamed[session] for session in other.session])
            self.unsigned |= other.unsigned
            for name in _PLAIN:
                getattr(self, name).extend(getattr(other, name))
        return self

    def at(self, arrival_s: array[float]) -> PackedRequests:
        """The same requests at other times; the other columns are shared."""
        moved = copy(self)
        moved.arrival_s = arrival_s
        return moved

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Request]:
        names = list(self.session_names)
        for at in range(len(self)):
            yield self.request(at, names)

    def request(self, at: int, names: Sequence[str]) -> Request:
        """One of them; `names` are those of `session_names` in order."""
        runs = slice(self.starts[at], self.starts[at + 1])
        firsts = self.firsts[runs]
        blocks = chain.from_iterable(map(range, firsts, map(add, firsts, self.lengths[runs])))
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


def packed_of(requests: Iterable[Request]) -> PackedRequests:
    """Any number of requests, packed as they come."""
    packed, left = PackedRequests(), iter(requests)
    while batch := list(islice(left, CHUNK)):
        packed.extend(batch)
    return packed


def too_wide(ids: tuple[int, ...]) -> bool:
    """Has one of the ids more than 64 bits."""
    return bool(ids) and (max(ids) >= _WRAP or min(ids) < -_WRAP // 2)
