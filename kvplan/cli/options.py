"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer


def _names(kind: str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        from kvplan import catalog

        return [name for name in catalog.names(kind) if name.startswith(incomplete.lower())]

    return complete


Model = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Model: a catalog name or the path of a config.json.", autocompletion=_names("models")),
]
Machine = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Machine: a catalog name or a .toml file.", autocompletion=_names("machines")),
]
Engine = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Engine: a catalog name or a .toml file.", autocompletion=_names("engines")),
]
Engines = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,NAME]",
        help="Engine: a catalog name or a .toml file. Several are compared.",
        autocompletion=_names("engines"),
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Any field, such as machine.disk.read_Bps=1.7GB/s.",
        rich_help_panel="Advanced",
    ),
]
As_json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, in base units.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no warnings.", rich_help_panel="Advanced")]
