"""A simulation's result as a person reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from kvplan import units
from kvplan.results.simulate import SimResult, Stats
from kvplan.scenario import Scenario


@contextmanager
def progress(console: Console, *, hidden: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar on a terminal; nothing elsewhere."""
    if hidden or not console.is_terminal:
        yield None
        return
    bar = Progress(
        TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
    )
    with bar:
        task = bar.add_task("simulating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show(console: Console, result: SimResult, scenario: Scenario) -> None:
    """Print the result: latencies, throughput, tiers, and what it comes to in words."""
    machine, model = scenario.machine, scenario.model
    console.print(
        f"[bold]{result.name}[/] · {model.name} on {machine.name} · {scenario.engine.name} {scenario.engine.version} · "
        f"{result.requests.completed:,} of {result.requests.total:,} requests · {units.format_seconds(result.duration_s)}"
    )
    if result.partial:
        console.print(f"[yellow]interrupted: {result.requests.unfinished:,} requests were not finished[/]")
    console.print(_latencies(result))
    console.print(_tiers(result))
    _lines(console, result)


def _latencies(result: SimResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("")
    for head in ("mean", "p50", "p90", "p95", "p99"):
        table.add_column(head, justify="right")
    rows: tuple[tuple[str, Stats], ...] = (
        ("time to first token", result.ttft_s),
        ("between tokens", result.itl_s),
        ("queueing", result.queue_s),
        ("whole request", result.e2e_s),
    )
    for name, stats in rows:
        table.add_row(name, *_in_one_unit(stats))
    return table


def _in_one_unit(stats: Stats) -> list[str]:
    values = [stats.mean, stats.p50, stats.p90, stats.p95, stats.p99]
    return ["–" if value is None else units.format_seconds(value) for value in values]


def _tiers(result: SimResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for head, side in (("tier", "left"), ("capacity", "right"), ("used", "right"), ("hits", "right"), ("loaded", "right"), ("stored", "right"), ("link busy", "right")):
        table.add_column(head, justify=side)  # type: ignore[arg-type]
    for tier in result.tiers:
        gpu = tier.name == "gpu"
        table.add_row(
            tier.name,
            units.format_bytes(tier.capacity_bytes),
            f"{tier.peak_bytes / tier.capacity_bytes:.0%}",
            f"{tier.hit_rate:.1%}",
            "" if gpu else units.format_traffic(tier.loaded_bytes),
            "" if gpu else units.format_traffic(tier.stored_bytes),
            "" if gpu else f"{tier.link_busy_fraction:.1%}",
        )
    total = result.prompt_tokens.total
    share = result.prompt_tokens.computed / total if total else 0.0
    table.add_row("computed", "", "", f"{share:.1%}", "", "", "")
    return table


def _lines(console: Console, result: SimResult) -> None:
    rate = result.throughput
    console.print(
        f"throughput {rate.requests_per_s:,.2f} requests/s · {rate.prompt_tokens_per_s:,.0f} prompt tokens/s · "
        f"{rate.output_tokens_per_s:,.0f} output tokens/s"
    )
    loads = result.loads
    if loads.count:
        losing = f"{loads.losing:,} of them slower than computing again, {units.format_seconds(loads.losing_s)} lost"
        console.print(f"loads {loads.count:,} · {losing if loads.losing else 'none slower than computing again'}")
    if result.requests.rejected:
        console.print(f"rejected {result.requests.rejected:,} requests, {result.requests.rejected_prompt_tokens:,} prompt tokens")
    if result.requests.preempted:
        console.print(f"preempted {result.requests.preempted:,} requests")
    for check in result.targets:
        mark = "✓" if check.met else "✗"
        value = "–" if check.value_s is None else units.format_seconds(check.value_s)
        console.print(f"{mark} {check.name} {value}, target {units.format_seconds(check.limit_s)}")
    if result.largest_cause:
        console.print(result.largest_cause)
    console.print(f"[dim]simulated in {result.wall_s:.1f} s · seed {result.provenance['seed']} · --json for everything[/]")
