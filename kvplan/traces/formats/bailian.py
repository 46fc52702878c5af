"""Alibaba's Qwen-Bailian JSONL: `timestamp` in s, `hash_ids` as content hashes of 16-token blocks that do not depend
on what precedes them.

The same id therefore occurs in unrelated prompts, and twice in one prompt: blocks are keyed by their chain. A session
is the chat that the chain of `parent_chat_id` starts from.
"""

from __future__ import annotations

import msgspec

from kvplan.request import Request
from kvplan.traces.formats import jsonl, keys
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows, moment, room
from kvplan.traces.source import TraceSource

BLOCK_TOKENS = 16


class _Row(msgspec.Struct, gc=False):
    chat_id: int
    timestamp: float
    input_length: jsonl.Tokens
    output_length: jsonl.Tokens
    hash_ids: tuple[int, ...] = ()
    parent_chat_id: int = -1


def _sniff(source: TraceSource) -> bool:
    return {"chat_id", "input_length"} <= jsonl.first(source).keys()


def _block_tokens(source: TraceSource, options: ReadOptions) -> int:
    return options.block_tokens or BLOCK_TOKENS


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    size, per_second = _block_tokens(source, options), options.per_second("s")
    root: dict[int, int] = {}
    for index, (line, row) in enumerate(jsonl.rows(source, _Row)):
        # A parent that lies before the file's first row stands for its own chat.
        chat = root.get(row.parent_chat_id, row.parent_chat_id) if row.parent_chat_id >= 0 else row.chat_id
        root[row.chat_id] = chat
        ids = room(source, options, notes, line, row.input_length, row.hash_ids, size)
        yield (
            line,
            Request(
                index=index,
                arrival_s=moment(source, line, row.timestamp, per_second),
                prompt_tokens=row.input_length,
                output_tokens=row.output_length,
                blocks=keys.chained(ids),
                session=str(chat),
            ),
        )


READER = Reader(_sniff, _block_tokens, _read)
