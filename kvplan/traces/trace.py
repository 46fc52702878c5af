"""Open a trace of any known format and stream its requests in arrival order."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from kvplan.errors import InputError, did_you_mean
from kvplan.request import Request
from kvplan.traces.formats import FORMATS, Reader
from kvplan.traces.formats.reader import Rows
from kvplan.traces.notes import Notes
from kvplan.traces.options import PER_SECOND, Options
from kvplan.traces.source import Source, open_source


class Trace:
    """The requests of a file, streamed anew at each iteration in arrival order (stable), from 0 s.

    `block_tokens` is the size of the blocks that `Request.blocks` names, 0 when the file names no content; `first_s` is
    the file's own time of the first request; `names_sessions` tells whether the file does. Opening has read and checked
    every row, and `report` says what it met. Memory is 8 bytes a row, plus the rows that wait for an earlier one where
    the file is out of order.
    """

    def __init__(self, name: str, format: str, block_tokens: int, rows: Callable[[Notes], Rows]) -> None:
        self.name, self.format, self._rows = name, format, rows
        self.names_sessions = self._names_content = False
        notes = Notes()
        arrivals = array("d", self._checked_arrivals(notes))
        self.report = notes.report(requests=len(arrivals))
        if not arrivals:
            raise InputError(f"{name}: {'no request is left' if self.report.rows_read else 'the trace is empty'}")
        self.block_tokens = block_tokens if self._names_content else 0
        self.first_s = min(arrivals)
        self._order: array[int] | None = None
        if self.report.rows("reordered"):
            self._order = array("q", sorted(range(len(arrivals)), key=arrivals.__getitem__))

    def _checked_arrivals(self, notes: Notes) -> Iterator[float]:
        latest_s = float("-inf")
        for line, request in self._rows(notes):
            if request.arrival_s < latest_s:
                notes.count("reordered", "earlier than a row above", line)
            else:
                latest_s = request.arrival_s
            if request.blocks:
                self._names_content = True
                if max(request.blocks) >= 2**64 or min(request.blocks) < -(2**63):
                    raise InputError(f"{self.name}, line {line}: an id of a block has more than 64 bits")
            if request.session:
                self.names_sessions = True
            yield request.arrival_s

    def __iter__(self) -> Iterator[Request]:
        requests: Iterator[Request] = (request for _, request in self._rows(Notes()))
        if self._order is not None:
            requests = _reorder(requests, self._order)
        first_s = self.first_s
        if not first_s:
            return requests
        return (msgspec.structs.replace(request, arrival_s=round(request.arrival_s - first_s, 9)) for request in requests)

    def __len__(self) -> int:
        return self.report.requests


def open_trace(
    path: str | Path,
    *,
    format: str | None = None,
    block_tokens: int | None = None,
    time_unit: str | None = None,
    tokenizer: str | None = None,
    limit: int | None = None,
    max_input: int | None = None,
) -> Trace:
    """A trace by path, its format recognised by content unless named; a directory of files of one format is one trace.

    `block_tokens`, `time_unit` and `tokenizer` are as in Options. `max_input` drops requests with longer prompts
    (tokens); `limit` then keeps the first requests of the file. Raises InputError with file and line when a row cannot
    be used, MissingError when the format needs a package that is not installed.
    """
    for what, value in (("block_tokens", block_tokens), ("limit", limit), ("max_input", max_input)):
        if value is not None and value < 1:
            raise InputError(f"{what} must be at least 1, not {value}")
    if time_unit is not None and time_unit not in PER_SECOND:
        raise InputError(f"no unit of time {time_unit!r}", hint=f"known: {', '.join(PER_SECOND)}")
    sources = _sources(Path(path).expanduser())
    name = format or _recognise(sources[0])
    if name not in FORMATS:
        raise InputError(f"no trace format named {name!r}", hint=did_you_mean(name, FORMATS))
    reader, options = FORMATS[name], Options(block_tokens=block_tokens, time_unit=time_unit, tokenizer=tokenizer)

    def rows(notes: Notes) -> Rows:
        return islice(_kept(_all_rows(sources, reader, options, notes), max_input, notes), limit)

    return Trace(str(path), name, _block_tokens(sources, reader, options), rows)


def _sources(path: Path) -> list[Source]:
    if not path.is_dir():
        return [open_source(path)]
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    files = [file for file in files if file.suffix not in (".md", ".txt") and file.stat().st_size]
    if not files:
        raise InputError(f"{path}: the folder holds no trace")
    return [open_source(file, ordinal) for ordinal, file in enumerate(files)]


def _recognise(source: Source) -> str:
    for name, reader in FORMATS.items():
        if reader.sniff(source):
            return name
    raise InputError(f"{source.path}: not a trace in any known format", hint=f"known formats: {', '.join(FORMATS)}")


def _block_tokens(sources: list[Source], reader: Reader, options: Options) -> int:
    sizes = {reader.block_tokens(source, options) for source in sources}
    if len(sizes) > 1:
        raise InputError(f"{sources[0].path.parent}: its files have blocks of different sizes: {sorted(sizes)}")
    return sizes.pop()


def _all_rows(sources: list[Source], reader: Reader, options: Options, notes: Notes) -> Rows:
    """Rows of all files one after another, numbered through."""
    if len(sources) == 1:
        yield from reader.read(sources[0], options, notes)
        return
    base = 0
    for source in sources:
        if not reader.sniff(source):
            raise InputError(f"{source.path}: not in the format of the other files of its folder")
        index = -1
        for line, request in reader.read(source, options, notes):
            index = request.index
            yield line, msgspec.structs.replace(request, index=base + index)
        base += index + 1


def _kept(rows: Rows, max_input: int | None, notes: Notes) -> Rows:
    for line, request in rows:
        if request.prompt_tokens == 0:
            notes.count("dropped", "an empty prompt", line)
        elif max_input is not None and request.prompt_tokens > max_input:
            notes.count("dropped", f"a prompt longer than {max_input:,} tokens", line)
        else:
            yield line, request


def _reorder(requests: Iterator[Request], order: array[int]) -> Iterator[Request]:
    """Requests by rank. Those that wait are kept packed, a fifth of the size of the object."""
    pack, unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Request).decode
    waiting: dict[int, bytes] = {}
    incoming = enumerate(requests)
    for wanted in order:
        packed = waiting.pop(wanted, None)
        if packed is not None:
            yield unpack(packed)
            continue
        for at, request in incoming:
            if at == wanted:
                yield request
                break
            waiting[at] = pack(request)
