"""A plan as a person reads it: the verdict, three numbers and one caveat; then what it rests on, in tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Console
from rich.markup import escape

from kvplan.planning.objective import WORDS, changed
from kvplan.report import costs, plan_tables, plots
from kvplan.report.explain import in_words
from kvplan.report.tables import Rows, print_rows, say, seconds
from kvplan.results.deploy import Emission
from kvplan.results.placement import Notice, Placement
from kvplan.results.plan import Capacity, PlanResult, ServedLoad
from kvplan.units import format_bytes, format_seconds

MARKS = {
    "offload": "[green]✓[/]",
    "stream": "[red]✗[/]",
    "do_not_offload": "[red]✗[/]",
    "tie": "[yellow]=[/]",
    "cannot_say": "[yellow]?[/]",
}
KINDS = {"offload": "offload", "stream": "too long", "do_not_offload": "do not", "tie": "tie", "cannot_say": "cannot say"}


def show(console: Console, result: PlanResult, *, verbose: bool = False) -> None:
    """Print a plan; `verbose` adds what was tried, left out and compared."""
    lead = f"[yellow]{escape(result.assumed)}[/] · " if result.assumed else ""
    say(
        console,
        f"{lead}[bold]{escape(result.name)}[/] · {escape(result.model)} on {escape(result.machine)} · {result.engine} · "
        f"{result.traffic.requests:,} requests · GPU pool {format_bytes(result.pool_bytes)}",
    )
    if result.sessions:
        say(console, f"[dim]--sessions {escape(result.sessions)}[/]")
    console.print()
    say(console, f"{mark(result)} [bold]{escape(result.verdict.sentence)}[/]", hang=2)
    if result.asked:
        say(console, f"on {result.asked.engine}, the scenario's engine: {escape(result.asked.verdict.sentence)}", indent=2)
    for label, line in (*_numbers(result), *_caveats(result)):
        say(console, f"{label:<{LABEL}}{line}", indent=2, hang=LABEL)
    plan_tables.when(console, result)
    plan_tables.options(console, result)
    plan_tables.kinds(console, result)
    _plots(console, result)
    _section(console, "The verdict holds", [plan_tables.assumption(one) for one in result.assumptions])
    if verbose:
        _section(console, "Where first tokens can come sooner, with host memory", list(plan_tables.claims(result)))
        _section(console, "On other numbers of GPUs, at the same load and host memory per GPU", list(plan_tables.splits(result)))
        left_out = [f"{escape(one.what)}: {escape(one.why)}" for one in result.pruned]
        _section(console, "Left out", left_out)
    _section(console, "Mind", [in_words(one) for one in _notices(result)])
    if result.emission:
        _configuration(console, result.emission, result.placement)
    console.print()
    say(console, f"[dim]{_footer(result, verbose=verbose)}[/]")


def _plots(console: Console, result: PlanResult) -> None:
    """Times to first token with and without, and what a cache of each size serves, where they can be drawn."""
    if result.chosen is None or not plots.draws(console):
        return
    sides = {one.name: one.ttft_quantiles_s for one in (result.without, result.chosen) if one is not None}
    console.print()
    plots.distributions(console, sides, title="times to first token")
    plots.hit_curve(console, [(point.capacity_bytes, point.token_hit) for point in result.traffic.curve], result.sizes())


LABEL = 9
"""Columns of the words before the lines below the verdict."""


def _footer(result: PlanResult, *, verbose: bool) -> str:
    words = [f"{result.simulated} simulations" if result.simulated else "nothing had to be simulated"]
    words.append("`kvplan explain WORD` says what a word means")
    if not verbose and (result.pruned or result.splits):
        words.append("-v: what was left out, and other numbers of GPUs")
    return " · ".join(words)


def _configuration(console: Console, emission: Emission, placement: Placement) -> None:
    for part in emission.parts:
        console.print(f"\n[bold]{part.name}[/] for {emission.target} {emission.version}")
        console.print(part.text, markup=False, soft_wrap=True)
    if emission.router:
        tiers = "; ".join(f"{one.tier} {one.blocks:,} blocks of {one.block_tokens} tokens" for one in emission.router)
        per = "data-parallel rank" if placement.dp > 1 else "replica"
        say(console, f"A router that estimates what each replica has cached should assume, per {per}: {tiers}")


def mark(result: PlanResult) -> str:
    """✓: do it, and it runs; ~: worth it, with a reason against it."""
    if result.verdict.kind == "offload" and (result.verdict.reservations or not result.target_met):
        return "[yellow]~[/]"
    return MARKS[result.verdict.kind]


def compare(console: Console, results: Sequence[PlanResult]) -> None:
    """Print several plans of the same traffic, one a row."""
    console.print(f"[bold]{results[0].traffic.requests:,} requests on each[/]")
    rows: Rows = [["", "verdict", "take", "effect", "TTFT without", "with", "requests/s", "GPU pool"]]
    for one in results:
        best, without = one.chosen, one.without
        advised = best is not None and one.verdict.kind == "offload"
        rows.append(
            [
                escape(one.name),
                f"{mark(one)} {KINDS[one.verdict.kind]}",
                best.name if best and advised else "–",
                changed(one.objective, one.gain.value) if one.gain and one.gain.value is not None else "–",
                seconds(without.ttft_s.mean) if without else "–",
                seconds(best.ttft_s.mean) if best and advised else "–",
                f"{best.requests_per_s:,.3g}" if best else "–",
                format_bytes(one.pool_bytes),
            ]
        )
    print_rows(console, rows)
    for one in results:
        say(console, f"{escape(one.name)}: {escape(one.verdict.sentence)}", hang=2)


def _section(console: Console, title: str, lines: Sequence[str]) -> None:
    if lines:
        console.print(f"\n[bold]{title}[/]")
    for line in lines:
        say(console, line, indent=2, hang=2)


Line = tuple[str, str]
"""A word, and what there is to say of it."""


def _numbers(result: PlanResult) -> Iterator[Line]:
    """What it serves, what it takes, how long an empty tier takes to pay, and the sizes beside it."""
    chosen, without, placement = result.chosen, result.without, result.placement
    if chosen is None or without is None:
        return
    if result.capacity:
        yield "serves", _served(result, result.capacity)
    elif result.verdict.kind in ("offload", "tie") and result.objective not in ("throughput", "cost"):
        per, gpus = "" if placement.gpus == 1 else " per GPU", placement.gpus
        yield "serves", f"{chosen.requests_per_s / gpus:.3g} requests/s{per}, {without.requests_per_s / gpus:.3g} without"
    if not placement.offloads:
        return
    sizes = [(placement.cpu_bytes, "host memory"), (placement.disk_bytes, "disk"), (placement.remote_bytes, "the remote pool")]
    takes = " and ".join(f"{format_bytes(size)} of {what}" for size, what in sizes if size)
    over = f", over the {placement.ranks} GPUs of a replica" if placement.ranks > 1 else ""
    if placement.dp > 1:
        over = f", on each of {placement.dp} data-parallel ranks"
    pinned = f"; pinning it adds about {format_seconds(result.pin_s)} to each start" if result.pin_s >= 1 else ""
    yield "takes", f"{takes}{over}{pinned}"
    if host := result.host:
        asked = f"the tier {host.words}; " if host.taken_bytes != host.asked_bytes or host.shm_bytes else ""
        yield "limit", f"{asked}a container needs {format_bytes(host.limit_bytes)} of memory, weights and processes included"
    yield from costs.lines(result.costs)
    if chosen.warm_requests is not None:
        when = f"{chosen.warm_requests:,} requests ({format_seconds(chosen.warm_s or 0.0)})"
        yield "restart", f"an empty tier serves 90% of its steady hits after {when}"
    for step in result.steps:
        word = "smaller" if step.capacity_bytes < placement.cpu_bytes else "larger"
        effect = changed(result.objective, step.change)
        what = "" if effect == "no change" else f"{WORDS[result.objective]} "
        yield word, f"{format_bytes(step.capacity_bytes)} of host memory instead: {what}{effect}"


def _served(result: PlanResult, found: Capacity) -> str:
    """ServedLoad within the limits per GPU, with and without: in users where the traffic is so many of them, else in requests."""
    gpus = result.placement.gpus
    unit = "users per GPU" if found.without.users else "requests/s per GPU"

    def rate(load: ServedLoad) -> str:
        if not load.factor:
            return "none"
        size = f"{load.users / gpus:.3g}" if load.users else f"{load.requests_per_s / gpus:.2g}"
        return f"at least {size}" if load.at_least else size

    if found.ttft_p95_s is not None and found.chosen:
        more = f"{found.chosen.factor / found.without.factor:.2g} times the traffic"
        return f"{rate(found.chosen)} {unit} instead of {rate(found.without)} at the same time to first token (p95), {more}"
    if found.chosen:
        return f"{rate(found.chosen)} {unit} within the target, {rate(found.without)} without"
    return f"{rate(found.without)} {unit} within the target"


def _caveats(result: PlanResult) -> Iterator[Line]:
    """What speaks against it, what would be better, what is missing."""
    if result.verdict.missing:
        yield "missing", escape(result.verdict.missing)
    for reason in result.verdict.reservations:
        yield "[yellow]but[/]" + " " * (LABEL - 3), escape(reason)
    if chosen_anew(result):
        now = next((one for one in result.options if one.placement.kv_dtype != "fp8" and not one.placement.offloads), None)
        slow = f" ({seconds(now.ttft_s.mean)} to the first token in the mean)" if now else ""
        yield "fp8 KV", f"is part of it: as it is, the KV of running requests fills the GPU's pool{slow}"
    if result.overload:
        replicas = math.ceil(result.overload + 0.5)
        yield (
            "overload",
            f"this traffic is {result.overload:.1f} times what the machine serves, so that the queue grows; about {replicas} such "
            "replicas keep up",
        )
    narrow = list(_eight_bits(result))
    if narrow:
        yield "instead", f"{'; '.join(narrow)}; at the price of some accuracy"
    for line in (*_weighed(result), *_wearing(result)):
        yield "instead", line
    if result.at_load:
        goal = "ttft" if result.overload else result.objective
        effects = ", ".join(f"{changed(goal, gain)} at {_speed(float(speed))}" for speed, gain in result.at_load.items())
        yield "loads", f"{WORDS[goal]} with the same tiers: {effects}"


def chosen_anew(result: PlanResult) -> bool:
    """Was an 8-bit KV chosen where another was asked for."""
    return bool(result.chosen) and result.placement.kv_dtype == "fp8" and any(one.placement.kv_dtype != "fp8" for one in result.options)


def _speed(factor: float) -> str:
    return {0.5: "half the arrivals", 2.0: "twice the arrivals"}.get(factor, f"{factor:.2g} times the arrivals")


def _eight_bits(result: PlanResult) -> Iterator[str]:
    """What an 8-bit KV would do, with the tier and instead of it, where it was not advised."""
    chosen = result.chosen
    if chosen is None or chosen.placement.kv_dtype == "fp8":
        return
    besides = msgspec.structs.replace(chosen.placement, kv_dtype="fp8")
    for one in (one for one in result.options if one.placement.kv_dtype == "fp8" and not one.missed and one.rejected <= chosen.rejected):
        gain = 1 - one.score / chosen.score
        if one.placement == besides and gain > WORTH_SAYING:
            yield f"fp8 KV besides: another {changed(result.objective, gain)}"
        elif not one.placement.offloads and abs(gain) <= WORTH_SAYING:
            yield "fp8 KV and no tier: about as good"


WORTH_SAYING = 0.01
"""A smaller change of the objective is none."""


def _weighed(result: PlanResult) -> Iterator[str]:
    """What a rule that the engine lacks would do."""
    chosen = result.chosen
    if chosen is None or chosen.placement.load_rule != "always":
        return
    for one in result.options:
        if one.placement == msgspec.structs.replace(chosen.placement, load_rule="break_even"):
            gain = 1 - one.score / chosen.score
            if abs(gain) > WORTH_SAYING:
                effect = changed(result.objective, gain)
                yield f"loading only what loads sooner than it computes: {effect}, but {result.engine} cannot be told to"


def _wearing(result: PlanResult) -> Iterator[str]:
    """What does better and is not advised, because it wears out a disk."""
    chosen = result.chosen
    if chosen is None:
        return
    why = {one.what: one.why for one in result.pruned if "--allow-wear" in one.why}
    alike = [one for one in result.options if one.name in why and one.placement.kv_dtype == chosen.placement.kv_dtype and not one.missed]
    best = min(alike, key=lambda one: one.score, default=None)
    if best and (gain := 1 - best.score / chosen.score) > WORTH_SAYING:
        yield f"{best.name}: {changed(result.objective, gain)}, but {why[best.name]}"


def _notices(result: PlanResult) -> tuple[Notice, ...]:
    emitted = result.emission.notices if result.emission else ()
    said = result.host is not None and not result.host.shm_bytes  # by `limit`
    return (*result.notices, *(one for one in emitted if one.code != "host_memory" or one.hint or not said))
