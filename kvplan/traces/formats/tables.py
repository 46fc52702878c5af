"""Tables of arrivals and lengths without content, as CSV, JSONL or Parquet; columns are found by name, never by place.

Azure 2023 and 2024 (`TIMESTAMP` is wall-clock time with up to seven decimals), BurstGPT (s; rows without an answer are
failures), vidur (s).
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from kvplan.request import Request
from kvplan.traces.formats import jsonl
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows, moment
from kvplan.traces.source import TraceSource

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_BATCH = 16_384  # rows of a table that are held at a time
_WALL_CLOCK = r"(.{19})(\.\d+)?(?:Z|\+00:00)?"


class _Names(NamedTuple):
    arrival: str
    prompt: str
    output: str
    wall_clock: bool = False
    session: str = ""
    drop_unanswered: bool = False


def _reader(names: _Names) -> Reader:
    needed = {names.arrival, names.prompt, names.output}

    def sniff(source: TraceSource) -> bool:
        return needed <= set(_header(source)) or needed <= jsonl.first(source).keys()

    def read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
        clock = _WallClock() if names.wall_clock else _ticks(options.per_second("s"))
        index = 0
        for table in _tables(source, needed | {names.session}):
            seconds = clock(source, _given(source, table, names.arrival)).tolist()
            prompts, outputs = (_tokens(source, _given(source, table, name)).tolist() for name in (names.prompt, names.output))
            sessions = table[names.session].fillna("").tolist() if names.session in table else [""] * len(table)
            for line, arrival_s, prompt, output, session in zip(table.index.tolist(), seconds, prompts, outputs, sessions, strict=True):
                if names.drop_unanswered and not output:
                    notes.count("dropped", "no answer, a failed request", line)
                else:
                    yield line, Request(index=index, arrival_s=arrival_s, prompt_tokens=prompt, output_tokens=output, session=session)
                index += 1

    return Reader(sniff, lambda source, options: 0, read)


def _header(source: TraceSource) -> list[str]:
    """Names of the columns; empty when the file does not start with a line of CSV."""
    line = source.head.split(b"\n", 1)[0].decode(errors="replace").strip()
    try:
        return [name.strip() for name in next(csv.reader([line]), [])]
    except csv.Error:
        return []


def _tables(source: TraceSource, wanted: set[str]) -> Iterator[DataFrame]:
    """The file a part at a time: the wanted columns as text, indexed by line."""
    import pandas

    if jsonl.first(source):
        rows = jsonl.rows(source, dict[str, str | int | float | bool | None])
        while part := list(islice(rows, _BATCH)):
            texts = [{name: str(value) for name, value in row.items() if name in wanted and value is not None} for _, row in part]
            yield pandas.DataFrame(texts, index=[line for line, _ in part], columns=sorted(wanted), dtype=object)
        return
    lines, names = islice(source.lines(), 1, None), _header(source)
    while batch := list(islice(lines, _BATCH)):
        yield _parsed(source, batch, names)


def _parsed(source: TraceSource, batch: list[tuple[int, bytes]], names: list[str]) -> DataFrame:
    """Lines of CSV. Raises InputError for the first line that is none, or has not as many fields as the header."""
    import pandas

    text = io.BytesIO(b"".join(line for _, line in batch))
    kind = {"dtype": str, "keep_default_na": False, "na_values": [""]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)  # it would drop fields beyond the header's
            table = pandas.read_csv(text, header=None, names=range(len(names)), index_col=False, **kind)
    except (pandas.errors.ParserError, pandas.errors.ParserWarning, pandas.errors.EmptyDataError):
        table = pandas.DataFrame()
    whole = len(table) == len(batch)
    if error := _irregular(source, [batch[row] for row in table.index[table.isna().any(axis=1)]] if whole else batch, len(names)):
        raise error
    if not whole:
        raise source.error(batch[0][0], "not rows of CSV")
    table.columns, table.index = pandas.Index(names), pandas.Index([number for number, _ in batch])
    return table


def _irregular(source: TraceSource, batch: list[tuple[int, bytes]], fields: int) -> Exception | None:
    for number, line in batch:
        try:
            found = len(next(csv.reader([line.decode()], strict=True)))
        except csv.Error as error:
            return source.error(number, f"not a row of CSV ({error})")
        if found != fields:
            return source.error(number, f"{found} fields, but the header names {fields}")
    return None


def _given(source: TraceSource, table: DataFrame, name: str) -> Series:
    """A column without spaces around its texts. Raises InputError for the first that is missing."""
    if name not in table:
        raise source.error(int(table.index[0]), f"{name} is missing")
    texts = table[name].fillna("").str.strip()
    _refuse_first(source, texts, texts == "", lambda text: f"{name} is missing")
    return texts


def _refuse_first(source: TraceSource, texts: Series, wrong: Series, why: Callable[[str], str]) -> None:
    if wrong.any():
        line = int(wrong.idxmax())
        raise source.error(line, why(str(texts[line])))


def _tokens(source: TraceSource, texts: Series) -> Series:
    # Parquet and pandas write whole numbers as 12.0 where a column has gaps.
    digits = texts.str.extract(r"^([0-9]{1,12})(?:\.0)?$", expand=False)
    values = digits.fillna("-1").astype("int64")
    wrong = (values < 0) | (values > jsonl.MAX_TOKENS)
    limits = f"is not a number of tokens from 0 to {jsonl.MAX_TOKENS:,}"
    _refuse_first(source, texts, wrong, lambda text: f"{texts.name}: {text[:40]!r} {limits}")
    return values


def _ticks(per_second: float) -> Callable[[TraceSource, Series], Series]:
    def clock(source: TraceSource, texts: Series) -> Series:
        import pandas

        values = pandas.to_numeric(texts, errors="coerce")
        suspects = values[values.isna() | (values.abs() >= 4e9 * per_second)]
        for line in suspects.index[:1].tolist():
            try:
                moment(source, line, float(texts[line]), per_second)
            except ValueError:
                raise source.error(line, f"{texts[line][:40]!r} is not a time in numbers") from None
        return values / per_second

    return clock


class _WallClock:
    """Seconds after the file's first second, exact to the last decimal: the decimals are parsed apart from the date."""

    def __init__(self) -> None:
        self._zero_s: float | None = None

    def __call__(self, source: TraceSource, texts: Series) -> Series:
        parts = texts.str.extract(rf"^{_WALL_CLOCK}$")
        _refuse_first(source, texts, parts[0].isna(), lambda text: f"{text[:40]!r} is not a wall-clock time in UTC")
        first = ~parts[0].duplicated()
        whole_s = parts[0].map({text: _epoch(source, int(line), text) for line, text in parts[0][first].items()})
        if self._zero_s is None:
            self._zero_s = float(whole_s.iloc[0])
        return (whole_s - self._zero_s + parts[1].fillna("0").astype(float)).round(9)


def _epoch(source: TraceSource, line: int, text: str) -> float:
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        raise source.error(line, f"{text!r} is not a wall-clock time such as 2023-11-16 18:17:03.98") from None


AZURE = _reader(_Names("TIMESTAMP", "ContextTokens", "GeneratedTokens", wall_clock=True))
BURSTGPT = _reader(_Names("Timestamp", "Request tokens", "Response tokens", session="Session ID", drop_unanswered=True))
VIDUR = _reader(_Names("arrived_at", "num_prefill_tokens", "num_decode_tokens"))
