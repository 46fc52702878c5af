"""`kvplan plan`: when to offload, where to, and how much."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any

import msgspec
import typer

from kvplan.cli import progress
from kvplan.cli.console import Exit, emit_json, note, out, warn
from kvplan.cli.export import check_export, exported
from kvplan.cli.html import check_html, reported
from kvplan.cli.options import (
    As_json,
    Dp,
    Engine,
    Engine_version,
    Ep,
    Export,
    Html,
    Isolated,
    Kv_dtype,
    Machine,
    Model,
    Pp,
    Prices,
    Quiet,
    Set,
    Tp,
    one_of,
    scenarios,
)
from kvplan.errors import InputError
from kvplan.units import parse_capacity

EMITTED = (
    "vllm",
    "lmcache",
    "lmcache-mp",
    "sglang",
    "trtllm",
    "dynamo",
    "kserve",
    "llm-d",
    "dynamo-k8s",
    "lmcache-operator",
    "production-stack",
)

EXAMPLES = """
kvplan plan chat --emit vllm
kvplan plan trace.jsonl --model llama-3.1-8b --machine h100-sxm --target "ttft_p95<2s" --max-cpu 200GiB
"""

_ADVANCED = "Advanced"


def plan(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TRACE|SCENARIO", help="A trace file, a scenario .toml, or a shipped scenario's name.", autocompletion=scenarios
        ),
    ] = "",
    model: Model = None,
    machine: Machine = None,
    engine: Engine = None,
    engine_version: Engine_version = None,
    tp: Tp = None,
    pp: Pp = None,
    dp: Dp = None,
    ep: Ep = None,
    kv_dtype: Kv_dtype = None,
    sessions: Annotated[
        str | None,
        typer.Option(
            metavar="S",
            help="Traffic from numbers instead of a trace: users=10,turns=6,input=500,output=300,think=60s,shared=512,document=0,"
            "documents=0 (the defaults); --sessions help explains each.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="T", help='Such as "ttft_p95<2s,itl_p95<50ms", throughput, or cost; a miss exits 1.'),
    ] = None,
    max_cpu: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Host memory that the replica may use. Default: its share of the machine's."),
    ] = None,
    max_disk: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Disk that the replica may use. Default: its share of the machine's."),
    ] = None,
    emit: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE",
            help="Configure an engine or its Kubernetes objects: vllm, sglang, llm-d, ... (completed).",
            autocompletion=one_of(*EMITTED),
        ),
    ] = None,
    output: Annotated[str | None, typer.Option(metavar="DIR", help="Write the configuration's files into a folder.")] = None,
    explain_config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Say what an engine's configuration means and what is wrong with it."),
    ] = None,
    gpu_kv: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="GPU memory for KV, over all ranks. Default: what the engine leaves.",
            rich_help_panel=_ADVANCED,
        ),
    ] = None,
    price: Annotated[
        str | None,
        typer.Option(metavar="P", help="Per hour, GPU and GiB: gpu=2.5,cpu=0.004,disk=0.0001.", rich_help_panel=_ADVANCED),
    ] = None,
    prices: Prices = None,
    allow_wear: Annotated[
        bool,
        typer.Option("--allow-wear", help="Also recommend a disk that is worn out within three years.", rich_help_panel=_ADVANCED),
    ] = False,
    sets: Set = None,
    isolated: Isolated = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also what was left out, other widths, claims.")] = False,
    html: Html = None,
    export: Export = None,
    as_json: As_json = False,
    quiet: Quiet = False,
) -> int:
    """Say when to offload KV cache, where to and how much, and how sure that is."""
    if sessions == "help":
        from kvplan.planning.session_traffic import explained

        out().print(explained())
        return Exit.DONE
    if explain_config:
        beside = {"model": model, "machine": machine, "engine": engine, "engine_version": engine_version, "tp": tp, "gpu_kv": gpu_kv}
        return _explain(explain_config, source, beside, as_json)
    if source and sessions:
        raise InputError(
            f"two kinds of traffic: {source} and --sessions {sessions}", hint="give one of them; --model and --machine name the rest"
        )
    if output and not emit:
        raise InputError("--output: no configuration to write", hint="add --emit vllm, or another engine")
    if not source and not sessions:
        raise InputError("which traffic?", hint="name a trace or a scenario, or give --sessions users=40,turns=8,input=600,think=60s")
    from kvplan.economics.prices import price_source
    from kvplan.planning.objective import parse_target
    from kvplan.planning.plan import plan as answer
    from kvplan.report import plan as report
    from kvplan.results.plan import PlanResult, PlanTable
    from kvplan.scenario import Scenario
    from kvplan.sweep import grid

    if emit:
        from kvplan.deploy.emit import planned, save, target_named

        target_named(emit)
    if export is not None:
        check_export(export)
    priced = price_source(prices, price)
    check_html(html)
    mix, warm = None, {}
    generated: AbstractContextManager[Any] = nullcontext()
    if sessions:
        from kvplan.planning.session_traffic import WARMUP, parse_sessions, trace_of

        mix = parse_sessions(sessions)
        generated, warm = trace_of(mix), {"warmup": WARMUP}
    with generated as made:
        wanted = grid.scenarios(
            [made.path if made else source],
            given={"model": model, "machine": machine, "engine": engine, "tp": tp, "kv_dtype": kv_dtype},
            engine_version=engine_version,
            tiers={"gpu_kv": gpu_kv},
            run={"pp": pp, "dp": dp, "ep": ep, **warm},
            sets=sets or [],
            isolated=isolated,
        )
        if emit and len(wanted) > 1:
            raise InputError("--emit writes the configuration of one plan", hint="name one model, machine and engine")

        def answered(one: Scenario) -> PlanResult:
            with progress.runs(hidden=quiet) as watch:
                found = answer(
                    one,
                    target=parse_target(one.run.target if target is None else target),
                    prices=priced.of(one.machine) if priced else None,
                    max_cpu_bytes=parse_capacity(max_cpu) if max_cpu else None,
                    max_disk_bytes=parse_capacity(max_disk) if max_disk else None,
                    more=made.more if made else None,
                    allow_wear=allow_wear,
                    watch=watch,
                )
            named = {**found.provenance, "trace": "--sessions"}  # the generated file is gone afterwards
            return msgspec.structs.replace(found, sessions=mix.text, provenance=named) if mix else found

        results = list[PlanResult]()
        for one in wanted:
            results.append(planned(one, emit, answered) if emit else answered(one))
            if results[-1].partial:
                break
    single = len(results) == 1
    whole = results[0] if single else PlanTable(rows=tuple(results))
    if as_json:
        emit_json(whole)
    else:
        report.show(out(), results[0], verbose=verbose) if single else report.compare(out(), results)
    sys.stdout.flush()  # the answer is there, whatever becomes of the files
    if results[0].emission and output:
        for written in save(results[0].emission, output):
            note(f"wrote {written}", quiet=quiet)
    exported(whole, export, quiet=quiet)
    reported(whole, html, quiet=quiet)
    for text in [] if quiet else dict.fromkeys(text if single else f"{one.name}: {text}" for one in results for text in one.warnings):
        warn(text)
    if results[-1].partial:
        return Exit.INTERRUPTED
    return Exit.DONE if all(one.verdict.kind == "offload" and one.target_met for one in results) else Exit.NO


def _explain(path: str, source: str, beside: dict[str, str | None], as_json: bool) -> int:
    """Explain a file against what is named beside it: a scenario, a model, a machine, ranks, a pool."""
    from kvplan import catalog
    from kvplan.deploy.explain import explain_config
    from kvplan.report import explain as report
    from kvplan.scenario import is_scenario, load
    from kvplan.sweep.grid import ranks

    known: dict[str, object] = {}
    if source and is_scenario(source):
        one = load(source, **{name: beside[name] for name in ("model", "machine", "engine") if beside[name]})  # type: ignore[arg-type]
        known = {"model": one.model, "machine": one.machine, "pool_bytes": 0 if beside["gpu_kv"] else one.tiers.gpu_kv_bytes}
    known |= {"model": catalog.model(beside["model"])} if beside["model"] else {}
    known |= {"machine": catalog.machine(beside["machine"])} if beside["machine"] else {}
    known |= {"pool_bytes": parse_capacity(beside["gpu_kv"])} if beside["gpu_kv"] else {}
    known |= {"tp": ranks(beside["tp"])} if beside["tp"] else {}
    result = explain_config(path, engine_version=beside["engine_version"] or "", **known)
    if as_json:
        emit_json(result)
    else:
        report.show(out(), result)
    return Exit.NO if any(notice.level == "error" for notice in result.notices) else Exit.DONE
