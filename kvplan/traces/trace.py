"""Open a trace of any known format and stream its requests in arrival order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from kvplan.errors import InputError, did_you_mean
from kvplan.request import Request
from kvplan.results.trace import ReadReport
from kvplan.traces.formats import FORMATS, Reader
from kvplan.traces.formats.reader import PER_SECOND, ReadNotes, ReadOptions, Rows
from kvplan.traces.packed import CHUNK, PackedRequests
from kvplan.traces.source import TraceSource, open_source


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
    what reading met. Memory is about 50 bytes a request and 8 a block.
    """

    def __init__(self, name: str, format: str, block_tokens: int, rows: Callable[[ReadNotes], Rows]) -> None:
        self.name, self.format = name, format
        self.declared_block_tokens, self._rows = block_tokens, rows
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
            [whole] = self.batches(sys.maxsize)
            if whole.names_a_row_twice():
                raise InputError(f"{self.name}: two requests have the same row number")
            self._packed, _ = whole.sorted_from_zero(in_order=not self.facts.report.rows("reordered"))
        return self._packed

    def __iter__(self) -> Iterator[Request]:
        return iter(self.requests())

    def __len__(self) -> int:
        return self.report.requests

    def batches(self, size: int) -> Iterator[PackedRequests]:
        """The requests that are held; where none are, one pass over the file in its order and on its own clock, `size` at a time."""
        if self._packed is not None:
            yield self._packed
            return
        notes = ReadNotes()
        scan = _Scan(self.name, self._rows(notes), notes)
        while len(batch := scan.batch(size)):
            yield batch
        self._facts = scan.facts()


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """What is known of a file once it has been read."""

    report: ReadReport
    first_s: float
    names_content: bool
    names_sessions: bool


class _Scan:
    """One pass over the rows of a file, checking them."""

    def __init__(self, name: str, rows: Rows, notes: ReadNotes) -> None:
        self._name, self._rows, self._notes = name, rows, notes
        self._requests, self._first_s, self._latest_s = 0, float("inf"), float("-inf")
        self._names_content = self._names_sessions = False

    def batch(self, size: int) -> PackedRequests:
        """The next requests, fewer at the end. Raises InputError for a row that cannot be used."""
        packed = PackedRequests()
        while len(packed) < size and (rows := list(islice(self._rows, min(CHUNK, size - len(packed))))):
            requests = [request for _, request in rows]
            self._note_order(rows)
            try:
                packed.extend(requests)
            except OverflowError:
                line = next(line for line, request in rows if _too_wide(request.blocks))
                raise InputError(f"{self._name}, line {line}: an id of a block has more than 64 bits") from None
        if len(packed):
            self._requests += len(packed)
            self._first_s = min(self._first_s, min(packed.arrival_s))
            self._names_content |= bool(packed.ids)
            self._names_sessions |= len(packed.session_names) > 1
        return packed

    def _note_order(self, rows: list[tuple[int, Request]]) -> None:
        """Count the rows that are earlier than a row above."""
        latest_s = self._latest_s
        for line, request in rows:
            if request.arrival_s < latest_s:
                self._notes.count("reordered", "earlier than a row above", line)
            else:
                latest_s = request.arrival_s
        self._latest_s = latest_s

    def facts(self) -> TraceFacts:
        """What the whole pass has met. Raises InputError when it gave no request."""
        report = self._notes.report(requests=self._requests)
        if not self._requests:
            raise InputError(f"{self._name}: {'no request is left' if report.rows_read else 'the trace is empty'}")
        return TraceFacts(report, self._first_s, self._names_content, self._names_sessions)


def _too_wide(blocks: tuple[int, ...]) -> bool:
    return bool(blocks) and (max(blocks) >= 2**64 or min(blocks) < -(2**63))


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

    trace = Trace(str(path), name, _block_tokens(sources, reader, options), rows)
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
