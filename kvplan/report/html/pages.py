"""Result -> the page that shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvplan.report.html import simulate
from kvplan.report.html.panel import WebPage
from kvplan.results.simulate import SimResult

PAGES: dict[type, Callable[..., WebPage]] = {SimResult: simulate.page}


def page_of(result: Any, *, command: str = "") -> WebPage:
    """The page of a result; `command` is the line that repeats it."""
    return PAGES[type(result)](result, command=command)
