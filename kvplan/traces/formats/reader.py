"""What a reader of one format is, what it is told and what it notes, and the checks that readers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from kvplan.request import Request
from kvplan.results.trace import NoteKind, ReadReport, RowCount
from kvplan.traces.packed import PackedRequests
from kvplan.traces.source import TraceSource

Rows = Iterator[tuple[int, Request]]
"""Line number and request, in the order of the file; arrivals may start anywhere."""

Chunk = tuple[Sequence[int], PackedRequests]
"""Line numbers and requests of some rows, one after another."""


class Share(NamedTuple):
    """Which chunks of a file one of several processes reads: every so many, from its own place on."""

    place: int = 0
    processes: int = 1


class NotPlainError(Exception):
    """A chunk holds rows that are to be noted, dropped or refused, or that rest on rows before them."""


PER_SECOND: dict[str, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


class ReadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a user says about a file that it does not say itself.

    `block_tokens` is the size of the blocks that the file's ids name and `time_unit` the unit of its times; None: the
    format's own. `tokenizer` is the path of a Hugging Face `tokenizer.json` for formats that hold text.
    """

    block_tokens: int | None = None
    time_unit: str | None = None
    tokenizer: str | None = None

    def per_second(self, default: str) -> float:
        return PER_SECOND[self.time_unit or default]


class ReadNotes:
    """What a reader notices: rows dropped, clipped or reordered, and quirks, each with the first line."""

    def __init__(self) -> None:
        self._counts: dict[tuple[NoteKind, str], list[int]] = {}
        self._warnings: dict[str, None] = {}

    def count(self, kind: NoteKind, what: str, line: int) -> None:
        """One more row that something happened to."""
        entry = self._counts.setdefault((kind, what), [0, line])
        entry[0] += 1

    def warn(self, sentence: str) -> None:
        """Something about the whole file; said once."""
        self._warnings[sentence] = None

    def report(self, *, requests: int) -> ReadReport:
        """The report of a pass that gave `requests` requests."""
        counts = tuple(RowCount(kind=kind, what=what, rows=rows, first_line=line) for (kind, what), (rows, line) in self._counts.items())
        dropped = sum(count.rows for count in counts if count.kind == "dropped")
        return ReadReport(rows_read=requests + dropped, requests=requests, counts=counts, warnings=tuple(self._warnings))


class Reader(NamedTuple):
    """One format: does a file look like it, how large are its blocks (0: it names none), and its rows.

    `plain` reads chunks of rows that nothing is to be said of much faster; it ends with NotPlainError at the first that has others.
    """

    sniff: Callable[[TraceSource], bool]
    block_tokens: Callable[[TraceSource, ReadOptions], int]
    read: Callable[[TraceSource, ReadOptions, ReadNotes], Rows]
    plain: Callable[[TraceSource, ReadOptions, Share], Iterator[Chunk]] | None = None


PLAUSIBLE_S = 4e9
"""A century or so."""


def plain_chunk(
    size: int, *, blocks: list[tuple[int, ...]], arrival_s: Sequence[float], prompt_tokens: Sequence[int], **rest: Any
) -> PackedRequests:
    """Rows whose blocks have `size` tokens (0: none). Raises NotPlainError where one is to be dropped, clipped or refused."""
    most = -(-np.array(prompt_tokens) // size) if size else 0
    fitting = min(prompt_tokens) > 0 and (np.array([len(ids) for ids in blocks]) <= most).all()
    if not fitting or not np.abs(arrival_s).max() < PLAUSIBLE_S:
        raise NotPlainError
    packed = PackedRequests()
    packed.add(blocks=blocks, arrival_s=arrival_s, prompt_tokens=prompt_tokens, **rest)
    return packed


def moment(source: TraceSource, line: int, value: float, per_second: float) -> float:
    """Seconds of a time in a file. Raises InputError unless finite and within a century or so of its zero."""
    seconds = value / per_second
    if not -PLAUSIBLE_S < seconds < PLAUSIBLE_S:
        raise source.error(line, f"the time {value:g} is not plausible")
    return seconds


def room(
    source: TraceSource, options: ReadOptions, notes: ReadNotes, line: int, prompt: int, ids: tuple[int, ...], size: int
) -> tuple[int, ...]:
    """The ids that the prompt has room for. Refused when the block size was only assumed, as that is the likelier
    error.
    """
    most = -(-prompt // size)
    if len(ids) <= most:
        return ids
    if options.block_tokens is None:
        raise source.error(
            line,
            f"{len(ids):,} hash_ids do not fit {prompt:,} input tokens in blocks of {size}",
            hint=f"name the block size with --block-tokens; this row fits {max(1, -(-prompt // len(ids))):,}",
        )
    notes.count("clipped", f"more hash_ids than the prompt has blocks of {size} tokens", line)
    return ids[:most]
