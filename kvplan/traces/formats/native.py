"""kvplan's own JSONL: a header line, then one request a line; holds everything that a Request can hold.

    {"kvplan": "trace/1", "block_tokens": 512, "name": "chat"}
    {"t": 0.25, "in": 1200, "out": 80, "blocks": [1, 2, 3], "session": "a", "think": 2.0}

`t` is the arrival in seconds, `in` and `out` are tokens, `blocks` prefix keys of `block_tokens` tokens each (see
Request), `think` the seconds after the session's previous request has finished, `priority` a number of which lower
ones go first (in engines that schedule by it), `retention` 0 to 100, of which higher ones are kept longer (where the
policy is `retention`; 35). The last five may be left out; `row` is the row of the file that a
converted trace came from, where it is not this file's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from kvplan.request import RETENTION, Request
from kvplan.traces.formats import jsonl
from kvplan.traces.formats.reader import Chunk, Reader, ReadNotes, ReadOptions, Rows, Share, moment, plain_chunk
from kvplan.traces.source import TraceSource

SCHEMA = "trace/1"
AT_ITS_TIME = -1.0
"""Think time of a request that arrives when the trace says."""


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kvplan: str
    block_tokens: jsonl.Tokens
    name: str = ""


class Row(msgspec.Struct, gc=False, omit_defaults=True, forbid_unknown_fields=True, rename={"prompt": "in", "output": "out"}):
    t: float
    prompt: jsonl.Tokens
    output: jsonl.Tokens
    blocks: tuple[int, ...] = ()
    session: str = ""
    think: Annotated[float, msgspec.Meta(le=4e9)] = AT_ITS_TIME
    priority: int = 0
    retention: Annotated[int, msgspec.Meta(ge=0, le=100)] = RETENTION
    row: Annotated[int, msgspec.Meta(ge=-1, lt=2**31)] = -1


def _sniff(source: TraceSource) -> bool:
    return "kvplan" in jsonl.first(source)


def _block_tokens(source: TraceSource, options: ReadOptions) -> int:
    return _header(source).block_tokens


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    size = _header(source).block_tokens
    for index, (line, row) in enumerate(jsonl.rows(source, Row, skip=1)):
        if row.blocks and (not size or len(row.blocks) > -(-row.prompt // size)):
            raise source.error(line, f"{len(row.blocks):,} blocks do not fit {row.prompt:,} tokens in blocks of {size}")
        yield (
            line,
            Request(
                index=index if row.row < 0 else row.row,
                arrival_s=moment(source, line, row.t, 1.0),
                prompt_tokens=row.prompt,
                output_tokens=row.output,
                blocks=row.blocks,
                session=row.session,
                think_s=row.think,
                priority=row.priority,
                retention=row.retention,
            ),
        )


def _plain(source: TraceSource, options: ReadOptions, share: Share) -> Iterator[Chunk]:
    size = _header(source).block_tokens
    for first, lines, rows in jsonl.chunks(source, Row, share, skip=1):
        chunk = plain_chunk(
            size,
            blocks=[row.blocks for row in rows],
            sessions=[row.session for row in rows],
            index=[at if row.row < 0 else row.row for at, row in enumerate(rows, first)],
            arrival_s=[row.t for row in rows],
            prompt_tokens=[row.prompt for row in rows],
            output_tokens=[row.output for row in rows],
            think_s=[row.think for row in rows],
            priority=[row.priority for row in rows],
            retention=[row.retention for row in rows],
        )
        yield lines, chunk


def _header(source: TraceSource) -> Header:
    try:
        header = msgspec.convert(jsonl.first(source), Header)
    except msgspec.ValidationError as error:
        raise source.error(1, f"not the header of a kvplan trace: {jsonl.problem(error)}") from None
    if header.kvplan != SCHEMA:
        raise source.error(1, f"the schema {header.kvplan!r} is not known", hint=f"this kvplan reads {SCHEMA}")
    return header


READER = Reader(_sniff, _block_tokens, _read, _plain)
