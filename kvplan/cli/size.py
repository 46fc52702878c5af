"""`kvplan size`: KV, weights, pool, what fits and what offload frees."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from kvplan import catalog, defaults
from kvplan.cli.console import Exit, emit_json, out, warn
from kvplan.cli.export import check_export, exported
from kvplan.cli.options import As_json, Dp, Engine, Engine_version, Ep, Export, Isolated, Kv_dtype, Machine, Pp, Quiet, Set, Tp, named
from kvplan.errors import InputError
from kvplan.results.size import SizeTable
from kvplan.sizing.answer import ask
from kvplan.sweep.grid import combinations, label, ranks
from kvplan.units import parse_capacity, parse_tokens

EXAMPLES = """
kvplan size qwen2.5-32b --ctx 128k --machine h100-sxm --batch 2
kvplan size llama-3.1-8b deepseek-v3 --ctx 8k,32k,128k
"""

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL...",
        help="Catalog names, or paths of a config.json; with --list, words to search for.",
        autocompletion=named("models"),
    ),
]
Tokens = Annotated[
    str | None,
    typer.Option(
        "--ctx",
        metavar="TOKENS",
        help="Context: 8192, 128k, or several as 8k,32k,128k. Default: the model's, up to 128k.",
    ),
]
_ADVANCED = "Advanced"


def size(
    models: Names = None,
    ctx: Tokens = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Sequences at once.")] = 1,
    machine: Machine = None,
    engine: Engine = None,
    engine_version: Engine_version = None,
    kv_dtype: Kv_dtype = None,
    dtype: Annotated[str, typer.Option(metavar="DTYPE", help="Weights: bf16, fp8, int4, awq, nvfp4, ... Default: the checkpoint's.")] = "",
    tp: Tp = None,
    pp: Pp = None,
    dp: Dp = None,
    ep: Ep = None,
    gpu_fraction: Annotated[
        float,
        typer.Option(metavar="F", help="Share of GPU memory for the engine. Default: the engine's.", rich_help_panel=_ADVANCED),
    ] = 0.0,
    gpu_kv: Annotated[str, typer.Option(metavar="SIZE", help="KV pool over all ranks, where known.", rich_help_panel=_ADVANCED)] = "",
    step_tokens: Annotated[
        str, typer.Option(metavar="TOKENS", help="Token budget of a step. Default: the engine's.", rich_help_panel=_ADVANCED)
    ] = "",
    max_batch: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Most sequences at once that the engine is told (vLLM's --max-num-seqs): it keeps room to sample for so many. Default: "
            "the engine's.",
            rich_help_panel=_ADVANCED,
        ),
    ] = 0,
    sets: Set = None,
    keep: Annotated[str, typer.Option(metavar="TOKENS", help="Tokens that offload keeps on the GPU.", rich_help_panel=_ADVANCED)] = "1k",
    as_family: Annotated[
        str,
        typer.Option(
            "--as", metavar="FAMILY", help="Read a config of an unknown model_type as one of this family.", rich_help_panel=_ADVANCED
        ),
    ] = "",
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Show how a config.json is read; with --json the file that the catalog would keep.", rich_help_panel=_ADVANCED
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also what offload frees and what it costs.")] = False,
    export: Export = None,
    isolated: Isolated = False,
    listing: Annotated[bool, typer.Option("--list", help="List models and machines instead.")] = False,
    as_json: As_json = False,
    quiet: Quiet = False,
) -> int:
    """Size the KV cache of a model: bytes, what the engine reserves, what fits, what offload frees."""
    if export is not None:
        check_export(export)
    if listing:
        return _list(models or [], as_json)
    every = combinations({"machine": machine, "engine": engine, "tp": tp, "kv_dtype": kv_dtype})
    names = _named(models, every[0], engine_version, isolated)
    if not models and names.model.source == defaults.FILE:
        models = [names.model.value]
    if not models:
        raise InputError("name a model", hint="kvplan size --list shows the catalog; the path of a config.json works as well")
    if explain:
        return _explain(models, as_family, as_json)
    contexts = [parse_tokens(text) for text in ctx.split(",")] if ctx else [0]
    results, labels = [], []
    for name in models:
        for tokens in contexts:
            for one in every:
                named_here = _named([name], one, engine_version, isolated)
                server = named_here.server()
                found = ask(
                    catalog.model(name, as_family=as_family),
                    engine=catalog.engine(named_here.engine.value, named_here.engine_version, server),
                    machine=server,
                    context_tokens=tokens,
                    batch=batch,
                    kv_dtype=one["kv_dtype"] or "auto",
                    dtype=dtype,
                    tp=ranks(one["tp"]) or 1,
                    pp=1 if pp is None else pp,
                    dp=1 if dp is None else dp,
                    ep=ep or 0,
                    gpu_fraction=gpu_fraction,
                    pool_bytes=parse_capacity(gpu_kv) if gpu_kv else 0,
                    step_tokens=parse_tokens(step_tokens) if step_tokens else 0,
                    max_batch=max_batch,
                    keep_tokens=parse_tokens(keep),
                    sets=dict(_setting(text) for text in sets or ()),
                )
                sources = {**found.provenance, "defaults": named_here.provenance()}
                results.append(msgspec.structs.replace(found, provenance=sources))
                labels.append(label(one, every))
    single = len(results) == 1
    if as_json:
        emit_json(results[0] if single else SizeTable(rows=tuple(results)))
    else:
        from kvplan.report import size as report

        report.show(out(), results[0], verbose=verbose) if single else report.compare(out(), results, labels)
    for text in dict.fromkeys(text if single else f"{one.model}: {text}" for one in results for text in one.warnings if not quiet):
        warn(text)
    exported(results[0] if single else SizeTable(rows=tuple(results)), export, quiet=quiet)
    return Exit.NO if any(one.fit.fits is False for one in results) else Exit.DONE


def _setting(text: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--set {text}: write path=value", hint="for example --set engine.max_batch=256")
    return path.strip(), value.strip()


def _named(models: list[str] | None, one: dict[str, str | None], engine_version: str | None, isolated: bool) -> defaults.Defaults:
    """Model, machine and engine of one row, and where each comes from."""
    given = {"model": models[0] if models else None, "machine": one["machine"], "engine": one["engine"], "engine_version": engine_version}
    return defaults.resolve(given, isolated=isolated, machine_wanted=False)


def _explain(models: list[str], as_family: str, as_json: bool) -> int:
    from kvplan.report import config as report

    if len(models) > 1:
        raise InputError("--explain reads one config", hint="name one model")
    found = catalog.explained(models[0], as_family=as_family)
    if as_json:
        emit_json(found.catalog_file)
    else:
        report.show(out(), found)
    for text in found.model.notes:
        warn(text)
    return Exit.DONE


def _list(words: list[str], as_json: bool) -> int:
    from kvplan.report import size as report

    found = {kind: [name for name in catalog.names(kind) if all(word.lower() in name for word in words)] for kind in ("models", "machines")}
    models, machines = (
        [catalog.model(name) for name in found["models"]],
        [catalog.machine(name) for name in found["machines"]],
    )
    rows = report.model_rows(models)
    if as_json:
        emit_json(
            {
                "schema": "kvplan.size-list/1",
                "models": rows,
                "machines": [{"name": one.name, "title": one.title, "gpu_memory_bytes": one.gpu.memory_bytes} for one in machines],
            }
        )
    else:
        report.show_list(out(), rows, machines)
    return Exit.DONE if models or machines else Exit.NO
