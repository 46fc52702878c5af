"""A simulation as a page: does it keep up, for whom, from where, when, and what that rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kvplan.provenance import plus_minus
from kvplan.report.html.panel import Cell, Grid, KeyNumber, Mark, Panel, WebPage, grid
from kvplan.report.html.words import assumptions, counted, seconds, share, stats_grid, time_cell
from kvplan.results.simulate import SimResult
from kvplan.results.timeline import WHYS, Timeline, TimeSeries
from kvplan.units import format_bytes, format_seconds

LISTED_LOADS = 20

MANY = 0.25
"""Share of losing loads from which on the answer speaks of them."""


def page(result: SimResult, *, command: str = "") -> WebPage:
    """The report of one run."""
    figures = result.figures()
    mark, answer = _answer(result)
    return WebPage(
        kind="simulate",
        title=result.name,
        subject=subject(result),
        mark=mark,
        answer=answer,
        caveats=tuple(_caveats(result)),
        numbers=tuple(_numbers(result)),
        panels=tuple(panel for panel in _panels(result, figures) if panel is not None),
        command=command,
        foot=foot(result),
    )


def subject(result: SimResult) -> str:
    """What ran where."""
    known = result.provenance
    model, machine, engine = (known.get(part, {}) for part in ("model", "machine", "engine"))
    words = [f"{model.get('name', '?')} on {machine.get('name', '?')}", f"{engine.get('name', '?')} {engine.get('version', '')}".strip()]
    return " · ".join([*words, f"{result.requests.completed:,} of {result.requests.total:,} requests"])


def foot(result: SimResult) -> str:
    """What made the page."""
    return f"kvplan {result.provenance.get('kvplan', '')} · seed {result.provenance.get('seed', 0)} · simulated, not measured"


def _answer(result: SimResult) -> tuple[Mark, str]:
    """Does it keep up, and are the targets met."""
    done = result.requests
    if not done.completed:
        return "no", "Nothing is served: no request fits the GPU's pool and the model's context."
    if result.overload:
        return "no", f"It does not keep up: this traffic is {result.overload:.1f} times what the machine serves, and the queue grows."
    missed = [one for one in result.targets if not one.met]
    if missed:
        return "no", f"It keeps up and misses {counted(len(missed), 'target')}: " + ", ".join(
            f"{one.name} {seconds(one.value_s)} where {format_seconds(one.limit_s)} were asked for" for one in missed
        ) + "."
    first = f"the mean time to first token is {seconds(result.ttft_s.mean)}"
    loads = result.loads
    if loads.losing > MANY * loads.count:
        return "maybe", f"It keeps up, yet {loads.losing:,} of {loads.count:,} loads took longer than computing again: {first}."
    met = f" and meets {counted(len(result.targets), 'target')}" if result.targets else ""
    return "yes", f"It keeps up{met}: {first}."


def _caveats(result: SimResult) -> Iterator[str]:
    if result.partial:
        yield f"Partial: interrupted with {result.requests.unfinished:,} requests not finished."
    if result.largest_cause:
        yield result.largest_cause
    yield from result.warnings


def _numbers(result: SimResult) -> Iterator[KeyNumber]:
    around = result.interval.ttft_mean_s
    between = f"95 % interval {format_seconds(around[0])} to {format_seconds(around[1])}" if around else ""
    yield KeyNumber("mean time to first token", seconds(result.ttft_s.mean), between)
    yield KeyNumber("95 of 100 first tokens within", seconds(result.ttft_s.p95), f"99 of 100: {seconds(result.ttft_s.p99)}")
    yield KeyNumber("between tokens, mean", seconds(result.itl_s.mean), f"95 of 100: {seconds(result.itl_s.p95)}")
    saved = 1 - result.prompt_tokens.computed / max(1, result.prompt_tokens.total)
    best = f"of {result.ideal_hit_rate:.1%} that the traffic allows" if result.ideal_hit_rate is not None else ""
    yield KeyNumber("prompt tokens not computed", f"{saved:.1%}", best)
    yield KeyNumber(
        "served", f"{result.throughput.requests_per_s:,.3g} requests/s", f"{result.throughput.output_tokens_per_s:,.0f} output tokens/s"
    )


def _panels(result: SimResult, figures: dict[str, Any]) -> Iterator[Panel | None]:
    if result.requests.completed:
        yield from _served(result, figures)
    yield assumptions(result.provenance)


def _served(result: SimResult, figures: dict[str, Any]) -> Iterator[Panel | None]:
    yield Panel(
        title="How long does a first token take, and for how many?",
        lead=f"Half of the requests have it within {seconds(result.ttft_s.p50)}, 95 of 100 within {seconds(result.ttft_s.p95)}.",
        figure=figures["ttft"],
        grid=stats_grid(result),
    )
    yield Panel(title="Where do the prompts' tokens come from?", lead=_tokens(result), figure=figures["tokens"], grid=_tiers(result))
    if result.timeline is not None and "hit_rate" in figures:
        points = result.timeline.hit_curve[:: max(1, len(result.timeline.hit_curve) // 12)]
        rows = [[Cell(format_bytes(one.capacity_bytes), one.capacity_bytes), share(one.token_hit)] for one in points]
        yield Panel(
            title="How much memory does this traffic's reuse need?",
            lead="What one LRU cache of each size would serve, from the trace alone; the upright lines are the tiers of this run.",
            figure=figures["hit_rate"],
            grid=grid("Hit rate of an LRU cache", ("capacity", "of the prompt tokens"), rows),
        )
    if result.timeline is not None:
        yield from _over_time(result, result.timeline, figures)
    yield doubts(result, figures)


def _tokens(result: SimResult) -> str:
    shares = result.token_shares()
    below = sum(part for name, part in shares.items() if name not in ("gpu", "computed"))
    text = f"{shares['gpu']:.1%} are still on the GPU, {below:.1%} come from below it, {shares['computed']:.1%} are computed."
    return text + (
        f" The traffic repeats {result.ideal_hit_rate:.1%}: no cache can serve more." if result.ideal_hit_rate is not None else ""
    )


def _tiers(result: SimResult) -> Grid:
    heads = ("place", "capacity", "most used", "prompt tokens served", "loaded", "stored", "link busy")
    rows = []
    for tier in result.tiers:
        moved = [Cell(format_bytes(size), size) for size in (tier.loaded_bytes, tier.stored_bytes)]
        below = [*moved, share(tier.link_busy_fraction)] if tier.name != "gpu" else [Cell("")] * 3
        most = Cell(tier.used, tier.peak_bytes / max(1, tier.capacity_bytes))
        rows.append([Cell(tier.name), Cell(tier.capacity, tier.capacity_bytes), most, share(tier.hit_rate), *below])
    computed = result.prompt_tokens.computed / max(1, result.prompt_tokens.total)
    rows.append([Cell("computed"), Cell(""), Cell(""), share(computed), Cell(""), Cell(""), Cell("")])
    return grid("Tiers: capacity, use, and what they served", heads, rows)


def _over_time(result: SimResult, timeline: Timeline, figures: dict[str, Any]) -> Iterator[Panel]:
    yield Panel(
        title="How full was each tier, which link was busy, who waited?",
        lead=f"{_fullest(timeline)} At most {_most(timeline, 'waiting')} requests waited and {_most(timeline, 'running')} ran at once. "
        "Lines are means, shades reach up to the largest values.",
        figure=figures["over_time"],
        grid=grid(
            "Over the whole run",
            ("series", "mean", "largest", "when, s"),
            [[Cell(one.name), *_range(one, timeline.span_s)] for one in (*timeline.tiers, *timeline.links, *timeline.queues)],
        ),
    )
    if "loads" in figures:
        yield Panel(
            title="Which loads were slower than computing again, and why?",
            lead=_losing(result, timeline),
            figure=figures["loads"],
            grid=_load_grid(timeline),
            notes=(f"{timeline.loads_left_out:,} loads that won are not drawn.",) if timeline.loads_left_out else (),
        )
    if "phases" in figures:
        yield Panel(
            title="Where does the time to a first token go?",
            lead="Means, for all requests and for the slowest: what is longest there is what a change must shorten.",
            figure=figures["phases"],
            grid=_phase_grid(timeline),
        )


def _phase_grid(timeline: Timeline) -> Grid:
    names = list(timeline.phases[0].seconds)
    rows = [[Cell(f"{one.group} ({one.requests:,})"), *(time_cell(one.seconds[name]) for name in names)] for one in timeline.phases]
    return grid("Mean time of each phase", ("requests", *names), rows)


def _range(one: TimeSeries, span_s: float) -> list[Cell]:
    at = max(range(len(one.values)), key=one.values.__getitem__)
    from_s = span_s * at / len(one.values)

    def shown(value: float) -> Cell:
        text = {"bytes": format_bytes(value), "share": f"{value:.1%}"}.get(one.unit, f"{value:,.1f}")
        return Cell(text, value)

    return [shown(sum(one.means) / len(one.means)), shown(one.values[at]), Cell(f"{from_s:,.1f}", from_s)]


def _most(timeline: Timeline, name: str) -> str:
    return f"{max((max(one.values) for one in timeline.queues if one.name == name), default=0.0):,.0f}"


TIER_WORDS = {"gpu": "the GPU's pool", "cpu": "host memory", "disk": "the disk", "remote": "the remote pool"}


def _fullest(timeline: Timeline) -> str:
    bounded = [one for one in timeline.tiers if one.most and "," not in one.name]
    full = [TIER_WORDS.get(one.name, one.name) for one in bounded if max(one.values) > 0.99 * (one.most or 0.0)]
    busiest = max(timeline.links, key=lambda one: sum(one.means), default=None)
    words = f"{' and '.join(full)} filled up." if full else "no tier filled up."
    words = words[:1].upper() + words[1:]
    if busiest is None:
        return words
    mean = sum(busiest.means) / len(busiest.means)
    return f"{words} Busiest were {busiest.name}: {mean:.0%} of the time, {max(busiest.values):.0%} at the most."


def _losing(result: SimResult, timeline: Timeline) -> str:
    loads = result.loads
    if not loads.losing:
        return f"None: each of {loads.count:,} loads was faster than computing again."
    reasons: dict[str, int] = {}
    for one in timeline.loads:
        if one.why != "faster":
            reasons[one.why] = reasons.get(one.why, 0) + 1
    most = max(reasons, key=reasons.__getitem__) if reasons else "steps"
    return (
        f"{loads.losing:,} of {loads.count:,} loads took longer than computing again, {format_seconds(loads.losing_s)} in all; "
        f"mostly because {WHYS[most].replace('it ', 'they ')}."
    )


def _load_grid(timeline: Timeline) -> Grid:
    worst = sorted(timeline.loads, key=lambda one: one.recompute_s - one.load_s)[:LISTED_LOADS]
    rows = []
    for one in worst:
        lost = one.load_s - one.recompute_s
        times = [Cell(format_seconds(value), value) for value in (one.load_s, one.recompute_s, lost)]
        rows.append(
            [
                Cell(f"request {one.index:,}", one.index),
                Cell(f"{one.at_s:,.2f}", one.at_s),
                Cell(one.tier),
                Cell(f"{one.tokens:,}", one.tokens),
                *times,
                Cell(WHYS[one.why]),
            ]
        )
    heads = ("request", "at, s", "from", "tokens", "loaded in", "computed in", "lost", "why")
    return grid(f"The {len(rows)} loads that lost most", heads, rows, words=("from", "why"), sorts=True)


def doubts(result: SimResult, figures: dict[str, Any]) -> Panel | None:
    """What the answer is least sure about."""
    if "doubts" not in figures:
        return None
    rows = [
        [Cell(one.what), Cell(one.kind), Cell(plus_minus(one.sigma_rel), one.sigma_rel), share(one.share)]
        for one in result.interval.rests_on
    ]
    first = result.doubts()[0]
    return Panel(
        title="What would change these times most?",
        lead=f"The 95 % interval of the mean time to first token comes mostly from {first[0]}; `kvplan calibrate` measures it.",
        figure=figures["doubts"],
        grid=grid(
            "Numbers that the mean rests on",
            ("number", "known how", "95 % interval", "of each percent, it moves"),
            rows,
            words=("known how",),
        ),
    )
