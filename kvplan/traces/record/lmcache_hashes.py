"""LMCache's lookup hashes (`lmcache server --lookup-hash-log-dir DIR`): time, prompt length and a hash for each chunk of each lookup.

A request may be looked up more than once: the first counts. Answers are not in it.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from kvplan.request import Request
from kvplan.traces.formats import jsonl, keys
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows, moment
from kvplan.traces.source import TraceSource


class _Row(msgspec.Struct):
    timestamp: float | str
    chunk_size: jsonl.Tokens
    seq_len: jsonl.Tokens
    chunk_hashes: list[str | int]
    request_id: str = ""


def _sniff(source: TraceSource) -> bool:
    return {"chunk_hashes", "chunk_size", "seq_len"} <= jsonl.first(source).keys()


def _block_tokens(source: TraceSource, options: ReadOptions) -> int:
    size = jsonl.first(source).get("chunk_size")
    return size if isinstance(size, int) and size > 0 else options.block_tokens or 256


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    size, seen = _block_tokens(source, options), set()
    notes.warn("LMCache's lookup hashes hold no answers: every request is given the output tokens that were named")
    for index, (line, row) in enumerate(jsonl.rows(source, _Row)):
        if row.request_id and row.request_id in seen:
            notes.count("dropped", "a request that was looked up before", line)
            continue
        seen.add(row.request_id)
        if row.chunk_size != size:
            raise source.error(line, f"a chunk of {row.chunk_size:,} tokens, but {size:,} above")
        chunks = -(-row.seq_len // size)
        if len(row.chunk_hashes) > chunks:
            raise source.error(line, f"{len(row.chunk_hashes):,} chunks do not fit {row.seq_len:,} tokens in chunks of {size}")
        yield (
            line,
            Request(
                index=index,
                arrival_s=when(source, line, row.timestamp),
                prompt_tokens=row.seq_len,
                output_tokens=1,
                blocks=tuple(keys.of_name(str(one)) for one in row.chunk_hashes),
            ),
        )


def when(source: TraceSource, line: int, stamp: float | str) -> float:
    """Seconds of a moment: a number of seconds since 1970, or ISO text (local time where it names no zone)."""
    if not isinstance(stamp, str):
        return moment(source, line, stamp, 1.0)
    try:
        found = datetime.fromisoformat(stamp)
    except ValueError:
        raise source.error(line, f"{stamp[:40]!r} is not a time") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


READER = Reader(_sniff, _block_tokens, _read)
