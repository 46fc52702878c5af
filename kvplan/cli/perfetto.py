"""`--perfetto`: a run's timeline as a file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kvplan import outputs
from kvplan.cli.console import note
from kvplan.errors import InputError
from kvplan.units import parse_seconds

if TYPE_CHECKING:
    from kvplan.sim.outcome.record import RunRecord


def window_of(path: str | None, start: str | None, end: str | None) -> tuple[float, float]:
    """The part of a run, in seconds, that a timeline shows. Raises InputError before the work."""
    if path is None:
        if start or end:
            raise InputError("--from and --to are the window of a timeline", hint="add --perfetto FILE")
        return 0.0, math.inf
    if path != outputs.STDOUT:
        outputs.check(path)
    from_s, to_s = parse_seconds(start) if start else 0.0, parse_seconds(end) if end else math.inf
    if from_s >= to_s:
        raise InputError(f"--from {start} --to {end}: the window is empty")
    return from_s, to_s


def timeline_written(path: str, record: RunRecord, window: tuple[float, float], *, quiet: bool) -> None:
    """Write the timeline, and say so."""
    from kvplan.report.perfetto import write

    old = outputs.replaced(path)
    count, size = write(path, record, from_s=window[0], to_s=window[1])
    note(f"{path}{old}: {count:,} events, {size / 1e6:.1f} MB of JSON, for https://ui.perfetto.dev", quiet=quiet)
