"""Typed rows of a JSON-lines file; errors name the line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, TypeVar

import msgspec

from kvplan.traces.source import Source

MAX_TOKENS = 100_000_000
"""A prompt or an answer longer than this is a damaged row."""

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
Ids = tuple[int, ...]

_T = TypeVar("_T")


def rows(source: Source, kind: type[_T], *, skip: int = 0) -> Iterator[tuple[int, _T]]:
    """Line number and decoded record of each line after the first `skip`. Raises InputError with the line that does not fit `kind`."""
    decode = msgspec.json.Decoder(kind).decode
    for number, line in islice(source.lines(), skip, None):
        try:
            yield number, decode(line)
        except msgspec.ValidationError as error:
            raise source.error(number, _plain(str(error))) from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise source.error(number, f"not a JSON object ({_plain(str(error))})") from None


def first(source: Source) -> dict[str, object]:
    """The keys and values of the first line when it is a JSON object; empty otherwise."""
    line = source.head.lstrip().split(b"\n", 1)[0]
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def seconds(value: float, per_second: float, source: Source, line: int) -> float:
    """A time in seconds from ticks. Raises InputError unless it lies within a century either way."""
    moment = value / per_second
    if not -4e9 < moment < 4e9:
        raise source.error(line, f"the time {value:g} is not plausible")
    return moment


def _plain(message: str) -> str:
    return message.replace("`", "").replace("$.", "")
