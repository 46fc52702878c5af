"""Sizes as a person reads them: one model in full, several in one table, and the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvplan.hardware.spec import Machine
from kvplan.memory.formats import LOGICAL
from kvplan.memory.kv import growth_bytes, sequence_bytes
from kvplan.memory.weights import parameters
from kvplan.model import ModelSpec
from kvplan.report.tables import Rows, print_rows
from kvplan.results.size import SizeResult, WayOut
from kvplan.units import format_bytes, format_seconds, format_tokens

BAR_CELLS = 24


def show(console: Console, result: SizeResult, *, verbose: bool = False) -> None:
    """Print one model; `verbose` adds what offload frees and costs."""
    where = f" on {result.tp * result.pp} x {result.machine}" if result.machine else ""
    console.print(
        f"[bold]{result.model}[/] · {format_tokens(result.context_tokens)} tokens x {result.batch} · "
        f"{result.kv_dtype} KV · "
        f"{result.engine.title or result.engine.name} {result.engine.version}{where}"
    )
    for table in (_gpu(console, result), _layers(result), _sizes(result)):
        if table:
            console.print()
            console.print(table)
    _multi_head(console, result)
    console.print()
    _verdict(console, result)
    if result.fit.gpu and result.weights.bytes_per_gpu > result.fit.gpu["total"]:
        return
    if verbose:
        console.print()
        console.print(_offload(console, result))
        if prices := _prices(result):
            console.print()
            console.print(prices)
        _tail(console, result)
    else:
        console.print("[dim]-v: what offload frees, and what it costs; `kvplan plan` says when it pays[/]")


def bar(console: Console, share: float, cells: int = BAR_CELLS) -> str:
    """A bar of at most `cells`; `#` where the stream cannot show blocks."""
    full = "█" if "utf" in (console.encoding or "").lower() else "#"
    return full * max(1 if share > 0 else 0, round(min(1.0, max(0.0, share)) * cells))


def _grid(*justify: str) -> Table:
    """A table without heads or lines, whose last column may wrap."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False, show_edge=False)
    for number, side in enumerate(justify, 1):
        table.add_column(justify=side, no_wrap=number < len(justify))  # type: ignore[arg-type]
    return table


_GPU_LINES = {
    "total": "memory of one GPU",
    "kept_free": "kept free",
    "weights": "weights",
    "activations": "activation peak",
    "overhead": "context, graphs",
    "kv_pool": "left for KV",
}


def _gpu(console: Console, result: SizeResult) -> Table | None:
    if not result.fit.gpu:
        return None
    table, total = _grid("left", "right", "left"), result.fit.gpu["total"]
    for key, label in _GPU_LINES.items():
        size = result.fit.gpu[key]
        style = "bold" if key == "kv_pool" else ""
        table.add_row(label, format_bytes(size), bar(console, size / total), style=style)
    return table


def _layers(result: SizeResult) -> Table:
    table = _grid("right", "left", "left", "right", "right")
    table.add_row("[dim]layers[/]", "[dim]kind[/]", "[dim]shape[/]", "[dim]a token[/]", "[dim]one sequence[/]")
    for line in result.layers:
        rate = f"{line.bytes_per_token:,} B" if line.bytes_per_token else ""
        table.add_row(f"{line.count} x", line.kind, line.formula, rate, format_bytes(line.bytes))
    return table


def _sizes(result: SizeResult) -> Table:
    kv, engine = result.kv, result.engine
    table = _grid("left", "right", "left")
    mean, growth = format_bytes(kv.bytes_per_token_mean), format_bytes(kv.growth_bytes_per_token)
    table.add_row("(a) logical", format_bytes(kv.bytes_per_sequence), f"one sequence: {mean} a token, the next one adds {growth}")
    blocks = f"blocks of {engine.block_tokens} tokens" if engine.block_tokens else "a state, no blocks"
    groups = f", {engine.groups} groups" if engine.groups > 1 else ""
    ranks = f" on {result.tp * result.pp} ranks" if result.tp * result.pp > 1 else ""
    table.add_row("(b) reserved", format_bytes(engine.reserved_bytes_per_request), f"per request{ranks}: {blocks}{groups}")
    if engine.pool_tokens is not None:
        table.add_row(
            "(c) printed",
            format_tokens(engine.pool_tokens),
            f"tokens in the pool, concurrency {engine.max_concurrency:,.2f}x",
        )
    if result.batch > 1:
        table.add_row(f"    x {result.batch}", format_bytes(kv.bytes_total), "logical, the whole batch")
    table.add_row(
        "    weights",
        format_bytes(result.weights_bytes),
        f"{result.weights.parameters / 1e9:,.2f} B parameters, {format_bytes(result.weights.bytes_per_gpu)} per GPU",
    )
    return table


