"""Words and tables that several pages share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvplan.report.html.panel import Cell, Grid, Panel, grid
from kvplan.results.simulate import SimResult, Stats
from kvplan.units import format_bytes, format_seconds

KINDS = {
    "measured": "measured on such hardware",
    "derived": "derived from measured numbers",
    "datasheet": "from the maker's data sheet",
    "assumed": "assumed",
    "fake": "made up",
}


def seconds(value: float | None) -> str:
    """A time, or a dash where there is none."""
    return "–" if value is None else format_seconds(value)


def share(value: float | None) -> Cell:
    """A share as a cell."""
    return Cell("–") if value is None else Cell(f"{value:.1%}", value)


def time_cell(value: float | None) -> Cell:
    """A time as a cell."""
    return Cell(seconds(value), value)


def counted(count: int, what: str) -> str:
    """So many things: `1 target`, `2 targets`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def stats_grid(result: SimResult) -> Grid:
    """The distributions of a run in numbers."""
    named = (
        ("time to first token", result.ttft_s),
        ("between tokens", result.itl_s),
        ("queueing", result.queue_s),
        ("whole request", result.e2e_s),
    )
    return grid("Times", STAT_HEADS, [[Cell(name), *stat_cells(stats)] for name, stats in named])


STAT_HEADS = ("", "mean", "p50", "p90", "p95", "p99", "most")


def stat_cells(stats: Stats) -> list[Cell]:
    return [time_cell(value) for value in (stats.mean, stats.p50, stats.p90, stats.p95, stats.p99, stats.max)]


def assumptions(provenance: Mapping[str, Any], *, known: Sequence[tuple[str, str]] = ()) -> Panel:
    """What a result rests on, and how each number is known."""
    machine = provenance.get("machine", {})
    numbers: dict[str, str] = machine.get("numbers", {}) if isinstance(machine, Mapping) else {}
    by_kind: dict[str, list[str]] = {}
    for path, kind in numbers.items():
        by_kind.setdefault(kind, []).append(path)
    kinds = [kind for kind in KINDS if kind in by_kind]
    rows = [[Cell(what), Cell(value)] for what, value in (*known, *_facts(provenance))]
    rows += [[Cell(f"machine's numbers, {KINDS[kind]}"), Cell(in_words(by_kind[kind]))] for kind in kinds]
    total = sum(len(paths) for paths in by_kind.values())
    found = ", ".join(f"{len(by_kind[kind])} {kind}" for kind in kinds)
    return Panel(
        title="What does this rest on?",
        lead=f"Of the machine's {total} numbers: {found}." if total else "",
        grid=grid("Assumptions and where they come from", ("what", "value"), rows, words=("value",)),
    )


UNITS = {"_Bps": " rate", "_bytes": " size", "_tokens": " in tokens", "_flops": " rate", "_s": " time", "_iops": " requests a second"}
WORDS = {
    "gpu": "GPU",
    "gpus": "number of GPUs",
    "h2d": "host to GPU",
    "d2h": "GPU to host",
    "n0": "half point",
    "gemm": "matrix products",
    "hbm": "memory",
}


def in_words(paths: Sequence[str]) -> str:
    """Dotted names of numbers in plain words, by the part that they belong to: `disk: latency time, read rate; link: ...`."""
    parts: dict[str, list[str]] = {}
    for path in paths:
        part, _, name = path.partition(".")
        parts.setdefault(part, []).append(_in_words(name))
    found = []
    for part, names in parts.items():
        spoken = WORDS.get(part, part.replace("_", " "))
        found.append(f"{spoken}: {', '.join(names)}" if any(names) else spoken)
    return "; ".join(found)


def _in_words(name: str) -> str:
    if name == "Bps":
        return "rate"
    for ending, word in UNITS.items():
        if name.endswith(ending):
            name = name.removesuffix(ending) + word
            break
    return " ".join(WORDS.get(word, word) for word in name.replace("_", " ").split())


def _facts(known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was put in, in words."""
    parts = {name: part for name, part in known.items() if isinstance(part, Mapping)}
    model, engine, trace, pool, machine = (parts.get(name, {}) for name in ("model", "engine", "trace", "gpu_pool", "machine"))
    if isinstance(known.get("trace"), str):
        yield "traffic", known["trace"]
    if trace.get("path"):
        block = f", blocks of {trace['block_tokens']:,} tokens" if trace.get("block_tokens") else ", content unnamed"
        yield "traffic", f"{trace['path']} ({trace.get('format', '')}{block})"
    if model.get("name"):
        yield "model", f"{model['name']} ({model.get('source') or 'given'})"
    if model.get("kv_bytes_per_token"):
        yield "KV of one token", f"{model['kv_bytes_per_token']:,.0f} bytes over all layers and ranks"
    if engine.get("name"):
        yield "engine", f"{engine['name']} {engine.get('version', '')}".strip()
    if machine.get("name"):
        yield "machine", str(machine["name"])
    if pool.get("bytes"):
        yield "GPU memory for KV", f"{format_bytes(pool['bytes'])} ({pool.get('source', '')})"
    if experts := parts.get("experts", {}):
        yield "experts", f"{experts['source']} ({experts['kind']}; parallel.expert_skew)"
    named = parts.get("defaults", {}).items()
    chosen = [f"{what} {one.get('value')} ({one.get('source')})" for what, one in named if isinstance(one, Mapping)]
    if chosen:
        yield "who chose", ", ".join(chosen)
    if "seed" in known:
        yield "seed of what is random", str(known["seed"])
