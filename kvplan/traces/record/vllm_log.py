"""vLLM's request log (`--enable-log-requests` with VLLM_LOGGING_LEVEL=DEBUG and no --max-log-len) among its other lines.

The line of a request's details holds its token ids; the answer's length comes from the log of outputs (`--enable-log-outputs`) or else
from max_tokens. Stamps have no year and whole seconds. Lines of older versions, with ids and parameters in one, are read too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from kvplan.request import Request
from kvplan.traces.formats import keys
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows
from kvplan.traces.source import TraceSource

BLOCK_TOKENS = 16
_STAMP = re.compile(rb"\b(?:DEBUG|INFO) (\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)")
_DETAILS = re.compile(rb"(?:Request|Received request) ([^\s:]+)(?: details)?:")
_IDS, _NONE = b"prompt_token_ids: [", b"prompt_token_ids: None"
_MOST = re.compile(rb"max_tokens=(\d+)")
_ANSWER = re.compile(rb"Generated response ([^\s:]+)[^:]*: output:")
_ANSWER_IDS = re.compile(rb"output_token_ids: \[([0-9, ]*)\]")
_HALF_YEAR_S = 180 * 86400.0


class _Found(NamedTuple):
    """What one line says of a request."""

    line: int
    request: str
    stamp_s: float
    ids: list[int] | None
    most: int | None
    answer: int | None


def _sniff(source: TraceSource) -> bool:
    return b"prompt_token_ids: " in source.head and b"equest " in source.head


def _block_tokens(source: TraceSource, options: ReadOptions) -> int:
    return options.block_tokens or BLOCK_TOKENS


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    size = _block_tokens(source, options)
    answers, most = _lengths(source)
    notes.warn("vLLM's log stamps whole seconds: arrivals are quantised")
    if not answers:
        notes.warn("the log holds no outputs (--enable-log-outputs): answers are taken to be as long as max_tokens allows")
    index = -1
    for found in _lines(source, notes):
        if found.ids is None:
            continue
        index += 1
        output = answers.get(found.request, most.get(found.request, found.most))
        if output is None:
            notes.count("dropped", "a request whose answer's length is not in the log", found.line)
            continue
        yield (
            found.line,
            Request(
                index=index,
                arrival_s=found.stamp_s,
                prompt_tokens=len(found.ids),
                output_tokens=output,
                blocks=keys.of_tokens(found.ids, size),
            ),
        )


def _lengths(source: TraceSource) -> tuple[dict[str, int], dict[str, int]]:
    """Answered tokens and max_tokens by request."""
    answers: dict[str, int] = {}
    most: dict[str, int] = {}
    for found in _lines(source, ReadNotes()):
        if found.answer is not None:
            answers[found.request] = answers.get(found.request, 0) + found.answer
        if found.most is not None:
            most[found.request] = found.most
    return answers, most


def _lines(source: TraceSource, notes: ReadNotes) -> Iterator[_Found]:
    """The lines of the log that speak of requests, their stamps in one rising time."""
    before_s = years = 0.0
    for line, raw in source.lines():
        if b"equest " not in raw and b"Generated response" not in raw:
            continue
        stamp = _STAMP.search(raw[:200])
        if stamp is None:
            continue
        at_s = _seconds(stamp)
        if at_s is None:
            notes.count("dropped", "a line whose stamp is no time", line)
            continue
        if at_s + years < before_s - _HALF_YEAR_S:  # a new year
            years += 366 * 86400.0
        before_s = at_s + years
        found = _found(line, raw, before_s, notes)
        if found is not None:
            yield found


def _seconds(stamp: re.Match[bytes]) -> float | None:
    month, day, hour, minute, second = map(int, stamp.groups())
    try:
        return datetime(2000, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _found(line: int, raw: bytes, stamp_s: float, notes: ReadNotes) -> _Found | None:
    answer = _ANSWER.search(raw)
    if answer is not None:
        ids = _ANSWER_IDS.search(raw, answer.end())
        name = answer[1].decode(errors="replace")
        return _Found(line, name, stamp_s, None, None, ids[1].count(b",") + bool(ids[1].strip()) if ids else None)
    details = _DETAILS.search(raw)
    if details is None:
        return None
    name = details[1].decode(errors="replace")
    start = raw.rfind(_IDS)  # the last: a prompt may hold anything
    limits = _MOST.findall(raw)
    most = int(limits[-1]) if limits else None
    if start < 0:
        if _NONE in raw:
            notes.count("dropped", "a request whose prompt is not in the log", line)
        return _Found(line, name, stamp_s, None, most, None) if most is not None else None
    end = raw.find(b"]", start)
    try:
        ids_text = raw[start + len(_IDS) : end] if end > 0 else b"?"
        return _Found(line, name, stamp_s, [int(one) for one in ids_text.split(b",")] if ids_text.strip() else [], most, None)
    except ValueError:
        notes.count("dropped", "a request that is damaged or cut off", line)
        return None


READER = Reader(_sniff, _block_tokens, _read)
