"""LLMServingSim JSONL: `arrival_time_ns`, lengths, and token ids that are hashed into full blocks of 16; or sessions
of `sub_requests`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from kvplan.request import Request
from kvplan.traces.formats import jsonl, keys
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows, moment
from kvplan.traces.source import TraceSource

BLOCK_TOKENS = 16


class _Call(msgspec.Struct, gc=False):
    input_toks: jsonl.Tokens
    output_toks: jsonl.Tokens
    input_tok_ids: list[int] | None = None
    tool_duration_ns: Annotated[float, msgspec.Meta(ge=0, le=4e18)] = 0.0


class _Row(msgspec.Struct, gc=False):
    arrival_time_ns: float
    session_id: str | int | None = None
    sub_requests: list[_Call] | None = None
    input_toks: jsonl.Tokens | None = None
    output_toks: jsonl.Tokens | None = None
    input_tok_ids: list[int] | None = None


def _sniff(source: TraceSource) -> bool:
    keys_ = jsonl.first(source).keys()
    return "arrival_time_ns" in keys_ and bool(keys_ & {"input_toks", "sub_requests"})


def _block_tokens(source: TraceSource, options: ReadOptions) -> int:
    return options.block_tokens or BLOCK_TOKENS


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    size, index = _block_tokens(source, options), 0
    for line, row in jsonl.rows(source, _Row):
        arrival_s = moment(source, line, row.arrival_time_ns, options.per_second("ns"))
        session = "" if row.session_id is None else str(row.session_id)
        think_s = -1.0
        for call in _calls(source, line, row):
            if call.input_tok_ids is not None and len(call.input_tok_ids) != call.input_toks:
                notes.count("quirk", "input_tok_ids and input_toks differ in length", line)
            ids = (call.input_tok_ids or [])[: call.input_toks]
            yield (
                line,
                Request(
                    index=index,
                    arrival_s=arrival_s,
                    prompt_tokens=call.input_toks,
                    output_tokens=call.output_toks,
                    blocks=keys.of_tokens(ids, size),
                    session=session,
                    think_s=think_s,
                ),
            )
            index += 1
            think_s = call.tool_duration_ns / 1e9
            arrival_s += think_s


def _calls(source: TraceSource, line: int, row: _Row) -> list[_Call]:
    if row.sub_requests is not None:
        return row.sub_requests
    if row.input_toks is None or row.output_toks is None:
        raise source.error(line, f"{'input_toks' if row.input_toks is None else 'output_toks'} is missing")
    return [_Call(input_toks=row.input_toks, output_toks=row.output_toks, input_tok_ids=row.input_tok_ids)]


READER = Reader(_sniff, _block_tokens, _read)
