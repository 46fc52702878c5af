"""Tables of arrivals and lengths without content, as CSV, JSONL or Parquet; columns are found by name, never by place.

Azure 2023 and 2024 (`TIMESTAMP` is wall-clock time with up to seven decimals), BurstGPT (s; rows without an answer are
failures), vidur (s).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from kvplan.request import Request
from kvplan.traces.formats import jsonl
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows, moment
from kvplan.traces.source import TraceSource

_Record = dict[str, str]


class _Columns(NamedTuple):
    arrival: str
    prompt: str
    output: str
    wall_clock: bool = False
    session: str = ""
    drop_unanswered: bool = False


def _reader(columns: _Columns) -> Reader:
    def sniff(source: TraceSource) -> bool:
        needed = {columns.arrival, columns.prompt, columns.output}
        return needed <= set(_header(source)) or needed <= jsonl.first(source).keys()

    def read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
        clock = _wall_clock() if columns.wall_clock else _ticks(options.per_second("s"))
        for index, (line, record) in enumerate(_records(source)):
            prompt = _tokens(source, line, record, columns.prompt)
            output = _tokens(source, line, record, columns.output)
            if columns.drop_unanswered and not output:
                notes.count("dropped", "no answer, a failed request", line)
                continue
            yield (
                line,
                Request(
                    index=index,
                    arrival_s=clock(source, line, _field(source, line, record, columns.arrival)),
                    prompt_tokens=prompt,
                    output_tokens=output,
                    session=record.get(columns.session) or "",
                ),
            )

    return Reader(sniff, lambda source, options: 0, read)


def _header(source: TraceSource) -> list[str]:
    """Names of the columns; empty when the file does not start with a line of CSV."""
    line = source.head.split(b"\n", 1)[0].decode(errors="replace").strip()
    try:
        return [name.strip() for name in next(csv.reader([line]), [])]
    except csv.Error:
        return []


def _records(source: TraceSource) -> Iterator[tuple[int, _Record]]:
    """Line number and fields by column name."""
    if jsonl.first(source):
        for line, row in jsonl.rows(source, dict[str, str | int | float | bool | None]):
            yield line, {name: str(value) for name, value in row.items() if value is not None}
        return
    names = _header(source)
    for line, data in source.lines():
        if line == 1:
            continue
        try:
            values = next(csv.reader([data.decode()]))
        except csv.Error as error:
            raise source.error(line, f"not a row of CSV ({error})") from None
        if len(values) != len(names):
            raise source.error(line, f"{len(values)} fields, but the header names {len(names)}")
        yield line, dict(zip(names, values, strict=True))


def _field(source: TraceSource, line: int, record: _Record, name: str) -> str:
    value = record.get(name, "").strip()
    if not value:
        raise source.error(line, f"{name} is missing")
    return value


def _tokens(source: TraceSource, line: int, record: _Record, name: str) -> int:
    text = _field(source, line, record, name)
    # Parquet and pandas write whole numbers as 12.0 where a column has gaps.
    digits = text.removesuffix(".0")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 12 or int(digits) > jsonl.MAX_TOKENS:
        raise source.error(line, f"{name}: {text[:40]!r} is not a number of tokens from 0 to {jsonl.MAX_TOKENS:,}")
    return int(digits)


def _ticks(per_second: float) -> Callable[[TraceSource, int, str], float]:
    def clock(source: TraceSource, line: int, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise source.error(line, f"{text[:40]!r} is not a time in numbers") from None
        return moment(source, line, value, per_second)

    return clock


def _wall_clock() -> Callable[[TraceSource, int, str], float]:
    """Seconds after the file's first second, exact to the last decimal: the decimals are parsed apart from the date."""
    seconds: dict[str, float] = {}
    zero: list[float] = []

    def clock(source: TraceSource, line: int, text: str) -> float:
        whole, fraction = text[:19], text[19:].removesuffix("Z").removesuffix("+00:00")
        if whole not in seconds:
            seconds.clear()
            seconds[whole] = _epoch(source, line, whole)
            zero.extend([seconds[whole]] if not zero else [])
        if fraction and not (fraction[0] == "." and fraction[1:].isascii() and fraction[1:].isdigit()):
            raise source.error(line, f"{text[:40]!r} is not a wall-clock time in UTC")
        return round(seconds[whole] - zero[0] + (float(fraction) if fraction else 0.0), 9)

    return clock


def _epoch(source: TraceSource, line: int, text: str) -> float:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        raise source.error(line, f"{text!r} is not a wall-clock time such as 2023-11-16 18:17:03.98") from None


AZURE = _reader(_Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens", wall_clock=True))
BURSTGPT = _reader(_Columns("Timestamp", "Request tokens", "Response tokens", session="Session ID", drop_unanswered=True))
VIDUR = _reader(_Columns("arrived_at", "num_prefill_tokens", "num_decode_tokens"))
