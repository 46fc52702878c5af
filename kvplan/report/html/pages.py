"""Result -> the page that shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvplan.report.html import compare, curve, plan, simulate, sweep, validate
from kvplan.report.html.panel import WebPage
from kvplan.results.compare import Comparison
from kvplan.results.plan import PlanResult, PlanTable
from kvplan.results.simulate import SimResult
from kvplan.results.sweep import SweepResult
from kvplan.results.trace import CurveResult
from kvplan.results.validate import ValidateResult

PAGES: dict[type, Callable[..., WebPage]] = {
    SimResult: simulate.page,
    Comparison: compare.page,
    PlanResult: plan.page,
    PlanTable: plan.table,
    CurveResult: curve.page,
    ValidateResult: validate.page,
    SweepResult: sweep.page,
}


def page_of(result: Any, *, command: str = "") -> WebPage:
    """The page of a result; `command` is the line that repeats it."""
    return PAGES[type(result)](result, command=command)
