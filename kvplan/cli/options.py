"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

from kvplan import catalog
from kvplan.cli.parser import Complete, Flag


def named(kind: str) -> Complete:
    """Completes names of the catalog."""
    return lambda text: [name for name in catalog.names(kind) if name.startswith(text.lower())]


def one_of(*words: str) -> Complete:
    """Completes one of a few words."""
    return lambda text: [word for word in words if word.startswith(text)]


scenarios = named("scenarios")


def policies(text: str) -> list[str]:
    """Completes eviction policies."""
    from kvplan.sim.cache.eviction.by_name import POLICIES

    return [name for name in POLICIES if name.startswith(text)]


Model = Annotated[
    str | None,
    Flag(
        metavar="NAME[,NAME]",
        help="Model: a catalog name, a Hugging Face id or a config.json. Several are compared.",
        complete=named("models"),
    ),
]
Machine = Annotated[
    str | None,
    Flag(metavar="NAME[,NAME]", help="Machine: a catalog name or a .toml file. Several are compared.", complete=named("machines")),
]
Engine = Annotated[
    str | None,
    Flag(metavar="NAME[,NAME]", help="Engine: a catalog name or a .toml file. Several are compared.", complete=named("engines")),
]
Engine_version = Annotated[
    str | None, Flag(metavar="V", help="Version of the engine, such as 0.24. Default: the one with measured runs.", panel="Advanced")
]
Tp = Annotated[str | None, Flag(metavar="N[,N]", help="Tensor-parallel ranks of a replica. Several are compared.")]
Kv_dtype = Annotated[
    str | None,
    Flag(
        metavar="D[,D]",
        help="KV dtype: auto, bf16, fp8, ... Several are compared.",
        complete=one_of("auto", "bf16", "fp16", "fp8", "int8", "int4"),
    ),
]
Set = Annotated[
    list[str] | None,
    Flag("--set", metavar="PATH=VALUE", help="Any field, such as machine.disk.read_Bps=1.7GB/s.", panel="Advanced"),
]
Isolated = Annotated[bool, Flag("--isolated", help="Take no names from a kvplan.toml in this folder.", panel="Advanced")]
Export = Annotated[str | None, Flag(metavar="FILE", help="Write the table as .csv, .parquet or .md, in base units.", panel="Advanced")]
As_json = Annotated[bool, Flag("--json", help="One JSON document on stdout, in base units.")]
Quiet = Annotated[bool, Flag("--quiet", "-q", help="No progress, no warnings.", panel="Advanced")]
