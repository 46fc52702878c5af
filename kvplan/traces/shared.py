"""A parsed trace as a file that processes map into memory: read once, held once, however many replay it."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from kvplan.traces.packed import PackedRequests
from kvplan.traces.trace import Trace, TraceFacts, adopt, open_once

_ALIGN = 8
_SCALARS = ("session_names", "unsigned")


class SharedTrace(msgspec.Struct, frozen=True, kw_only=True):
    """One trace with its limits, where its packed form lies, and the digest of what it holds."""

    path: str
    limit: int
    max_input: int
    file: str
    digest: str
    requests: int
    span_s: float  # from the first arrival to the last
    output_tokens: int


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    format: str
    block_tokens: int
    facts: TraceFacts
    columns: dict[str, tuple[str, int]]  # name -> type code and bytes
    session_names: dict[str, int]
    unsigned: bool


@contextmanager
def shared(wanted: Iterable[tuple[str, int, int]]) -> Iterator[tuple[SharedTrace, ...]]:
    """Each trace by path, limit and longest prompt (0: none), read once and packed into a file that goes when the block ends."""
    with tempfile.TemporaryDirectory(prefix="kvplan-traces-") as folder:
        traces = tuple(_write(Path(folder) / str(at), *one) for at, one in enumerate(dict.fromkeys(wanted)))
        yield traces
        for one in traces:
            _attached.pop((one.path, one.limit, one.max_input), None)
            adopt(one.path, one.limit, one.max_input, None)


_attached: dict[tuple[str, int, int], str] = {}


def attach(traces: Iterable[SharedTrace]) -> None:
    """Take these traces from their files from now on, in this process; one whose file is not on this machine is read as usual."""
    for one in traces:
        key = (one.path, one.limit, one.max_input)
        if _attached.get(key) != one.file and Path(one.file).is_file():
            _attached[key] = one.file
            adopt(*key, _read(Path(one.file)))


def _write(file: Path, path: str, limit: int, max_input: int) -> SharedTrace:
    trace = open_once(path, limit=limit or None, max_input=max_input or None)
    packed = trace.requests()
    columns = {name: memoryview(getattr(packed, name)) for name in PackedRequests.__slots__ if name not in _SCALARS}
    header = msgspec.json.encode(
        _Header(
            name=trace.name,
            format=trace.format,
            block_tokens=trace.declared_block_tokens,
            facts=trace.facts,
            columns={name: (column.format, column.nbytes) for name, column in columns.items()},
            session_names=packed.session_names,
            unsigned=packed.unsigned,
        )
    )
    digest = sha256(str(trace.block_tokens).encode())
    with file.open("wb") as stream:
        stream.write(len(header).to_bytes(_ALIGN, "little"))
        stream.write(header.ljust(_aligned(len(header))))
        for column in columns.values():
            digest.update(column)
            stream.write(column)
            stream.write(bytes(_aligned(column.nbytes) - column.nbytes))
    digest.update(repr(packed.session_names).encode())
    return SharedTrace(path=path, limit=limit, max_input=max_input, file=str(file), digest=digest.hexdigest(), **_sums(packed))


def _sums(packed: PackedRequests) -> dict[str, Any]:
    return {
        "requests": len(packed),
        "span_s": max(packed.arrival_s),
        "output_tokens": sum(packed.output_tokens),
    }


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _read(file: Path) -> Trace:
    """The trace of a packed file, mapped."""
    with file.open("rb") as stream:
        held = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    size = int.from_bytes(held[:_ALIGN], "little")
    header = msgspec.json.decode(held[_ALIGN : _ALIGN + size], type=_Header)
    packed, at = PackedRequests(), _ALIGN + _aligned(size)
    for name, (code, nbytes) in header.columns.items():
        setattr(packed, name, held[at : at + nbytes].cast(code))  # type: ignore[call-overload]
        at += _aligned(nbytes)
    packed.session_names, packed.unsigned = header.session_names, header.unsigned
    return Trace.packed(header.name, header.format, header.block_tokens, packed, header.facts)
