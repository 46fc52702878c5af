"""A sweep as a page: the answer, every row sortable, two figures against each other with their front, money, wear and energy."""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.report import costs
from kvplan.report.html.panel import Cell, Grid, KeyNumber, Panel, WebPage, grid
from kvplan.report.html.words import counted, share, time_cell
from kvplan.results.economics import Amount
from kvplan.results.sweep import SweepResult, SweepRow


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


def _answer(result: SweepResult) -> str:
    if result.goal:
        return f"{result.goal}: {result.rows[result.best].words}." if result.best is not None else f"{result.goal}: no point meets it."
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
    yield Panel(
        title="What is given up for what?",
        lead="Rows on the line are beaten by no other in one figure without losing in another." if result.front else "",
        figure=result.figures().get("choices"),
        grid=_rows(result),
        shown=True,
        notes=tuple(f"{one.points:,} not run: {one.why}" for one in result.left_out),
    )
    if result.price_flips:
        yield Panel(title="Which price changes the answer?", notes=tuple(costs.price_flip(one) for one in result.price_flips))
    worn = [(row, row.wear) for row in result.rows if row.wear]
    if worn:
        yield Panel(title="How long do the disks last?", notes=tuple(f"{row.words}: {costs.wear(wear)}" for row, wear in worn[:MOST_WORN]))


MOST_WORN = 12


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
