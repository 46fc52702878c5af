"""A hit-rate curve as a page: how much cache is enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from kvplan import __version__
from kvplan.report.html.panel import Cell, Grid, KeyNumber, Panel, WebPage, grid
from kvplan.report.html.words import share
from kvplan.results.trace import CurveResult
from kvplan.units import format_bytes, format_tokens


def page(result: CurveResult, *, command: str = "") -> WebPage:
    """The report of one trace's curve."""
    return WebPage(
        kind="trace curve",
        title=PurePath(result.trace).name,
        subject=f"{result.requests:,} requests · {result.unique_blocks:,} distinct blocks of {result.block_tokens} tokens"
        + (f" · sizes for {result.model}" if result.model else ""),
        mark="none",
        answer=_answer(result),
        caveats=result.warnings,
        numbers=tuple(_numbers(result)),
        panels=tuple(_panels(result)),
        command=command,
        foot=f"kvplan {__version__}: exact reuse of the trace, no engine simulated",
    )


def _answer(result: CurveResult) -> str:
    if not result.ideal.token_hit:
        return "Nothing comes again: no cache of any size would serve a token."
    nine = result.share_of_ideal.get("0.9")
    enough = f" Nine tenths of that take {_size(result, nine)}." if nine else ""
    return f"A cache without end serves {result.ideal.token_hit:.1%} of the prompt tokens.{enough}"


def _numbers(result: CurveResult) -> Iterator[KeyNumber]:
    yield KeyNumber("most that any cache serves", f"{result.ideal.token_hit:.1%}", f"{result.ideal.block_hit:.1%} of the blocks")
    for name, what in (("0.9", "nine tenths of it take"), ("0.99", "99 % of it take")):
        blocks = result.share_of_ideal.get(name)
        if blocks:
            yield KeyNumber(what, _short(result, blocks), f"{blocks:,} blocks")
    if result.knee:
        yield KeyNumber("the curve bends at", _short(result, result.knee.capacity_blocks), f"{result.knee.token_hit:.1%} of the tokens")


def _short(result: CurveResult, blocks: int) -> str:
    return (
        format_bytes(blocks * result.bytes_per_block) if result.bytes_per_block else f"{format_tokens(blocks * result.block_tokens)} tokens"
    )


def _size(result: CurveResult, blocks: int) -> str:
    return f"{_short(result, blocks)} ({blocks:,} blocks)"


def _panels(result: CurveResult) -> Iterator[Panel]:
    sampled = (
        f"Estimated from one block in {result.sampled_one_in}; the interval is of the block rate." if result.sampled_one_in > 1 else ""
    )
    yield Panel(
        title="How much cache does this traffic need?",
        lead=" ".join(filter(None, (_policies(result), sampled))),
        figure=result.figures()["hit_rate"],
        grid=_grid(result),
    )
    if result.tiers:
        rows = [
            [
                Cell(f"tier {number}"),
                Cell(_size(result, tier.capacity_blocks), tier.capacity_blocks),
                share(tier.token_hit),
                share(tier.block_hit),
            ]
            for number, tier in enumerate(result.tiers, start=1)
        ]
        told = grid("Tiers from the top down", ("tier", "capacity", "of the prompt tokens", "of the blocks"), rows)
        yield Panel(title="What does each tier serve?", lead="Each tier also holds what those above it hold.", grid=told)
    facts = [
        ("trace", result.trace),
        ("read as", result.format),
        ("blocks", f"{result.blocks:,}, {result.unique_blocks:,} of them distinct"),
    ]
    if result.warmup_requests:
        facts.append(("left out of the rates", f"the first {result.warmup_requests:,} requests"))
    if result.bytes_per_block:
        facts.append(("bytes of a block", f"{result.bytes_per_block:,} ({result.model})"))
    rows = [[Cell(name), Cell(value)] for name, value in facts]
    yield Panel(title="What does this rest on?", grid=grid("Assumptions", ("what", "value"), rows, words=("value",)))


def _policies(result: CurveResult) -> str:
    if len(result.curves) < 2:
        return ""
    first, *others = result.curves
    words = []
    for other in others:
        pairs = zip(result.curves[first], result.curves[other], strict=True)
        most = max(pairs, key=lambda pair: abs(pair[1].token_hit - pair[0].token_hit))
        at = _short(result, most[0].capacity_blocks)
        words.append(f"{other} differs from {first} by at most {most[1].token_hit - most[0].token_hit:+.1%}, at {at}")
    return "; ".join(words) + "." if words else ""


def _grid(result: CurveResult) -> Grid:
    rows = []
    for points in zip(*result.curves.values(), strict=True):
        first = points[0]
        cells = [
            Cell(f"{first.capacity_blocks:,} blocks", first.capacity_blocks),
            Cell(_short(result, first.capacity_blocks), first.capacity_blocks),
        ]
        for point in points:
            cells.append(share(point.token_hit))
        if first.error is not None:
            cells.append(Cell(f"±{first.error:.1%}", first.error))
        rows.append(cells)
    error = ("95 %",) if any(points and points[0].error is not None for points in result.curves.values()) else ()
    return grid("Hit rate by capacity", ("capacity", "size", *(f"{name}: tokens hit" for name in result.curves), *error), rows, sorts=True)
