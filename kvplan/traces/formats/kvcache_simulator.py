"""JSONL of kvcache-simulator: `hash_ids` (numbers or text), `input_length`, `block_size` in each record; replayed in
the order of the file.

That tool ignores times; `timestamp` is used when the user names its unit. `block_tokens` may weigh the blocks one by
one, which is accepted as long as it says what `block_size` and `input_length` say.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from kvplan.request import Request
from kvplan.traces.formats import jsonl, keys
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows, moment
from kvplan.traces.source import TraceSource


class _Row(msgspec.Struct, gc=False):
    hash_ids: tuple[int | str, ...]
    input_length: jsonl.Tokens
    block_size: Annotated[int, msgspec.Meta(ge=1, le=jsonl.MAX_TOKENS)] | None = None
    output_length: jsonl.Tokens = 0
    timestamp: float | None = None
    block_tokens: tuple[int, ...] | None = None


def _sniff(source: TraceSource) -> bool:
    return {"hash_ids", "input_length", "block_size"} <= jsonl.first(source).keys()


def _block_tokens(source: TraceSource, options: ReadOptions) -> int:
    size = jsonl.first(source).get("block_size") or options.block_tokens
    if not isinstance(size, int) or size < 1:
        raise source.error(1, "block_size is missing", hint="name it with --block-tokens")
    return size


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    size = _block_tokens(source, options)
    if options.time_unit is None:
        notes.warn("this format has no times: every request arrives at 0 s, in the order of the file")
    for index, (line, row) in enumerate(jsonl.rows(source, _Row)):
        if (row.block_size or size) != size:
            raise source.error(line, f"block_size is {row.block_size}, but {size} above", hint="split the file by block size")
        if len(row.hash_ids) > -(-row.input_length // size):
            raise source.error(line, f"{len(row.hash_ids):,} hash_ids do not fit {row.input_length:,} tokens")
        _check_weights(source, line, row, size)
        arrival_s = 0.0
        if options.time_unit is not None:
            if row.timestamp is None:
                raise source.error(line, "timestamp is missing")
            arrival_s = moment(source, line, row.timestamp, options.per_second(options.time_unit))
        yield (
            line,
            Request(
                index=index,
                arrival_s=arrival_s,
                prompt_tokens=row.input_length,
                output_tokens=row.output_length,
                blocks=tuple(_key(block) for block in row.hash_ids),
            ),
        )


def _key(block: int | str) -> int:
    """Ids are kept as they are, so that nothing is lost; text becomes a 64-bit digest."""
    return block if isinstance(block, int) else keys.of_name(block)


def _check_weights(source: TraceSource, line: int, row: _Row, size: int) -> None:
    if row.block_tokens is None:
        return
    expected = tuple(min(size, row.input_length - at * size) for at in range(len(row.hash_ids)))
    if row.block_tokens != expected:
        raise source.error(line, f"block_tokens differ from blocks of {size} tokens", hint="kvplan needs blocks of one size")


READER = Reader(_sniff, _block_tokens, _read)
