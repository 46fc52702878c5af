"""Sizes as a person reads them: one model in full, several in one table, and the catalog."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from kvplan.hardware.spec import Machine
from kvplan.memory.formats import LOGICAL
from kvplan.memory.kv import growth_bytes, sequence_bytes
from kvplan.memory.weights import parameters
from kvplan.model import ModelSpec
from kvplan.report.tables import Rows, bar, print_rows, say
from kvplan.results.size import SizeResult, WayOut
from kvplan.units import format_bytes, format_count, format_seconds, format_tokens

BAR_CELLS = 24


def show(console: Console, result: SizeResult, *, verbose: bool = False) -> None:
    """Print one model; `verbose` adds what offload frees and costs."""
    gpus = format_count(result.tp * result.pp * result.dp, "GPU")
    where = f" on {gpus} of {result.machine}" if result.machine else ""
    say(
        console,
        f"[bold]{escape(result.model)}[/] · {format_tokens(result.context_tokens)} tokens x {result.batch} · {result.kv_dtype} KV · "
        f"{result.engine.title or result.engine.name} {result.engine.version}{where}",
    )
    for rows, words in ((_gpu(console, result), (0, 2, 3)), (_layers(result), (1, 2)), (_sizes(result), (0, 2))):
        if rows:
            console.print()
            print_rows(console, rows, left=words)
    _multi_head(console, result)
    console.print()
    _verdict(console, result)
    if result.fit.gpu and result.weights.bytes_per_gpu > result.fit.gpu["total"]:
        return
    if verbose:
        for table in (_offload(console, result), _prices(result)):
            if len(table) > 1:
                console.print()
                print_rows(console, table, left=(0, 1))
        _tail(console, result)
    else:
        say(console, "[dim]-v: what offload frees, and what it costs; `kvplan plan` says when it pays[/]")


_GPU_LINES = {
    "total": "memory of one GPU",
    "kept_free": "kept free",
    "weights": "weights",
    "activations": "activation peak",
    "overhead": "context, graphs",
    "kv_pool": "left for KV",
}


def _gpu(console: Console, result: SizeResult) -> Rows:
    if not result.fit.gpu:
        return []
    total, rows = result.fit.gpu["total"], [["", "", "", ""]]
    for key, label in _GPU_LINES.items():
        size, bold = result.fit.gpu[key], "[bold]" if key == "kv_pool" else ""
        how = f"[dim]{_known(result, key)}[/]"
        rows.append([f"{bold}{label}", f"{bold}{format_bytes(size)}", bar(console, size / total, BAR_CELLS), how])
    return rows


def _known(result: SizeResult, key: str) -> str:
    """How a part of the GPU's memory is known."""
    if key in ("weights", "kv_pool"):
        return "shapes of the config" if key == "weights" else "what is left"
    if key == "kept_free":
        return "the engine's share"
    return str(getattr(result.provenance.get(_SOURCES[key]), "kind", "assumed"))


_SOURCES = {
    "total": "machine.gpu.memory_bytes",
    "activations": "engine.memory.forward_copies",
    "overhead": "engine.memory.graph_bytes",
}


def _layers(result: SizeResult) -> Rows:
    rows = [["layers", "kind", "shape", "a token", "one sequence"]]
    for line in result.layers:
        rate = f"{line.bytes_per_token:,} B" if line.bytes_per_token else ""
        rows.append([f"{line.count} x", line.kind, escape(line.formula), rate, format_bytes(line.bytes)])
    return rows


def _sizes(result: SizeResult) -> Rows:
    kv, engine = result.kv, result.engine
    mean, growth = format_bytes(kv.bytes_per_token_mean), format_bytes(kv.growth_bytes_per_token)
    rows = [["", "", ""], ["(a) logical", format_bytes(kv.bytes_per_sequence), f"one sequence: {mean} a token, the next one adds {growth}"]]
    blocks = f"blocks of {engine.block_tokens} tokens" if engine.block_tokens else "a state, no blocks"
    groups = f", {engine.groups} groups" if engine.groups > 1 else ""
    ranks = f" on {result.tp * result.pp} ranks" if result.tp * result.pp > 1 else ""
    rows.append(["(b) reserved", format_bytes(engine.reserved_bytes_per_request), f"per request{ranks}: {blocks}{groups}"])
    if engine.pool_tokens:
        what = f"tokens in the pool, as the engine prints at start; concurrency {engine.max_concurrency:,.2f}x"
        rows.append(["(c) printed", format_tokens(engine.pool_tokens), what])
    if result.batch > 1:
        rows.append([f"    x {result.batch}", format_bytes(kv.bytes_total), "logical, the whole batch"])
    weights = f"{result.weights.parameters / 1e9:,.2f} B parameters, {format_bytes(result.weights.bytes_per_gpu)} per GPU"
    return [*rows, ["    weights", format_bytes(result.weights_bytes), weights]]


