"""What there is to name, as tables and as records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from kvplan import catalog, scenario
from kvplan.engine.facts import facts, known_share
from kvplan.report.size import model_rows
from kvplan.report.tables import print_rows, print_terms, say
from kvplan.sim.cache.eviction.by_name import POLICIES
from kvplan.units import format_bytes, format_tokens


def records(kind: str, names: Sequence[str], *, verbose: bool = False) -> list[dict[str, Any]]:
    """One record a name."""
    if kind == "models":
        return model_rows([catalog.model(name) for name in names])
    if kind == "machines":
        found = [catalog.machine(name) for name in names]
        return [{"name": one.name, "title": one.title, "gpus": one.gpus, "gpu_memory_bytes": one.gpu.memory_bytes} for one in found]
    if kind == "engines":
        engines = [catalog.engine(name) for name in names]
        more = [_known(name) if verbose else {} for name in names]
        return [
            {"name": name, "title": one.title, "version": one.version, **extra}
            for name, one, extra in zip(names, engines, more, strict=True)
        ]
    if kind == "policies":
        return [{"name": name, "about": _about(name)} for name in names]
    read = [scenario.load(name) for name in names]
    return [
        {"name": name, "model": one.model.name, "machine": one.machine.name, "engine": one.engine.name}
        for name, one in zip(names, read, strict=True)
    ]


def _known(engine: str) -> dict[str, Any]:
    """Facts of an engine at each version that its file tells apart, and how many of them are known."""
    at = {version: catalog.engine(engine, version) for version in catalog.engine_versions(engine)}
    rows = [{"version": version, **fact} for version, one in at.items() for fact in facts(one)]
    shares = {version: known_share(one) for version, one in at.items()}
    return {"known": {version: f"{known} of {total}" for version, (known, total) in shares.items()}, "facts": rows}


def _about(policy: str) -> str:
    return " ".join((POLICIES[policy].__doc__ or "").split()).rstrip(".")


def show(console: Console, kind: str, names: Sequence[str], *, verbose: bool = False) -> None:
    """Print one kind as a table."""
    rows = records(kind, names, verbose=verbose)
    if not rows:
        say(console, f"no {kind} match")
        return
    if kind == "policies":
        print_terms(console, [(row["name"], row["about"]) for row in rows])
        return
    columns = [key for key in rows[0] if key not in ("family", "active_parameters", "facts", "known")]
    left = [at for at, key in enumerate(columns) if not isinstance(rows[0][key], int | float)]
    print_rows(
        console, [[_HEADS.get(key, key) for key in columns], *([_cell(key, row[key]) for key in columns] for row in rows)], left=left
    )
    for row in rows if verbose else []:
        for version, share in row.get("known", {}).items():
            console.print(f"\n{row['name']} {version}: {share} simulated facts are known, the others assumed")
            for fact in row["facts"]:
                if fact["version"] == version:
                    words = f"  {fact['fact']:<36} {fact['value']:<24} {fact['kind']:<10} {fact['source']}"
                    console.print(escape(words), soft_wrap=True)


_HEADS = {
    "kv_bytes_8k": "KV of 8k",
    "growth_bytes_per_token": "growth/token",
    "max_context_tokens": "context",
    "gpu_memory_bytes": "GPU memory",
}


def _cell(key: str, value: Any) -> str:
    if "bytes" in key:
        return format_bytes(value)
    if key == "parameters":
        return f"{value / 1e9:,.1f} B"
    return format_tokens(value) if key == "max_context_tokens" else escape(str(value))


def overview(console: Console, found: dict[str, list[str]]) -> None:
    """Print the names of every kind."""
    for kind, names in found.items():
        console.print(f"[bold]{kind}[/] ({len(names)})")
        say(console, ", ".join(names) or "none", indent=2)
