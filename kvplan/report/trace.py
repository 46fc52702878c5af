"""Traces and hit-rate curves for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvplan.results.trace import CurvePoint, CurveResult, Distribution, InspectResult
from kvplan.units import format_bytes, format_seconds, format_tokens

_BARS = " ▁▂▃▄▅▆▇█"


def curve_view(result: CurveResult) -> RenderableType:
    """Hit rate against capacity as a table with bars, and what follows from it in words."""
    return Group(_headline(result), _curve_table(result), *(Text(line) for line in _curve_words(result)))


def inspect_view(result: InspectResult) -> RenderableType:
    """A trace on one screen."""
    parts: list[RenderableType] = [
        Text(f"{result.trace}: {result.requests:,} requests, read as {result.format}", style="bold"),
        _arrivals(result),
        _lengths(result),
    ]
    if result.sharing:
        parts.append(_sharing(result))
    parts += [Text(f"! {quirk}") for quirk in result.quirks]
    parts += [Text(f"cannot say {limit}") for limit in result.cannot_say]
    return Group(*parts)


def sparkline(counts: Sequence[float]) -> str:
    """One character a value, its height in proportion to the largest."""
    top = max(counts, default=0) or 1
    return "".join(_BARS[min(8, round(8 * count / top))] for count in counts)


def _headline(result: CurveResult) -> Text:
    window = f", the first {result.warmup_requests:,} as warm-up" if result.warmup_requests else ""
    return Text(
        f"{result.trace}: {result.requests:,} requests{window}, {result.unique_blocks:,} distinct blocks of {result.block_tokens} tokens",
        style="bold",
    )


def _curve_table(result: CurveResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    table.add_column("capacity\nblocks", justify="right")
    table.add_column("\ntokens", justify="right")
    if result.bytes_per_block:
        table.add_column("\nGiB", justify="right")
    for name in result.curves:
        table.add_column(f"{name}\ntokens hit", justify="right")
        if result.sampled_one_in > 1:
            table.add_column("\n+-", justify="right")
    table.add_column(f"{next(iter(result.curves))}, of the ideal", min_width=12)
    rows: Iterable[tuple[CurvePoint, ...]] = zip(*result.curves.values(), strict=True)
    for points in rows:
        first = points[0]
        cells = [f"{first.capacity_blocks:,}", format_tokens(first.capacity_blocks * result.block_tokens)]
        if first.capacity_bytes is not None:
            cells.append(f"{first.capacity_bytes / 2**30:,.1f}")
        for point in points:
            cells.append(_percent(point.token_hit))
            if point.error is not None:
                cells.append(_percent(point.error))
        table.add_row(*cells, "█" * round(12 * first.token_hit / (result.ideal.token_hit or 1)))
    return table


def _curve_words(result: CurveResult) -> list[str]:
    ideal = result.ideal
    lines = [f"A cache without end hits {_percent(ideal.token_hit)} of tokens, {_percent(ideal.block_hit)} of blocks."]
    if result.knee:
        lines.append(f"The LRU curve bends at {_size(result, result.knee.capacity_blocks)}: {_percent(result.knee.token_hit)}.")
    if "0.9" in result.share_of_ideal:
        lines.append(
            f"Nine tenths of the ideal take {_size(result, result.share_of_ideal['0.9'])}, "
            f"99 % take {_size(result, result.share_of_ideal['0.99'])}."
        )
    for number, tier in enumerate(result.tiers):
        verb = "A tier of" if number == 0 else "Below it, one of"
        lines.append(f"{verb} {_size(result, tier.capacity_blocks)} serves {_percent(tier.token_hit)} of tokens.")
    if result.sampled_one_in > 1:
        lines.append(f"Estimated from one block in {result.sampled_one_in}; +- is a 95 % interval of the block rate.")
    return lines


def _size(result: CurveResult, blocks: int) -> str:
    size = f" ({format_bytes(blocks * result.bytes_per_block)})" if result.bytes_per_block else ""
    return f"{blocks:,} blocks = {format_tokens(blocks * result.block_tokens)} tokens{size}"


def _arrivals(result: InspectResult) -> RenderableType:
    arrivals = result.arrivals
    if not arrivals.span_s:
        return Text("all requests arrive at once")
    return Group(
        Text(
            f"over {format_seconds(arrivals.span_s)}: {arrivals.mean_per_s:.4g} requests/s, "
            f"at most {arrivals.peak_1s_per_s} in 1 s and {arrivals.peak_10s_per_s:.1f}/s over 10 s; "
            f"dispersion {arrivals.dispersion_1s:.2f} (Poisson: 1)"
        ),
        Text(f"{sparkline(arrivals.counts)} requests over time"),
    )


def _lengths(result: InspectResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for column in ("", "mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("prompt tokens", *_cells(result.prompt_tokens))
    table.add_row("output tokens", *_cells(result.output_tokens))
    if result.sessions:
        known = " (inferred)" if result.sessions.inferred else ""
        table.add_row(f"turns of {result.sessions.sessions:,} sessions{known}", *_cells(result.sessions.turns))
    if result.sharing:
        table.add_row("hit prefix, blocks", *_cells(result.sharing.hit_prefix_blocks))
        if result.sharing.reuse_s:
            table.add_row("reused after, s", *_cells(result.sharing.reuse_s))
    return table


def _sharing(result: InspectResult) -> RenderableType:
    sharing = result.sharing
    assert sharing is not None
    ideal, warm = sharing.ideal, sharing.ideal_warm
    windows = ", ".join(f"{w.mean_blocks:,.0f} in {format_seconds(w.window_s)}" for w in sharing.working_sets)
    return Group(
        Text(
            f"{sharing.blocks:,} blocks of {result.block_tokens} tokens, {sharing.unique_blocks:,} distinct, "
            f"{_percent(sharing.used_once)} of them used once; "
            f"{_common(sharing.common_prefix_blocks)}"
        ),
        Text(
            f"ideal hit rate, tokens / blocks: cold {_percent(ideal.token_hit)} / {_percent(ideal.block_hit)}, "
            f"second half {_percent(warm.token_hit)} / {_percent(warm.block_hit)}"
        ),
        Text(
            f"{_percent(sharing.requests_with_hit)} of requests hit something, "
            f"{_percent(sharing.requests_with_hit_beyond_first)} more than one block; "
            f"a tenth of the blocks gives {_percent(sharing.top_10pct_share)} of the hits"
        ),
        Text(f"working set, mean distinct blocks: {windows}"),
        Text(f"{sparkline(sharing.unique_over_time)} distinct blocks so far, by tenths of the time"),
    )


def _common(blocks: int) -> str:
    if not blocks:
        return "no block starts most prompts"
    return f"most prompts start with the same {f'{blocks:,} blocks' if blocks > 1 else 'block'}"


def _cells(values: Distribution) -> list[str]:
    return [_number(x) for x in (values.mean, values.p50, values.p90, values.p95, values.p99, values.max)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def _percent(share: float) -> str:
    return f"{share:.1%}"
