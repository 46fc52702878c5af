"""A plan as a person reads it: the verdict, when, where, how much, with and without, what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvplan.provenance import plus_minus
from kvplan.results.placement import Notice
from kvplan.results.plan import Assumption, Option, PlanResult, Pruned, Range, TierWorth
from kvplan.units import format_bytes, format_rate, format_seconds, format_tokens

MARKS = {
    "offload": "[green]✓[/]",
    "stream": "[green]✓[/]",
    "do_not_offload": "[red]✗[/]",
    "tie": "[yellow]=[/]",
    "cannot_say": "[yellow]?[/]",
}
KINDS = {"offload": "offload", "stream": "stream", "do_not_offload": "do not", "tie": "tie", "cannot_say": "cannot say"}
MOST_OPTIONS = 8


def show(console: Console, result: PlanResult) -> None:
    """Print a plan."""
    pool = format_bytes(result.pool_bytes)
    console.print(
        f"[bold]{escape(result.name)}[/] · {result.model} on {result.machine} · {result.engine} · "
        f"{result.traffic.requests:,} requests · GPU pool {pool}"
    )
    console.print()
    console.print(f"{MARKS[result.verdict.kind]} [bold]{escape(result.verdict.sentence)}[/]")
    for line in _asides(result):
        console.print(line)
    _section(console, "When", list(_when(result)))
    _section(console, "How much", list(_how_much(result)))
    if result.options:
        console.print("\n[bold]With and without[/]")
        console.print(_options(result))
    _section(console, "On other numbers of GPUs, at the same load and host memory per GPU", list(_splits(result)))
    _section(console, "Rests on, most sensitive first", [_assumption(one) for one in result.assumptions])
    _section(
        console,
        "Mind",
        [f"{escape(one.sentence)}{f' Hint: {escape(one.hint)}.' if one.hint else ''}" for one in (*result.notices, *_emitted(result))],
    )
    _section(console, f"Simulated {result.simulated} runs; left out", [_pruned(one) for one in result.pruned])
    for part in result.emission.parts if result.emission else ():
        console.print(f"\n[bold]{part.name}[/] for {result.emission.target} {result.emission.version}")  # type: ignore[union-attr]
        console.print(part.text, markup=False, soft_wrap=True)


def _emitted(result: PlanResult) -> tuple[Notice, ...]:
    return result.emission.notices if result.emission else ()


def compare(console: Console, results: Sequence[PlanResult]) -> None:
    """Print several plans of the same traffic, one a row."""
    console.print(f"[bold]the same traffic[/] · {results[0].traffic.requests:,} requests")
    table = _table(("", "verdict", "take", "gain", "TTFT without", "with", "req/s", "GPU pool"))
    for one in results:
        best, without = one.chosen, one.without
        table.add_row(
            escape(one.name),
            f"{MARKS[one.verdict.kind]} {KINDS[one.verdict.kind]}",
            best.name if best and one.verdict.kind == "offload" else "–",
            f"{one.gain.value:+.0%}" if one.gain and one.gain.value is not None else "–",
            _time(without.ttft_s.mean) if without else "–",
            _time(best.ttft_s.mean) if best else "–",
            f"{best.requests_per_s:,.3g}" if best else "–",
            format_bytes(one.pool_bytes),
        )
    console.print(table)
    for one in results:
        console.print(f"{escape(one.name)}: {escape(one.verdict.sentence)}")


def _section(console: Console, title: str, lines: list[str | Table]) -> None:
    if not lines:
        return
    console.print(f"\n[bold]{title}[/]")
    for line in lines:
        if isinstance(line, Table):
            console.print(line)
        else:
            console.print(_indented(line, console.width))


def _indented(line: str, width: int) -> Table:
    """A line that wraps under itself."""
    table = Table.grid(padding=(0, 0, 0, 2))
    table.add_column(width=min(width, 100) - 2)
    table.add_row(line)
    return table


def _asides(result: PlanResult) -> Iterator[str]:
    if result.verdict.missing:
        yield f"  missing: {result.verdict.missing}"
    if result.overload:
        yield (
            f"  The traffic is {result.overload:.1f} times what the machine serves in the time: the queue "
            "grows, and times to first token "
            f"say little.\n  Ranked by {result.objective}; about {result.overload + 0.5:.0f} such replicas "
            "would keep up."
        )
    yield from _eight_bits(result)
    yield from _weighed(result)


def _eight_bits(result: PlanResult) -> Iterator[str]:
    """What an 8-bit KV would do, alone and with the tier, where it was not advised."""
    chosen = result.chosen
    if chosen is None or chosen.placement.kv_dtype == "fp8":
        return
    for one in (one for one in result.options if one.placement.kv_dtype == "fp8" and not one.missed):
        gain = 1 - one.score / chosen.score
        if one.rejected <= chosen.rejected and gain > 0:
            alone = "" if one.placement.offloads or not chosen.placement.offloads else ", without a tier,"
            yield f"  8-bit KV{alone} would gain {gain:.0%} more ({one.name}), at the price of some accuracy."


def _weighed(result: PlanResult) -> Iterator[str]:
    """What a rule that the engine lacks would do."""
    chosen = result.chosen
    if chosen is None or chosen.placement.load_rule != "always":
        return
    for one in result.options:
        if one.placement == msgspec.structs.replace(chosen.placement, load_rule="break_even"):
            yield (
                f"  Loading a hit only when that is sooner than computing it would change the goal by {1 - one.score / chosen.score:+.1%}; "
                f"{result.engine} cannot be told to."
            )


def _when(result: PlanResult) -> Iterator[str | Table]:
    known = result.traffic
    if not result.when or not known.named:
        return
    table = _table(("tier", "load", "compute", "wins from", "needs", "has"))
    for one in result.when:
        table.add_row(
            one.tier,
            format_seconds(one.load_s),
            format_seconds(one.recompute_s),
            _tokens(one.break_even_tokens),
            _rate(one.break_even_Bps),
            _has(one),
        )
    yield f"one request on an idle machine that reuses a prefix of {format_tokens(result.when[0].prefix_tokens)} tokens"
    yield table
    for why in dict.fromkeys(one.set_by for one in result.when if one.set_by):
        yield f"the length from which loading wins is set by {why}"
    if known.ideal_hit:
        yield (
            f"{known.ideal_hit:.1%} of the prompt tokens come again, half of them within "
            f"{format_seconds(known.reuse_s)}, "
            f"nine in ten within {format_seconds(known.reuse_p90_s)}"
        )
    for hit in sorted({one.hit for one in result.claims}, reverse=True):
        places = [
            f"{one.speedup:g} times from {format_tokens(one.prompt_tokens)} tokens" if one.prompt_tokens else f"{one.speedup:g} times never"
            for one in result.claims
            if one.hit == hit
        ]
        yield f"a first token can come, with {hit:.0%} of the prompt in host memory, " + ", ".join(places)
    if result.at_load:
        yield "gain when the traffic arrives " + ", ".join(f"{speed} times as fast: {gain:+.0%}" for speed, gain in result.at_load.items())


def _tokens(span: Range) -> str:
    if span.value is None:
        return "never" if span.lo is None else f"never (at best {format_tokens(span.lo)} tokens)"
    high = format_tokens(span.hi) if span.hi is not None else "never"
    return f"{format_tokens(span.value)} tokens ({format_tokens(span.lo or 0)}–{high})"


def _rate(span: Range) -> str:
    return "no rate will do" if span.value is None else format_rate(span.value)


def _has(one: TierWorth) -> str:
    return f"{format_rate(one.Bps)} {one.source}"


def _how_much(result: PlanResult) -> Iterator[str]:
    if result.verdict.kind not in ("offload", "tie") or not result.chosen:
        return
    placement = result.placement
    sizes = [(placement.cpu_bytes, "host memory"), (placement.disk_bytes, "disk"), (placement.remote_bytes, "the remote pool")]
    yield (" and ".join(f"{format_bytes(size)} of {what}" for size, what in sizes if size) + " for this replica, over all its ranks")
    for step in result.steps:
        word = "down" if step.capacity_bytes < placement.cpu_bytes else "up"
        yield (
            f"a step {word}, {format_bytes(step.capacity_bytes)}: {step.change:+.1%} in the goal, "
            f"{step.hit_change:+.1%} of the prompt tokens served"
        )
    if result.pin_s >= 1:
        yield f"pinning it adds about {format_seconds(result.pin_s)} to each start"
    if result.disk_life_years is not None:
        years = result.disk_life_years
        life = f"{years:.1f} years" if years >= 1 else f"{years * 365.25:.0f} days"
        yield f"at this rate of writing the disk's share for one replica is worn out after {life}"


def _splits(result: PlanResult) -> Iterator[str]:
    for one in result.splits:
        other, planned = one.other, one.planned
        rates = f"{other.requests_per_s_per_gpu:.3g} req/s per GPU instead of {planned.requests_per_s_per_gpu:.3g}"
        spread = f"{other.replicas} x TP {other.tp} instead of {planned.replicas} x TP {planned.tp}"
        yield (
            f"{one.gpus} GPUs as {spread}: {one.gain:+.0%} in the goal; "
            f"mean TTFT {_time(other.ttft_s)} instead of {_time(planned.ttft_s)}, "
            f"mean ITL {_time(other.itl_s)} instead of {_time(planned.itl_s)}, {rates}"
        )


def _options(result: PlanResult) -> Table:
    table = _table(("", "TTFT mean", "p95", "ITL p95", "req/s", "computed", "losing loads"))
    shown = list(result.options[:MOST_OPTIONS])
    for extra in (result.without, result.chosen):
        if extra is not None and extra not in shown:
            shown.append(extra)
    for one in shown:
        mark = "→ " if one == result.chosen else ""
        table.add_row(
            f"{mark}{one.name}",
            _time(one.ttft_s.mean),
            _time(one.ttft_s.p95),
            _time(one.itl_s.p95),
            f"{one.requests_per_s:,.3g}",
            f"{one.computed:.1%}",
            _losing(one),
        )
    return table


def _time(value: float | None) -> str:
    return "–" if value is None else format_seconds(value)


def _losing(one: Option) -> str:
    return f"{one.loads.losing:,} of {one.loads.count:,}" if one.loads.count else ""


def _assumption(one: Assumption) -> str:
    how = f"{one.kind}, {plus_minus(one.sigma_rel)}"
    if one.flips_at is None:
        return f"{one.name} ({how}): holds up to {one.tested_to:g} times" if one.tested_to != 1 else f"{one.name} ({how})"
    return f"{one.name} ({how}): another verdict from {one.flips_at:.2g} times on"


def _pruned(one: Pruned) -> str:
    return f"{escape(one.what)}: {escape(one.why)}"


def _table(heads: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for at, head in enumerate(heads):
        table.add_column(head, justify="right" if at else "left", no_wrap=at > 0)
    return table
