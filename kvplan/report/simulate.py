"""A simulation's result as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvplan import units
from kvplan.results.simulate import SimResult, Stats
from kvplan.scenario import Scenario

NARROW = 60
"""Below this many columns a table becomes one line a number."""


def show(console: Console, result: SimResult, scenario: Scenario) -> None:
    """Print the result: latencies, tiers, throughput, and what it comes to in words."""
    machine, model, requests = scenario.machine, scenario.model, result.requests
    console.print(
        f"[bold]{escape(result.name)}[/] · {escape(model.name)} on {escape(machine.name)} · "
        f"{scenario.engine.label} · {requests.completed:,} of {requests.total:,} requests · "
        f"{units.format_seconds(result.duration_s)}"
    )
    for note in scenario.notes:
        console.print(f"[dim]{escape(note)}[/]")
    if requests.rejected:
        console.print(
            f"[yellow]rejected {requests.rejected:,} requests with {requests.rejected_prompt_tokens:,} prompt tokens: they can never fit[/]"
        )
    if result.partial:
        console.print(f"[yellow]partial: interrupted with {requests.unfinished:,} requests not finished[/]")
    for rows in (_latencies(result), _tiers(result)):
        if console.width < NARROW:
            _lines_of(console, rows)
        else:
            console.print(_table(rows))
    _lines(console, result)


Rows = list[list[str]]
"""A header and its rows; the first column names them."""


def _table(rows: Rows) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for at, head in enumerate(rows[0]):
        table.add_column(head, justify="right" if at else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _lines_of(console: Console, rows: Rows) -> None:
    for row in rows[1:]:
        for head, value in zip(rows[0][1:], row[1:], strict=True):
            if value:
                console.print(f"{row[0]} {head}: {value}")


def _latencies(result: SimResult) -> Rows:
    rows = [["", "mean", "p50", "p90", "p95", "p99"]]
    named = (
        ("time to first token", result.ttft_s),
        ("between tokens", result.itl_s),
        ("queueing", result.queue_s),
        ("whole request", result.e2e_s),
    )
    return rows + [[name, *_in_one_unit(stats)] for name, stats in named]


def _in_one_unit(stats: Stats) -> list[str]:
    values = [stats.mean, stats.p50, stats.p90, stats.p95, stats.p99]
    return ["–" if value is None else units.format_seconds(value) for value in values]


def _tiers(result: SimResult) -> Rows:
    rows = [["tier", "capacity", "used", "hits", "loaded", "stored", "link busy"]]
    for tier in result.tiers:
        row = [
            tier.name,
            units.format_bytes(tier.capacity_bytes),
            f"{tier.peak_bytes / tier.capacity_bytes:.0%}",
            f"{tier.hit_rate:.1%}",
        ]
        below = [
            units.format_traffic(tier.loaded_bytes),
            units.format_traffic(tier.stored_bytes),
            f"{tier.link_busy_fraction:.1%}",
        ]
        rows.append(row + (["", "", ""] if tier.name == "gpu" else below))
    tokens = result.prompt_tokens
    rows.append(["computed", "", "", f"{tokens.computed / tokens.total if tokens.total else 0.0:.1%}", "", "", ""])
    return rows


def _lines(console: Console, result: SimResult) -> None:
    tokens, loads, rate = result.prompt_tokens, result.loads, result.throughput
    if result.ideal_hit_rate is not None and tokens.total:
        hits = 1 - tokens.computed / tokens.total
        console.print(f"hits of all prompt tokens {hits:.1%}; the trace allows {result.ideal_hit_rate:.1%} at best")
    console.print(
        f"{rate.requests_per_s:,.2f} requests/s · {rate.prompt_tokens_per_s:,.0f} prompt tokens/s · "
        f"{rate.output_tokens_per_s:,.0f} output tokens/s"
    )
    known = result.interval
    if known.ttft_mean_s is not None:
        low, high = (units.format_seconds(value) for value in known.ttft_mean_s)
        rests = ", ".join(f"{doubt.what} ({doubt.kind}, ±{doubt.sigma_rel:.0%})" for doubt in known.rests_on)
        console.print(f"mean time to first token {low} to {high} (95 %), resting on {rests}")
    if loads.count:
        losing = f"{loads.losing:,} slower than computing again, {units.format_seconds(loads.losing_s)} lost"
        console.print(f"loads {loads.count:,} · {losing if loads.losing else 'none slower than computing again'}")
    if result.requests.preempted:
        console.print(f"preempted {result.requests.preempted:,} requests")
    for check in result.targets:
        value = "–" if check.value_s is None else units.format_seconds(check.value_s)
        limit = units.format_seconds(check.limit_s)
        console.print(f"{'✓ met' if check.met else '✗ missed'}: {check.name} {value}, target {limit}")
    if result.goodput is not None:
        good = result.goodput
        console.print(f"goodput {good.requests_per_s:,.2f} requests/s: {good.share:.1%} of the requests meet every limit")
    if result.largest_cause:
        console.print(result.largest_cause)
    console.print(f"[dim]simulated in {result.wall_s:.1f} s · seed {result.provenance['seed']} · --json for everything[/]")
