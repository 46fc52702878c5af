"""SGLang's request log (`--log-requests --log-requests-level 3 --log-requests-format json`): one JSON object a line, among others.

`request.finished` carries lengths and the time that the request took; the prompt's ids or text give its content. Level 2 cuts
long prompts in the middle: those share nothing; level 1 and below have lengths only.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvplan.request import Request
from kvplan.traces.formats import jsonl, keys, text
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows
from kvplan.traces.record.lmcache_hashes import when
from kvplan.traces.source import TraceSource

BLOCK_TOKENS = 16


class _Meta(msgspec.Struct, frozen=True):
    prompt_tokens: jsonl.Tokens | None = None
    completion_tokens: jsonl.Tokens | None = None
    e2e_latency: float = 0.0


class _Out(msgspec.Struct, frozen=True):
    meta_info: _Meta = _Meta()


class _Obj(msgspec.Struct, frozen=True):
    text: Any = None
    input_ids: Any = None


class _Row(msgspec.Struct):
    event: str = ""
    timestamp: str | float = 0.0
    rid: Any = None
    obj: _Obj = _Obj()
    out: _Out | list[_Out] = _Out()


def _sniff(source: TraceSource) -> bool:
    head = source.head.decode(errors="replace").splitlines()
    return any('"event"' in line and ('"request.received"' in line or '"request.finished"' in line) for line in head)


def _block_tokens(source: TraceSource, options: ReadOptions) -> int:
    return options.block_tokens or BLOCK_TOKENS


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    size = _block_tokens(source, options)
    words = text.Words(options, size, notes)
    received: dict[str, float] = {}
    index = -1
    for line, raw in source.lines():
        row = _row(raw, line, notes)
        if row is None:
            continue
        stamp_s = when(source, line, row.timestamp)
        if row.event == "request.received":
            received[str(row.rid)] = stamp_s
            continue
        index += 1
        out = row.out[0] if isinstance(row.out, list) and row.out else row.out
        meta = out.meta_info if isinstance(out, _Out) else _Meta()
        if isinstance(row.rid, list) or meta.completion_tokens is None:
            notes.count("dropped", "a batch, or a request without lengths", line)
            continue
        prompt, blocks = _content(row.obj, meta, words, size, notes, line)
        yield (
            line,
            Request(
                index=index,
                arrival_s=received.pop(str(row.rid), stamp_s - meta.e2e_latency),
                prompt_tokens=prompt,
                output_tokens=meta.completion_tokens,
                blocks=blocks,
            ),
        )


def _row(raw: bytes, line: int, notes: ReadNotes) -> _Row | None:
    """The record of a line; None where it is another program's."""
    start = raw.find(b"{")
    if start < 0 or b'"request.' not in raw:
        return None
    try:
        row = msgspec.json.decode(raw[start:], type=_Row)
    except jsonl.BROKEN:
        notes.count("dropped", "a request that is damaged or cut off", line)
        return None
    return row if row.event in ("request.received", "request.finished") else None


def _content(obj: _Obj, meta: _Meta, words: text.Words, size: int, notes: ReadNotes, line: int) -> tuple[int, tuple[int, ...]]:
    """Prompt tokens, by the engine's count where it tells, and prefix keys."""
    ids, prompt = obj.input_ids, 0
    blocks: tuple[int, ...] = ()
    if isinstance(ids, list) and ids and all(isinstance(one, int) for one in ids):
        prompt, blocks = len(ids), keys.of_tokens(ids, size)
    elif isinstance(ids, list) and "..." in ids:
        notes.count("clipped", "the log cut the prompt: it shares nothing (level 3 keeps it)", line)
    elif isinstance(obj.text, str) and obj.text:
        prompt, blocks = words.prompt(obj.text)
    prompt = prompt if meta.prompt_tokens is None else meta.prompt_tokens
    return prompt, blocks[: prompt // size]


READER = Reader(_sniff, _block_tokens, _read)
