"""One way to print a table: aligned where it fits, and a line a number where it does not, so that names and digits survive any width."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Rows = list[list[str]]
"""A header and its rows, in console markup; the first column names them."""

GAP = 2


def width_of(cell: str) -> int:
    """Columns that a cell takes on the screen."""
    return Text.from_markup(cell).cell_len


def print_rows(console: Console, rows: Rows, *, indent: int = 0) -> None:
    """Print a table, or its rows one below the other when the console is too narrow for it."""
    if len(rows) < 2:
        return
    widths = [max(width_of(row[at]) for row in rows) for at in range(len(rows[0]))]
    if indent + sum(widths) + GAP * (len(widths) - 1) <= console.width:
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_edge=False)
        for at, head in enumerate(rows[0]):
            table.add_column(head, justify="right" if at else "left", no_wrap=True)
        for row in rows[1:]:
            table.add_row(*row)
        if indent:
            grid = Table.grid(padding=(0, 0, 0, indent))
            grid.add_row(table)
            console.print(grid)
        else:
            console.print(table)
        return
    for row in rows[1:]:
        console.print(row[0] or "–")
        cells = [f"{head} {value}".strip() for head, value in zip(rows[0][1:], row[1:], strict=True) if value.strip()]
        console.print(Padding(" · ".join(cells), (0, 0, 0, 4), expand=False))


def plain(rows: Rows) -> list[list[str]]:
    """The cells without markup."""
    return [[Text.from_markup(cell).plain for cell in row] for row in rows]


def marked(text: object) -> str:
    """Text as a cell that shows it as it is."""
    return escape(str(text))
