"""A sweep as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from kvplan.report.tables import Rows, print_rows
from kvplan.results.simulate import SimResult
from kvplan.results.sweep import SweepResult, SweepRow
from kvplan.units import format_seconds

MOST_ROWS = 60
"""More rows than a screen or two are for --export."""


def show(console: Console, sweep: SweepResult) -> None:
    """Print a row a point, then what failed."""
    done = [row for row in sweep.rows if row.result]
    shown = done[:MOST_ROWS]
    paths = list(sweep.axes)
    heads = ["TTFT", "p95", "ITL", "p95", "requests/s", "GPU hits", "below", "computed"]
    rows: Rows = [[*(escape(path) for path in paths), *heads, *(["target"] if sweep.target else [])]]
    rows += [[*(escape(row.point[path]) for path in paths), *_figures(row.result), *_target(sweep, row)] for row in shown if row.result]
    print_rows(console, rows)
    if len(done) > len(shown):
        console.print(f"[dim]and {len(done) - len(shown):,} rows more: --export FILE.csv writes them all[/]")
    _failures(console, sweep)


def _figures(run: SimResult) -> list[str]:
    tokens = run.prompt_tokens
    total = max(1, tokens.total)
    below = tokens.cpu_hit + tokens.disk_hit + tokens.remote_hit
    times = [time(value) for value in (run.ttft_s.mean, run.ttft_s.p95, run.itl_s.mean, run.itl_s.p95)]
    rate = f"{run.throughput.requests_per_s:,.2f}" if run.requests.completed else "serves nothing"
    if run.overload:
        rate = f"[red]overloaded[/] {rate}"
    return [*times, rate, *(f"{part / total:.1%}" for part in (tokens.gpu_hit, below, tokens.computed))]


def time(value: float | None) -> str:
    """Seconds in a cell."""
    return "–" if value is None else format_seconds(value)


def _target(sweep: SweepResult, row: SweepRow) -> list[str]:
    if not sweep.target:
        return []
    return ["[red]✗[/]" if row.missed or not (row.result and row.result.requests.completed) else "[green]✓[/]"]


def _failures(console: Console, sweep: SweepResult) -> None:
    """What failed, by reason."""
    reasons: dict[str, list[SweepRow]] = {}
    for row in sweep.rows:
        if row.error:
            reasons.setdefault(row.error, []).append(row)
    for reason, rows in reasons.items():
        where = ", ".join(f"{path}={value}" for path, value in rows[0].point.items())
        more = f" and {len(rows) - 1:,} more" if len(rows) > 1 else ""
        console.print(f"[red]✗[/] {escape(where)}{more}: {escape(reason)}")
