"""`--html`: a report as a file."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from kvplan.cli.console import note
from kvplan.outputs import replaced


def check_html(path: str | None) -> None:
    """Refuse a report that cannot be written, before the work."""
    if path:
        from kvplan.report.html.page import check

        check(path)


def reported(result: Any, path: str | None, *, quiet: bool) -> None:
    """Write a result's report where one was asked for, and say so."""
    if not path:
        return
    from kvplan.report.html.page import write
    from kvplan.report.html.pages import page_of

    old = replaced(path)
    size = write(path, page_of(result, command=shlex.join(["kvplan", *sys.argv[1:]])))
    note(f"{path}{old}: a report of {size / 1e6:.1f} MB for a browser", quiet=quiet)
