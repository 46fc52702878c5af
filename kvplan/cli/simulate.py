"""`kvplan simulate`: replay a trace or a scenario."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    Limit,
    Machine,
    Model,
    Pp,
    Quiet,
    Set,
    Tp,
    one_of,
    policies,
    scenarios,
)
from kvplan.cli.perfetto import timeline_written, window_of
from kvplan.errors import InputError, KvplanError
from kvplan.outputs import replaced
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario

if TYPE_CHECKING:
    from kvplan.traces.shared import SharedTrace

ROUTER_NAMES = ("least_loaded", "prefix_aware", "round_robin", "session_sticky")

EXAMPLES = """
kvplan simulate chat
kvplan simulate chat --engine vllm,lmcache,sglang
kvplan simulate chats.jsonl --model llama-3.1-8b --machine l40s --target "ttft_p95<1s" --max-users
kvplan simulate trace.jsonl --model llama-3.1-8b --machine h100-sxm --gpu-kv 8GiB --cpu 64GiB
"""


def simulate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="TRACE|SCENARIO...",
            help="A trace file, a scenario .toml, or a shipped scenario's name. Several are compared.",
            autocompletion=scenarios,
        ),
    ],
    model: Model = None,
    machine: Machine = None,
    engine: Engine = None,
    engine_version: Engine_version = None,
    tp: Tp = None,
    pp: Pp = None,
    dp: Dp = None,
    ep: Ep = None,
    kv_dtype: Kv_dtype = None,
    gpu_kv: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="GPU memory for KV, over all ranks. Default: what the engine leaves."),
    ] = None,
    cpu: Annotated[str | None, typer.Option(metavar="SIZE", help="CPU tier, such as 64GiB.")] = None,
    disk: Annotated[str | None, typer.Option(metavar="SIZE", help="Disk tier behind the CPU tier.")] = None,
    remote: Annotated[str | None, typer.Option(metavar="SIZE", help="Remote pool behind the CPU tier, shared by replicas.")] = None,
    policy: Annotated[
        str | None, typer.Option(metavar="NAME", help="Eviction policy of the CPU tier, or ./my.py:MyPolicy.", autocompletion=policies)
    ] = None,
    speedup: Annotated[float | None, typer.Option(metavar="X", help="Replay the arrivals X times as fast.")] = None,
    limit: Limit = None,
    max_input: Annotated[int | None, typer.Option(metavar="N", help="Drop requests with longer prompts (tokens).")] = None,
    target: Annotated[str | None, typer.Option(metavar="T", help='Such as "ttft_p95<2s,itl_p95<50ms"; a miss exits 1.')] = None,
    replicas: Annotated[int | None, typer.Option(metavar="N", help="Servers behind a router.", rich_help_panel="Advanced")] = None,
    router: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="round_robin, least_loaded, prefix_aware or session_sticky.",
            autocompletion=one_of(*ROUTER_NAMES),
            rich_help_panel="Advanced",
        ),
    ] = None,
    max_users: Annotated[
        bool,
        typer.Option("--max-users", help="How many sessions can be open at once within --target.", rich_help_panel="Advanced"),
    ] = False,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of what is random.", rich_help_panel="Advanced")] = None,
    sets: Set = None,
    isolated: Isolated = False,
    requests_out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write one row a request: .jsonl, .csv or .parquet.", rich_help_panel="Advanced"),
    ] = None,
    html: Html = None,
    perfetto: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a timeline for ui.perfetto.dev: requests, steps, transfers; .gz compresses."),
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="T", help="Start of the timeline's window, such as 90s.", rich_help_panel="Advanced")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="T", help="End of the timeline's window.", rich_help_panel="Advanced")] = None,
    plot: Annotated[
        bool, typer.Option("--plot", help="Also how full the tiers were, which links were busy and who waited, over time.")
    ] = False,
    why: Annotated[
        bool,
        typer.Option("--why", help="Of several engines: which rules make them differ, one kind after the other (some ten runs each)."),
    ] = False,
    export: Export = None,
    as_json: As_json = False,
    quiet: Quiet = False,
) -> int:
    """Replay a trace through an engine with tiers: time to first token, hits per tier, bytes moved, stalls."""
    from kvplan.report import simulate as report
    from kvplan.sim.ends import ends_of
    from kvplan.sim.outcome import rows
    from kvplan.sim.simulate import simulate as run
    from kvplan.sweep import grid

    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: at least 1", hint="leave it out for all requests")
    began = time.perf_counter()
    settings = [*(sets or [])]
    for path, value in (("engine.offload.policy", policy), ("cluster.replicas", replicas), ("cluster.router", router)):
        settings += [] if value is None else [f"{path}={value}"]
    how = {"speedup": speedup, "limit": limit, "max_input_tokens": max_input, "seed": seed, "target": target}
    wanted = grid.scenarios(
        sources,
        given={"model": model, "machine": machine, "engine": engine, "tp": tp, "kv_dtype": kv_dtype},
        engine_version=engine_version,
        tiers={"gpu_kv": gpu_kv, "cpu": cpu, "disk": disk, "remote": remote},
        run={"pp": pp, "dp": dp, "ep": ep, **how},
        sets=settings,
        isolated=isolated,
    )
    if export is not None:
        check_export(export)
    check_html(html)
    window = window_of(perfetto, from_, to)
    if perfetto and (max_users or len(wanted) > 1):
        raise InputError("--perfetto writes the timeline of one run", hint="leave it out, or give one scenario and one engine")
    if max_users:
        return _users(wanted, requests_out, html, as_json=as_json, quiet=quiet)
    if len(wanted) > 1:
        return _compare(wanted, requests_out, export, html, why=why, as_json=as_json, quiet=quiet)
    if why:
        raise InputError("--why compares engines", hint="give several: --engine vllm,sglang")
    if requests_out:
        rows.check(Path(requests_out))
    with ends_of(wanted[0]) as with_ends, progress.requests(hidden=quiet) as watch:
        result, record = run(wanted[0], progress=watch, history=bool(html or perfetto or plot))
        result = with_ends(result) if not result.partial else result
    result = msgspec.structs.replace(result, wall_s=time.perf_counter() - began)
    if as_json:
        emit_json(result)
    else:
        report.show(out(), result, wanted[0], plot=plot)
    sys.stdout.flush()  # the answer is there, whatever becomes of the rows
    for text in [] if quiet else result.warnings:
        warn(text)
    exported(result, export, quiet=quiet)
    reported(result, html, quiet=quiet)
    if perfetto:
        timeline_written(perfetto, record, window, quiet=quiet)
    if requests_out:
        old = replaced(requests_out)
        rows.write(Path(requests_out), record)
        note(f"{requests_out}{old}: {result.requests.total:,} requests, a row each", quiet=quiet)
    if requests_out and not result.requests.completed and not result.partial:
        note("nothing was served: every row says why", quiet=quiet)
        return Exit.DONE
    return _code(result)


def _code(*results: SimResult) -> int:
    """The exit code that results have: interrupted, no (a target missed, nothing served), or done."""
    if any(one.partial for one in results):
        return Exit.INTERRUPTED
    served = all(one.requests.completed for one in results)
    return Exit.DONE if served and all(check.met for one in results for check in one.targets) else Exit.NO


def _users(wanted: list[Scenario], requests_out: str | None, html: str | None, *, as_json: bool, quiet: bool) -> int:
    from kvplan.report import users as report
    from kvplan.sim.cluster.users import most_users

    if len(wanted) > 1 or requests_out:
        raise InputError("--max-users answers for one scenario and one engine, and writes no requests")
    with progress.requests(hidden=quiet) as watch:
        result = most_users(wanted[0], progress=watch)
    if as_json:
        emit_json(result)
    else:
        report.show(out(), result)
    reported(result.run, html, quiet=quiet)
    for text in [] if quiet else result.run.warnings:
        warn(text)
    return Exit.DONE if result.users else Exit.NO


def _compare(
    wanted: list[Scenario], requests_out: str | None, export: str | None, html: str | None, *, why: bool, as_json: bool, quiet: bool
) -> int:
    from kvplan.report import compare as report
    from kvplan.sim.outcome.compare import compare
    from kvplan.sim.outcome.parting import partings

    if requests_out:
        raise InputError("--requests-out writes the requests of one run", hint="leave it out, or give one scenario and one engine")
    results = _all_of(wanted, history=bool(html), quiet=quiet)
    comparison = compare(wanted, results)
    if why:
        found = partings(comparison.names, wanted, results, partial(_possible, quiet=quiet))
        comparison = msgspec.structs.replace(comparison, partings=found)
    if as_json:
        emit_json(comparison)
    else:
        report.show(out(), comparison, [f"{one.name}: {text}" for one in wanted for text in one.notes])
    exported(comparison, export, quiet=quiet)
    reported(comparison, html, quiet=quiet)
    for name, result in zip(comparison.names, [] if quiet else results, strict=False):
        for text in result.warnings:
            warn(f"{name}: {text}")
    return _code(*results)


def _all_of(wanted: list[Scenario], *, history: bool, quiet: bool) -> list[SimResult]:
    """A result for each scenario, in their order. Raises what makes one of them impossible."""
    found = _outcomes(wanted, history=history, quiet=quiet)
    for outcome in found:
        if isinstance(outcome, KvplanError):
            raise outcome
    return [outcome for outcome in found if isinstance(outcome, SimResult)]


def _possible(wanted: Sequence[Scenario], *, quiet: bool) -> list[SimResult | None]:
    return [outcome if isinstance(outcome, SimResult) else None for outcome in _outcomes(wanted, history=False, quiet=quiet)]


def _outcomes(wanted: Sequence[Scenario], *, history: bool, quiet: bool) -> list[SimResult | KvplanError]:
    """A result for each scenario, in their order, or what makes it impossible."""
    from kvplan.executor import Executor, fitting, run_all
    from kvplan.traces.shared import shared

    found: dict[int, SimResult | KvplanError] = {}
    keys = [(one.trace, one.run.limit, one.run.max_input_tokens) for one in wanted]
    with shared(keys) as traces, progress.runs(hidden=quiet, title="simulating") as watch:
        requests = {key: one.requests for key, one in zip(dict.fromkeys(keys), traces, strict=True)}
        executor = fitting(Executor(), sum(requests[key] for key in keys))
        for at, outcome in run_all(partial(_timed, traces, history), wanted, executor):
            found[at] = outcome
            watch(len(found), len(wanted), "")
    return [found[at] for at in range(len(wanted))]


def _timed(traces: tuple[SharedTrace, ...], history: bool, one: Scenario) -> SimResult:
    from kvplan.sim.simulate import simulate as run
    from kvplan.traces.shared import attach

    attach(traces)
    began = time.perf_counter()
    result, _ = run(one, history=history)
    if result.partial:
        raise KeyboardInterrupt
    return msgspec.structs.replace(result, wall_s=time.perf_counter() - began)
