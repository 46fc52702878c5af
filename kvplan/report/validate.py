"""A validation as a person reads it: measured beside predicted, and the verdict."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from kvplan import units
from kvplan.report.tables import Rows, print_rows
from kvplan.results.simulate import Stats
from kvplan.results.validate import ServerFit, ValidateResult

MARKS = {"agrees": "✓ agrees", "off": "✗ off", "refused": "no verdict", "incomplete": "✗ incomplete", "interrupted": "interrupted"}


def show(console: Console, result: ValidateResult) -> None:
    """Print the comparison, the client's own lateness, and the verdict."""
    requests = result.requests
    console.print(
        f"[bold]{escape(result.endpoint)}[/] · {requests.completed:,} of {requests.total:,} requests · "
        f"{units.format_seconds(result.duration_s)}",
        soft_wrap=True,
    )
    for said, count in requests.errors.items():
        console.print(f"[yellow]failed {count:,}: {escape(said)}[/]", soft_wrap=True)
    _known(console, result)
    print_rows(console, _times(result))
    print_rows(console, _hits(result))
    _client(console, result)
    if result.fitted is not None:
        _fit(console, result.fitted)
    reason = f": {escape(result.reason)}" if result.reason else ""
    console.print(f"[bold]{MARKS[result.verdict]}[/] within {result.tolerance:.0%}{reason}", soft_wrap=True)


def _known(console: Console, result: ValidateResult) -> None:
    by_source: dict[str, list[str]] = {}
    for one in result.known:
        by_source.setdefault(one.source, []).append(f"{one.what} {one.value}")
    for source, told in by_source.items():
        console.print(f"[dim]{source}: {escape(', '.join(told))}[/]", soft_wrap=True)


def _times(result: ValidateResult) -> Rows:
    rows = [["", "", "mean", "p50", "p90", "p99"]]
    truth, guess = result.measured, result.predicted
    for name, measured, predicted in (
        ("time to first token", truth.ttft_s, guess.ttft_s),
        ("between tokens", truth.itl_s, guess.itl_s),
        ("whole request", truth.e2e_s, guess.e2e_s),
    ):
        rows.append([name, "measured", *(_seconds(value) for value in _four(measured))])
        rows.append(["", "predicted", *(_seconds(value) for value in _four(predicted))])
        rows.append(["", "off by", *(_off(p, m) for p, m in zip(_four(predicted), _four(measured), strict=True))])
    return rows


def _four(stats: Stats) -> list[float | None]:
    return [stats.mean, stats.p50, stats.p90, stats.p99]


def _seconds(value: float | None) -> str:
    return "–" if value is None else units.format_seconds(value)


def _off(predicted: float | None, measured: float | None) -> str:
    return "–" if predicted is None or not measured else f"{predicted / measured - 1:+.1%}"


def _hits(result: ValidateResult) -> Rows:
    truth, guess = result.measured, result.predicted
    rows = [["cached prompt tokens", "measured", "predicted"]]
    rows.append(["all tiers", "–" if truth.cached_tokens is None else f"{truth.cached_tokens:,}", f"{guess.cached_tokens or 0:,}"])
    for tier in ("gpu", "cpu", "disk", "remote"):
        if truth.tiers.get(tier) or tier in guess.tiers:
            rows.append([tier, f"{truth.tiers[tier]:,}" if tier in truth.tiers else "–", f"{guess.tiers.get(tier, 0):,}"])
    if result.error.cached_exact is not None:
        rows.append(["requests exact", f"{result.error.cached_exact:.1%}", ""])
        rows.append(["within a block", f"{result.error.cached_within_block or 0.0:.1%}", ""])
    return rows


def _client(console: Console, result: ValidateResult) -> None:
    client = result.client
    parts = [
        f"{what} p50 {_seconds(lag.p50)}, p99 {_seconds(lag.p99)}"
        for what, lag in (("sent late by", client.send_lag_s), ("read late by", client.read_lag_s))
    ]
    console.print(f"[dim]this client: {'; '.join(parts)}; processes {len(client.processes)}[/]", soft_wrap=True)


def _fit(console: Console, fit: ServerFit) -> None:
    rows = [["fitted on this server", "shipped", "fitted", "95%"]]
    rows += [[one.path, f"{one.shipped:.4g}", f"{one.value:.4g}", f"{one.lo:.4g} to {one.hi:.4g}"] for one in fit.numbers]
    print_rows(console, rows)
    if fit.error_fitted is not None and fit.error_shipped is not None:
        console.print(
            f"on {fit.held_out} probes that it did not see: median error {fit.error_fitted:.1%}, shipped {fit.error_shipped:.1%}; "
            f"{fit.coverage or 0.0:.0%} within their 95% interval",
            soft_wrap=True,
        )
    if fit.accepted:
        both = f"--engine {escape(fit.engine)} --machine {escape(fit.machine)}"
        console.print(f"wrote {escape(fit.engine)} and {escape(fit.machine)}: use both, {both}", soft_wrap=True)
    else:
        console.print(f"[yellow]not written: {escape(fit.reason)}[/]", soft_wrap=True)
