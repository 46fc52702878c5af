"""How many users a server holds, as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvplan import units
from kvplan.results.users import UsersResult


def show(console: Console, result: UsersResult) -> None:
    """Print the number, then what was tried."""
    if not result.users:
        console.print(f"[bold]{escape(result.name)} holds no user within {escape(result.target)}[/]")
    elif result.limited_by_trace:
        console.print(f"[bold]{escape(result.name)} holds at least {result.users:,} users at once within {escape(result.target)}[/]")
        console.print("[dim]the trace never has more sessions open: try one with more, or --speedup[/]")
    else:
        console.print(f"[bold]{escape(result.name)} holds {result.users:,} users at once within {escape(result.target)}[/]")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("users", justify="right")
    for check in result.run.targets:
        table.add_column(check.name, justify="right")
    table.add_column("")
    for trial in result.trials:
        values = ["–" if check.value_s is None else units.format_seconds(check.value_s) for check in trial.targets]
        table.add_row(f"{trial.users:,}", *values, "✓ met" if trial.met else "✗ missed")
    console.print(table)