def _multi_head(console: Console, result: SizeResult) -> None:
    formula, truth = result.kv.mha_formula_bytes, result.kv.bytes_per_sequence
    if truth and formula > 1.01 * truth:
        console.print(
            f"The formula 2 x layers x heads x head_dim x tokens gives {format_bytes(formula)}, "
            f"{formula / truth:.1f} times too much: "
            f"{_why(result)}."
        )


def _why(result: SizeResult) -> str:
    kinds = {line.kind for line in result.layers}
    reasons = {
        "latent": "one latent vector serves all heads",
        "window": "sliding layers forget what lies outside their window",
        "chunked": "chunked layers forget earlier chunks",
        "state": "recurrent layers keep a state of fixed size",
        "shared": "some layers share the KV of others",
    }
    found = [reason for kind, reason in reasons.items() if kind in kinds]
    return "; ".join(found) if found else "it counts query heads, but only KV heads are kept"


def _verdict(console: Console, result: SizeResult) -> None:
    fit = result.fit
    if fit.fits is None:
        console.print("Name a --machine to see what fits.", style="dim")
        return
    own = " (the model's own)" if fit.limited_by_model else ""
    longest = f"the longest context for {result.batch} is {format_tokens(fit.max_context_tokens or 0)}{own}"
    if not result.kv.growth_bytes_per_token and not own:
        longest = "nothing grows with the context"
    if fit.gpu and result.weights.bytes_per_gpu > fit.gpu["total"]:
        console.print(
            f"[red]✗[/] The weights alone take {format_bytes(result.weights.bytes_per_gpu)} of each GPU, which has "
            f"{format_bytes(fit.gpu['total'])}: no context fits. More ranks (--tp), narrower weights (--dtype) or larger GPUs:"
        )
        table = _grid("left", "left", "left")
        for way in fit.ways_out:
            table.add_row(f"  {way.change}", *_way(way))
        console.print(table)
        return
    if fit.fits:
        console.print(
            f"[green]✓[/] fits: up to {fit.max_sequences:,} sequences of {format_tokens(result.context_tokens)} tokens; {longest}."
        )
        return
    console.print(
        f"[red]✗[/] {result.batch} x {format_tokens(result.context_tokens)} tokens do not fit: "
        f"{format_bytes(fit.missing_bytes)} too much; "
        f"{fit.max_sequences} would fit; {longest}."
    )
    table = _grid("left", "left", "left")
    for way in fit.ways_out:
        table.add_row(f"  {way.change}", *_way(way))
    console.print(table)


def _way(way: WayOut) -> tuple[str, str]:
    if way.note:
        return ("possible" if way.fits else "no"), way.note
    return ("fits", f"up to {way.max_sequences} at once") if way.fits else ("no", f"{format_bytes(way.missing_bytes)} short")


def _offload(console: Console, result: SizeResult) -> Table:
    table = _table("what offload frees", "KV", "GPU", "CPU", "disk", "saved", "")
    everything = max(1, result.offload[0].gpu_bytes)
    seen = set()
    for row in result.offload:
        sizes_of = (row.placement, row.gpu_bytes, row.cpu_bytes, row.disk_bytes)
        if sizes_of in seen:  # two dtypes of as many bits
            continue
        seen.add(sizes_of)
        sizes = [format_bytes(size) if size else "–" for size in (row.gpu_bytes, row.cpu_bytes, row.disk_bytes)]
        share = bar(console, row.gpu_bytes / everything, 12)
        table.add_row(row.placement, ", ".join((row.kv_dtype, *row.same)), *sizes, f"{row.saved_fraction:.1%}", share)
    return table