def _multi_head(console: Console, result: SizeResult) -> None:
    formula, truth = result.kv.mha_formula_bytes, result.kv.bytes_per_sequence
    if truth and formula > 1.01 * truth:
        say(
            console,
            f"The formula 2 x layers x heads x head_dim x tokens gives {format_bytes(formula)}, "
            f"{formula / truth:.1f} times too much: {_why(result)}.",
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
        say(console, "[dim]Name a --machine to see what fits.[/]")
        return
    own = " (the model's own)" if fit.limited_by_model else ""
    longest = f"the longest context for {result.batch} is {format_tokens(fit.max_context_tokens or 0)}{own}"
    if not result.kv.growth_bytes_per_token and not own:
        longest = "nothing grows with the context"
    if fit.gpu and result.weights.bytes_per_gpu > fit.gpu["total"]:
        say(
            console,
            f"[red]✗[/] The weights alone take {format_bytes(result.weights.bytes_per_gpu)} of each GPU, which has "
            f"{format_bytes(fit.gpu['total'])}: no context fits. More ranks (--tp), narrower weights (--dtype) or larger GPUs:",
        )
        _ways(console, fit.ways_out)
        return
    if fit.fits:
        say(
            console,
            f"[green]✓[/] fits: up to {format_count(fit.max_sequences or 0, 'sequence')} of {format_tokens(result.context_tokens)} tokens; "
            f"{longest}.",
        )
        return
    say(
        console,
        f"[red]✗[/] {result.batch} x {format_tokens(result.context_tokens)} tokens do not fit: "
        f"{format_bytes(fit.missing_bytes)} too much; "
        + (f"{fit.max_sequences} would fit; {longest}." if fit.max_sequences or fit.max_context_tokens else "no context fits."),
    )
    _ways(console, fit.ways_out)


def _ways(console: Console, ways: Sequence[WayOut]) -> None:
    print_rows(console, [["", "", ""], *([way.change, *_way(way)] for way in ways)], indent=2, left=(0, 1, 2))


def _way(way: WayOut) -> tuple[str, str]:
    if way.note:
        return ("possible" if way.fits else "no"), way.note
    return ("fits", f"up to {way.max_sequences} at once") if way.fits else ("no", f"{format_bytes(way.missing_bytes)} short")


def _offload(console: Console, result: SizeResult) -> Rows:
    rows = [["what offload frees", "KV", "GPU", "CPU", "takes", "limit", "disk", "saved", ""]]
    everything = max(1, result.offload[0].gpu_bytes)
    for row in result.offload:
        sizes = [
            format_bytes(size) if size else "–" for size in (row.gpu_bytes, row.cpu_bytes, row.host_bytes, row.limit_bytes, row.disk_bytes)
        ]
        share = bar(console, row.gpu_bytes / everything, 12).ljust(12)
        rows.append([_placement(row.placement), ", ".join((row.kv_dtype, *row.same)), *sizes, f"{row.saved_fraction:.1%}", share])
    return rows


def _placement(name: str) -> str:
    return name.replace(" %", "%")


def _prices(result: SizeResult) -> Rows:
    """Both kinds of offload, which must not be mixed up: idle (comes back once) and streamed (crosses the link at
    every step).
    """
    rows = [["what it costs", "KV", "reload once", "compute", "wins from", "streamed, a step", "streamed, tokens/s"]]
    for row in result.offload:
        if price := row.price:
            point = price.idle_break_even_tokens
            rows.append(
                [
                    _placement(row.placement),
                    row.kv_dtype,
                    format_seconds(price.idle_reload_s),
                    format_seconds(price.idle_recompute_s),
                    f"{point:,} tokens" if point else "never",
                    f"+{format_seconds(price.streamed_added_s)}",
                    f"{price.streamed_tokens_per_s:,.3g}",
                ]
            )
    return rows


def _tail(console: Console, result: SizeResult) -> None:
    if any(row.host_bytes for row in result.offload):
        say(
            console,
            f"Takes: host memory that {result.engine.title or result.engine.name} really takes for a tier of such a size. "
            "Limit: what a container needs, weights and processes included.",
        )
    if any(row.price for row in result.offload):
        say(
            console,
            "Reload once: a paused or shared prefix comes back from the tier; it wins from a length on against computing it again. "
            "Streamed: the sequence decodes, and what is off the GPU crosses the link at every step.",
        )
    tiers = result.tier_bytes_per_token
    if abs(tiers["gpu"] - tiers["cpu"]) > 0.5:
        say(
            console,
            f"A token takes {format_bytes(tiers['gpu'])} on the GPUs (all ranks) and {format_bytes(tiers['cpu'])} "
            "in host memory or on disk, where it is stored once.",
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
    rows: Rows = [["model", "parameters", "context", "KV of 8k", "growth/token"]]
    for row in models:
        sizes = [format_bytes(row["kv_bytes_8k"]), format_bytes(row["growth_bytes_per_token"])]
        rows.append([row["name"], f"{row['parameters'] / 1e9:,.1f} B", format_tokens(row["max_context_tokens"]), *sizes])
    print_rows(console, rows)
    if machines:
        console.print()
        print_rows(console, [["", "", ""], *([one.name, format_bytes(one.gpu.memory_bytes), one.title] for one in machines)], left=(0, 2))
    if not models and not machines:
        say(console, "nothing in the catalog matches")
