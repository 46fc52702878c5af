"""`kvplan list`: what there is to name on a command line."""

from __future__ import annotations

from typing import Annotated

import typer

from kvplan import catalog
from kvplan.cli.console import Exit, emit_json, out
from kvplan.cli.options import As_json, one_of
from kvplan.errors import InputError, did_you_mean

EXAMPLES = """
kvplan list models qwen3
kvplan list engines -v
"""

KINDS = ("models", "machines", "engines", "policies", "scenarios")


def listing(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="models, machines, engines, policies or scenarios.", autocompletion=one_of(*KINDS))
    ] = "",
    words: Annotated[list[str] | None, typer.Argument(metavar="WORD...", help="Only names with all of these.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Of engines, each simulated fact and how it is known.")] = False,
    as_json: As_json = False,
) -> int:
    """List what kvplan knows by name."""
    from kvplan.report import listing as report

    if kind and kind not in KINDS:
        raise InputError(f"nothing to list is called {kind!r}", hint=did_you_mean(kind, KINDS))
    wanted = [word.lower() for word in words or []]
    found = {one: [name for name in _names(one) if all(word in name for word in wanted)] for one in ([kind] if kind else KINDS)}
    if as_json:
        emit_json({"schema": "kvplan.list/1", **{one: report.records(one, names, verbose=verbose) for one, names in found.items()}})
    elif kind:
        report.show(out(), kind, found[kind], verbose=verbose)
    else:
        report.overview(out(), found)
    return Exit.DONE if any(found.values()) else Exit.NO


def _names(kind: str) -> list[str]:
    if kind == "policies":
        from kvplan.sim.cache.eviction.by_name import POLICIES

        return sorted(POLICIES)
    return catalog.names(kind)
