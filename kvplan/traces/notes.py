"""What a reader notices while it reads: rows dropped, clipped or reordered, and quirks, each with the first line."""

from __future__ import annotations

from kvplan.results.trace import Count, NoteKind, ReadReport


class Notes:
    """Collects counts during a pass over a file."""

    def __init__(self) -> None:
        self._counts: dict[tuple[NoteKind, str], list[int]] = {}
        self._warnings: dict[str, None] = {}

    def count(self, kind: NoteKind, what: str, line: int) -> None:
        """One more row that something happened to."""
        entry = self._counts.setdefault((kind, what), [0, line])
        entry[0] += 1

    def warn(self, sentence: str) -> None:
        """Something about the whole file; said once."""
        self._warnings[sentence] = None

    def report(self, *, requests: int) -> ReadReport:
        """The report of a pass that gave `requests` requests."""
        counts = tuple(Count(kind=kind, what=what, rows=rows, first_line=line) for (kind, what), (rows, line) in self._counts.items())
        dropped = sum(count.rows for count in counts if count.kind == "dropped")
        return ReadReport(rows_read=requests + dropped, requests=requests, counts=counts, warnings=tuple(self._warnings))
