"""What a reader noticed while it read: rows dropped, clipped or reordered, and quirks, each with the first line."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["dropped", "clipped", "reordered", "quirk"]


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows something happened to, and the line of the first."""

    kind: Kind
    what: str
    rows: int
    first_line: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What reading a trace did to its rows."""

    rows_read: int
    requests: int
    counts: tuple[Count, ...] = ()
    warnings: tuple[str, ...] = ()

    def rows(self, kind: Kind) -> int:
        """Rows dropped, clipped, reordered, or with a quirk."""
        return sum(count.rows for count in self.counts if count.kind == kind)

    def sentences(self) -> list[str]:
        """One sentence for each thing that the user should know, for stderr."""
        lines = (
            f"{c.rows:,} row{'s' if c.rows != 1 else ''} {c.kind}: {c.what} (first on line {c.first_line})"
            for c in self.counts
            if c.kind != "quirk"
        )
        return [*lines, *self.warnings]


class Notes:
    """Collects counts during a pass over a file."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Kind, str], list[int]] = {}
        self._warnings: dict[str, None] = {}

    def count(self, kind: Kind, what: str, line: int) -> None:
        entry = self._counts.setdefault((kind, what), [0, line])
        entry[0] += 1

    def warn(self, sentence: str) -> None:
        self._warnings[sentence] = None

    def report(self, *, requests: int) -> Report:
        """The report of a pass that gave `requests` requests."""
        counts = tuple(
            Count(kind=kind, what=what, rows=rows, first_line=line)
            for (kind, what), (rows, line) in self._counts.items()
        )
        dropped = sum(count.rows for count in counts if count.kind == "dropped")
        return Report(rows_read=requests + dropped, requests=requests, counts=counts, warnings=tuple(self._warnings))
