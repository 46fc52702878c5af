"""Open a trace of any known format and stream its requests in arrival order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from kvplan import copies
from kvplan.errors import InputError, KvplanError, did_you_mean
from kvplan.request import Request
from kvplan.results.trace import ReadReport
from kvplan.traces.formats import FORMATS, Reader
from kvplan.traces.formats.reader import PER_SECOND, Chunk, NotPlainError, ReadNotes, ReadOptions, Rows, Share
from kvplan.traces.packed import CHUNK, PackedRequests, too_wide
from kvplan.traces.source import TraceSource, open_source

LONG_BYTES = 2**24
"""From this size on copies of this process read a file together: a second for one alone."""


class RequestSource(Protocol):
    """What replays and analyses ask of a trace: requests in arrival order from 0 s, as often as wanted."""

    name: str
    format: str

    @property
    def block_tokens(self) -> int: ...
    @property
    def names_sessions(self) -> bool: ...
    @property
    def report(self) -> ReadReport: ...
    def __iter__(self) -> Iterator[Request]: ...
    def __len__(self) -> int: ...


class Trace:
    """The requests of a file in arrival order (stable), from 0 s. The file is read and checked once, when first needed.

    `block_tokens` is the size of the blocks that `Request.blocks` names, 0 when the file names no content;
    `first_s` is the file's own time of the first request; `names_sessions` tells whether the file does; `report` says
    what reading met. Memory is about 60 bytes a request and 9 for each of its runs of consecutive ids.
    """

    def __init__(self, name: str, format: str, block_tokens: int, chunks: Callable[[ReadNotes], Iterator[Chunk]]) -> None:
        self.name, self.format = name, format
        self.declared_block_tokens, self._chunks = block_tokens, chunks
        self._packed: PackedRequests | None = None
        self._facts: TraceFacts | None = None

    @classmethod
    def packed(cls, name: str, format: str, block_tokens: int, requests: PackedRequests, facts: TraceFacts) -> Trace:
        """A trace whose requests are at hand."""
        trace = cls(name, format, block_tokens, lambda notes: iter(()))
        trace._packed, trace._facts = requests, facts
        return trace

    @property
    def block_tokens(self) -> int:
        return self.declared_block_tokens if self.facts.names_content else 0

    @property
    def names_sessions(self) -> bool:
        return self.facts.names_sessions

    @property
    def report(self) -> ReadReport:
        return self.facts.report

    @property
    def first_s(self) -> float:
        return self.facts.first_s

    @property
    def facts(self) -> TraceFacts:
        if self._facts is None:
            self.requests()
        assert self._facts is not None
        return self._facts

    def requests(self) -> PackedRequests:
        """All of them, held from now on. Raises InputError with file and line when a row cannot be used."""
        if self._packed is None:
            whole = PackedRequests().join(self.chunks())
            if whole.names_a_row_twice():
                raise InputError(f"{self.name}: two requests have the same row number")
            self._packed, _ = whole.sorted_from_zero(in_order=not self.facts.report.rows("reordered"))
        return self._packed

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests())

    def __len__(self) -> int:
        return self.report.requests

    def chunks(self) -> Iterator[PackedRequests]:
        """The requests that are held; where none are, one pass over the file in its order and on its own clock, some at a time."""
        if self._packed is not None:
            yield self._packed
            return
        notes = ReadNotes()
        scan = _Scan(self.name, notes)
        yield from map(scan.passed, self._chunks(notes))
        self._facts = scan.facts()


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """What is known of a file once it has been read."""

    report: ReadReport
    first_s: float
    names_content: bool
    names_sessions: bool


class _Scan:
    """What one pass over the requests of a file meets."""

    def __init__(self, name: str, notes: ReadNotes) -> None:
        self._name, self._notes = name, notes
        self._requests, self._first_s, self._latest_s = 0, float("inf"), float("-inf")
        self._names_content = self._names_sessions = False

    def passed(self, chunk: Chunk) -> PackedRequests:
        """Take note of the next requests."""
        lines, packed = chunk
        self._requests += len(packed)
        self._names_content |= bool(packed.firsts)
        self._names_sessions |= len(packed.session_names) > 1
        arrival_s = np.frombuffer(packed.arrival_s)
        latest_s = np.maximum.accumulate(np.concatenate(([self._latest_s], arrival_s)))
        for at in np.flatnonzero(arrival_s < latest_s[:-1]).tolist():
            self._notes.count("reordered", "earlier than a row above", lines[at])
        self._first_s, self._latest_s = min(self._first_s, float(arrival_s.min())), float(latest_s[-1])
        return packed

    def facts(self) -> TraceFacts:
        """What the whole pass has met. Raises InputError when it gave no request."""
        report = self._notes.report(requests=self._requests)
        if not self._requests:
            raise InputError(f"{self._name}: {'no request is left' if report.rows_read else 'the trace is empty'}")
        return TraceFacts(report, self._first_s, self._names_content, self._names_sessions)


def open_trace(
    path: str | Path,
    *,
    format: str | None = None,
    block_tokens: int | None = None,
    time_unit: str | None = None,
    tokenizer: str | None = None,
    limit: int | None = None,
    max_input: int | None = None,
    hold: bool = True,
) -> Trace:
    """A trace by path, its format recognised by content unless named; a directory of files of one format is one trace.

    `block_tokens`, `time_unit` and `tokenizer` are as in ReadOptions. `max_input` drops requests with longer prompts
    (tokens); `limit` then keeps the first requests of the file. Without `hold` the file is read when first needed, which one pass
    over a long trace may do without keeping it. Raises InputError with file and line when a row cannot
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
    reader, options = FORMATS[name], ReadOptions(block_tokens=block_tokens, time_unit=time_unit, tokenizer=tokenizer)

    def rows(notes: ReadNotes) -> Rows:
        kept = _kept(_all_rows(sources, reader, options, notes), max_input, notes)
        return kept if limit is None else _limited(kept, limit, notes)

    def chunks(notes: ReadNotes) -> Iterator[Chunk]:
        if reader.plain and len(sources) == 1 and limit is None and max_input is None:
            return _plainly(str(path), partial(reader.plain, sources[0], options), sources[0].path.stat().st_size, rows(notes))
        return in_chunks(str(path), rows(notes))

    trace = Trace(str(path), name, _block_tokens(sources, reader, options), chunks)
    if hold:
        trace.requests()
    return trace


