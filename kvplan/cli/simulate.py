"""`kvplan simulate`: replay a trace or a scenario."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kvplan import scenario
from kvplan.cli.console import Exit, emit_json, err, out, warn
from kvplan.cli.options import As_json, Engine, Machine, Model, Quiet, Set

EPILOG = """Examples:

kvplan simulate chat

kvplan simulate trace.jsonl --model llama-3.1-8b --machine h100-sxm --gpu-kv 8GiB --cpu 64GiB"""


def simulate(
    source: Annotated[str, typer.Argument(metavar="TRACE|SCENARIO", help="A trace file, a scenario .toml, or a shipped scenario's name.")],
    model: Model = None,
    machine: Machine = None,
    engine: Engine = None,
    gpu_kv: Annotated[str | None, typer.Option(metavar="SIZE", help="GPU memory for KV, over all ranks. Default: what the engine leaves.")] = None,
    cpu: Annotated[str | None, typer.Option(metavar="SIZE", help="CPU tier, such as 64GiB.")] = None,
    disk: Annotated[str | None, typer.Option(metavar="SIZE", help="Disk tier behind the CPU tier.")] = None,
    policy: Annotated[str | None, typer.Option(metavar="NAME", help="Eviction policy of the CPU tier, or ./my.py:MyPolicy.")] = None,
    speedup: Annotated[float | None, typer.Option(metavar="X", help="Replay the arrivals X times as fast.")] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N requests.")] = None,
    max_input: Annotated[int | None, typer.Option(metavar="N", help="Drop requests with longer prompts (tokens).")] = None,
    target: Annotated[str | None, typer.Option(metavar="T", help='Such as "ttft_p95<2s,itl_p95<50ms"; a miss exits 1.')] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of what is random.", rich_help_panel="Advanced")] = None,
    sets: Set = None,
    requests_out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write one row a request: .jsonl, .csv or .parquet.", rich_help_panel="Advanced")
    ] = None,
    as_json: As_json = False,
    quiet: Quiet = False,
) -> int:
    """Replay a trace through an engine with tiers: time to first token, hits per tier, bytes moved, stalls."""
    from kvplan.report import simulate as report
    from kvplan.sim import rows
    from kvplan.sim.run import simulate as run

    began = time.perf_counter()
    settings = [*(sets or []), *([f"engine.offload.policy={policy}"] if policy else [])]
    wanted = scenario.load(
        source, model=model, machine=machine, engine=engine, sets=settings,
        tiers={"gpu_kv": gpu_kv, "cpu": cpu, "disk": disk},
        run={"speedup": speedup, "limit": limit, "max_input_tokens": max_input, "seed": seed, "target": target},
    )  # fmt: skip
    if requests_out:
        rows.check(Path(requests_out))
    with report.progress(err(), hidden=quiet) as progress:
        result, world = run(wanted, progress=progress)
    result = msgspec.structs.replace(result, wall_s=time.perf_counter() - began)
    if requests_out:
        rows.write(Path(requests_out), world.recorder)
    if as_json:
        emit_json(result)
    else:
        report.show(out(), result, wanted)
    for text in [] if quiet else result.warnings:
        warn(text)
    if result.partial:
        return Exit.INTERRUPTED
    return Exit.DONE if all(check.met for check in result.targets) else Exit.NO
