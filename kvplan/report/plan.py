"""A plan as a person reads it: the verdict, three numbers and one caveat; then what it rests on, in tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from kvplan.provenance import plus_minus
from kvplan.report.tables import Rows, print_rows
from kvplan.results.deploy import Emission
from kvplan.results.placement import Notice
from kvplan.results.plan import Assumption, Option, PlanResult, Range
from kvplan.units import format_bytes, format_rate, format_seconds, format_tokens

MARKS = {
    "offload": "[green]✓[/]",
    "stream": "[red]✗[/]",
    "do_not_offload": "[red]✗[/]",
    "tie": "[yellow]=[/]",
    "cannot_say": "[yellow]?[/]",
}
KINDS = {"offload": "offload", "stream": "too long", "do_not_offload": "do not", "tie": "tie", "cannot_say": "cannot say"}
MOST_OPTIONS = 8


def show(console: Console, result: PlanResult, *, verbose: bool = False) -> None:
    """Print a plan; `verbose` adds what was tried, left out and compared."""
    lead = f"[yellow]{escape(result.assumed)}[/] · " if result.assumed else ""
    console.print(
        f"{lead}[bold]{escape(result.name)}[/] · {escape(result.model)} on {escape(result.machine)} · {result.engine} · "
        f"{result.traffic.requests:,} requests · GPU pool {format_bytes(result.pool_bytes)}"
    )
    if result.sessions:
        console.print(f"[dim]--sessions {escape(result.sessions)}[/]")
    console.print(f"\n{mark(result)} [bold]{escape(result.verdict.sentence)}[/]")
    if result.asked:
        console.print(f"  on {result.asked.engine}, the scenario's engine: {escape(result.asked.verdict.sentence)}")
    for line in _numbers(result):
        console.print(Padding(line, (0, 0, 0, 2), expand=False))
    for line in _caveats(result):
        console.print(Padding(line, (0, 0, 0, 2), expand=False))
    _when(console, result)
    _options(console, result)
    _section(console, "The verdict holds", [_assumption(one) for one in result.assumptions])
    if verbose:
        _section(console, "Where first tokens can come sooner, with host memory", list(_claims(result)))
        _section(console, "On other numbers of GPUs, at the same load and host memory per GPU", list(_splits(result)))
        _section(
            console, f"Simulated {result.simulated} runs; left out", [f"{escape(one.what)}: {escape(one.why)}" for one in result.pruned]
        )
    _section(console, "Mind", [_notice(one) for one in _notices(result)])
    if result.emission:
        _configuration(console, result.emission)
    more = "" if verbose else f"; -v: {len(result.pruned)} things left out, other widths"
    console.print(f"\n[dim]{result.simulated} simulations · `kvplan explain WORD` says what a column means{more}[/]")


def _configuration(console: Console, emission: Emission) -> None:
    for part in emission.parts:
        console.print(f"\n[bold]{part.name}[/] for {emission.target} {emission.version}")
        console.print(part.text, markup=False, soft_wrap=True)
    if emission.router:
        tiers = "; ".join(f"{one.tier} {one.blocks:,} blocks of {one.block_tokens} tokens" for one in emission.router)
        console.print(f"A router that estimates what each replica has cached should assume, per replica: {tiers}")


def mark(result: PlanResult) -> str:
    """✓: do it, and it runs; ~: worth it, with a reason against it."""
    if result.verdict.kind == "offload" and (result.verdict.reservations or not result.target_met):
        return "[yellow]~[/]"
    return MARKS[result.verdict.kind]


def compare(console: Console, results: Sequence[PlanResult]) -> None:
    """Print several plans of the same traffic, one a row."""
    console.print(f"[bold]{results[0].traffic.requests:,} requests on each[/]")
    rows: Rows = [["", "verdict", "take", "gain", "TTFT without", "with", "requests/s", "GPU pool"]]
    for one in results:
        best, without = one.chosen, one.without
        advised = best is not None and one.verdict.kind == "offload"
        rows.append(
            [
                escape(one.name),
                f"{mark(one)} {KINDS[one.verdict.kind]}",
                best.name if best and advised else "–",
                f"{one.gain.value:+.0%}" if one.gain and one.gain.value is not None else "–",
                _time(without.ttft_s.mean) if without else "–",
                _time(best.ttft_s.mean) if best and advised else "–",
                f"{best.requests_per_s:,.3g}" if best else "–",
                format_bytes(one.pool_bytes),
            ]
        )
    print_rows(console, rows)
    for one in results:
        console.print(f"{escape(one.name)}: {escape(one.verdict.sentence)}")


def _section(console: Console, title: str, lines: Sequence[str]) -> None:
    if lines:
        console.print(f"\n[bold]{title}[/]")
    for line in lines:
        console.print(Padding(line, (0, 0, 0, 2), expand=False))


def _numbers(result: PlanResult) -> Iterator[str]:
    """Gain, what it serves, what it takes."""
    chosen, without, placement = result.chosen, result.without, result.placement
    if chosen is None or without is None:
        return
    if result.verdict.kind in ("offload", "tie"):
        gpus = placement.tp
        served, before = chosen.goodput_per_s, without.goodput_per_s
        if served is not None and before is not None:
            yield f"serves  {served / gpus:.3g} requests/s per GPU within the target, {before / gpus:.3g} without"
        else:
            yield f"serves  {chosen.requests_per_s / gpus:.3g} requests/s per GPU, {without.requests_per_s / gpus:.3g} without"
        sizes = [(placement.cpu_bytes, "host memory"), (placement.disk_bytes, "disk"), (placement.remote_bytes, "the remote pool")]
        takes = " and ".join(f"{format_bytes(size)} of {what}" for size, what in sizes if size)
        pinned = f"; pinning it adds about {format_seconds(result.pin_s)} to each start" if result.pin_s >= 1 else ""
        yield f"takes   {takes}, over all ranks of a replica{pinned}"
    if chosen.warm_requests is not None and placement.offloads:
        when = f"{chosen.warm_requests:,} requests ({format_seconds(chosen.warm_s or 0.0)})"
        yield f"restart an empty tier serves 90% of its steady hits after {when}"
    for step in result.steps:
        word = "less" if step.capacity_bytes < placement.cpu_bytes else "more"
        yield f"{word}    {format_bytes(step.capacity_bytes)} of host memory: {step.change:+.1%}"


def _caveats(result: PlanResult) -> Iterator[str]:
    """What speaks against it, what would be better, what is missing."""
    if result.verdict.missing:
        yield f"missing: {result.verdict.missing}"
    for reason in result.verdict.reservations:
        yield f"[yellow]but[/]     {escape(reason)}"
    if result.overload:
        yield (
            f"Overloaded: this traffic is {result.overload:.1f} times what the machine serves, so that the queue grows; ranked by "
            f"{result.objective}. About {result.overload + 0.5:.0f} such replicas would keep up."
        )
    yield from _eight_bits(result)
    yield from _weighed(result)
    if result.at_load:
        yield "at other loads: " + ", ".join(f"{float(speed):g} times the arrivals {gain:+.0%}" for speed, gain in result.at_load.items())


def _eight_bits(result: PlanResult) -> Iterator[str]:
    """What an 8-bit KV would do, alone and with the tier, where it was not advised."""
    chosen = result.chosen
    if chosen is None or chosen.placement.kv_dtype == "fp8":
        return
    narrow = [one for one in result.options if one.placement.kv_dtype == "fp8" and not one.missed]
    for one in (one for one in narrow if chosen.placement.offloads or not one.placement.offloads):
        gain = 1 - one.score / chosen.score
        if one.rejected <= chosen.rejected and gain > 0.005:
            alone = "" if one.placement.offloads or not chosen.placement.offloads else ", without a tier,"
            yield f"8-bit KV{alone} would gain {gain:.0%} more ({one.name}), at the price of some accuracy."


def _weighed(result: PlanResult) -> Iterator[str]:
    """What a rule that the engine lacks would do."""
    chosen = result.chosen
    if chosen is None or chosen.placement.load_rule != "always":
        return
    for one in result.options:
        if one.placement == msgspec.structs.replace(chosen.placement, load_rule="break_even"):
            change = 1 - one.score / chosen.score
            yield f"Loading only what is loaded sooner than computed would change it by {change:+.1%}; {result.engine} cannot be told to."


def _when(console: Console, result: PlanResult) -> None:
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
        console.print(Padding(escape(why), (0, 0, 0, 2), expand=False))
    if known.ideal_hit:
        half, nine = format_seconds(known.reuse_s), format_seconds(known.reuse_p90_s)
        console.print(
            Padding(
                f"{known.ideal_hit:.1%} of the prompt tokens come again: half within {half}, nine in ten within {nine}",
                (0, 0, 0, 2),
                expand=False,
            )
        )


def _tokens(span: Range) -> str:
    if span.value is None:
        return "never" if span.lo is None else f"never (at best {format_tokens(span.lo)})"
    if span.lo == span.value == span.hi:
        return f"{format_tokens(span.value)} tokens"
    high = format_tokens(span.hi) if span.hi is not None else "never"
    return f"{format_tokens(span.value)} tokens ({format_tokens(span.lo or 0)} to {high})"


def _claims(result: PlanResult) -> Iterator[str]:
    for hit in sorted({one.hit for one in result.claims}, reverse=True):
        places = [
            f"{one.speedup:g} times sooner from {format_tokens(one.prompt_tokens)} tokens"
            if one.prompt_tokens
            else f"{one.speedup:g} times: never"
            for one in result.claims
            if one.hit == hit
        ]
        yield f"with {hit:.0%} of the prompt there: " + "; ".join(places)


def _splits(result: PlanResult) -> Iterator[str]:
    for one in result.splits:
        other, planned = one.other, one.planned
        rates = f"{other.requests_per_s_per_gpu:.3g} requests/s per GPU instead of {planned.requests_per_s_per_gpu:.3g}"
        spread = f"{other.replicas} x TP {other.tp} instead of {planned.replicas} x TP {planned.tp}"
        yield (
            f"{one.gpus} GPUs as {spread}: {one.gain:+.0%}; "
            f"mean time to first token {_time(other.ttft_s)} instead of {_time(planned.ttft_s)}, "
            f"between tokens {_time(other.itl_s)} instead of {_time(planned.itl_s)}, {rates}"
        )


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
                _time(one.ttft_s.mean),
                _time(one.ttft_s.p95),
                _time(one.itl_s.p95),
                f"{one.requests_per_s:,.3g}",
                f"{one.computed:.1%}",
                _losing(one),
            ]
        )
    return rows


def _options(console: Console, result: PlanResult) -> None:
    if result.options:
        console.print("\n[bold]With and without[/]: time to first token (TTFT, mean and p95), between tokens (ITL)")
        print_rows(console, options_rows(result))


def _time(value: float | None) -> str:
    return "–" if value is None else format_seconds(value)


def _losing(one: Option) -> str:
    return f"{one.loads.losing:,} of {one.loads.count:,}" if one.loads.count else ""


def _assumption(one: Assumption) -> str:
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


def _notices(result: PlanResult) -> tuple[Notice, ...]:
    return (*result.notices, *(result.emission.notices if result.emission else ()))


def _notice(one: Notice) -> str:
    return f"{escape(one.sentence)}{f' Hint: {escape(one.hint)}.' if one.hint else ''}"
