"""LMCache's agent JSONL: `timestamp` in us since 1970, `input` and `output` as text, `session_id`."""

from __future__ import annotations

import msgspec

from kvplan.request import Request
from kvplan.traces.formats import jsonl, text
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows, moment
from kvplan.traces.source import TraceSource


class _Row(msgspec.Struct):
    timestamp: float
    input: str
    output: str
    session_id: str | int = ""


def _sniff(source: TraceSource) -> bool:
    return {"timestamp", "input", "output"} <= jsonl.first(source).keys()


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    words, per_second = text.Words(options, text.block_tokens(source, options), notes), options.per_second("us")
    for index, (line, row) in enumerate(jsonl.rows(source, _Row)):
        prompt, blocks = words.prompt(row.input)
        yield (
            line,
            Request(
                index=index,
                arrival_s=moment(source, line, row.timestamp, per_second),
                prompt_tokens=prompt,
                output_tokens=words.count(row.output),
                blocks=blocks,
                session=str(row.session_id),
            ),
        )


READER = Reader(_sniff, text.block_tokens, _read)
