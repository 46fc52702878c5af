"""Typed rows of a JSON-lines file; errors name the line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, TypeVar

import msgspec

from kvplan.traces.source import Source

MAX_TOKENS = 100_000_000
"""A prompt or an answer longer than this is a damaged row."""

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]

_T = TypeVar("_T")


def rows(source: Source, kind: type[_T], *, skip: int = 0) -> Iterator[tuple[int, _T]]:
    """Line number and record of each line after the first `skip`. Raises InputError with the line that does not fit."""
    decode = msgspec.json.Decoder(kind).decode
    for number, line in islice(source.lines(), skip, None):
        try:
            row = decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise source.error(number, problem(error)) from None
        yield number, row


def problem(error: Exception) -> str:
    """What msgspec found wrong, in words."""
    text = str(error).replace("`", "").replace("$.", "").replace("$", "the row")
    if isinstance(error, msgspec.ValidationError):
        return text[:1].lower() + text[1:]
    return f"not valid JSON ({text})"


def first(source: Source) -> dict[str, Any]:
    """The keys and values of the first line when it is a JSON object; empty otherwise."""
    try:
        row = msgspec.json.decode(source.head.lstrip().split(b"\n", 1)[0])
    except (msgspec.DecodeError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}
