"""What a reader of one format is, and the checks that readers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from kvplan.request import Request
from kvplan.traces.notes import Notes
from kvplan.traces.options import Options
from kvplan.traces.source import Source

Rows = Iterator[tuple[int, Request]]
"""Line number and request, in the order of the file; arrivals may start anywhere."""


class Reader(NamedTuple):
    """One format: does a file look like it, how large are its blocks (0: it names none), and its rows."""

    sniff: Callable[[Source], bool]
    block_tokens: Callable[[Source, Options], int]
    read: Callable[[Source, Options, Notes], Rows]


def moment(source: Source, line: int, value: float, per_second: float) -> float:
    """Seconds of a time in a file. Raises InputError unless finite and within a century or so of its zero."""
    seconds = value / per_second
    if not -4e9 < seconds < 4e9:
        raise source.error(line, f"the time {value:g} is not plausible")
    return seconds


def room(source: Source, options: Options, notes: Notes, line: int, prompt: int, ids: tuple[int, ...], size: int) -> tuple[int, ...]:
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
