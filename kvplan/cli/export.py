"""`--export`: a table as a file."""

from __future__ import annotations

from typing import Any

from kvplan.cli.console import note
from kvplan.outputs import replaced


def check_export(path: str) -> None:
    """Refuse a file that cannot be written, before the work."""
    from kvplan.report.export import check

    check(path)


def exported(result: Any, path: str | None, *, quiet: bool) -> None:
    """Write a result's table where one was asked for, and say so."""
    if path is None:
        return
    from kvplan.report.export import export

    old, frame = replaced(path), result.to_frame()
    export(frame, path)
    note(f"{path}{old}: {len(frame):,} rows", quiet=quiet)