_held: dict[tuple[object, ...], Trace] = {}
_adopted: dict[tuple[str, int, int], Trace] = {}


def adopt(path: str, limit: int, max_input: int, trace: Trace | None) -> None:
    """From now on, `open_once` gives this trace instead of reading the file; None: it reads the file again."""
    if trace is None:
        _adopted.pop((path, limit, max_input), None)
    else:
        _adopted[path, limit, max_input] = trace


def open_once(path: str, *, limit: int | None, max_input: int | None) -> Trace:
    """The same; the last one is kept, so that many replays read it once. Processes forked from this one share it."""
    adopted = _adopted.get((path, limit or 0, max_input or 0))
    if adopted is not None:
        return adopted
    file = Path(path).expanduser()
    found = file.stat() if file.is_file() else None
    key = (path, limit, max_input, *((found.st_mtime_ns, found.st_size) if found else ()))
    if not found or key not in _held:
        _held.clear()
        _held[key] = open_trace(path, limit=limit, max_input=max_input)
    return _held[key]


def _sources(path: Path) -> list[TraceSource]:
    if not path.is_dir():
        return [open_source(path)]
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    files = [file for file in files if file.suffix not in (".md", ".txt") and file.stat().st_size]
    if not files:
        raise InputError(f"{path}: the folder holds no trace")
    return [open_source(file, ordinal) for ordinal, file in enumerate(files)]


def _recognise(source: TraceSource) -> str:
    for name, reader in FORMATS.items():
        if reader.sniff(source):
            return name
    raise InputError(f"{source.path}: not a trace in any known format", hint=f"known formats: {', '.join(FORMATS)}")


def _block_tokens(sources: list[TraceSource], reader: Reader, options: ReadOptions) -> int:
    sizes = {reader.block_tokens(source, options) for source in sources}
    if len(sizes) > 1:
        raise InputError(f"{sources[0].path.parent}: its files have blocks of different sizes: {sorted(sizes)}")
    return sizes.pop()


def _all_rows(sources: list[TraceSource], reader: Reader, options: ReadOptions, notes: ReadNotes) -> Rows:
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


def _plainly(name: str, plain: Callable[[Share], Iterator[Chunk]], size: int, rows: Rows) -> Iterator[Chunk]:
    """Chunks of a file of so many bytes as long as they are plain; the rest row by row, and from the start, since a row may rest on those
    before it.
    """
    read, processes = 0, copies.possible(copies.MOST) if size > LONG_BYTES else 1

    def series(place: int, processes: int) -> Iterator[Chunk | None]:
        with suppress(NotPlainError, OverflowError, KvplanError):
            yield from plain(Share(place, processes))
            yield None

    for chunk in copies.in_turn(series, processes) if processes > 1 else series(0, 1):
        if chunk is None:
            return
        read += len(chunk[1])
        yield chunk
    yield from in_chunks(name, islice(rows, read, None))


def in_chunks(name: str, rows: Rows) -> Iterator[Chunk]:
    """Rows of the trace of that name. Raises InputError for an id that is too wide."""
    while found := list(islice(rows, CHUNK)):
        packed = PackedRequests()
        try:
            packed.extend([request for _, request in found])
        except OverflowError:
            line = next(line for line, request in found if too_wide(request.blocks))
            raise InputError(f"{name}, line {line}: an id of a block has more than 64 bits") from None
        yield [line for line, _ in found], packed


def _limited(rows: Rows, limit: int, notes: ReadNotes) -> Rows:
    yield from islice(rows, limit)
    if next(rows, None) is not None:
        notes.warn(f"only the first {limit:,} requests were read (--limit): the trace goes on")


def _kept(rows: Rows, max_input: int | None, notes: ReadNotes) -> Rows:
    for line, request in rows:
        if request.prompt_tokens == 0:
            notes.count("dropped", "an empty prompt", line)
        elif max_input is not None and request.prompt_tokens > max_input:
            notes.count("dropped", f"a prompt longer than {max_input:,} tokens", line)
        else:
            yield line, request
