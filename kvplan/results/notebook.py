"""Results as HTML tables, as notebooks show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from kvplan.units import format_seconds


def tables(title: str, *parts: tuple[Sequence[str], Iterable[Sequence[object]]]) -> str:
    """A title and tables of heads and rows, every text escaped; times stand as they are given."""
    return f"<p><strong>{escape(title)}</strong></p>" + "".join(_table(heads, rows) for heads, rows in parts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def seconds(value: float | None) -> str:
    """A time, or a dash where there is none."""
    return "–" if value is None else format_seconds(value)
