"""One way to print a table or a line: aligned where it fits, and a line a number where it does not, so that names and digits survive any
width; nothing ends in spaces.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from kvplan.units import format_seconds

Rows = list[list[str]]
"""A header and its rows, in console markup; the first column names them."""

GAP = 2
NARROW_INDENT = 4


def width_of(cell: str) -> int:
    """Columns that a cell takes on the screen."""
    return Text.from_markup(cell).cell_len


def print_rows(console: Console, rows: Rows, *, indent: int = 0, left: Sequence[int] = (0,)) -> None:
    """Print a table, or its rows one below the other when the console is too narrow for it. `left` are the columns of words; the header
    may be empty.
    """
    if len(rows) < 2:
        return
    widths = [max(width_of(row[at]) for row in rows) for at in range(len(rows[0]))]
    if indent + sum(widths) + GAP * (len(widths) - 1) <= console.width:
        headed = any(rows[0])
        for number, row in enumerate(rows if headed else rows[1:]):
            cells = [_padded(cell, width, column in left) for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
            line = Text(" " * indent) + Text(" " * GAP).join(cells)
            _print(console, line, style="bold" if headed and not number else "")
        return
    for row in rows[1:]:
        say(console, (row[0] if 0 in left else f"{row[0]} {rows[0][0]}".strip()) or "–", indent=indent)
        named = [f"{head} {value}".strip() for head, value in zip(rows[0][1:], row[1:], strict=True) if value.strip()]
        say(console, " · ".join(named), indent=indent + NARROW_INDENT)


def print_terms(console: Console, terms: Sequence[tuple[str, str]], *, indent: int = 0) -> None:
    """Print names, each with words that may take several lines."""
    width = max((len(name) for name, _ in terms), default=0) + GAP
    for name, words in terms:
        say(console, f"{escape(name):<{width}}{escape(words)}", indent=indent, hang=width)


def say(console: Console, markup: str, *, indent: int = 0, hang: int = 0) -> None:
    """Print a paragraph between `indent` and the console's width, its further lines `hang` columns deeper."""
    text = Text.from_markup(markup)
    first, *_ = text.wrap(console, max(20, console.width - indent)) or [Text()]
    _print(console, Text(" " * indent) + first)
    rest = _stripped(text[len(first.plain.rstrip()) :])
    for line in rest.wrap(console, max(20, console.width - indent - hang)) if rest.plain else []:
        _print(console, Text(" " * (indent + hang)) + line)


def _stripped(text: Text) -> Text:
    return text[len(text.plain) - len(text.plain.lstrip()) :] if text.plain.strip() else Text()


def _padded(cell: str, width: int, left: bool) -> Text:
    text = Text.from_markup(cell)
    space = Text(" " * (width - text.cell_len))
    return text + space if left else space + text


def _print(console: Console, line: Text, style: str = "") -> None:
    line.rstrip()
    console.print(line, soft_wrap=True, style=style or None)


def bar(console: Console, share: float, cells: int) -> str:
    """A bar of at most `cells`; `#` where the stream cannot show blocks."""
    full = "█" if "utf" in (console.encoding or "").lower() else "#"
    return full * max(1 if share > 0 else 0, round(min(1.0, max(0.0, share)) * cells))


def plain(rows: Rows) -> list[list[str]]:
    """The cells without markup."""
    return [[Text.from_markup(cell).plain for cell in row] for row in rows]


def seconds(value: float | None) -> str:
    """A time, or a dash where there is none."""
    return "–" if value is None else format_seconds(value)


def marked(text: object) -> str:
    """Text as a cell that shows it as it is."""
    return escape(str(text))
