"""What a page is made of: panels that answer a question each, with a figure, a table, or both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

Mark = Literal["yes", "no", "maybe", "none"]


class Cell(msgspec.Struct, frozen=True):
    """What a cell shows, and what it is sorted by: a number, or its text when null."""

    text: str
    value: float | None = None


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """A table: a caption for those who do not see it, column heads, rows. The first column names its row, the others are numbers unless
    named in `words`."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: tuple[str, ...] = ()
    sorts: bool = False
    marked: int | None = None  # a row that stands out


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One question and its answer: `lead` in a sentence, then a figure, with the numbers behind it as `grid`.

    A grid beside a figure is folded away unless `shown`; `notes` follow as a list.
    """

    title: str
    lead: str = ""
    figure: Any = None
    grid: Grid | None = None
    shown: bool = False
    more: tuple[Grid, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()  # name and content of files that are shown as they are
    notes: tuple[str, ...] = ()


class KeyNumber(msgspec.Struct, frozen=True):
    """One of the numbers at the top: its name, its value, what stands behind it."""

    name: str
    value: str
    beside: str = ""


class WebPage(msgspec.Struct, frozen=True, kw_only=True):
    """A report: what was asked, the answer, its numbers, the panels, and the command that repeats it."""

    kind: str
    title: str
    subject: str
    mark: Mark
    answer: str
    caveats: tuple[str, ...] = ()
    numbers: tuple[KeyNumber, ...] = ()
    panels: tuple[Panel, ...] = ()
    command: str = ""
    foot: str = ""


def grid(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str | Cell]], **more: Any) -> Grid:
    """A table from texts and cells."""
    cells = tuple(tuple(one if isinstance(one, Cell) else Cell(one) for one in row) for row in rows)
    return Grid(caption=caption, heads=tuple(heads), rows=cells, **more)


MOST_PANELS = 8
