"""A sweep as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from kvplan.report import costs
from kvplan.report.tables import Rows, print_rows
from kvplan.results.economics import Flip
from kvplan.results.simulate import SimResult
from kvplan.results.sweep import FleetClass, FleetResult, SweepResult, SweepRow
from kvplan.units import format_seconds

MOST_BESIDE = 6
"""Rows of a search: those that answer it and a few beside them."""

MOST_ROWS = 60
"""More rows than a screen or two are for --export."""


def show(console: Console, sweep: SweepResult) -> None:
    """Print the answer where one was looked for, a row a point, then what was left out and what failed."""
    _answer(console, sweep)
    marks = {**dict.fromkeys(sweep.front, "[green]●[/]"), **({sweep.best: "[green]→[/]"} if sweep.best is not None else {})}
    done = [(marks.get(at, ""), row) for at, row in enumerate(sweep.rows) if row.result]
    if marks:
        done = [one for one in done if one[0]] + sorted((one for one in done if not one[0]), key=lambda one: bool(one[1].missed))
    shown = done[: max(MOST_BESIDE, len(marks)) if marks else MOST_ROWS]
    paths = list(sweep.axes)
    heads = ["TTFT", "p95", "ITL p95", "requests/s", "below", "computed"]
    lead = [""] if marks else []
    money = next((row.money for row in sweep.rows if row.money), None)
    heads += [f"{money.currency}/month".strip("/"), "per M out"] if money else []
    heads += ["J/token"] if "energy" in (*sweep.front_of, *sweep.goal.split()) else []
    rows: Rows = [[*lead, *(escape(path) for path in paths), *heads, *(["target"] if sweep.target else [])]]
    for mark, row in shown:
        settings = [escape(row.point[path]) for path in paths]
        if row.result:
            rows.append(
                [
                    *([mark] if marks else []),
                    *settings,
                    *_figures(row.result),
                    *_money(sweep, row),
                    *_energy(sweep, row),
                    *_target(sweep, row),
                ]
            )
    print_rows(console, rows)
    if len(done) > len(shown):
        console.print(f"[dim]and {len(done) - len(shown):,} rows more: --export FILE.csv writes them all[/]")
    for one in sweep.left_out:
        console.print(f"[dim]not run: {one.points:,} {'points' if one.points > 1 else 'point'}: {escape(one.why)}[/]")
    for flip in sweep.price_flips[:MOST_FLIPS]:
        console.print(f"{flip.what} at {flip.factor:.2g} times its price{_reach(flip)}: {escape(flip.to)} is the cheaper one")
    _failures(console, sweep)


def show_fleet(console: Console, fleet: FleetResult) -> None:
    """Print each class: the fleet for its traffic, by the day and with growth; then all together."""
    for one in fleet.classes:
        console.print(f"[bold]{escape(one.name)}[/]: {escape(one.peak.target)}")
        show(console, one.peak)
        if one.day:
            parts = ", ".join(f"{load.factor:g}: {load.replicas or 'not held'}" for load in one.day)
            saved = f"; {costs.amount(one.day_per_month, _currency(one))} a month instead" if one.day_per_month else ""
            console.print(f"replicas by the day's shape: {parts}{saved}")
        for load in one.growth:
            hour = f", {costs.amount(load.per_hour, _currency(one))} an hour" if load.per_hour else ""
            console.print(f"at {load.factor:g} times the traffic: {load.replicas or 'no number that was tried of'} replicas{hour}")
    if len(fleet.classes) > 1:
        month = f", {costs.amount(fleet.per_month, _currency(fleet.classes[0]))} a month" if fleet.per_month else ""
        console.print(f"[bold]together[/]: {fleet.gpus:,} GPUs{month}, each class on replicas of its own")


def _currency(one: FleetClass) -> str:
    return next((row.money.currency for row in one.peak.rows if row.money), "")


MOST_FLIPS = 4


def _reach(flip: Flip) -> str:
    return ", within the range that it has today," if flip.inside else ""


def _answer(console: Console, sweep: SweepResult) -> None:
    """What was looked for, and what was found in how many runs."""
    if not sweep.goal and not sweep.front_of:
        return
    made = sweep.simulated + sweep.known
    saved = f"{made:,} of {sweep.grid:,} runs, {sweep.grid - made:,} saved"
    if sweep.front_of:
        console.print(f"[bold]{len(sweep.front)} rows on the front of {' and '.join(sweep.front_of)}[/] ({saved})")
    elif sweep.best is None:
        console.print(f"[red]✗[/] [bold]{escape(sweep.goal)}: no point meets it[/] ({saved})")
    else:
        row = sweep.rows[sweep.best]
        settings = ", ".join(f"{path} {value}" for path, value in row.point.items())
        console.print(f"[green]✓[/] [bold]{escape(sweep.goal)}: {escape(settings)}[/]{_cost(row)} ({saved})")


def _cost(row: SweepRow) -> str:
    if row.money is None or row.money.per_million_output_tokens is None:
        return ""
    month, each = row.money.per_month, row.money.per_million_output_tokens
    unit = f" {row.money.currency}".rstrip()
    return (
        f": {month.value:,.0f}{unit} a month ({month.low:,.0f} to {month.high:,.0f}), "
        f"{each.value:,.3g} ({each.low:,.3g} to {each.high:,.3g}) a million output tokens"
    )


def _money(sweep: SweepResult, row: SweepRow) -> list[str]:
    if not any(one.money for one in sweep.rows):
        return []
    if row.money is None or row.money.per_million_output_tokens is None:
        return ["–", "–"]
    return [f"{row.money.per_month.value:,.0f}", f"{row.money.per_million_output_tokens.value:,.3g}"]


def _energy(sweep: SweepResult, row: SweepRow) -> list[str]:
    if "energy" not in (*sweep.front_of, *sweep.goal.split()):
        return []
    found = row.energy.per_output_token_J if row.energy else None
    return [f"{found.value:.3g}" if found else "–"]


def _figures(run: SimResult) -> list[str]:
    tokens = run.prompt_tokens
    total = max(1, tokens.total)
    below = tokens.cpu_hit + tokens.disk_hit + tokens.remote_hit
    times = [time(value) for value in (run.ttft_s.mean, run.ttft_s.p95, run.itl_s.p95)]
    rate = f"{run.throughput.requests_per_s:,.3g}" if run.requests.completed else "serves nothing"
    if run.overload:
        rate = f"[red]overloaded[/] {rate}"
    return [*times, rate, *(f"{part / total:.1%}" for part in (below, tokens.computed))]


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
