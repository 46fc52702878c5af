"""Mooncake JSONL: `timestamp` in ms, lengths in tokens, `hash_ids` as chained hashes of 512-token blocks, the last one partial.

The extras of aiperf (`session_id`, `delay` in ms) and Dynamo (`input_tokens`, `output_tokens`, `created_time`) are read as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvplan.traces import jsonl
from kvplan.traces.notes import Notes
from kvplan.traces.options import Options
from kvplan.traces.source import Source
from kvplan.workload import Request

BLOCK_TOKENS = 512


class _Row(msgspec.Struct, gc=False):
    timestamp: float | None = None
    created_time: float | None = None
    input_length: jsonl.Tokens | None = None
    input_tokens: jsonl.Tokens | None = None
    output_length: jsonl.Tokens | None = None
    output_tokens: jsonl.Tokens | None = None
    hash_ids: jsonl.Ids = ()
    session_id: str | int | None = None
    delay: float | None = None


def sniff(source: Source) -> bool:
    row = jsonl.first(source)
    return bool(row.keys() & {"input_length", "input_tokens"}) and not row.keys() & {"chat_id", "block_size", "kvplan"}


def block_tokens(source: Source, options: Options) -> int:
    return options.block_tokens or BLOCK_TOKENS


def read(source: Source, options: Options, notes: Notes) -> Iterator[tuple[int, Request]]:
    size = block_tokens(source, options)
    last: dict[str, float] = {}
    for index, (line, row) in enumerate(jsonl.rows(source, _Row)):
        prompt = row.input_length if row.input_length is not None else row.input_tokens
        output = row.output_length if row.output_length is not None else row.output_tokens
        if prompt is None:
            raise source.error(line, "input_length is missing")
        if output is None:
            raise source.error(line, "output_length is missing")
        blocks = row.hash_ids
        if len(blocks) > -(-prompt // size):
            blocks = _fit(source, options, notes, line, prompt, blocks, size)
        stamp = row.timestamp if row.timestamp is not None else row.created_time
        session = "" if row.session_id is None else str(row.session_id)
        if stamp is not None:
            arrival_s = stamp / 1e3
            if not -4e9 < arrival_s < 4e9:
                raise source.error(line, f"timestamp: {stamp:g} ms is not plausible")
        elif row.delay is not None and session in last:
            arrival_s = last[session] + row.delay / 1e3
        else:
            raise source.error(line, "timestamp is missing")
        think_s = row.delay / 1e3 if row.delay is not None and session in last else -1.0
        if session:
            last[session] = arrival_s
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


def _fit(
    source: Source, options: Options, notes: Notes, line: int, prompt: int, blocks: jsonl.Ids, size: int
) -> jsonl.Ids:
    """The ids that the prompt has room for; refused when the block size was only assumed, as it then is the likelier error."""
    room = -(-prompt // size)
    if options.block_tokens is None:
        raise source.error(
            line,
            f"{len(blocks):,} hash_ids do not fit {prompt:,} input tokens in blocks of {size}",
            hint=f"name the block size of the trace; this row fits {max(1, -(-prompt // len(blocks))):,} tokens",
        )
    notes.count("clipped", f"more hash_ids than {size}-token blocks in the prompt", line)
    return blocks[:room]
