"""`kvplan sweep`: a question with many points in, a table of runs out."""

from __future__ import annotations

from typing import Any

import msgspec

from kvplan import __version__
from kvplan.executor import Executor
from kvplan.results.sweep import SweepResult
from kvplan.sweep.points import Common, Resolved, resolve
from kvplan.sweep.run import Kept, Watch, runs
from kvplan.sweep.values import Axis, grid_points


class SweepQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What is common to all runs, and what is varied."""

    given: Common
    axes: tuple[Axis, ...]
    zipped: bool = False


def sweep(question: SweepQuestion, *, executor: Executor, watch: Watch, kept: Kept | None = None) -> SweepResult:
    """Every point of the grid; runs that are kept are not made again. Raises InputError for what cannot be asked."""
    wanted = resolve(question.given, grid_points(question.axes, zipped=question.zipped))
    with runs(wanted, executor, watch, kept) as run:
        rows = tuple(run(wanted))
    first = next(one.scenario for one in wanted if one.scenario is not None)
    warnings = dict.fromkeys(text for one in wanted if one.scenario for text in (*one.scenario.notes, *one.scenario.model.notes))
    return SweepResult(
        name=question.given.source,
        axes={axis.path: axis.values for axis in question.axes},
        target=first.run.target,
        rows=rows,
        simulated=run.simulated,
        known=run.known,
        failed=sum(bool(row.error) for row in rows),
        provenance=_provenance(wanted),
        warnings=tuple(warnings),
    )


def _provenance(wanted: list[Resolved]) -> dict[str, Any]:
    """What the runs rest on, beside what is varied."""
    scenarios = [one.scenario for one in wanted if one.scenario is not None]
    named = {what: list(dict.fromkeys(getattr(one, what).name for one in scenarios)) for what in ("model", "machine", "engine")}
    return {"kvplan": __version__, "traces": list(dict.fromkeys(one.trace for one in scenarios)), **named}
