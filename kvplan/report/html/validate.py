"""A validation as a page: both distributions over each other, request by request, and what the verdict rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvplan.report.html.panel import Cell, Grid, KeyNumber, Mark, Panel, WebPage, grid
from kvplan.report.html.words import assumptions, seconds, share, stat_cells
from kvplan.results.validate import ValidateResult
from kvplan.units import format_seconds

MARKS: dict[str, Mark] = {"agrees": "yes", "off": "no", "refused": "maybe", "incomplete": "no", "interrupted": "maybe"}
ANSWERS = {
    "agrees": "The prediction agrees with this server",
    "off": "The prediction is off",
    "refused": "There is no verdict",
    "incomplete": "The run is incomplete",
    "interrupted": "The run was interrupted",
}


def page(result: ValidateResult, *, command: str = "") -> WebPage:
    """The report of one validation."""
    reason = f": {result.reason}" if result.reason else ""
    return WebPage(
        kind="validate",
        title=result.endpoint,
        subject=f"{result.requests.completed:,} of {result.requests.total:,} requests · {format_seconds(result.duration_s)}",
        mark=MARKS[result.verdict],
        answer=f"{ANSWERS[result.verdict]}, within {result.tolerance:.0%}{reason}",
        caveats=(*(f"failed {count:,}: {said}" for said, count in result.requests.errors.items()), *result.warnings),
        numbers=tuple(_numbers(result)),
        panels=tuple(_panels(result, result.figures())),
        command=command,
        foot=f"kvplan {result.provenance.get('kvplan', '')} · measured on this server beside simulated",
    )


def _numbers(result: ValidateResult) -> Iterator[KeyNumber]:
    named = (
        ("mean time to first token", result.measured.ttft_s.mean, result.predicted.ttft_s.mean, result.error.ttft_mean),
        ("nine in ten first tokens within", result.measured.ttft_s.p90, result.predicted.ttft_s.p90, result.error.ttft_p90),
        ("between tokens, mean", result.measured.itl_s.mean, result.predicted.itl_s.mean, result.error.itl_mean),
    )
    for name, measured, predicted, error in named:
        yield KeyNumber(name, "–" if error is None else f"{error:+.1%}", f"predicted {seconds(predicted)}, measured {seconds(measured)}")
    if result.error.cached_exact is not None:
        yield KeyNumber("requests whose cached tokens are exact", f"{result.error.cached_exact:.1%}", "")


def _panels(result: ValidateResult, figures: dict[str, Any]) -> Iterator[Panel]:
    titles = (
        ("ttft", "Do times to a first token come out as predicted?"),
        ("itl", "Do tokens follow one another as predicted?"),
        ("e2e", "Do whole requests take as long as predicted?"),
    )
    for name, title in titles:
        stats = [(side, getattr(getattr(result, side), f"{name}_s")) for side in ("measured", "predicted")]
        told = grid("In numbers", ("", "mean", "p50", "p90", "p95", "p99", "most"), [[Cell(side), *stat_cells(one)] for side, one in stats])
        if name in figures:
            yield Panel(title=title, lead="Two curves on one another are a perfect prediction.", figure=figures[name], grid=told)
        elif name == "ttft":
            yield Panel(title=title, grid=told)
    if "requests" in figures:
        yield Panel(
            title="Is each request as predicted, or only their mean?",
            lead=f"A point a request; between the dotted lines the prediction is within {result.tolerance:.0%}.",
            figure=figures["requests"],
            grid=_rows(result),
        )
    yield Panel(title="Is what is cached as predicted?", grid=_hits(result))
    rows = [
        [Cell(one.name.replace("_", " ")), share(one.value), share(one.limit), Cell("yes" if one.met else "no")] for one in result.checks
    ]
    yield Panel(title="What does the verdict rest on?", grid=grid("Checks", ("check", "value", "limit", "met"), rows, words=("met",)))
    if result.fitted is not None:
        fitted = [
            [Cell(one.path), *(_number(value) for value in (one.shipped, one.value, one.lo, one.hi))] for one in result.fitted.numbers
        ]
        told = grid("Numbers fitted on this server", ("number", "shipped", "fitted", "from", "to"), fitted)
        lead = "" if result.fitted.accepted else f"Not written: {result.fitted.reason}"
        yield Panel(title="What was learnt about this server?", lead=lead, grid=told)
    yield assumptions(
        result.provenance.get("scenario", result.provenance), known=tuple((one.what, f"{one.value} ({one.source})") for one in result.known)
    )


def _number(value: float | None) -> Cell:
    return Cell("–") if value is None else Cell(f"{value:.4g}", value)


LISTED = 20


def _rows(result: ValidateResult) -> Grid:
    both = [(row, row.predicted_ttft_s) for row in result.rows if row.ttft_s and row.predicted_ttft_s]
    worst = sorted(((abs(guess / row.ttft_s - 1), row, guess) for row, guess in both), key=lambda one: -one[0])[:LISTED]
    rows = [
        [Cell(f"request {row.index}", row.index), Cell(f"{row.prompt_tokens:,}", row.prompt_tokens), Cell(seconds(row.ttft_s), row.ttft_s),
         Cell(seconds(guess), guess), Cell(f"{guess / row.ttft_s - 1:+.1%}", off)]
        for off, row, guess in worst
    ]  # fmt: skip
    return grid(
        f"The {len(rows)} requests that are furthest off", ("request", "prompt tokens", "measured", "predicted", "off by"), rows, sorts=True
    )


def _hits(result: ValidateResult) -> Grid:
    truth, guess = result.measured, result.predicted
    rows = [[Cell("all tiers"), _tokens(truth.cached_tokens), _tokens(guess.cached_tokens)]]
    tiers = [tier for tier in ("gpu", "cpu", "disk", "remote") if truth.tiers.get(tier) or tier in guess.tiers]
    rows += [[Cell(tier), _tokens(truth.tiers.get(tier)), _tokens(guess.tiers.get(tier, 0))] for tier in tiers]
    if result.error.cached_exact is not None:
        rows.append([Cell("requests exact"), share(result.error.cached_exact), Cell("")])
        rows.append([Cell("requests within a block"), share(result.error.cached_within_block), Cell("")])
    return grid("Cached prompt tokens", ("", "measured", "predicted"), rows)


def _tokens(count: int | None) -> Cell:
    return Cell("–") if count is None else Cell(f"{count:,}", count)
