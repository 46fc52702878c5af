"""Write traces: what each format can hold, and what it loses."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from kvplan import outputs
from kvplan.errors import InputError, did_you_mean
from kvplan.request import RETENTION, Request
from kvplan.traces.formats.native import AT_ITS_TIME, SCHEMA, Header, Row
from kvplan.traces.source import package

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Writer(NamedTuple):
    """One format: its lines, and which fields of a Request it has no room for."""

    lines: Callable[[Iterable[Request], int, str], Iterator[bytes]]
    loses: frozenset[str]


def format_for(path: str, asked: str) -> str:
    """The format to write: the one that is asked for, else native. Raises InputError for an ending that means another kind of file."""
    endings = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    if ".parquet" in endings:
        raise InputError(f"{path}: traces are not written as Parquet", hint="write .jsonl, .jsonl.gz or .jsonl.zst")
    table = asked in ("azure", "vidur")
    if ".csv" in endings and not table:
        raise InputError(f"{path}: a .csv holds times and lengths only, {asked or 'native'} is JSON lines", hint="--to azure or --to vidur")
    return asked or "native"


def convert(
    requests: Iterable[Request], path: str | Path, *, block_tokens: int, name: str = "", format: str = "native", source: str = ""
) -> tuple[int, list[str]]:
    """Write requests to a file, compressed as its suffix .gz or .zst says; returns their number and a sentence for each
    thing that the format cannot hold.

    The file appears whole or not at all. Raises InputError when the format cannot be written or there is no request.
    """
    if format not in WRITERS:
        raise InputError(f"the format {format!r} cannot be written", hint=did_you_mean(format, WRITERS))
    writer, found = WRITERS[format], _Found(requests)
    with outputs.whole(path, sources=[source] if source else []) as raw, _compressed(raw, Path(path).suffix) as stream:
        for line in writer.lines(found, block_tokens, name):
            stream.write(line + b"\n")
        if not found.count:
            raise InputError(f"{path}: there is no request to write")
    return found.count, found.losses(writer.loses, block_tokens, format)


class _Found:
    """Passes requests on and notes which optional fields occur."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._requests = requests
        self.fields: set[str] = set()
        self.count = 0

    def __iter__(self) -> Iterator[Request]:
        for request in self._requests:
            if request.blocks:
                self.fields.add("blocks")
            if request.session:
                self.fields.add("session")
            if request.think_s >= 0:
                self.fields.add("think_s")
            if request.priority:
                self.fields.add("priority")
            if request.retention != RETENTION:
                self.fields.add("retention")
            if request.index != self.count:
                self.fields.add("index")
            self.count += 1
            yield request

    def losses(self, loses: frozenset[str], block_tokens: int, format: str) -> list[str]:
        lost = [f"{format} cannot hold {_FIELDS[field]}" for field in sorted(self.fields & loses)]
        if "block size" in loses and "blocks" in self.fields and "blocks" not in loses:
            lost.append(f"{format} does not say the block size: read it with --block-tokens {block_tokens}")
        return lost


_FIELDS = {
    "blocks": "what prompts share: its hit rate is unknown",
    "session": "sessions",
    "think_s": "think times: later turns arrive at their recorded times",
    "priority": "priorities: all requests are equal",
    "retention": "retention priorities: all content is equal",
    "index": "the rows of the file that the requests came from",
}


def _compressed(raw: BinaryIO, suffix: str) -> BinaryIO:
    if suffix == ".gz":
        return gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)  # type: ignore[return-value]
    if suffix == ".zst":
        return package("zstandard", "a .zst file").ZstdCompressor().stream_writer(raw, closefd=False)
    return nullcontext(raw)  # type: ignore[return-value]


def _native(requests: Iterable[Request], block_tokens: int, name: str) -> Iterator[bytes]:
    encode = msgspec.json.Encoder().encode
    yield encode(Header(kvplan=SCHEMA, block_tokens=block_tokens, name=name))
    for number, request in enumerate(requests):
        yield encode(
            Row(
                t=request.arrival_s,
                prompt=request.prompt_tokens,
                output=request.output_tokens,
                blocks=request.blocks,
                session=request.session,
                think=request.think_s if request.think_s >= 0 else AT_ITS_TIME,
                priority=request.priority,
                retention=request.retention,
                row=request.index if request.index != number else -1,
            )
        )


def _mooncake(requests: Iterable[Request], block_tokens: int, name: str) -> Iterator[bytes]:
    encode, number = msgspec.json.Encoder().encode, _Numbers()
    for request in requests:
        row: dict[str, object] = {
            "timestamp": _plain(request.arrival_s * 1e3),
            "input_length": request.prompt_tokens,
            "output_length": request.output_tokens,
        }
        if request.blocks:
            row["hash_ids"] = number(request.blocks)
        if request.session:
            row["session_id"] = request.session
        if request.think_s >= 0:
            row["delay"] = _plain(request.think_s * 1e3)
        yield encode(row)


def _kvcache_simulator(requests: Iterable[Request], block_tokens: int, name: str) -> Iterator[bytes]:
    if not block_tokens:
        raise InputError("kvcache-simulator replays content, and this trace holds lengths only")
    encode, number = msgspec.json.Encoder().encode, _Numbers()
    for request in requests:
        yield encode(
            {
                "hash_ids": number(request.blocks),
                "input_length": request.prompt_tokens,
                "output_length": request.output_tokens,
                "block_size": block_tokens,
                "timestamp": _plain(request.arrival_s * 1e3),
            }
        )


def _azure(requests: Iterable[Request], block_tokens: int, name: str) -> Iterator[bytes]:
    yield b"TIMESTAMP,ContextTokens,GeneratedTokens"
    for request in requests:
        ticks = round(request.arrival_s * 1e7)
        stamp = _EPOCH + timedelta(seconds=ticks // 10**7)
        yield f"{stamp:%Y-%m-%d %H:%M:%S}.{ticks % 10**7:07d},{request.prompt_tokens},{request.output_tokens}".encode()


def _vidur(requests: Iterable[Request], block_tokens: int, name: str) -> Iterator[bytes]:
    yield b"arrived_at,num_prefill_tokens,num_decode_tokens"
    for request in requests:
        yield f"{_plain(request.arrival_s)},{request.prompt_tokens},{request.output_tokens}".encode()


class _Numbers:
    """Ids that other tools can read: kept where they fit a double, numbered on from there where they do not."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def __call__(self, blocks: tuple[int, ...]) -> list[int]:
        return [block if 0 <= block < 2**52 else self._number(block) for block in blocks]

    def _number(self, block: int) -> int:
        return self._known.setdefault(block, 2**52 + len(self._known))


def _plain(value: float) -> int | float:
    """A number without rounding noise, whole where it is whole."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded


_LENGTHS_ONLY = frozenset({"blocks", "session", "think_s", "index", "priority", "retention"})
WRITERS: dict[str, Writer] = {
    "native": Writer(_native, frozenset()),
    "mooncake": Writer(_mooncake, frozenset({"index", "block size", "priority", "retention"})),
    "kvcache-simulator": Writer(_kvcache_simulator, frozenset({"session", "think_s", "index", "priority", "retention"})),
    "azure": Writer(_azure, _LENGTHS_ONLY),
    "vidur": Writer(_vidur, _LENGTHS_ONLY),
}
"""Format name -> writer."""
