"""How many users a server holds, as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from kvplan.report.tables import Rows, print_rows, seconds
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
    rows: Rows = [["users", *(check.name for check in result.run.targets), ""]]
    for trial in result.trials:
        rows.append([f"{trial.users:,}", *(seconds(check.value_s) for check in trial.targets), "✓ met" if trial.met else "✗ missed"])
    print_rows(console, rows, left=(len(rows[0]) - 1,))
