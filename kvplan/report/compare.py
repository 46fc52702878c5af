"""A comparison as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvplan import units
from kvplan.results.compare import Compared, Comparison, Handover


def show(console: Console, comparison: Comparison) -> None:
    """Print what differs, the largest difference first, each with its reason; then the settings behind it."""
    console.print(_table("what came out differently", comparison.names, comparison.figures))
    if comparison.same:
        console.print(f"[dim]the same in all: {', '.join(comparison.same)}[/]")
    for handover in comparison.handovers:
        console.print(escape(_handover(handover)))
    explained = [difference for difference in comparison.settings if difference.reason]
    console.print()
    console.print(_table("what was put in differently", comparison.names, explained))
    others = [difference.what for difference in comparison.settings if not difference.reason]
    if others:
        console.print(f"[dim]also: {escape(', '.join(others))}[/]")


def _handover(found: Handover) -> str:
    verb = "gains" if found.gain_s >= 0 else "loses"
    moved = f"{units.format_bytes(round(found.prompt_bytes))} a prompt in {units.format_seconds(found.transfer_s)}"
    ends = "no network makes it gain"
    if found.break_even_Bps is not None:
        ends = f"break-even at {units.format_rate(found.break_even_Bps)}"
    return f"prefill apart ({found.name}) {verb} {units.format_seconds(abs(found.gain_s))} a request: {moved}; {ends}"


def _table(title: str, names: list[str], differences: list[Compared]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column(title, no_wrap=True)
    for name in names:
        table.add_column(escape(name), justify="right", no_wrap=True)
    table.add_column("because", style="dim")
    for difference in differences:
        table.add_row(
            difference.what.removeprefix("engine."),
            *(_shown(difference.what, value) for value in difference.values),
            difference.reason,
        )
    return table


def _shown(what: str, value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return escape(value)
    assert isinstance(value, int | float)
    if what.endswith("_bytes"):
        return units.format_traffic(int(value)) if what in ("stored_bytes", "loaded_bytes") else units.format_bytes(int(value))
    if what.endswith("_per_s"):
        return f"{value:,.2f}"
    if what.endswith("_s"):
        return units.format_seconds(value)
    if what.endswith(("_rate", "_share")):
        return f"{value:.1%}"
    return f"{value:,g}"
