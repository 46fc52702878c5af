"""`kvplan size`: KV, weights, pool, what fits and what offload frees."""

from __future__ import annotations

from typing import Annotated

from kvplan import catalog
from kvplan.cli.console import Exit, emit_json, out, warn
from kvplan.cli.options import As_json, Engine, Engine_version, Machine, Quiet, named
from kvplan.cli.parser import Flag, Word
from kvplan.errors import InputError
from kvplan.sizing.answer import ask
from kvplan.units import parse_bytes, parse_tokens

EXAMPLES = """
kvplan size qwen2.5-32b --ctx 128k --machine h100-sxm --batch 2
kvplan size llama-3.1-8b deepseek-v3 --ctx 8k,32k,128k
"""

Names = Annotated[
    list[str] | None,
    Word(
        metavar="MODEL...",
        help="Catalog names, or paths of a config.json; with --list, words to search for.",
        complete=named("models"),
    ),
]
Tokens = Annotated[
    str | None,
    Flag(
        "--ctx",
        metavar="TOKENS",
        help="Context: 8192, 128k, or several as 8k,32k,128k. Default: the model's, up to 128k.",
    ),
]
_ADVANCED = "Advanced"


def size(
    models: Names = None,
    ctx: Tokens = None,
    batch: Annotated[int, Flag(metavar="N", help="Sequences at once.")] = 1,
    machine: Machine = None,
    engine: Engine = "vllm",
    engine_version: Engine_version = None,
    kv_dtype: Annotated[str, Flag(metavar="DTYPE", help="bf16, fp8, int8, int4, nvfp4, ... or auto: as the engine does.")] = "auto",
    dtype: Annotated[str, Flag(metavar="DTYPE", help="Weights: bf16, fp8, int4, awq, nvfp4, ... Default: the checkpoint's.")] = "",
    tp: Annotated[int, Flag(metavar="N", help="Tensor-parallel ranks.")] = 1,
    pp: Annotated[int, Flag(metavar="N", help="Pipeline stages.", panel=_ADVANCED)] = 1,
    ep: Annotated[
        int,
        Flag(
            metavar="N",
            help="Ranks that share the experts. Default: the tensor-parallel ones.",
            panel=_ADVANCED,
        ),
    ] = 0,
    gpu_fraction: Annotated[
        float,
        Flag(metavar="F", help="Share of GPU memory for the engine. Default: the engine's.", panel=_ADVANCED),
    ] = 0.0,
    gpu_kv: Annotated[str, Flag(metavar="SIZE", help="KV pool over all ranks, where known.", panel=_ADVANCED)] = "",
    keep: Annotated[str, Flag(metavar="TOKENS", help="Tokens that offload keeps on the GPU.", panel=_ADVANCED)] = "1k",
    as_family: Annotated[
        str, Flag("--as", metavar="FAMILY", help="Read a config of an unknown model_type as one of this family.", panel=_ADVANCED)
    ] = "",
    explain: Annotated[
        bool, Flag("--explain", help="Show how a config.json is read; with --json the file that the catalog would keep.", panel=_ADVANCED)
    ] = False,
    listing: Annotated[bool, Flag("--list", help="List models and machines instead.")] = False,
    as_json: As_json = False,
    quiet: Quiet = False,
) -> int:
    """Size the KV cache of a model: bytes, what the engine reserves, what fits, what offload frees."""
    if listing:
        return _list(models or [], as_json)
    if not models:
        raise InputError("name a model", hint="kvplan size --list shows the catalog; the path of a config.json works as well")
    if explain:
        return _explain(models, as_family, as_json)
    contexts = [parse_tokens(text) for text in ctx.split(",")] if ctx else [0]
    where, serving = catalog.machine(machine) if machine else None, catalog.engine(engine or "vllm", engine_version or "")
    results = [
        ask(
            catalog.model(name, as_family=as_family),
            engine=serving,
            machine=where,
            context_tokens=tokens,
            batch=batch,
            kv_dtype=kv_dtype,
            dtype=dtype,
            tp=tp,
            pp=pp,
            ep=ep,
            gpu_fraction=gpu_fraction,
            pool_bytes=parse_bytes(gpu_kv) if gpu_kv else 0,
            keep_tokens=parse_tokens(keep),
        )
        for name in models
        for tokens in contexts
    ]
    single = len(results) == 1
    if as_json:
        emit_json(results[0] if single else {"schema": "kvplan.size-table/1", "rows": results})
    else:
        from kvplan.report import size as report

        report.show(out(), results[0]) if single else report.compare(out(), results)
    for text in dict.fromkeys(text if single else f"{one.model}: {text}" for one in results for text in one.warnings if not quiet):
        warn(text)
    return Exit.NO if any(one.fit.fits is False for one in results) else Exit.DONE


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
