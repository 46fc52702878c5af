"""A live picture of a server as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from kvplan import units
from kvplan.report.tables import print_rows
from kvplan.results.live import LiveResult


def show(console: Console, result: LiveResult) -> None:
    """Print hit rates, transfers and queueing of the window."""
    served = escape(", ".join(result.models))
    console.print(
        f"[bold]{escape(result.endpoint)}[/] · {escape(result.engine)} {escape(result.version)} · {served} · over "
        f"{units.format_seconds(result.seconds)}",
        soft_wrap=True,
    )
    tokens = result.prompt_tokens
    rates = ", ".join(f"{tier} {rate:.1%}" for tier, rate in result.hit_rate.items())
    console.print(f"prompt tokens {'–' if tokens is None else f'{tokens:,.0f}'}; hits: {rates or '–'}", soft_wrap=True)
    rows = [["", "count", "bytes", "mean size", "reached", "predicted"]]
    for flow in result.flows:
        rows.append(
            [
                flow.what,
                "–" if flow.count is None else f"{flow.count:,.0f}",
                "–" if flow.bytes is None else units.format_traffic(flow.bytes),
                "–" if flow.mean_bytes is None else units.format_traffic(flow.mean_bytes),
                "–" if flow.Bps is None else units.format_rate(flow.Bps),
                "–" if flow.predicted_Bps is None else units.format_rate(flow.predicted_Bps),
            ]
        )
    print_rows(console, rows)
    means = [("queueing", result.queue_s), ("time to first token", result.ttft_s), ("between tokens", result.itl_s)]
    said = ", ".join(f"{name} {'–' if value is None else units.format_seconds(value)}" for name, value in means)
    now = ", ".join(
        f"{name} {value:,.0f}" for name, value in (("running", result.running), ("waiting", result.waiting)) if value is not None
    )
    used = "" if result.pool_used is None else f"; pool {result.pool_used:.0%} used"
    console.print(f"means: {said}; now {now or '–'}{used}", soft_wrap=True)
    if result.settings:
        console.print("use them: " + " ".join(f"--set {path}={value:.4g}" for path, value in result.settings.items()), soft_wrap=True)
    if result.missing:
        console.print(f"[dim]not on its metrics page: {escape(', '.join(result.missing))}[/]", soft_wrap=True)
