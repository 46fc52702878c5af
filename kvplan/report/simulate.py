"""A simulation's result as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from kvplan import units
from kvplan.memory.pinned import host_memory
from kvplan.provenance import plus_minus
from kvplan.report import plots
from kvplan.report.tables import Rows, print_rows, say, seconds
from kvplan.results.simulate import LoadCounts, SimResult
from kvplan.scenario import Scenario


def show(console: Console, result: SimResult, scenario: Scenario, *, plot: bool = False) -> None:
    """Print the result: latencies, tiers, throughput, and what it comes to in words; `plot`: tiers, links and queues over time."""
    requests = result.requests
    lead = f"[yellow]{escape(scenario.assumed)}[/] · " if scenario.assumed else ""
    say(console, f"{lead}[bold]{escape(result.name)}[/] · {_headline(result, scenario)}")
    for note in scenario.notes:
        say(console, f"[dim]{escape(note)}[/]")
    if requests.rejected and requests.completed:
        lost = f"{units.format_count(requests.rejected, 'request')} with {requests.rejected_prompt_tokens:,} prompt tokens"
        say(console, f"[yellow]rejected {lost}: they can never fit[/]")
    if not requests.completed and not result.partial:
        say(console, "[bold]✗ Nothing was served[/]: no request fits the GPU's pool and the model's context.")
        return
    if result.partial:
        console.print(f"[yellow]partial: interrupted with {requests.unfinished:,} requests not finished[/]")
    print_rows(console, _latencies(result))
    plots.distributions(console, {"requests": result.ttft_quantiles_s}, title="times to first token")
    print_rows(console, _tiers(result))
    if result.timeline is not None and plot:
        plots.over_time(console, result.timeline)
    _lines(console, result, scenario)


def _headline(result: SimResult, scenario: Scenario) -> str:
    """What was replayed on what, and whether it keeps up."""
    requests = result.requests
    first = "the first " if scenario.run.limit else ""
    served = f"{requests.completed:,} of {first}{requests.total:,} requests"
    words = [f"{escape(scenario.model.name)} on {escape(scenario.machine.name)}", scenario.engine.label, served]
    if result.overload and not result.partial:
        words.append(f"[bold red]overloaded: this traffic is {result.overload:.1f} times what the machine serves[/]")
    elif requests.completed:
        words.append(units.format_seconds(result.duration_s))
    return " · ".join(words)


def _loads(loads: LoadCounts, scenario: Scenario) -> str:
    """How the loads did, and why some lost."""
    count = units.format_count(loads.count, "load")
    if not loads.losing:
        return f"{count} from below the GPU, each faster than computing again"
    waits = scenario.engine.offload.loads_exclude_steps
    why = "loads wait for running steps in this engine, and for one another" if waits else "they waited for one another"
    return f"{loads.losing:,} of {count} took longer than computing again ({units.format_seconds(loads.losing_s)} lost): {why}"


def _latencies(result: SimResult) -> Rows:
    rows = [["", "mean", "p50", "p90", "p95", "p99"]]
    named = (
        ("time to first token", result.ttft_s),
        ("between tokens", result.itl_s),
        ("queueing", result.queue_s),
        ("whole request", result.e2e_s),
    )
    return rows + [[name, *(seconds(value) for value in (stats.mean, stats.p50, stats.p90, stats.p95, stats.p99))] for name, stats in named]


def _tiers(result: SimResult) -> Rows:
    rows = [["tier", "capacity", "used", "hits", "loaded", "stored", "link busy"]]
    for tier in result.tiers:
        row = [
            tier.name,
            tier.capacity,
            tier.used,
            f"{tier.hit_rate:.1%}",
        ]
        below = [
            units.format_bytes(tier.loaded_bytes),
            units.format_bytes(tier.stored_bytes),
            f"{tier.link_busy_fraction:.1%}",
        ]
        rows.append(row + (["", "", ""] if tier.name == "gpu" else below))
    tokens = result.prompt_tokens
    rows.append(["computed", "", "", f"{tokens.computed / tokens.total if tokens.total else 0.0:.1%}", "", "", ""])
    return rows


def _lines(console: Console, result: SimResult, scenario: Scenario) -> None:
    tokens, loads, rate = result.prompt_tokens, result.loads, result.throughput
    tiers = scenario.tiers
    host = host_memory(scenario.deployment, tiers.cpu_bytes, lower_tier=bool(tiers.disk_bytes or tiers.remote_bytes))
    if host.taken_bytes != host.asked_bytes:
        say(console, f"the CPU tier {host.words} of host memory")
    if result.ideal_hit_rate is not None and tokens.total:
        hits = 1 - tokens.computed / tokens.total
        say(console, f"hits of all prompt tokens {hits:.1%}; the trace allows {result.ideal_hit_rate:.1%} at best")
    say(
        console,
        f"{units.format_number(rate.requests_per_s)} requests/s · {units.format_number(rate.prompt_tokens_per_s)} prompt tokens/s · "
        f"{units.format_number(rate.output_tokens_per_s)} output tokens/s",
    )
    known = result.interval
    if known.ttft_mean_s is not None:
        low, high = (units.format_seconds(value) for value in known.ttft_mean_s)
        rests = ", ".join(f"{doubt.what} ({doubt.kind}, {plus_minus(doubt.sigma_rel)})" for doubt in known.rests_on)
        say(console, f"mean time to first token {low} to {high} (95%){f', resting on {rests}' if rests else ''}")
    if scenario.deployment.routing:
        say(console, f"assumed: {scenario.deployment.routing} (--set parallel.expert_skew=X)")
    if loads.count:
        say(console, _loads(loads, scenario))
    if result.requests.preempted:
        say(console, f"preempted {units.format_count(result.requests.preempted, 'request')}")
    for check in result.targets:
        value = "–" if check.value_s is None else units.format_seconds(check.value_s)
        limit = units.format_seconds(check.limit_s)
        say(console, f"{'✓ met' if check.met else '✗ missed'}: {check.name} {value}, target {limit}")
    if result.goodput is not None:
        good = result.goodput
        say(console, f"goodput {units.format_number(good.requests_per_s)} requests/s: {good.share:.1%} of the requests meet every limit")
    if result.largest_cause:
        say(console, result.largest_cause)
    say(console, f"[dim]simulated in {result.wall_s:.1f} s · seed {result.provenance['seed']} · --json for everything[/]")
