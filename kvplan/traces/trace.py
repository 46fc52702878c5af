"""Open a trace of any known format and stream its requests in arrival order."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import msgspec

from kvplan.errors import InputError, did_you_mean
from kvplan.traces import mooncake, native
from kvplan.traces.notes import Notes, Report
from kvplan.traces.options import Options
from kvplan.traces.source import Source
from kvplan.workload import Request

FORMATS: dict[str, ModuleType] = {"native": native, "mooncake": mooncake}
"""Format name -> module with `sniff(source)`, `block_tokens(source, options)` and `read(source, options, notes)` in file order."""


class Trace:
    """The requests of a file, streamed anew at each iteration in arrival order (stable), from 0 s.

    `block_tokens` is the size of the blocks that `Request.blocks` names, 0 when the file names no content. Memory is 8 bytes a row, plus the
    rows that wait for an earlier one when the file is not in order. Iterating raises nothing new: opening has read and checked every row.
    """

    def __init__(
        self, name: str, format: str, block_tokens: int, rows: Callable[[Notes], Iterator[tuple[int, Request]]]
    ) -> None:
        self.name, self.format, self.block_tokens, self._rows = name, format, block_tokens, rows
        self.report, self._first_s, self._order = self._scan()

    def __iter__(self) -> Iterator[Request]:
        requests = (request for _, request in self._rows(Notes()))
        if self._order is not None:
            requests = _reorder(requests, self._order)
        first_s = self._first_s
        if not first_s:
            return requests
        return (
            msgspec.structs.replace(request, arrival_s=round(request.arrival_s - first_s, 9)) for request in requests
        )

    def __len__(self) -> int:
        return self.report.requests

    def _scan(self) -> tuple[Report, float, array[int] | None]:
        notes, arrivals, latest_s, rows_read, named = Notes(), array("d"), float("-inf"), 0, False
        for line, request in self._rows(notes):
            if request.arrival_s < latest_s:
                notes.count("reordered", "earlier than a row above", line)
            else:
                latest_s = request.arrival_s
            arrivals.append(request.arrival_s)
            rows_read = request.index + 1
            named = named or bool(request.blocks)
        if not arrivals:
            raise InputError(f"{self.name}: no requests are left" if rows_read else f"{self.name}: the trace is empty")
        if not named:
            self.block_tokens = 0
        report = notes.report(rows_read=rows_read, requests=len(arrivals))
        order = array("q", sorted(range(len(arrivals)), key=arrivals.__getitem__)) if report.rows("reordered") else None
        return report, min(arrivals), order


def open_trace(
    path: str | Path,
    *,
    format: str | None = None,
    block_tokens: int | None = None,
    limit: int | None = None,
    max_input: int | None = None,
) -> Trace:
    """A trace by path, its format recognised by content unless named.

    `max_input` drops requests with longer prompts (tokens); `limit` then keeps the first requests of the file. Raises InputError with file and
    line when a row cannot be used, MissingError when the format needs a package that is not installed.
    """
    for name, value in (("block_tokens", block_tokens), ("limit", limit), ("max_input", max_input)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    source, options = Source(Path(path).expanduser()), Options(block_tokens=block_tokens)
    name = format or _recognise(source)
    if name not in FORMATS:
        raise InputError(f"no trace format named {name!r}", hint=did_you_mean(name, FORMATS))
    reader = FORMATS[name]

    def rows(notes: Notes) -> Iterator[tuple[int, Request]]:
        return islice(_kept(reader.read(source, options, notes), max_input, notes), limit)

    return Trace(str(path), name, reader.block_tokens(source, options), rows)


def _recognise(source: Source) -> str:
    for name, reader in FORMATS.items():
        if reader.sniff(source):
            return name
    raise InputError(f"{source.path}: not a trace in any known format", hint=f"known formats: {', '.join(FORMATS)}")


def _kept(rows: Iterator[tuple[int, Request]], max_input: int | None, notes: Notes) -> Iterator[tuple[int, Request]]:
    for line, request in rows:
        if request.prompt_tokens == 0:
            notes.count("dropped", "an empty prompt", line)
        elif max_input is not None and request.prompt_tokens > max_input:
            notes.count("dropped", f"a prompt longer than {max_input:,} tokens", line)
        else:
            yield line, request


def _reorder(requests: Iterator[Request], order: array[int]) -> Iterator[Request]:
    waiting: dict[int, Request] = {}
    incoming = enumerate(requests)
    for wanted in order:
        while wanted not in waiting:
            at, request = next(incoming)
            waiting[at] = request
        yield waiting.pop(wanted)
