"""Typed rows of a JSON-lines file; errors name the line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, TypeVar

import msgspec

from kvplan.errors import misfit
from kvplan.traces.formats.reader import NotPlainError, Share
from kvplan.traces.packed import CHUNK
from kvplan.traces.source import TraceSource

MAX_TOKENS = 100_000_000
"""A prompt or an answer longer than this is a damaged row."""

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]

BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding damaged JSON may raise."""

_T = TypeVar("_T")


def rows(source: TraceSource, kind: type[_T], *, skip: int = 0) -> Iterator[tuple[int, _T]]:
    """Line number and record of each line after the first `skip`; of a file that is one JSON array, the place (from 1)
    and record of each element.

    Raises InputError with the line that does not fit.
    """
    if _is_array(source):
        yield from enumerate(document(source, list[kind]), start=1)  # type: ignore[valid-type]
        return
    decode = msgspec.json.Decoder(kind).decode
    for number, line in islice(source.lines(), skip, None):
        try:
            row = decode(line)
        except BROKEN as error:
            raise source.error(number, problem(error)) from None
        yield number, row


def chunks(source: TraceSource, kind: type[_T], share: Share, *, skip: int = 0) -> Iterator[tuple[int, Sequence[int], list[_T]]]:
    """The same CHUNK lines at a time, of which a process takes its share, as the first row's index, line numbers and records.

    Raises NotPlainError, whatever is wrong, also for lines that are blank.
    """
    decode, lines = msgspec.json.Decoder(kind).decode_lines, islice(source.lines(), skip, None)
    if _is_array(source):
        raise NotPlainError
    for at, found in enumerate(iter(lambda: list(islice(lines, CHUNK)), [])):
        if at % share.processes != share.place:
            continue
        numbers = range(found[0][0], found[-1][0] + 1)
        try:
            records = decode(b"".join([line for _, line in found]))
        except BROKEN:
            raise NotPlainError from None
        if not len(records) == len(numbers) == len(found):
            raise NotPlainError
        yield at * CHUNK, numbers, records


def document(source: TraceSource, kind: type[_T]) -> _T:
    """The whole file as one JSON document. Raises InputError with the place in it that does not fit."""
    try:
        return msgspec.json.decode(source.document(), type=kind)
    except BROKEN as error:
        raise source.error(1, problem(error)) from None


def problem(error: Exception) -> str:
    """What msgspec found wrong, in words."""
    if isinstance(error, msgspec.ValidationError):
        return misfit(error).message.replace("is not a setting", "is not a field of a row")
    return f"not valid JSON ({error})"


def first(source: TraceSource) -> dict[str, Any]:
    """The first record of a file of JSON lines or of one JSON array; empty where there is none."""
    head = source.head.lstrip()
    try:
        if _is_array(source):
            row, _ = json.JSONDecoder().raw_decode(head[1:].decode(errors="replace").lstrip())
        else:
            row = msgspec.json.decode(head.split(b"\n", 1)[0])
    except (*BROKEN, ValueError):
        return {}
    return row if isinstance(row, dict) else {}


def _is_array(source: TraceSource) -> bool:
    return source.head.lstrip().startswith(b"[")
