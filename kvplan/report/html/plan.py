"""A plan as a page: the verdict, what it gains, how much is enough, what would change it, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from kvplan.planning.objective import between, changed
from kvplan.provenance import plus_minus
from kvplan.report import costs
from kvplan.report.html.panel import Cell, Grid, KeyNumber, Mark, Panel, WebPage, grid
from kvplan.report.html.words import assumptions, counted, seconds, share, stat_cells, time_cell
from kvplan.results.plan import Capacity, Option, PlanResult, PlanTable, Range, ServedLoad
from kvplan.units import format_bytes, format_rate, format_seconds

MARKS: dict[str, Mark] = {"offload": "yes", "do_not_offload": "no", "stream": "no", "tie": "maybe", "cannot_say": "maybe"}
TAKES = (("cpu_bytes", "host memory"), ("disk_bytes", "disk"), ("remote_bytes", "remote pool"))


def page(result: PlanResult, *, command: str = "") -> WebPage:
    """The report of one plan."""
    return WebPage(
        kind="plan",
        title=result.name,
        subject=f"{result.model} on {result.machine} · {result.engine} · {result.traffic.requests:,} requests",
        mark=_mark(result),
        answer=result.verdict.sentence,
        caveats=tuple(_caveats(result)),
        numbers=tuple(_numbers(result)),
        panels=tuple(_panels(result, result.figures())),
        command=command,
        foot=f"kvplan {result.provenance.get('kvplan', '')} · {counted(result.simulated, 'simulation')}, not measured",
    )


def _mark(result: PlanResult) -> Mark:
    if result.verdict.kind == "offload" and (result.verdict.reservations or not result.target_met):
        return "maybe"
    return MARKS[result.verdict.kind]


def _caveats(result: PlanResult) -> Iterator[str]:
    if result.assumed:
        yield result.assumed
    if result.verdict.missing:
        yield f"Missing: {result.verdict.missing}"
    yield from result.verdict.reservations
    if result.overload:
        yield f"Overloaded: this traffic is {result.overload:.1f} times what the machine serves, so that the queue grows."
    if result.asked:
        yield f"On {result.asked.engine}, the scenario's engine: {result.asked.verdict.sentence}"
    yield from result.warnings


def _numbers(result: PlanResult) -> Iterator[KeyNumber]:
    chosen, without, gain = result.chosen, result.without, result.gain
    if chosen and without:
        yield KeyNumber("mean time to first token", seconds(chosen.ttft_s.mean), f"{seconds(without.ttft_s.mean)} without")
    if gain and gain.value is not None:
        surely = between(result.objective, gain.lo, gain.hi) if gain.lo is not None and gain.hi is not None else ""
        yield KeyNumber(OBJECTIVES.get(result.objective, result.objective), changed(result.objective, gain.value), surely)
    if result.capacity and result.capacity.chosen:
        yield _served(result.capacity.chosen, result.capacity, result.placement.gpus)
    takes = [f"{format_bytes(getattr(result.placement, name))} {what}" for name, what in TAKES if getattr(result.placement, name)]
    if takes:
        yield KeyNumber("it takes", " + ".join(takes), "over all ranks of a replica")


def _served(found: ServedLoad, beside: Capacity, gpus: int) -> KeyNumber:
    """The most that is served within the limits."""
    unit = "users per GPU" if found.users else "requests/s per GPU"

    def rate(load: ServedLoad) -> str:
        return f"{'at least ' if load.at_least else ''}{(load.users or load.requests_per_s) / gpus:.2g}"

    limit = f" at a p95 of {format_seconds(beside.ttft_p95_s)}" if beside.ttft_p95_s is not None else " within the target"
    return KeyNumber(unit + limit, rate(found), f"{rate(beside.without)} without")


def _panels(result: PlanResult, figures: dict[str, Any]) -> Iterator[Panel]:
    sides = [(name, one) for name, one in (("without", result.without), ("with", result.chosen)) if one is not None]
    if "ttft" in figures:
        rows = [[Cell(f"{name}: {one.name}"), *stat_cells(one.ttft_s)] for name, one in sides]
        yield Panel(
            title="How long does a first token take, without and with it?",
            lead=_with_and_without(result),
            figure=figures["ttft"],
            grid=grid("Time to first token", ("", "mean", "p50", "p90", "p95", "p99", "most"), rows),
        )
    if "hit_rate" in figures:
        points = result.traffic.curve[:: max(1, len(result.traffic.curve) // 12)]
        yield Panel(
            title="How much memory does this traffic's reuse need?",
            lead=f"{result.traffic.ideal_hit:.1%} of the prompt tokens come again: half within {format_seconds(result.traffic.reuse_s)}, "
            f"nine in ten within {format_seconds(result.traffic.reuse_p90_s)}. The upright lines are the memories of the plan.",
            figure=figures["hit_rate"],
            grid=grid(
                "Hit rate of an LRU cache",
                ("capacity", "of the prompt tokens"),
                [_point(one.capacity_bytes, one.token_hit) for one in points],
            ),
        )
    if result.options:
        yield Panel(
            title="Which placement is best, and what does more memory buy?",
            lead=_more(result),
            figure=figures.get("options"),
            grid=_options(result),
            shown=True,
            notes=tuple(_costs(result)),
        )
    if "when" in figures:
        yield Panel(
            title="When does loading beat computing again?",
            lead="One request on an idle machine, at the median length of a reused prefix.",
            figure=figures["when"],
            grid=_when(result),
            notes=tuple(dict.fromkeys(one.set_by for one in result.when if one.set_by)),
        )
    if "flips" in figures:
        yield Panel(
            title="What would have to be wrong for another verdict?",
            lead="The bars are how well each number is known; a cross far outside its bar means that the verdict is safe.",
            figure=figures["flips"],
            grid=_flips(result),
        )
    if "at_load" in figures:
        rows = [[Cell(f"{float(speed):g} times"), Cell(changed(result.objective, gain), gain)] for speed, gain in result.at_load.items()]
        yield Panel(
            title="Does it still pay at other loads?", figure=figures["at_load"], grid=grid("Gain by load", ("arrivals", "gain"), rows)
        )
    yield from _todo(result)
    yield assumptions(result.provenance)


def _with_and_without(result: PlanResult) -> str:
    chosen, without = result.chosen, result.without
    if not chosen or not without:
        return ""
    return (
        f"95 of 100 first tokens come within {seconds(chosen.ttft_s.p95)} ({chosen.name}), {seconds(without.ttft_s.p95)} without. "
        f"Prompt tokens computed: {chosen.computed:.1%} instead of {without.computed:.1%}."
    )


def _point(capacity: float, hit: float) -> list[Cell]:
    return [Cell(format_bytes(capacity), capacity), share(hit)]


def _costs(result: PlanResult) -> Iterator[str]:
    """Money, wear and energy, each in a sentence."""
    for label, sentence in costs.lines(result.costs):
        yield f"{label.capitalize()}: {Text.from_markup(sentence).plain}."


OBJECTIVES = {"ttft": "time to first token", "throughput": "requests served", "cost": "cost"}


def _more(result: PlanResult) -> str:
    words = [
        f"With {format_bytes(step.capacity_bytes)} of {step.tier} memory instead: {changed(result.objective, step.change)}."
        for step in result.steps
    ]
    return " ".join((f"Ranked by {OBJECTIVES.get(result.objective, result.objective)}.", *words))


def _options(result: PlanResult) -> Grid:
    heads = (
        "placement",
        "first token, mean",
        "first token, p95",
        "between tokens, p95",
        "requests/s",
        "computed",
        "losing loads",
        "cost/h",
        "misses",
    )
    options = list(result.options)
    options += [one for one in (result.without, result.chosen) if one is not None and one not in options]
    priced = any(one.cost_per_hour is not None for one in options)
    rows = [_option(one, priced) for one in options]
    marked = options.index(result.chosen) if result.chosen in options else None
    kept = [
        at for at, head in enumerate(heads) if (head != "cost/h" or priced) and (head != "misses" or any(one.missed for one in options))
    ]
    return grid(
        "Placements that were simulated, the best first",
        [heads[at] for at in kept],
        [[row[at] for at in kept] for row in rows],
        words=("misses",),
        sorts=True,
        marked=marked,
    )


def _option(one: Option, priced: bool) -> list[Cell]:
    cost = Cell(f"{one.cost_per_hour:,.3g}", one.cost_per_hour) if priced and one.cost_per_hour is not None else Cell("–")
    losing = Cell(f"{one.loads.losing:,} of {one.loads.count:,}", one.loads.losing) if one.loads.count else Cell("–")
    rate = Cell(f"{one.requests_per_s:,.3g}", one.requests_per_s)
    times = [time_cell(value) for value in (one.ttft_s.mean, one.ttft_s.p95, one.itl_s.p95)]
    return [Cell(one.name), *times, rate, share(one.computed), losing, cost, Cell(", ".join(one.missed))]


def _when(result: PlanResult) -> Grid:
    rows = []
    for one in result.when:
        needs = "never" if one.break_even_Bps.value is None else format_rate(one.break_even_Bps.value)
        has = Cell(f"{format_rate(one.Bps)}, {one.source}", one.Bps)
        rows.append([Cell(one.tier), time_cell(one.load_s), time_cell(one.recompute_s), _tokens(one.break_even_tokens), Cell(needs), has])
    return grid("Loading against computing", ("tier", "load", "compute", "wins from", "needs", "has"), rows)


def _tokens(span: Range) -> Cell:
    if span.value is None:
        return Cell("never")
    high = f"{span.hi:,.0f}" if span.hi is not None else "never"
    return Cell(f"{span.value:,.0f} tokens ({span.lo or 0:,.0f} to {high})", span.value)


def _flips(result: PlanResult) -> Grid:
    rows = []
    for one in result.assumptions:
        ends = f"flips at {one.flips_at:.2g} times" if one.flips_at is not None else f"holds to {one.tested_to:.2g} times"
        edge = Cell(changed(result.objective, one.gain_at_edge), one.gain_at_edge)
        rows.append([Cell(one.name), Cell(one.kind), Cell(plus_minus(one.sigma_rel), one.sigma_rel), Cell(ends), edge, Cell(one.source)])
    heads = ("number", "known how", "95 % interval", "the verdict", "gain at the bad end", "source")
    return grid("What the verdict rests on", heads, rows, words=("known how", "the verdict", "source"))


def _todo(result: PlanResult) -> Iterator[Panel]:
    emission = result.emission
    notices = (*result.notices, *(emission.notices if emission else ()))
    rows = [[Cell(one.sentence), Cell(one.hint)] for one in notices]
    pruned = grid("What was left out, and why", ("what", "why"), [[Cell(one.what), Cell(one.why)] for one in result.pruned], words=("why",))
    if not rows and not emission and not result.pruned:
        return
    yield Panel(
        title="What is to be done, and what to mind?",
        lead=f"The configuration of {emission.target} {emission.version} that carries it out." if emission else "",
        grid=grid("To mind", ("what", "how to mend it"), rows, words=("how to mend it",)) if rows else None,
        texts=tuple((part.name, part.text) for part in emission.parts) if emission else (),
        more=(pruned,) if result.pruned else (),
    )


def table(result: PlanTable, *, command: str = "") -> WebPage:
    """The report of plans side by side."""
    rows = result.rows
    paying = [one.name for one in rows if one.verdict.kind == "offload"]
    return WebPage(
        kind="plan: a comparison",
        title=f"{counted(len(rows), 'plan')} for the same traffic",
        subject=f"{rows[0].traffic.requests:,} requests on each",
        mark="none",
        answer=f"Offloading pays on {len(paying)} of {len(rows)}: {', '.join(paying)}." if paying else "Offloading pays on none of them.",
        panels=tuple(_table_panels(rows, result.figures())),
        command=command,
        foot=f"kvplan {rows[0].provenance.get('kvplan', '')} · simulated, not measured",
    )


def _table_panels(rows: tuple[PlanResult, ...], figures: dict[str, Any]) -> Iterator[Panel]:
    heads = ("plan", "verdict", "take", "gain", "first token without", "with", "requests/s", "GPU pool")
    cells = []
    for one in rows:
        best = one.chosen if one.verdict.kind == "offload" else None
        gain = Cell(changed(one.objective, one.gain.value), one.gain.value) if one.gain and one.gain.value is not None else Cell("–")
        rate = Cell(f"{one.chosen.requests_per_s:,.3g}", one.chosen.requests_per_s) if one.chosen else Cell("–")
        times = [time_cell(side.ttft_s.mean if side else None) for side in (one.without, best)]
        pool = Cell(format_bytes(one.pool_bytes), one.pool_bytes)
        cells.append([Cell(one.name), Cell(one.verdict.kind.replace("_", " ")), Cell(best.name if best else "–"), gain, *times, rate, pool])
    told = grid("Plans", heads, cells, words=("verdict", "take"), sorts=True)
    yield Panel(
        title="Where does offloading pay?", lead="A click on a head sorts by it.", figure=figures.get("gain"), grid=told, shown=True
    )
    if "ttft" in figures:
        spread = [[Cell(one.name), *stat_cells(one.chosen.ttft_s)] for one in rows if one.chosen]
        yield Panel(
            title="How long does a first token take with the best placement on each?",
            figure=figures["ttft"],
            grid=grid("Time to first token", ("", "mean", "p50", "p90", "p95", "p99", "most"), spread, sorts=True),
        )
    sentences = [[Cell(one.name), Cell(one.verdict.sentence), Cell(one.verdict.reason)] for one in rows]
    yield Panel(title="What does each plan say?", grid=grid("Verdicts", ("plan", "verdict", "why"), sentences, words=("verdict", "why")))
    yield assumptions(rows[0].provenance)
