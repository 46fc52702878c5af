"""A comparison as a page: who is fastest, for whom, from where, when, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvplan.report.compare import WORDS, handover_words, shown
from kvplan.report.html.panel import Cell, Grid, KeyNumber, Panel, WebPage, grid
from kvplan.report.html.simulate import foot
from kvplan.report.html.words import assumptions, share, stat_cells, time_cell
from kvplan.results.compare import Compared, Comparison
from kvplan.results.simulate import SimResult
from kvplan.units import format_seconds


def page(result: Comparison, *, command: str = "") -> WebPage:
    """The report of several runs."""
    runs = dict(zip(result.names, result.runs, strict=True))
    served = {name: run for name, run in runs.items() if run.ttft_s.mean is not None}
    ranked = sorted(served, key=lambda name: served[name].ttft_s.mean or 0.0)
    return WebPage(
        kind="simulate: a comparison",
        title=f"{', '.join(result.names[:-1])} and {result.names[-1]} compared"
        if len(result.names) <= 3
        else f"{len(result.names)} runs compared",
        subject=f"{result.runs[0].requests.total:,} requests each" if len({run.requests.total for run in result.runs}) == 1 else "",
        mark="none",
        answer=_answer(ranked, served),
        caveats=tuple(_caveats(runs)),
        numbers=tuple(_number(name, served[name]) for name in ranked[:4]),
        panels=tuple(_panels(result, runs, result.figures())),
        command=command,
        foot=foot(result.runs[0]),
    )


def _answer(ranked: list[str], runs: dict[str, SimResult]) -> str:
    if not ranked:
        return "None of them serves anything."
    best = runs[ranked[0]].ttft_s.mean or 0.0
    if len(ranked) == 1:
        return f"Only {ranked[0]} serves: its mean time to first token is {format_seconds(best)}."
    last = runs[ranked[-1]].ttft_s.mean or 0.0
    alike = last < 1.01 * best
    if alike:
        return f"They are alike: mean times to first token from {format_seconds(best)} to {format_seconds(last)}."
    return (
        f"{ranked[0]} is fastest to a first token: {format_seconds(best)} in the mean, {ranked[-1]} takes {format_seconds(last)} "
        f"({last / best:.2g} times as long)."
    )


def _caveats(runs: dict[str, SimResult]) -> Iterator[str]:
    for name, run in runs.items():
        if not run.requests.completed:
            yield f"{name} serves nothing."
        if run.overload:
            yield f"{name} does not keep up: the traffic is {run.overload:.1f} times what it serves."
        missed = [one.name for one in run.targets if not one.met]
        if missed:
            yield f"{name} misses its target: {', '.join(missed)}."
    seen = dict.fromkeys(text for run in runs.values() for text in run.warnings)
    yield from seen


def _number(name: str, run: SimResult) -> KeyNumber:
    around = run.interval.ttft_mean_s
    beside = f"mean time to first token; 95 %: {format_seconds(around[0])} to {format_seconds(around[1])}" if around else ""
    return KeyNumber(name, format_seconds(run.ttft_s.mean or 0.0), beside)


def _panels(result: Comparison, runs: dict[str, SimResult], figures: dict[str, Any]) -> Iterator[Panel]:
    yield Panel(
        title="Which one is best, and at what?",
        lead="A click on a head sorts by it.",
        grid=_overview(runs),
        notes=tuple(f"{handover_words(one)}." for one in result.handovers),
    )
    if not any(run.ttft_quantiles_s for run in result.runs):
        yield assumptions(result.runs[0].provenance)
        return
    spread = [[Cell(name), *stat_cells(run.ttft_s)] for name, run in runs.items()]
    yield Panel(
        title="How long does a first token take with each, and for how many?",
        lead="The further left a curve lies, the sooner; where two cross, one is better for some requests and worse for others.",
        figure=figures["ttft"],
        grid=grid("Time to first token", ("", "mean", "p50", "p90", "p95", "p99", "most"), spread, sorts=True),
    )
    yield Panel(title="Where do the prompts' tokens come from?", figure=figures["tokens"], grid=_sources(runs))
    if "over_time" in figures:
        yield Panel(
            title="How do they differ over time?",
            lead="Left, how full each tier was; right, how many requests ran and waited. All on the same axes.",
            figure=figures["over_time"],
            grid=_most(runs),
        )
    if "phases" in figures:
        title = "Where does the time to a first token go?"
        yield Panel(title=title, lead="Means of all requests.", figure=figures["phases"], grid=_phases(runs))
    if result.differences:
        heads = ("figure", *result.names, "why")
        rows = [_difference(WORDS.get(one.what, one.what), one) for one in result.differences]
        told = grid("What came out differently", heads, rows, words=("why",))
        yield Panel(title="Why do they differ?", lead="The largest difference first.", grid=told)
    if result.settings:
        heads = ("setting", *result.names, "what it decides")
        explained, others = ([one for one in result.settings if bool(one.reason) == wanted] for wanted in (True, False))
        told = grid("What was put in", heads, [_difference(one.what, one) for one in explained], words=heads[1:])
        rest = grid(f"{len(others)} more settings", heads[:-1], [_difference(one.what, one)[:-1] for one in others], words=heads[1:])
        yield Panel(title="What was put in differently?", grid=told, more=(rest,) if others else ())
    yield assumptions(result.runs[0].provenance)


def _difference(name: str, one: Compared) -> list[Cell]:
    return [Cell(name), *(_value(one.what, value) for value in one.values), Cell(one.reason)]


def _value(what: str, value: object) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(shown(what, value), float(value) if number else None)  # type: ignore[arg-type]


def _overview(runs: dict[str, SimResult]) -> Grid:
    times = ("first token, mean", "first token, p95", "between tokens, mean", "between tokens, p95")
    heads = ("run", *times, "requests/s", "GPU hits", "hits below", "computed", "losing loads", "keeps up")
    rows = []
    for name, run in runs.items():
        shares = run.token_shares()
        below = sum(part for place, part in shares.items() if place not in ("gpu", "computed"))
        cells = [time_cell(value) for value in (run.ttft_s.mean, run.ttft_s.p95, run.itl_s.mean, run.itl_s.p95)]
        rate = Cell(f"{run.throughput.requests_per_s:,.3g}", run.throughput.requests_per_s)
        losing = Cell(f"{run.loads.losing:,} of {run.loads.count:,}", run.loads.losing)
        keeps = Cell(f"no, {run.overload:.1f} times too much" if run.overload else "yes" if run.requests.completed else "serves nothing")
        rows.append([Cell(name), *cells, rate, share(shares.get("gpu")), share(below), share(shares["computed"]), losing, keeps])
    return grid("The runs", heads, rows, words=("keeps up",), sorts=True)


def _sources(runs: dict[str, SimResult]) -> Grid:
    places = list(dict.fromkeys(place for run in runs.values() for place in run.token_shares()))
    rows = [[Cell(name), *(share(run.token_shares().get(place)) for place in places)] for name, run in runs.items()]
    return grid("Shares of the prompt tokens", ("run", *places), rows, sorts=True)


def _most(runs: dict[str, SimResult]) -> Grid:
    rows = []
    for name, run in runs.items():
        for one in (*run.timeline.tiers, *run.timeline.queues) if run.timeline else ():
            most = max(one.values)
            rows.append([Cell(name), Cell(one.name), Cell(f"{most / one.most:.0%}" if one.most else f"{most:,.0f}", most)])
    return grid("Largest over the run", ("run", "series", "largest"), rows, words=("series",))


def _phases(runs: dict[str, SimResult]) -> Grid:
    told = {name: run.timeline.phases[0].seconds for name, run in runs.items() if run.timeline and run.timeline.phases}
    names = list(next(iter(told.values()), {}))
    rows = [[Cell(run), *(time_cell(row[name]) for name in names)] for run, row in told.items()]
    return grid("Mean time of each phase", ("run", *names), rows)
