"""Logs of OpenAI-style requests, and vLLM's custom data sets: `prompt` or `messages`, JSON or JSON lines.

A record may hold the request and the response beside each other or under `request` and `response`. Lengths come from
`usage` where it is there; times are seconds (`created`, `timestamp`, `ts`, `created_at`) or ISO text.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from kvplan.request import Request
from kvplan.traces.formats import jsonl, text
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows, moment
from kvplan.traces.source import TraceSource


class _Usage(msgspec.Struct):
    prompt_tokens: jsonl.Tokens | None = None
    completion_tokens: jsonl.Tokens | None = None


class _Choice(msgspec.Struct):
    message: text.Message | None = None
    text: str | None = None


class _Part(msgspec.Struct):
    """A request, a response, or both in one."""

    prompt: str | None = None
    messages: list[text.Message] | None = None
    usage: _Usage | None = None
    choices: list[_Choice] | None = None
    max_tokens: jsonl.Tokens | None = None
    output_tokens: jsonl.Tokens | None = None
    created: float | None = None


class _Row(_Part):
    request: _Part | None = None
    response: _Part | None = None
    timestamp: float | str | None = None
    ts: float | str | None = None
    created_at: float | str | None = None
    session_id: str | int | None = None
    user: str | None = None


def _sniff(source: TraceSource) -> bool:
    row = jsonl.first(source)
    inner: Any = row.get("request")
    names = set(row) | (set(inner) if isinstance(inner, dict) else set())
    return bool(names & {"prompt", "messages"})


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    words = text.Words(options, text.block_tokens(source, options), notes)
    for index, (line, row) in enumerate(jsonl.rows(source, _Row)):
        asked, answered = row.request or row, row.response or row
        if asked.messages is None and asked.prompt is None:
            raise source.error(line, "neither prompt nor messages")
        prompt, blocks = words.prompt(text.joined(asked.messages) if asked.messages is not None else asked.prompt or "")
        usage = answered.usage or _Usage()
        if usage.prompt_tokens is not None:
            prompt = usage.prompt_tokens
            blocks = blocks[: prompt // text.block_tokens(source, options)]
        yield (
            line,
            Request(
                index=index,
                arrival_s=_arrival_s(source, line, row, options, notes),
                prompt_tokens=prompt,
                output_tokens=_output(source, line, asked, answered, usage, words, notes),
                blocks=blocks,
                session="" if row.session_id is None else str(row.session_id),
            ),
        )


def _output(source: TraceSource, line: int, asked: _Part, answered: _Part, usage: _Usage, words: text.Words, notes: ReadNotes) -> int:
    if usage.completion_tokens is not None:
        return usage.completion_tokens
    if answered.choices:
        choice = answered.choices[0]
        return words.count(text.joined([choice.message]) if choice.message else choice.text or "")
    limit = asked.output_tokens if asked.output_tokens is not None else asked.max_tokens
    if limit is None:
        raise source.error(line, "no length of the answer", hint="usage.completion_tokens, choices, output_tokens or max_tokens")
    return limit


def _arrival_s(source: TraceSource, line: int, row: _Row, options: ReadOptions, notes: ReadNotes) -> float:
    created = row.created if row.created is not None else (row.response.created if row.response else None)
    value = next((v for v in (row.timestamp, row.ts, row.created_at, created) if v is not None), None)
    if value is None:
        notes.warn("rows without a time arrive at 0 s")
        return 0.0
    if isinstance(value, str):
        try:
            stamp = datetime.fromisoformat(value)
        except ValueError:
            raise source.error(line, f"{value[:40]!r} is not a time") from None
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp()
    return moment(source, line, value, options.per_second("s"))


READER = Reader(_sniff, text.block_tokens, _read)
