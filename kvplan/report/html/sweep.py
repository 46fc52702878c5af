"""A sweep as a page: the answer, every row sortable, two figures against each other with their front, money, wear and energy."""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.figures.points import Dot, Ruler, scatter
from kvplan.report import costs
from kvplan.report.html.panel import Cell, Grid, KeyNumber, Panel, WebPage, grid
from kvplan.report.html.words import counted, share, time_cell
from kvplan.results.economics import Amount
from kvplan.results.sweep import SweepResult, SweepRow

RULERS = {
    "cost": Ruler("price of a million output tokens"),
    "energy": Ruler("joules an output token (estimate)"),
    "throughput": Ruler("requests/s"),
}
"""Figure -> its axis; times are in seconds."""


def page(result: SweepResult, *, command: str = "") -> WebPage:
    """The report of a sweep."""
    return WebPage(
        kind="sweep",
        title=f"{result.name}: {', '.join(result.axes)}",
        subject=f"{counted(result.grid, 'point')}, {result.simulated + result.known:,} of them run",
        mark="none" if not result.goal else "no" if result.best is None else "yes",
        answer=_answer(result),
        caveats=result.warnings,
        numbers=tuple(_numbers(result)),
        panels=tuple(_panels(result)),
        command=command,
        foot=f"kvplan {result.provenance.get('kvplan', '')} · simulated, not measured",
    )


def words(row: SweepRow) -> str:
    """A row's settings in a few words."""
    return ", ".join(f"{path} {value}" for path, value in row.point.items())


def _answer(result: SweepResult) -> str:
    if result.goal:
        return f"{result.goal}: {words(result.rows[result.best])}." if result.best is not None else f"{result.goal}: no point meets it."
    if result.front_of:
        return f"{counted(len(result.front), 'row')} on the front of {' and '.join(result.front_of)}."
    return f"{counted(len(result.rows), 'run')}, {counted(result.failed, 'failure')}."


def _numbers(result: SweepResult) -> Iterator[KeyNumber]:
    best = result.rows[result.best] if result.best is not None else None
    if best and best.money:
        yield KeyNumber("a month", costs.amount(best.money.per_month, best.money.currency))
    if best and best.energy and best.energy.per_output_token_J:
        yield KeyNumber("energy", costs.amount(best.energy.per_output_token_J, "J"), "an output token, estimate")
    yield KeyNumber("runs saved", f"{result.grid - result.simulated - result.known:,}", f"of {result.grid:,}")


def _panels(result: SweepResult) -> Iterator[Panel]:
    x, y = (result.front_of or ("throughput", "ttft_p95"))[:2]
    dots = {at: dot for at, row in enumerate(result.rows) if (dot := _dot(result, at, row, x, y))}
    front = [dots[at] for at in sorted((at for at in result.front if at in dots), key=lambda at: dots[at].x)]
    yield Panel(
        title="What is given up for what?",
        lead="Rows on the line are beaten by no other in one figure without losing in another." if front else "",
        figure=scatter(list(dots.values()), _ruler(x), _ruler(y), front=front) if dots else None,
        grid=_rows(result),
        shown=True,
        notes=tuple(f"{one.points:,} not run: {one.why}" for one in result.left_out),
    )
    if result.price_flips:
        yield Panel(title="Which price changes the answer?", notes=tuple(costs.price_flip(one) for one in result.price_flips))
    worn = [(row, row.wear) for row in result.rows if row.wear]
    if worn:
        yield Panel(title="How long do the disks last?", notes=tuple(f"{words(row)}: {costs.wear(wear)}" for row, wear in worn[:MOST_WORN]))


MOST_WORN = 12


def _ruler(what: str) -> Ruler:
    return RULERS.get(what, Ruler(f"{what}, s"))


def _dot(result: SweepResult, at: int, row: SweepRow, x: str, y: str) -> Dot | None:
    across, up = value_of(row, x), value_of(row, y)
    if across is None or up is None:
        return None
    return Dot(words(row), across, up, group="misses the target" if row.missed else "", marked=at == result.best)


def value_of(row: SweepRow, what: str) -> float | None:
    """A figure of a row; None where it has none."""
    if row.result is None or not row.result.requests.completed:
        return None
    if what == "cost":
        return _middle(row.money.per_million_output_tokens if row.money else None)
    if what == "energy":
        return _middle(row.energy.per_output_token_J if row.energy else None)
    if what == "throughput":
        return row.result.throughput.requests_per_s
    metric, _, statistic = what.partition("_")
    value: float | None = getattr(getattr(row.result, f"{metric}_s"), statistic)
    return value


def _middle(amount: Amount | None) -> float | None:
    return amount.value if amount else None


def _rows(result: SweepResult) -> Grid:
    """Every row with its figures; those that failed say why."""
    money = any(row.money for row in result.rows)
    heads = ["", *result.axes, "TTFT", "TTFT p95", "ITL p95", "requests/s", "below the GPU", "computed"]
    heads += ["a month", "a million output tokens"] if money else []
    heads += ["J an output token", "disk, years"]
    rows = [_cells(result, at, row, money=money) for at, row in enumerate(result.rows)]
    return grid("Runs", heads, rows, sorts=True, words=tuple(result.axes), marked=result.best)


def _cells(result: SweepResult, at: int, row: SweepRow, *, money: bool) -> list[Cell]:
    mark = "answer" if at == result.best else "front" if at in result.front else "misses" if row.missed else "failed" if row.error else ""
    settings = [Cell(row.point[path]) for path in result.axes]
    run = row.result
    if run is None:
        return [Cell(mark or row.error), *settings, *[Cell("–")] * ((8 if money else 6) + 2)]
    total, tokens = max(1, run.prompt_tokens.total), run.prompt_tokens
    figures = [time_cell(run.ttft_s.mean), time_cell(run.ttft_s.p95), time_cell(run.itl_s.p95)]
    figures += [Cell(f"{run.throughput.requests_per_s:,.3g}", run.throughput.requests_per_s)]
    figures += [share((tokens.cpu_hit + tokens.disk_hit + tokens.remote_hit) / total), share(tokens.computed / total)]
    if money:
        figures += [
            _amount(row.money.per_month if row.money else None),
            _amount(row.money.per_million_output_tokens if row.money else None),
        ]
    figures += [_amount(row.energy.per_output_token_J if row.energy else None), _amount(row.wear.years if row.wear else None)]
    return [Cell(mark), *settings, *figures]


def _amount(amount: Amount | None) -> Cell:
    return Cell("–") if amount is None else Cell(costs.amount(amount), amount.value)
