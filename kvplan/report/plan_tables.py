"""What a plan rests on, in tables: when loading pays, what was simulated, until when the verdict holds, other widths."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from kvplan.deployment import Parallel
from kvplan.planning.objective import changed
from kvplan.provenance import plus_minus
from kvplan.report.tables import Rows, print_rows, say, seconds
from kvplan.results.kinds import Crossing
from kvplan.results.plan import Assumption, Option, PlanResult, Range, ReplicaLayout
from kvplan.units import format_bytes, format_rate, format_seconds, format_tokens

MOST_OPTIONS = 8


def when(console: Console, result: PlanResult) -> None:
    """When loading beats computing, tier by tier, and what comes again."""
    known = result.traffic
    if not result.when or not known.named:
        return
    prefix = format_tokens(result.when[0].prefix_tokens)
    console.print(f"\n[bold]When loading pays[/]: one request on an idle machine, reusing {prefix} tokens")
    rows: Rows = [["tier", "load", "compute", "wins from", "needs", "has"]]
    for one in result.when:
        rows.append(
            [
                one.tier,
                format_seconds(one.load_s),
                format_seconds(one.recompute_s),
                _tokens(one.break_even_tokens),
                "never" if one.break_even_Bps.value is None else format_rate(one.break_even_Bps.value),
                f"{format_rate(one.Bps)} {one.source}",
            ]
        )
    print_rows(console, rows, indent=2)
    for why in dict.fromkeys(one.set_by for one in result.when if one.set_by):
        say(console, escape(why), indent=2)
    if known.ideal_hit:
        half, nine = format_seconds(known.reuse_s), format_seconds(known.reuse_p90_s)
        say(console, f"{known.ideal_hit:.1%} of the prompt tokens come again: half within {half}, nine in ten within {nine}", indent=2)


def _tokens(span: Range) -> str:
    if span.value is None:
        return "never" if span.lo is None else f"never (at best {format_tokens(span.lo)})"
    if span.lo == span.value == span.hi:
        return f"{format_tokens(span.value)} tokens"
    high = format_tokens(span.hi) if span.hi is not None else "never"
    return f"{format_tokens(span.value)} tokens ({format_tokens(span.lo or 0)} to {high})"


def claims(result: PlanResult) -> Iterator[str]:
    for hit in sorted({one.hit for one in result.claims}, reverse=True):
        places = [
            f"{one.speedup:g} times sooner from {format_tokens(one.prompt_tokens)} tokens"
            if one.prompt_tokens
            else f"{one.speedup:g} times: never"
            for one in result.claims
            if one.hit == hit
        ]
        yield f"with {hit:.0%} of the prompt there: " + "; ".join(places)


def kinds(console: Console, result: PlanResult) -> None:
    """Kinds of parallelism on the planned GPUs, at the traffic's load."""
    if result.kinds is None:
        return
    console.print(f"\n[bold]The same {result.kinds.gpus} GPUs, host memory and traffic, spread otherwise[/]")
    placed = Parallel(**{name: getattr(result.placement, name) for name in ("tp", "pp", "dp", "ep")}).words
    rows: Rows = [["", "tokens in the pools", "in the tier", "TTFT without", "with", "ITL with", "req/s with"]]
    for one in result.kinds.kinds:
        rows.append(
            [
                f"{'→ ' if one.spread == placed else '  '}{one.spread}",
                format_tokens(one.pool_tokens),
                format_tokens(one.host_tokens) if one.host_bytes else "–",
                seconds(one.without.ttft_s),
                seconds(one.offload.ttft_s),
                seconds(one.offload.itl_s),
                f"{one.offload.requests_per_s:,.3g}",
            ]
        )
    print_rows(console, rows)
    for crossing in result.kinds.crossings:
        say(console, _crossing(crossing), indent=2, hang=2)


def _crossing(one: Crossing) -> str:
    tier = f"with a CPU tier of {format_bytes(one.cpu_bytes)}" if one.cpu_bytes else "without a tier"
    if one.requests_per_s is None:
        return f"{tier}: {one.below} does best at every load from a quarter to 16 times the arrivals"
    return f"{tier}: {one.below} does better up to about {one.requests_per_s:.2g} requests/s, {one.above} beyond"


def splits(result: PlanResult) -> Iterator[str]:
    for one in result.splits:
        other, planned = one.other, one.planned
        rates = f"{other.requests_per_s_per_gpu:.3g} requests/s per GPU instead of {planned.requests_per_s_per_gpu:.3g}"
        spread = f"{_replicas(other)} instead of {_replicas(planned)}"
        yield (
            f"{one.gpus} GPUs as {spread}: {changed(result.objective, one.gain)}; "
            f"mean time to first token {seconds(other.ttft_s)} instead of {seconds(planned.ttft_s)}, "
            f"between tokens {seconds(other.itl_s)} instead of {seconds(planned.itl_s)}, {rates}"
        )


def _replicas(layout: ReplicaLayout) -> str:
    kind = layout.spread or f"TP {layout.tp}"
    return f"{layout.replicas} x ({kind})" if " x " in kind or ", " in kind else f"{layout.replicas} x {kind}"


def options_rows(result: PlanResult) -> Rows:
    """What was simulated, the best first."""
    rows: Rows = [["", "TTFT", "p95", "ITL p95", "req/s", "computed", "losing loads"]]
    shown = list(result.options[:MOST_OPTIONS])
    for extra in (result.without, result.chosen):
        if extra is not None and extra not in shown:
            shown.append(extra)
    for one in shown:
        arrow = "→ " if one == result.chosen else "  "
        rows.append(
            [
                f"{arrow}{one.name}",
                seconds(one.ttft_s.mean),
                seconds(one.ttft_s.p95),
                seconds(one.itl_s.p95),
                f"{one.requests_per_s:,.3g}",
                f"{one.computed:.1%}",
                _losing(one),
            ]
        )
    return rows


def options(console: Console, result: PlanResult) -> None:
    if result.options:
        console.print("\n[bold]With and without[/]: time to first token (TTFT, mean and p95), between tokens (ITL)")
        print_rows(console, options_rows(result))


def _losing(one: Option) -> str:
    return f"{one.loads.losing:,} of {one.loads.count:,}" if one.loads.count else ""


def assumption(one: Assumption) -> str:
    """Until which factor an assumption may be off."""
    how = f"{one.kind}, {plus_minus(one.sigma_rel)}"
    if one.flips_at is not None:
        return f"until {one.name} is {_times(one.flips_at)} ({how})"
    return f"even if {one.name} is {_times(one.tested_to)} ({how})" if one.tested_to != 1 else f"whatever {one.name} ({how})"


def _times(factor: float) -> str:
    if factor < 1:
        words = {0.5: "half", 0.25: "a quarter"}.get(factor)
        return f"{words} of what is assumed" if words else f"{factor:.2g} of what is assumed"
    return f"{factor:.2g} times what is assumed"
