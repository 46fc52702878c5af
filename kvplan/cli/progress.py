"""How far a long run is, on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvplan.cli.console import err
from kvplan.units import format_seconds

FIRST_S, EVERY_S = 3.0, 30.0
"""Where there is no terminal: the first line comes after so long, each further one when twice the time has gone by, or so much more."""


@contextmanager
def requests(*, hidden: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A watch for one simulation: requests done, and how many there are."""
    with _shown("simulating", hidden=hidden) as update:
        yield (lambda done, total: update(done, total, "")) if update else None


@contextmanager
def runs(*, hidden: bool, title: str = "planning") -> Iterator[Callable[[int, int, str], None]]:
    """A watch for many simulations: runs done, about how many there will be, and the answer so far."""
    with _shown(title, hidden=hidden) as update:
        yield update or (lambda done, about, so_far: None)


@contextmanager
def _shown(title: str, *, hidden: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    console = err()
    if hidden:
        yield None
    elif console.is_terminal:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn(title),
            BarColumn(bar_width=20),
            TextColumn("{task.completed} of {task.fields[about]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left · {task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=None, note="", about="")
            yield lambda done, total, note: bar.update(task, completed=done, total=total, note=note, about=f"{_about(title)}{total:,}")
    else:
        yield _lines(title)


def _about(title: str) -> str:
    return "about " if title == "planning" else ""


def _lines(title: str) -> Callable[[int, int, str], None]:
    """A watch that writes a line now and then."""
    began, wait_s = time.monotonic(), FIRST_S

    def update(done: int, total: int, note: str) -> None:
        nonlocal wait_s
        now = time.monotonic()
        if now - began < wait_s or not done:
            return
        wait_s = now - began + min(now - began, EVERY_S)
        left = format_seconds((now - began) / done * max(0, total - done))
        err().print(f"{title}: {done:,} of {_about(title)}{total:,}, {left} left{f'; {note}' if note else ''}", markup=False)

    return update
