"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from kvplan import catalog

Complete = Callable[[str], list[str]]


def named(kind: str) -> Complete:
    """Completes names of the catalog."""
    return lambda incomplete: [name for name in catalog.names(kind) if name.startswith(incomplete.lower())]


def one_of(*words: str) -> Complete:
    """Completes one of a few words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


scenarios = named("scenarios")


def policies(text: str) -> list[str]:
    """Completes eviction policies."""
    from kvplan.sim.cache.eviction.by_name import POLICIES

    return [name for name in POLICIES if name.startswith(text)]


Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,NAME]",
        help="Model: a catalog name, a Hugging Face id or a config.json. Several are compared.",
        autocompletion=named("models"),
    ),
]
Machine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,NAME]", help="Machine: a catalog name or a .toml file. Several are compared.", autocompletion=named("machines")
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,NAME]", help="Engine: a catalog name or a .toml file. Several are compared.", autocompletion=named("engines")
    ),
]
Engine_version = Annotated[
    str | None,
    typer.Option(metavar="V", help="Version of the engine, such as 0.24. Default: the one with measured runs.", rich_help_panel="Advanced"),
]
Tp = Annotated[str | None, typer.Option(metavar="N[,N]", help="Tensor-parallel ranks of a replica. Several are compared.")]
Pp = Annotated[int | None, typer.Option(metavar="N", help="Pipeline stages, each with a part of the layers.", rich_help_panel="Advanced")]
Dp = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Data-parallel ranks of a replica, each with a KV pool, a prefix cache and tiers of its own.",
        rich_help_panel="Advanced",
    ),
]
Ep = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Ranks between which whole experts are spread: tensor- times data-parallel ones. Default: each holds a part of every expert.",
        rich_help_panel="Advanced",
    ),
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Only the first N requests.")]
Kv_dtype = Annotated[
    str | None,
    typer.Option(
        metavar="D[,D]",
        help="KV dtype: auto, bf16, fp8, ... Several are compared.",
        autocompletion=one_of("auto", "bf16", "fp16", "fp8", "int8", "int4"),
    ),
]
Prices = Annotated[
    str | None,
    typer.Option(
        metavar="LIST", help="Prices from a file, or `public`: the list that comes with kvplan, with its dates.", rich_help_panel="Advanced"
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Any field, such as machine.disk.read_Bps=1.7GB/s.", rich_help_panel="Advanced"),
]
Isolated = Annotated[bool, typer.Option("--isolated", help="Take no names from a kvplan.toml in this folder.", rich_help_panel="Advanced")]
Export = Annotated[
    str | None, typer.Option(metavar="FILE", help="Write the table as .csv, .parquet or .md, in base units.", rich_help_panel="Advanced")
]
Html = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Write a report for a browser: one file, charts and tables, no network.")
]
As_json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, in base units.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no warnings.", rich_help_panel="Advanced")]
