"""Mooncake JSONL: `timestamp` in ms, lengths in tokens, `hash_ids` as chained hashes of 512-token blocks, the last one
partial.

Read as well: the extras of aiperf (`session_id`, `delay` in ms, text in place of a length) and of Dynamo
(`input_tokens`, `output_tokens`, `created_time`).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvplan.request import RETENTION, Request
from kvplan.traces.formats import jsonl, text
from kvplan.traces.formats.reader import Chunk, NotPlainError, Reader, ReadNotes, ReadOptions, Rows, Share, moment, plain_chunk, room
from kvplan.traces.source import TraceSource

BLOCK_TOKENS = 512


class _Row(msgspec.Struct, gc=False):
    timestamp: float | None = None
    created_time: float | None = None
    input_length: jsonl.Tokens | None = None
    input_tokens: jsonl.Tokens | None = None
    output_length: jsonl.Tokens | None = None
    output_tokens: jsonl.Tokens | None = None
    hash_ids: tuple[int, ...] = ()
    session_id: str | int | None = None
    delay: float | None = None
    text_input: str | None = None
    messages: list[text.Message] | None = None


def _sniff(source: TraceSource) -> bool:
    keys = jsonl.first(source).keys()
    lengths = keys & {"input_length", "input_tokens", "text_input"}
    return bool(lengths and keys & {"timestamp", "created_time", "delay", "hash_ids", "session_id"}) or (
        "messages" in keys and bool(keys & {"timestamp", "delay"}) and "output_length" in keys
    )


def _block_tokens(source: TraceSource, options: ReadOptions) -> int:
    by_text = jsonl.first(source).keys() & {"text_input", "messages"}
    return text.block_tokens(source, options) if by_text else options.block_tokens or BLOCK_TOKENS


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    size, per_second = _block_tokens(source, options), options.per_second("ms")
    words = text.Words(options, size, notes)
    last_s: dict[str, float] = {}
    for index, (line, row) in enumerate(jsonl.rows(source, _Row)):
        prompt, blocks = _content(source, line, row, words)
        output = row.output_length if row.output_length is not None else row.output_tokens
        if output is None:
            raise source.error(line, "output_length is missing")
        if len(blocks) > -(-prompt // size):
            blocks = room(source, options, notes, line, prompt, blocks, size)
        session = "" if row.session_id is None else str(row.session_id)
        think_s = -1.0
        if row.delay is not None and session in last_s:
            think_s = max(0.0, moment(source, line, row.delay, 1e3))
        stamp = row.timestamp if row.timestamp is not None else row.created_time
        if stamp is not None:
            arrival_s = moment(source, line, stamp, per_second)
        elif session:
            arrival_s = last_s.get(session, 0.0) + max(0.0, think_s)
        else:
            raise source.error(line, "timestamp is missing")
        if session:
            last_s[session] = arrival_s
        yield (
            line,
            Request(
                index=index,
                arrival_s=arrival_s,
                prompt_tokens=prompt,
                output_tokens=output,
                blocks=blocks,
                session=session,
                think_s=think_s,
            ),
        )


def _plain(source: TraceSource, options: ReadOptions, share: Share) -> Iterator[Chunk]:
    size, per_second = _block_tokens(source, options), options.per_second("ms")
    for first, lines, rows in jsonl.chunks(source, _Row, share):
        needed = [(row.timestamp, row.input_length, row.output_length) for row in rows]
        if any(None in each for each in needed) or any(row.delay is not None for row in rows):
            raise NotPlainError
        stamps, prompts, outputs = zip(*needed, strict=True)
        chunk = plain_chunk(
            size,
            blocks=[row.hash_ids for row in rows],
            sessions=["" if row.session_id is None else str(row.session_id) for row in rows],
            index=range(first, first + len(rows)),
            arrival_s=[stamp / per_second for stamp in stamps],
            prompt_tokens=prompts,
            output_tokens=outputs,
            think_s=[-1.0] * len(rows),
            priority=[0] * len(rows),
            retention=[RETENTION] * len(rows),
        )
        yield lines, chunk


def _content(source: TraceSource, line: int, row: _Row, words: text.Words) -> tuple[int, tuple[int, ...]]:
    """Prompt tokens and prefix keys, from lengths and ids or from text."""
    prompt = row.input_length if row.input_length is not None else row.input_tokens
    if prompt is not None:
        return prompt, row.hash_ids
    if row.text_input is not None:
        return words.prompt(row.text_input)
    if row.messages is not None:
        return words.prompt(text.joined(row.messages))
    raise source.error(line, "input_length is missing")


READER = Reader(_sniff, _block_tokens, _read, _plain)
