"""Traces and hit-rate curves for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape

from kvplan.report.tables import Rows, bar, print_rows, say
from kvplan.results.trace import CurvePoint, CurveResult, Distribution, InspectResult
from kvplan.units import format_bytes, format_seconds, format_tokens

_BARS = " ▁▂▃▄▅▆▇█"


def show_curve(console: Console, result: CurveResult) -> None:
    """Print hit rate against capacity as a table with bars, and what follows from it in words."""
    say(console, f"[bold]{_curve_title(result)}[/]")
    print_rows(console, _curve_rows(console, result), left=())
    for line in _curve_words(result):
        say(console, line)


def show_inspect(console: Console, result: InspectResult) -> None:
    """Print a trace on one screen."""
    say(console, f"[bold]{escape(result.trace)}[/]: {result.requests:,} requests, read as {result.format}")
    for line in _arrivals(result):
        say(console, line)
    print_rows(console, _lengths(result))
    for line in _sharing(result) if result.sharing else ():
        say(console, line)
    for quirk in result.quirks:
        say(console, f"[yellow]![/] {escape(quirk)}", hang=2)
    for limit in result.cannot_say:
        say(console, f"cannot say {escape(limit)}", hang=2)


def sparkline(counts: Sequence[float]) -> str:
    """One character a value, its height in proportion to the largest."""
    top = max(counts, default=0) or 1
    return "".join(_BARS[min(8, round(8 * count / top))] for count in counts)


def _curve_title(result: CurveResult) -> str:
    window = f", the first {result.warmup_requests:,} as warm-up" if result.warmup_requests else ""
    blocks = f"{result.unique_blocks:,} distinct blocks of {result.block_tokens} tokens"
    return f"{escape(result.trace)}: {result.requests:,} requests{window}, {blocks}"


def _curve_rows(console: Console, result: CurveResult) -> Rows:
    sized, sampled = bool(result.bytes_per_block), result.sampled_one_in > 1
    head = ["blocks", "tokens", *(["GiB"] if sized else [])]
    for name in result.curves:
        head += [f"{name} hits", *(["±"] if sampled else [])]
    rows: Rows = [[*head, f"{next(iter(result.curves))}, of the ideal"]]
    points_of: Iterable[tuple[CurvePoint, ...]] = zip(*result.curves.values(), strict=True)
    for points in points_of:
        first = points[0]
        cells = [f"{first.capacity_blocks:,}", format_tokens(first.capacity_blocks * result.block_tokens)]
        if first.capacity_bytes is not None:
            cells.append(f"{first.capacity_bytes / 2**30:,.1f}")
        for point in points:
            cells.append(_percent(point.token_hit))
            if point.error is not None:
                cells.append(_percent(point.error))
        rows.append([*cells, bar(console, first.token_hit / (result.ideal.token_hit or 1), 12).ljust(12)])
    return rows


def _curve_words(result: CurveResult) -> list[str]:
    ideal = result.ideal
    lines = [f"A cache without end hits {_percent(ideal.token_hit)} of tokens, {_percent(ideal.block_hit)} of blocks."]
    if result.knee:
        lines.append(f"The LRU curve bends at {_size(result, result.knee.capacity_blocks)}: {_percent(result.knee.token_hit)}.")
    if "0.9" in result.share_of_ideal:
        lines.append(
            f"Nine tenths of the ideal take {_size(result, result.share_of_ideal['0.9'])}, "
            f"99% take {_size(result, result.share_of_ideal['0.99'])}."
        )
    for number, tier in enumerate(result.tiers):
        verb = "A tier of" if number == 0 else "Below it, one of"
        lines.append(f"{verb} {_size(result, tier.capacity_blocks)} serves {_percent(tier.token_hit)} of tokens.")
    if result.sampled_one_in > 1:
        lines.append(f"Estimated from one block in {result.sampled_one_in}; ± is the 95% interval of the block rate.")
    return lines


def _size(result: CurveResult, blocks: int) -> str:
    size = f" ({format_bytes(blocks * result.bytes_per_block)})" if result.bytes_per_block else ""
    return f"{blocks:,} blocks = {format_tokens(blocks * result.block_tokens)} tokens{size}"


def _arrivals(result: InspectResult) -> Iterator[str]:
    arrivals = result.arrivals
    if not arrivals.span_s:
        yield "all requests arrive at once"
        return
    yield (
        f"over {format_seconds(arrivals.span_s)}: {arrivals.mean_per_s:.3g} requests/s in the mean, "
        f"at most {arrivals.peak_1s_per_s} within 1 s and {arrivals.peak_10s_per_s:.3g} requests/s over 10 s; "
        f"variance over mean in 1 s {arrivals.dispersion_1s:.2f} (1 for a Poisson process)"
    )
    yield f"{sparkline(arrivals.counts)} requests over time"


def _lengths(result: InspectResult) -> Rows:
    rows: Rows = [["", "mean", "p50", "p90", "p95", "p99", "max"]]
    rows += [["prompt tokens", *_cells(result.prompt_tokens)], ["output tokens", *_cells(result.output_tokens)]]
    if result.sessions:
        known = " (inferred)" if result.sessions.inferred else ""
        rows.append([f"turns of {result.sessions.sessions:,} sessions{known}", *_cells(result.sessions.turns)])
    if result.sharing:
        rows.append(["hit prefix, blocks", *_cells(result.sharing.hit_prefix_blocks)])
        if result.sharing.reuse_s:
            rows.append(["reused after, s", *_cells(result.sharing.reuse_s)])
    return rows


def _sharing(result: InspectResult) -> Iterator[str]:
    sharing = result.sharing
    assert sharing is not None
    ideal, warm = sharing.ideal, sharing.ideal_warm
    yield (
        f"{sharing.blocks:,} blocks of {result.block_tokens} tokens, {sharing.unique_blocks:,} distinct, "
        f"{_percent(sharing.used_once)} of them used once; {_common(sharing.common_prefix_blocks)}"
    )
    yield (
        f"a cache without end hits {_percent(ideal.token_hit)} of the prompt tokens ({_percent(ideal.block_hit)} of the blocks), "
        f"{_percent(warm.token_hit)} in the second half ({_percent(warm.block_hit)})"
    )
    yield (
        f"{_percent(sharing.requests_with_hit)} of the requests hit something, "
        f"{_percent(sharing.requests_with_hit_beyond_first)} more than one block; "
        f"a tenth of the blocks gives {_percent(sharing.top_10pct_share)} of the hits"
    )
    sets = {f"{w.mean_blocks:,.0f}": f"{w.mean_blocks:,.0f} within {format_seconds(w.window_s)}" for w in reversed(sharing.working_sets)}
    yield f"working set, distinct blocks in the mean: {', '.join(reversed(sets.values()))}"
    yield f"{sparkline(sharing.unique_over_time)} distinct blocks so far, by tenths of the time"


def _common(blocks: int) -> str:
    if not blocks:
        return "most prompts share no beginning"
    return f"most prompts start with the same {f'{blocks:,} blocks' if blocks > 1 else 'block'}"


def _cells(values: Distribution) -> list[str]:
    return [_number(x) for x in (values.mean, values.p50, values.p90, values.p95, values.p99, values.max)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
