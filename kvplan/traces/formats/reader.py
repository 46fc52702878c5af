"""What a reader of one format is, what it is told and what it notes, and the checks that readers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from kvplan.request import Request
from kvplan.results.trace import NoteKind, ReadReport, RowCount
from kvplan.traces.source import TraceSource

Rows = Iterator[tuple[int, Request]]
"""Line number and request, in the order of the file; arrivals may start anywhere."""

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
    """One format: does a file look like it, how large are its blocks (0: it names none), and its rows."""

    sniff: Callable[[TraceSource], bool]
    block_tokens: Callable[[TraceSource, ReadOptions], int]
    read: Callable[[TraceSource, ReadOptions, ReadNotes], Rows]


def moment(source: TraceSource, line: int, value: float, per_second: float) -> float:
    """Seconds of a time in a file. Raises InputError unless finite and within a century or so of its zero."""
    seconds = value / per_second
    if not -4e9 < seconds < 4e9:
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
