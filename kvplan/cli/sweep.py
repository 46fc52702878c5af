"""`kvplan sweep`: grids of simulations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from kvplan.cli import progress
from kvplan.cli.console import Exit, emit_json, note, out, warn
from kvplan.cli.export import check_export, exported
from kvplan.cli.html import check_html, reported
from kvplan.cli.options import (
    As_json,
    Engine,
    Engine_version,
    Export,
    Html,
    Isolated,
    Kv_dtype,
    Limit,
    Machine,
    Model,
    Prices,
    Quiet,
    Set,
    Tp,
    one_of,
    scenarios,
)
from kvplan.errors import InputError

if TYPE_CHECKING:
    from kvplan.executor import Executor
    from kvplan.sweep.question import Options
    from kvplan.sweep.store import Store

EXAMPLES = """
kvplan sweep chat --vary cpu=0,4..64GiB:x2
kvplan sweep chat --vary cpu=8GiB,32GiB --vary engine=vllm,lmcache --vary speedup=1..4:x2 --export grid.csv
kvplan sweep chat --vary cpu=0,1..64GiB:x2 --vary machine=l4,l40s --goal "min cost: ttft_p95<1.5s" --prices public
kvplan sweep chat --fleet --machine l4,l40s --target "ttft_p95<2s" --prices public --day 0.2,0.5,1,0.6 --growth 2
kvplan sweep chat --vary cpu=0,1..64GiB:x2 --vary speedup=1,2,4 --pareto ttft_p95,throughput
"""


def sweep(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="TRACE|SCENARIO|SWEEP...",
            help="A trace, a scenario, or a .toml file that says what to vary; with --fleet several classes of traffic.",
            autocompletion=scenarios,
        ),
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=V,V",
            help="A setting and its values: any that --set takes, and model, machine, engine, tp, trace, speedup, policy, cpu, disk, ...; "
            "ranges 1..64GiB:x2 and 0..8:+2.",
        ),
    ] = None,
    zip: Annotated[bool, typer.Option("--zip", help="The first values together, then the second ones: not all combinations.")] = False,
    goal: Annotated[
        str | None,
        typer.Option(
            metavar="G",
            help='Search instead of running all: "min cost: ttft_p95<2s", "min cpu: ...", "max speedup: ..."; prunes and bisects.',
        ),
    ] = None,
    pareto: Annotated[
        str | None, typer.Option(metavar="A,B", help="The front of two or more figures, such as ttft_p95,cost or throughput,itl_p95.")
    ] = None,
    fleet: Annotated[
        bool,
        typer.Option("--fleet", help="How many replicas of what: searches replicas, TP and CPU tier with what is varied, under --target."),
    ] = False,
    day: Annotated[
        str | None,
        typer.Option(metavar="F,F", help="With --fleet: the day's shape, parts of equal length as shares of the traffic: 0.2,0.5,1,0.6."),
    ] = None,
    growth: Annotated[
        str | None, typer.Option(metavar="F,F", help="With --fleet: replicas for multiples of the traffic, such as 1.5,2.")
    ] = None,
    model: Model = None,
    machine: Machine = None,
    engine: Engine = None,
    engine_version: Engine_version = None,
    tp: Tp = None,
    kv_dtype: Kv_dtype = None,
    target: Annotated[str | None, typer.Option(metavar="T", help='Such as "ttft_p95<2s,itl_p95<50ms".')] = None,
    limit: Limit = None,
    prices: Prices = None,
    price: Annotated[
        str | None,
        typer.Option(metavar="P", help="Single prices, over the list's, per hour: gpu=2.5,cpu=0.004.", rich_help_panel="Advanced"),
    ] = None,
    sets: Set = None,
    isolated: Isolated = False,
    db: Annotated[
        str | None,
        typer.Option(
            "--db",
            "-o",
            metavar="FILE",
            help="The SQLite file that keeps the runs: what is in it is not run again. Default: one a source and version in the user's "
            "cache; none keeps nothing.",
            rich_help_panel="Advanced",
        ),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="loky (this machine), ray or dask.",
            autocompletion=one_of("loky", "ray", "dask"),
            rich_help_panel="Advanced",
        ),
    ] = "loky",
    address: Annotated[
        str | None, typer.Option(metavar="A", help="Of a Ray or Dask cluster that runs already.", rich_help_panel="Advanced")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            "--jobs",
            metavar="N",
            help="Processes that simulate side by side. Default: one a core.",
            rich_help_panel="Advanced",
        ),
    ] = 0,
    export: Export = None,
    html: Html = None,
    as_json: As_json = False,
    quiet: Quiet = False,
) -> int:
    """Simulate every combination of values, on all cores: one row a run."""
    from kvplan.economics.prices import price_source
    from kvplan.executor import Executor
    from kvplan.report import sweep as report
    from kvplan.sweep.question import Options, question_of
    from kvplan.sweep.sweep import sweep as answer

    if workers < 0:
        raise InputError(f"--workers {workers}: at least 1", hint="leave it out for one a core")
    if export is not None:
        check_export(export)
    check_html(html)
    names = {"model": model, "machine": machine, "engine": engine, "engine_version": engine_version, "tp": tp, "kv_dtype": kv_dtype}
    fixed = {"run.target": target, "run.limit": limit}
    sets = [*(sets or []), *(f"{path}={value}" for path, value in fixed.items() if value is not None)]
    asked = Options(
        vary=tuple(vary or ()),
        zipped=zip,
        named=names,
        sets=tuple(sets),
        isolated=isolated,
        goal=goal or "",
        front_of=pareto or "",
        prices=price_source(prices, price),
    )
    if address and backend == "loky":
        raise InputError(f"--address {address}: loky is this machine", hint="--backend ray or --backend dask")
    executor = Executor(backend=backend, workers=workers, address=address or "")
    if fleet and html:
        raise InputError("--html shows one sweep", hint="a fleet's rows are exported: --export fleet.csv")
    if fleet:
        return _fleet(sources, asked, day, growth, db, executor, export, as_json=as_json, quiet=quiet)
    if len(sources) > 1 or day or growth:
        raise InputError("several sources, --day and --growth are for a fleet", hint="add --fleet")
    question = question_of(sources[0], asked)
    with _kept(db, sources[0]) as kept, progress.runs(hidden=quiet, title="sweeping") as watch:
        try:
            result = answer(question, executor=executor, watch=watch, kept=kept)
        except KeyboardInterrupt:
            if kept:
                note(f"what has been run is in {kept.path}: the same command goes on from there", quiet=quiet)
            raise
    if result.known:
        note(f"{result.known:,} runs were there already, {result.simulated:,} are new", quiet=quiet)
    if as_json:
        emit_json(result)
    else:
        report.show(out(), result)
    exported(result, export, quiet=quiet)
    reported(result, html, quiet=quiet)
    for text in [] if quiet else result.warnings:
        warn(text)
    if result.goal:
        return Exit.DONE if result.best is not None else Exit.NO
    return Exit.DONE if any(row.result and row.result.requests.completed and not row.missed for row in result.rows) else Exit.NO


def _fleet(
    sources: list[str],
    asked: Options,
    day: str | None,
    growth: str | None,
    db: str | None,
    executor: Executor,
    export: str | None,
    *,
    as_json: bool,
    quiet: bool,
) -> int:
    from kvplan.report import sweep as report
    from kvplan.sweep.fleet import fleet, shares
    from kvplan.sweep.question import question_of

    questions = [question_of(source, asked, fleet=True) for source in sources]
    with _kept(db, sources[0]) as kept, progress.runs(hidden=quiet, title="searching") as watch:
        result = fleet(
            questions,
            day=shares(day, "--day"),
            growth=shares(growth, "--growth"),
            executor=executor,
            watch=watch,
            kept=kept,
        )
    if as_json:
        emit_json(result)
    else:
        report.show_fleet(out(), result)
    exported(result, export, quiet=quiet)
    return Exit.DONE if all(one.replicas for one in result.classes) else Exit.NO


@contextmanager
def _kept(db: str | None, source: str) -> Iterator[Store | None]:
    """The store that was asked for, else the source's own in the user's cache."""
    from kvplan.sweep.store import default_file, opened

    if db == "none":
        yield None
        return
    with opened(db or default_file(source)) as store:
        yield store