def _prices(result: SizeResult) -> Table | None:
    """Both kinds of offload, which must not be mixed up: idle (comes back once) and streamed (crosses the link at
    every step).
    """
    if not any(row.price for row in result.offload):
        return None
    table = _table("what it costs", "KV", "idle: reload", "recompute", "from", "streamed: +/step", "tokens/s")
    for row in result.offload:
        if price := row.price:
            point = price.idle_break_even_tokens
            table.add_row(
                row.placement,
                row.kv_dtype,
                format_seconds(price.idle_reload_s),
                format_seconds(price.idle_recompute_s),
                f"{point:,}" if point else "never",
                format_seconds(price.streamed_added_s),
                f"{price.streamed_tokens_per_s:,.1f}",
            )
    return table


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < 2 or not head else "right", no_wrap=True)
    return table


def _tail(console: Console, result: SizeResult) -> None:
    if any(row.price for row in result.offload):
        console.print(
            "Idle: a paused or shared prefix comes back once; `from` is the length at which reloading beats "
            "recomputing. "
            "Streamed: the sequence decodes, and what is off the GPU crosses the link at every step."
        )
    tiers = result.tier_bytes_per_token
    if abs(tiers["gpu"] - tiers["cpu"]) > 0.5:
        console.print(
            f"A token takes {format_bytes(tiers['gpu'])} on the GPUs (all ranks) and {format_bytes(tiers['cpu'])} "
            "in host memory or on disk, where it is stored once."
        )


def compare(console: Console, results: Sequence[SizeResult], labels: Sequence[str] = ()) -> None:
    """Print several models, contexts, machines or widths as one table; `labels` say what tells those of one model apart."""
    pooled = any(one.engine.pool_tokens is not None for one in results)
    rows: Rows = [["model", "tokens", "KV", "per token", "reserved", "weights", *(["left for KV", "at once"] if pooled else [])]]
    for one, words in zip(results, labels or [""] * len(results), strict=True):
        reserved = one.engine.reserved_bytes_per_request * one.batch
        sizes = [one.kv.bytes_total, one.kv.bytes_per_token_mean, reserved, one.weights_bytes]
        name = f"{escape(one.model)} {escape(words)}".strip()
        row = [name, format_tokens(one.context_tokens), *(format_bytes(size) for size in sizes)]
        pool = format_bytes(one.fit.kv_pool_bytes) if one.fit.kv_pool_bytes is not None else "–"
        rows.append(row + ([pool, f"{one.fit.max_sequences or 0:,}"] if pooled else []))
    print_rows(console, rows)


def model_rows(models: Sequence[ModelSpec]) -> list[dict[str, Any]]:
    """One row per model of the catalog: parameters, context, KV of 8,192 tokens in bf16."""
    rows = []
    for model in models:
        params, fmt = parameters(model), LOGICAL["bf16"]
        rows.append(
            {
                "name": model.name,
                "family": model.family,
                "parameters": params.total,
                "active_parameters": params.active,
                "max_context_tokens": model.max_context_tokens,
                "kv_bytes_8k": sequence_bytes(model, 8192, fmt),
                "growth_bytes_per_token": growth_bytes(model, 1 << 24, fmt),
            }
        )
    return rows


def show_list(console: Console, models: list[dict[str, Any]], machines: Sequence[Machine]) -> None:
    """Print models and machines of the catalog."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for head in ("model", "parameters", "context", "KV of 8k", "growth/token"):
        table.add_column(head, justify="left" if head == "model" else "right", no_wrap=True)
    for row in models:
        table.add_row(
            row["name"],
            f"{row['parameters'] / 1e9:,.1f} B",
            format_tokens(row["max_context_tokens"]),
            format_bytes(row["kv_bytes_8k"]),
            format_bytes(row["growth_bytes_per_token"]),
        )
    if models:
        console.print(table)
    if machines:
        console.print()
        grid = _grid("left", "right", "left")
        for one in machines:
            grid.add_row(one.name, format_bytes(one.gpu.memory_bytes), one.title)
        console.print(grid)
    if not models and not machines:
        console.print("nothing in the catalog matches")
