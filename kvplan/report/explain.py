"""An engine's configuration explained, as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from kvplan.report.tables import say
from kvplan.results.deploy import Explanation
from kvplan.results.placement import Notice
from kvplan.units import format_bytes

MARKS = {"error": "[red]✗[/]", "warning": "[yellow]![/]", "note": "[dim]·[/]"}


def in_words(notice: Notice) -> str:
    """A notice and what to do about it, escaped."""
    end = "" if notice.hint.endswith("?") else "."
    return escape(notice.sentence) + (f" Hint: {escape(notice.hint)}{end}" if notice.hint else "")


def show(console: Console, result: Explanation) -> None:
    """Print what a configuration means, tier by tier and setting by setting, then what is wrong with it."""
    console.print(f"[bold]{escape(result.source)}[/] · {result.engine} {result.version}\n")
    for tier in result.tiers:
        each = f" in all, {format_bytes(tier.bytes_per_rank)} per rank" if tier.bytes_per_rank != tier.bytes_total else ""
        size = f"{format_bytes(tier.bytes_total)}{each}" if tier.bytes_total else "no bound"
        console.print(f"  {tier.name:<7} {size}{f', {escape(tier.where)}' if tier.where else ''}")
    if result.host and result.host.asked_bytes:
        host = result.host
        shm = f", /dev/shm {format_bytes(host.shm_bytes)}" if host.shm_bytes else ""
        console.print(
            f"  host    takes {format_bytes(host.taken_bytes)}{shm}; memory limit of a container {format_bytes(host.limit_bytes)}"
        )
    console.print()
    for one in result.meanings:
        say(console, f"[bold]{escape(f'{one.key} {one.value}'.strip())}[/]: {escape(one.sentence)}", hang=4)
    console.print()
    for notice in result.notices:
        say(console, f"{MARKS[notice.level]} {in_words(notice)}", hang=2)
    if not result.notices:
        console.print("nothing wrong found")
