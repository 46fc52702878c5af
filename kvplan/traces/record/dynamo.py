"""Dynamo's request trace (`DYN_REQUEST_TRACE=1`, schema dynamo.request.trace.v1): time, lengths and rolling hashes of each request.

Other records of the file (payloads, tools) and requests that hold no replay hashes are left out; payloads are never read.
"""

from __future__ import annotations

import msgspec

from kvplan.request import Request
from kvplan.traces.formats import jsonl
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows, moment
from kvplan.traces.source import TraceSource


class _Replay(msgspec.Struct):
    trace_block_size: jsonl.Tokens
    input_length: jsonl.Tokens
    input_sequence_hashes: tuple[int, ...]


class _Request(msgspec.Struct):
    request_received_ms: float | None = None
    output_tokens: jsonl.Tokens | None = None
    replay: _Replay | None = None


class _Agent(msgspec.Struct):
    session_id: str | None = None


class _Event(msgspec.Struct):
    event_type: str = ""
    request: _Request | None = None
    agent_context: _Agent | None = None


class _Row(_Event):
    event: _Event | None = None  # written to files inside an envelope


def _sniff(source: TraceSource) -> bool:
    return source.head.lstrip().startswith(b"{") and b'"dynamo.request.trace.v1"' in source.head


def _block_tokens(source: TraceSource, options: ReadOptions) -> int:
    for _, row in jsonl.rows(source, _Row):
        found = (row.event or row).request
        if found is not None and found.replay is not None and found.replay.trace_block_size:
            return found.replay.trace_block_size
    return options.block_tokens or 0


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    size, index = _block_tokens(source, options), -1
    for line, row in jsonl.rows(source, _Row):
        event = row.event or row
        if event.event_type != "request_end":
            continue
        index += 1
        asked = event.request
        if asked is None or asked.replay is None or asked.request_received_ms is None or asked.output_tokens is None:
            notes.count("dropped", "a request without replay hashes, time or length", line)
            continue
        replay = asked.replay
        if replay.trace_block_size != size:
            raise source.error(line, f"blocks of {replay.trace_block_size:,} tokens, but {size:,} above")
        if len(replay.input_sequence_hashes) > -(-replay.input_length // size):
            raise source.error(line, f"{len(replay.input_sequence_hashes):,} hashes do not fit {replay.input_length:,} tokens")
        yield (
            line,
            Request(
                index=index,
                arrival_s=moment(source, line, asked.request_received_ms, 1e3),
                prompt_tokens=replay.input_length,
                output_tokens=asked.output_tokens,
                blocks=replay.input_sequence_hashes,
                session=(event.agent_context.session_id or "") if event.agent_context is not None else "",
            ),
        )


READER = Reader(_sniff, _block_tokens, _read)
